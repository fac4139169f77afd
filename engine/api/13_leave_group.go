package api

// LeaveGroup (key 13), versions 0-5. 3 several members at once.

import (
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeyLeaveGroup] = func(c *call, r kmsg.Request) {
		req := r.(*kmsg.LeaveGroupRequest)
		c.atGroup(req.Group, func(g *group.Coordinator, reply func(kmsg.Response)) {
			reply(g.Leave(req))
		})
	}
}
