package api

// DescribeGroups (key 15), versions 0-6. 4 static members; 6 says when there is no such group.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDescribeGroups] = describeGroups }

func describeGroups(c *call, r kmsg.Request) {
	req := r.(*kmsg.DescribeGroupsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	all := newGather(func() { c.reply(resp) })
	for i, id := range req.Groups {
		all.add()
		c.On(c.groupCore(id), func(at *Core) {
			a := at.Groups.Describe(id, req.Version)
			a.AuthorizedOperations = noAuthorized
			c.back(at, func() {
				resp.Groups[i] = a
				all.end()
			})
		})
	}
	all.end()
}
