package api

// CreatePartitions (key 37), versions 0-3.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyCreatePartitions] = createPartitions }

func createPartitions(c *call, r kmsg.Request) {
	req := r.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	resp.Topics = make([]kmsg.CreatePartitionsResponseTopic, len(req.Topics))
	all := newGather(func() { c.reply(resp) })
	for i := range req.Topics {
		q, a := &req.Topics[i], &resp.Topics[i]
		a.Topic = q.Topic
		for _, x := range q.Assignment {
			if len(x.Replicas) != 1 || x.Replicas[0] != c.NodeID {
				a.ErrorCode, a.ErrorMessage = wire.InvalidReplicaAssignment, text("there is only one broker")
			}
		}
		if a.ErrorCode != 0 {
			continue
		}
		all.add()
		c.On(0, func(at *Core) {
			at.Controller.CreatePartitions(q.Topic, q.Count, req.ValidateOnly, func(err error) {
				c.back(at, func() {
					if err != nil {
						a.ErrorCode, a.ErrorMessage = clusterError(err)
					} else if !req.ValidateOnly {
						c.Log("topic %s has %d partitions now", q.Topic, q.Count)
					}
					all.end()
				})
			})
		})
	}
	all.end()
}
