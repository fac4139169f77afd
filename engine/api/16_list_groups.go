package api

// ListGroups (key 16), versions 0-5. 4 filters by state; 5 by type. All cores are asked.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyListGroups] = listGroups }

func listGroups(c *call, r kmsg.Request) {
	req := r.(*kmsg.ListGroupsRequest)
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	found := make([][]kmsg.ListGroupsResponseGroup, len(c.Cores))
	all := newGather(func() {
		for _, groups := range found {
			resp.Groups = append(resp.Groups, groups...)
		}
		c.reply(resp)
	})
	for i := range c.Cores {
		all.add()
		c.On(i, func(at *Core) {
			groups, code := at.Groups.List(req)
			c.back(at, func() {
				found[i] = groups
				if code != 0 {
					resp.ErrorCode = code
				}
				all.end()
			})
		})
	}
	all.end()
}
