package api

// OffsetCommit (key 8), versions 2-10. 6 leader epochs; 7 static members; 10 topic ids.
// The retention time of versions 2-4 is not taken up: offsets.retention.minutes is.

import (
	"github.com/millrace/millrace/engine/group"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeyOffsetCommit] = func(c *call, r kmsg.Request) {
		req := r.(*kmsg.OffsetCommitRequest)
		c.atGroup(req.Group, func(g *group.Coordinator, reply func(kmsg.Response)) {
			g.Commit(req, func(r *kmsg.OffsetCommitResponse) { reply(r) })
		})
	}
}
