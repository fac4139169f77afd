package web

import (
	"net/http"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/metrics"
)

// Trace is what GET /trace answers: the flight recorders of all cores. Times are ns.
type Trace struct {
	Stages  []TraceTimes   `json:"stages"`  // of a produce request's way, in order
	Total   TraceTimes     `json:"total"`   // from its arrival to its reply
	Durable TraceTimes     `json:"durable"` // from the append until it is where flush.policy wants it
	Journal TraceTimes     `json:"journal"` // the journal's own writes
	Worst   []TraceRequest `json:"worst"`   // of the last one to two minutes, 16 a core and minute, the slowest first
}

// TraceTimes is a histogram since the start. Each bucket is [upper bound, count]; empty ones
// are left out, and the bounds are always the same.
type TraceTimes struct {
	Name    string      `json:"name"`
	Count   uint64      `json:"count"`
	Sum     uint64      `json:"sum"`
	Buckets [][2]uint64 `json:"buckets"`
}

// TraceRequest is one produce request.
type TraceRequest struct {
	Time      time.Time        `json:"time"` // of its arrival
	Topic     string           `json:"topic"`
	Partition int32            `json:"partition"` // that was acknowledged last
	Parts     int32            `json:"partitions"`
	Bytes     int64            `json:"bytes"`
	Core      int              `json:"core"`  // of the connection
	Owner     int              `json:"owner"` // core of the partition
	Total     int64            `json:"total"`
	Stages    map[string]int64 `json:"stages"`
	Longest   string           `json:"longest"` // stage
	Cause     string           `json:"cause"`   // what the longest stage waits for
	GC        int64            `json:"gc"`      // of it, the time in which a garbage collection had stopped the process
}

// causes says what a stage waits for.
var causes = map[metrics.Stage]string{
	metrics.Decoded:      "the core was at other requests",
	metrics.Started:      "the mailbox of the core that owns the partition, or the requests before it",
	metrics.Appended:     "room: the log is as far ahead of the disk as it may be",
	metrics.Submitted:    "the write or sync before its own",
	metrics.Flushed:      "the disk",
	metrics.Acknowledged: "the core was at other requests",
	metrics.Replied:      "the way back to the connection's core, or the request's other partitions",
}

// TraceOf asks the cores, and blocks until each has answered. From the edge.
func TraceOf(b *engine.Broker) *Trace {
	var sum metrics.Flight
	var journal metrics.Histogram
	var worst []metrics.Request
	var zero time.Time // of the ring's clock
	stats := b.Stats()
	for i := range stats {
		s := &stats[i]
		if s.Backend == "" { // it did not answer
			continue
		}
		zero = time.Now().Add(-time.Duration(s.Clock))
		sum.Merge(&s.API.Flight)
		journal.Merge(&s.Journal.Write)
		worst = append(worst, s.API.Flight.Worst()...)
	}
	metrics.SortWorst(worst)
	t := &Trace{
		Total: times("total", &sum.Stages[metrics.Received]), Durable: times("durable", &sum.Durable), Journal: times("journal", &journal),
		Worst: []TraceRequest{},
	}
	for i := metrics.Decoded; i <= metrics.Replied; i++ {
		t.Stages = append(t.Stages, times(metrics.Stages[i], &sum.Stages[i]))
	}
	var gc debug.GCStats
	debug.ReadGCStats(&gc)
	for i := range worst {
		t.Worst = append(t.Worst, traced(&worst[i], zero, &gc))
	}
	return t
}

func traced(r *metrics.Request, zero time.Time, gc *debug.GCStats) TraceRequest {
	s := &r.Stamps
	longest := s.Longest()
	x := TraceRequest{
		Time: zero.Add(time.Duration(s[metrics.Received])), Topic: r.Topic, Partition: r.Partition, Parts: r.Parts, Bytes: r.Bytes,
		Core: r.Core, Owner: r.Owner, Total: s.Total(), Stages: map[string]int64{}, Longest: metrics.Stages[longest], Cause: causes[longest],
	}
	for i := metrics.Decoded; i <= metrics.Replied; i++ {
		x.Stages[metrics.Stages[i]] = s[i] - s[i-1]
	}
	x.GC = int64(stopped(gc, x.Time, x.Time.Add(time.Duration(x.Total))))
	return x
}

// stopped is how much of the time between two moments the garbage collector had stopped
// everything. The runtime remembers its last 256 pauses.
func stopped(gc *debug.GCStats, from, to time.Time) (sum time.Duration) {
	for i, end := range gc.PauseEnd {
		if i >= len(gc.Pause) {
			break
		}
		a, z := end.Add(-gc.Pause[i]), end
		if a.Before(from) {
			a = from
		}
		if z.After(to) {
			z = to
		}
		sum += max(z.Sub(a), 0)
	}
	return sum
}

func times(name string, h *metrics.Histogram) TraceTimes {
	t := TraceTimes{Name: name, Count: h.Count, Sum: h.Sum, Buckets: [][2]uint64{}}
	for i, n := range h.Buckets {
		if n > 0 {
			t.Buckets = append(t.Buckets, [2]uint64{metrics.Bound(i), n})
		}
	}
	return t
}

func (s *Server) trace(w http.ResponseWriter, b *engine.Broker) { answerJSON(w, TraceOf(b), "") }
