package api

// ListOffsets (key 2), versions 1-11. 4 leader epochs; 7 the largest timestamp (-3); 8 the
// earliest local offset (-4); 9, 11 tiers (-5, -6), of which there are none here.

import (
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyListOffsets] = listOffsets }

// The timestamps that mean something else.
const (
	atLatest        = -1
	atEarliest      = -2
	atMaxTimestamp  = -3
	atEarliestLocal = -4
	atLatestTiered  = -5
	atPendingUpload = -6
)

// timeQuery is a search for a timestamp on its way.
type timeQuery struct {
	log.TimeQuery
	done func()
}

// TimeDone is log.TimeDone's.
func (q *timeQuery) TimeDone(*log.TimeQuery) { q.done() }

func listOffsets(c *call, r kmsg.Request) {
	req := r.(*kmsg.ListOffsetsRequest)
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	resp.Topics = make([]kmsg.ListOffsetsResponseTopic, len(req.Topics))
	all := newGather(func() { c.reply(resp) })
	for i := range req.Topics {
		t, a := &req.Topics[i], &resp.Topics[i]
		a.Topic = t.Topic
		a.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			q, p := &t.Partitions[j], &a.Partitions[j]
			*p = kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Offset, p.Timestamp, p.LeaderEpoch = q.Partition, -1, -1, -1
			route, _ := c.route(t.Topic, q.Partition)
			if route == nil {
				p.ErrorCode = wire.UnknownTopicOrPartition
				continue
			}
			all.add()
			c.On(route.Core, func(at *Core) {
				end := func() { c.back(at, all.end) }
				part := route.Partition
				if code := checkEpoch(q.CurrentLeaderEpoch, part.LeaderEpoch); code != 0 {
					p.ErrorCode = code
					end()
					return
				}
				if code := part.Left(); code != 0 {
					p.ErrorCode = code
					end()
					return
				}
				upper := part.HighWatermark()
				if req.IsolationLevel == 1 {
					upper = part.LastStable()
				}
				l := part.Log()
				switch q.Timestamp {
				case atLatest:
					p.Offset, p.LeaderEpoch = upper, part.LeaderEpoch
				case atEarliest, atEarliestLocal:
					p.Offset, p.LeaderEpoch = l.LogStart(), l.EpochAt(l.LogStart())
				case atLatestTiered, atPendingUpload:
				default:
					if q.Timestamp < atMaxTimestamp {
						p.ErrorCode = wire.UnsupportedVersion
						break
					}
					x := &timeQuery{}
					x.Timestamp, x.Max, x.Done = q.Timestamp, q.Timestamp == atMaxTimestamp, x
					x.done = func() {
						switch {
						case x.Err != nil:
							p.ErrorCode = logCode(x.Err)
						case x.Offset >= 0 && x.Offset < upper:
							p.Offset, p.Timestamp, p.LeaderEpoch = x.Offset, x.Found, x.Epoch
						}
						end()
					}
					if l.FindTimestamp(&x.TimeQuery) {
						x.done()
					}
					return
				}
				end()
			})
		}
	}
	all.end()
}
