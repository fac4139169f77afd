package api

// JoinGroup (key 11), versions 0-9. 4 the member comes back under the id it is given; 5 static members; 7 protocol types; 9 SkipAssignment.

import (
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeyJoinGroup] = func(c *call, r kmsg.Request) {
		req := r.(*kmsg.JoinGroupRequest)
		c.atGroup(req.Group, func(g *group.Coordinator, reply func(kmsg.Response)) {
			g.Join(req, c.clientID, c.host, func(r *kmsg.JoinGroupResponse) { reply(r) })
		})
	}
}
