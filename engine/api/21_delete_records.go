package api

// DeleteRecords (key 21), versions 0-2: moves the log start (LW) forward.

import (
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDeleteRecords] = deleteRecords }

func deleteRecords(c *call, r kmsg.Request) {
	req := r.(*kmsg.DeleteRecordsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
	all := newGather(func() { c.reply(resp) })
	for i := range req.Topics {
		t, a := &req.Topics[i], &resp.Topics[i]
		a.Topic = t.Topic
		a.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			q, p := &t.Partitions[j], &a.Partitions[j]
			p.Partition, p.LowWatermark = q.Partition, -1
			route, topic := c.route(t.Topic, q.Partition)
			switch {
			case route == nil:
				p.ErrorCode = wire.UnknownTopicOrPartition
				continue
			case topic.Internal:
				p.ErrorCode = wire.InvalidTopicException
				continue
			case c.deletesForbidden(topic):
				p.ErrorCode = wire.PolicyViolation
				continue
			}
			all.add()
			c.On(route.Core, func(at *Core) {
				part := route.Partition
				to := q.Offset
				if to == -1 {
					to = part.HighWatermark()
				}
				end := func(code int16) {
					c.back(at, func() {
						p.ErrorCode = code
						all.end()
					})
				}
				switch {
				case part.Left() != 0:
					end(part.Left())
				case to < 0 || to > part.HighWatermark():
					end(wire.OffsetOutOfRange)
				default:
					part.Log().AdvanceLogStart(to, log.DoneFunc(func(l *log.Log, err error) {
						if err != nil {
							end(logCode(err))
							return
						}
						p.LowWatermark = l.LogStart()
						end(0)
					}))
				}
			})
		}
	}
	all.end()
}

// deletesForbidden: of a topic that is only compacted records are not deleted.
func (c *Core) deletesForbidden(t *TopicRoute) bool {
	topic := c.Image.Load().Topics[t.Name]
	return topic != nil && c.Config.Load().TopicString(topic.Config, "cleanup.policy") == "compact"
}
