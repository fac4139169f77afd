package api

// OffsetForLeaderEpoch (key 23), versions 2-4; librdkafka is pinned to 2. Where an epoch
// ends in our log.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyOffsetForLeaderEpoch] = offsetForLeaderEpoch }

func offsetForLeaderEpoch(c *call, r kmsg.Request) {
	req := r.(*kmsg.OffsetForLeaderEpochRequest)
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	resp.Topics = make([]kmsg.OffsetForLeaderEpochResponseTopic, len(req.Topics))
	all := newGather(func() { c.reply(resp) })
	for i := range req.Topics {
		t, a := &req.Topics[i], &resp.Topics[i]
		a.Topic = t.Topic
		a.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			q, p := &t.Partitions[j], &a.Partitions[j]
			p.Partition, p.LeaderEpoch, p.EndOffset = q.Partition, -1, -1
			route, _ := c.route(t.Topic, q.Partition)
			if route == nil {
				p.ErrorCode = wire.UnknownTopicOrPartition
				continue
			}
			all.add()
			c.On(route.Core, func(at *Core) {
				part := route.Partition
				switch code := checkEpoch(q.CurrentLeaderEpoch, part.LeaderEpoch); {
				case code != 0:
					p.ErrorCode = code
				case part.Left() != 0:
					p.ErrorCode = part.Left()
				case q.LeaderEpoch == part.LeaderEpoch: // the epoch that goes on ends where consumers may read to
					p.LeaderEpoch, p.EndOffset = q.LeaderEpoch, part.HighWatermark()
				default:
					p.LeaderEpoch, p.EndOffset = part.Log().EpochEnd(q.LeaderEpoch)
				}
				c.back(at, all.end)
			})
		}
	}
	all.end()
}
