package engine

import (
	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/metrics"
	"github.com/millrace/millrace/netio"
	"github.com/millrace/millrace/ring"
)

// Published is what anybody may read of a partition.
type Published = log.Published

// CoreStats is what one core has done and holds, copied on that core.
type CoreStats struct {
	Core                     int
	Backend                  string
	API                      metrics.Shard
	Net                      netio.Stats
	Logs                     log.CoreStats
	Journal                  journal.Stats
	JournalUsed, JournalSize int64
	Ring                     ring.Stats
	Clock                    int64 // the ring's, ns, at the copy
	Steps                    uint64
	TailBytes                int
	PoolUsed                 int
	PoolSize                 int
	Partitions               int
	GroupRecords             uint64 // of __consumer_offsets, replayed
}

// Stats asks every core for a copy, and blocks until each has answered. From the
// edge. A core that no longer runs answers with zeros.
func (b *Broker) Stats() []CoreStats {
	answered := make(chan CoreStats, len(b.cores))
	left := b.askStats(answered)
	stats := make([]CoreStats, len(b.cores))
	for i := range stats {
		stats[i].Core = i
	}
	for range left {
		select {
		case s := <-answered:
			stats[s.Core] = s
		case <-b.stopped:
			return stats
		}
	}
	return stats
}

// askStats says how many cores will answer: one whose queue is full is left out.
func (b *Broker) askStats(answered chan<- CoreStats) (n int) {
	b.edge.RLock()
	defer b.edge.RUnlock()
	select {
	case <-b.stopped:
		return 0
	default:
	}
	for i, c := range b.cores {
		if c.Loop.Post(api.Func(c, func(c *api.Core) {
			io := c.Loop.IO
			s := CoreStats{
				Core: i, Backend: io.Name(), API: *c.Metrics, Logs: *c.Logs.Stats(), Journal: *c.Journal.Stats(), JournalUsed: c.Journal.Used(), JournalSize: c.Journal.Bytes(), Ring: *io.Stats(), Clock: io.Stamp(),
				Steps: c.Loop.Steps, TailBytes: c.Logs.TailBytes(), PoolUsed: io.Pool().Used(), PoolSize: io.Pool().Size(),
				Partitions: len(c.Partitions()), GroupRecords: c.Groups.Loaded(),
			}
			if c.Server != nil {
				s.Net = c.Server.Stats
			}
			answered <- s
		})) {
			n++
		}
	}
	return n
}

// FlushPolicy says by which policy a topic's records get onto the disk, the broker's
// default resolved. For anybody.
func (b *Broker) FlushPolicy(t *cluster.Topic) log.Policy { return b.topicConfig(t.Config).Policy }
