package api

// Heartbeat (key 12), versions 0-4. 3 static members.

import (
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeyHeartbeat] = func(c *call, r kmsg.Request) {
		req := r.(*kmsg.HeartbeatRequest)
		c.atGroup(req.Group, func(g *group.Coordinator, reply func(kmsg.Response)) {
			resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
			resp.ErrorCode = g.Heartbeat(req)
			reply(resp)
		})
	}
}
