package api

// DeleteGroups (key 42), versions 0-3. 3 error messages.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDeleteGroups] = deleteGroups }

func deleteGroups(c *call, r kmsg.Request) {
	req := r.(*kmsg.DeleteGroupsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
	all := newGather(func() { c.reply(resp) })
	for i, id := range req.Groups {
		resp.Groups[i].Group = id
		all.add()
		c.On(c.groupCore(id), func(at *Core) {
			at.Groups.Delete(id, func(code int16) {
				c.back(at, func() {
					resp.Groups[i].ErrorCode = code
					all.end()
				})
			})
		})
	}
	all.end()
}
