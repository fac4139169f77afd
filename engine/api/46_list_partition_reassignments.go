package api

// ListPartitionReassignments (key 46), version 0: there are none.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	handlers[wire.KeyListPartitionReassignments] = func(c *call, r kmsg.Request) { c.reply(r.ResponseKind()) }
}
