package api

// SyncGroup (key 14), versions 0-5. 3 static members; 5 protocol types.

import (
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeySyncGroup] = func(c *call, r kmsg.Request) {
		req := r.(*kmsg.SyncGroupRequest)
		c.atGroup(req.Group, func(g *group.Coordinator, reply func(kmsg.Response)) {
			g.Sync(req, func(r *kmsg.SyncGroupResponse) { reply(r) })
		})
	}
}
