package api

// OffsetDelete (key 47), versions 0.

import (
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeyOffsetDelete] = func(c *call, r kmsg.Request) {
		req := r.(*kmsg.OffsetDeleteRequest)
		c.atGroup(req.Group, func(g *group.Coordinator, reply func(kmsg.Response)) {
			g.DeleteOffsets(req, func(r *kmsg.OffsetDeleteResponse) { reply(r) })
		})
	}
}
