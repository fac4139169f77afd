package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// arrivalsMax is how many arrivals the consumers of a run share.
const arrivalsMax = 16

// arrivals is what some of the consumers saw.
type arrivals struct {
	run *run

	mu       sync.Mutex
	start    time.Time
	received int64                   // since the start; what came twice counts twice
	measured int64                   // within the measured time
	foreign  int64                   // of another run
	total    *hdrhistogram.Histogram // from the intended time
	sent     *hdrhistogram.Histogram // from the send
	window   *hdrhistogram.Histogram // from the send, since the last period
	arrived  int64                   // since the last period
}

func newArrivals(r *run) *arrivals {
	return &arrivals{run: r, total: newHistogram(), sent: newHistogram(), window: newCoarseHistogram()}
}

// begin sets the time that latencies run from; no record is there yet.
func (a *arrivals) begin(start time.Time) {
	a.mu.Lock()
	a.start = start
	a.mu.Unlock()
}

// got takes a record that arrived.
func (a *arrivals) got(value []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(value) < headerBytes || peek(value).run != a.run.number {
		a.foreign++
		return
	}
	h, now := peek(value), time.Since(a.start)
	a.received++
	a.arrived++
	record(a.window, now-h.sent(), 1)
	if h.intended >= a.run.w.Warmup {
		record(a.total, now-h.intended, 1)
	}
	if now >= a.run.w.Warmup { // the benchmark's rule
		record(a.sent, now-h.sent(), 1)
	}
	if now >= a.run.w.Warmup && now < a.run.end() {
		a.measured++
	}
}

// fromSend is what a producer saw by the OpenMessaging Benchmark's rules: latency from the send, and apart from it how late the send
// was. A record counts when it is acknowledged after the warm-up, whenever it should have been sent. Guarded by the producer's mu.
type fromSend struct {
	total         *hdrhistogram.Histogram // from the send
	window, delay *hdrhistogram.Histogram // since the last period
	delays        *hdrhistogram.Histogram
	acked, failed int64 // since the last period
}

func newFromSend() *fromSend {
	return &fromSend{total: newHistogram(), window: newCoarseHistogram(), delay: newCoarseHistogram(), delays: newHistogram()}
}

// acknowledged takes a record; f may be nil.
func (f *fromSend) acknowledged(h header, now time.Duration, measured bool) {
	if f == nil {
		return
	}
	f.acked++
	late := time.Duration(h.partition) * time.Microsecond
	record(f.window, now-h.sent(), 1)
	record(f.delay, late, 1)
	if measured {
		record(f.total, now-h.sent(), 1)
		record(f.delays, late, 1)
	}
}

func (f *fromSend) refused() {
	if f != nil {
		f.failed++
	}
}

// period is one interval of the OpenMessaging Benchmark's result.
type period struct {
	seconds                  float64
	acked, failed, received  int64
	behind                   int64 // at its end
	publish, delay, endToEnd *hdrhistogram.Histogram
}

// endPeriod closes the interval that ends now.
func (r *run) endPeriod() period {
	now := time.Since(r.start)
	d := period{seconds: (now - r.periodFrom).Seconds(), publish: newHistogram(), delay: newHistogram(), endToEnd: newHistogram(), behind: r.behind()}
	r.periodFrom = now
	for _, p := range r.producers {
		p.mu.Lock()
		f := p.fromSend
		d.acked, d.failed = d.acked+f.acked, d.failed+f.failed
		d.publish.Merge(f.window)
		d.delay.Merge(f.delay)
		f.window.Reset()
		f.delay.Reset()
		f.acked, f.failed = 0, 0
		p.mu.Unlock()
	}
	for _, a := range r.arrivals {
		a.mu.Lock()
		d.received += a.arrived
		d.endToEnd.Merge(a.window)
		a.window.Reset()
		a.arrived = 0
		a.mu.Unlock()
	}
	return d
}

// streamsResult is what a run with Streams saw besides: what the OpenMessaging Benchmark's result is made of.
type streamsResult struct {
	periods                  []period
	publish, delay, endToEnd *hdrhistogram.Histogram
}

// collectStreams merges what producers and consumers saw. Everything has ended.
func (r *run) collectStreams(res *Result) error {
	if !r.w.Streams.on() {
		return nil
	}
	s := &streamsResult{periods: r.periods, publish: newHistogram(), delay: newHistogram(), endToEnd: newHistogram()}
	for _, p := range r.producers {
		s.publish.Merge(p.fromSend.total)
		s.delay.Merge(p.fromSend.delays)
	}
	res.streams = s
	if len(r.arrivals) == 0 {
		return nil
	}
	all, foreign := newHistogram(), int64(0)
	in := &Consumption{Missing: r.behind(), Behind: r.behindAtEnd}
	for _, a := range r.arrivals {
		a.mu.Lock()
		all.Merge(a.total)
		s.endToEnd.Merge(a.sent)
		in.Received += a.measured
		foreign += a.foreign
		a.mu.Unlock()
	}
	if res.Seconds > 0 {
		in.RecordsPerSecond = float64(in.Received) / res.Seconds
	}
	var err error
	for _, c := range r.consumers {
		if err := c.Err(); err != nil {
			res.note("a consumer failed: %v", err)
			break
		}
	}
	in.Latency, err = summarize(all, 1, true)
	res.Consumed = in
	if foreign > 0 {
		res.note("consumers were given %d records that are not of this run", foreign)
	}
	if in.Missing > 0 {
		res.note("at least %d deliveries had not happened when the run was given up; they are in no end-to-end latency", in.Missing)
	}
	return err
}

// Consumption is what the consumers of a run saw.
type Consumption struct {
	Received         int64   `json:"received"` // within the measured time, by all subscriptions
	RecordsPerSecond float64 `json:"recordsPerSecond"`
	Latency          Latency `json:"endToEnd"`    // from the intended send time to when a consumer has it
	Behind           int64   `json:"behind"`      // deliveries of acknowledged records that had not happened at the end of the measured time
	Missing          int64   `json:"undelivered"` // and not when the run was given up, at least: what came twice stands for one that did not come; in no latency
}
