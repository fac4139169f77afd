package bench

import (
	"context"
	"fmt"
	"time"
)

// Backlog is how a backlog was built and drained. Records are deliveries: with two subscriptions each record counts twice, as it
// does in the OpenMessaging Benchmark.
type Backlog struct {
	Asked   int64   `json:"askedBytes"` // of values
	Records int64   `json:"records"`    // that were behind when consumers went on
	Build   float64 `json:"buildSeconds"`
	Drain   float64 `json:"drainSeconds"`
	Left    int64   `json:"left"` // behind when it counted as drained
	Drained bool    `json:"drained"`
	Why     string  `json:"why,omitempty"` // it was not

	Building  float64 `json:"acknowledgedPerSecondBuilding"`
	Producing float64 `json:"acknowledgedPerSecondDraining"`
	Consuming float64 `json:"deliveredPerSecondDraining"`
	Draining  float64 `json:"drainedPerSecond"` // by how much the backlog shrank
}

func (b *Backlog) line(size int) string {
	mb := func(perSecond float64) float64 { return perSecond * float64(size) / 1e6 }
	s := fmt.Sprintf("%d records behind after %.1f s, at %.0f acknowledged/s", b.Records, b.Build, b.Building)
	if b.Why != "" {
		s += "; NOT drained: " + b.Why
	}
	if b.Drain > 0 {
		s += fmt.Sprintf("; drained to %d in %.1f s: %.0f delivered/s (%.1f MB/s), %.0f/s (%.1f MB/s) off the backlog, %.0f acknowledged/s meanwhile",
			b.Left, b.Drain, b.Consuming, mb(b.Consuming), b.Draining, mb(b.Draining), b.Producing)
	}
	return s
}

// backlogLeftMin is what may be behind at least when a backlog counts as drained, records.
const backlogLeftMin = 1000

// backlog stops the consumers after the warm-up, lets the backlog grow to what was asked, lets them go on, waits until it is
// drained, and then for the measured time that was asked for. Then the run ends. It runs beside the load; ctx ends it early.
func (r *run) backlog(ctx context.Context, o Options) *Backlog {
	s, size := r.w.Streams, int64(r.w.Size)
	b := &Backlog{Asked: s.Backlog}
	defer func() {
		for _, c := range r.consumers { // whatever happened: what is there shall arrive
			c.Resume()
		}
	}()
	if !r.until(ctx, r.w.Warmup, func() bool { return false }) && ctx.Err() != nil {
		b.Why = "interrupted"
		return b
	}
	o.phase("consumers rest until %d MiB are behind", s.Backlog>>20)
	for _, c := range r.consumers {
		c.Pause()
	}
	from, acked := time.Since(r.start), r.acknowledged()
	built := r.until(ctx, from+s.BacklogTimeout, func() bool { return r.behind()*size >= s.Backlog })
	resumed, records, ackedThen, received := time.Since(r.start), r.behind(), r.acknowledged(), r.received()
	for _, c := range r.consumers {
		c.Resume()
	}
	b.Records, b.Build = records, (resumed - from).Seconds()
	b.Building = float64(ackedThen-acked) / b.Build
	if !built {
		b.Why = r.why(ctx, "it was not built in %v", s.BacklogTimeout)
		return b
	}
	o.phase("consumers go on")
	least := max(backlogLeftMin, int64((1-s.DrainRatio)*float64(s.Backlog/size)))
	b.Drained = r.until(ctx, resumed+s.BacklogTimeout, func() bool { return r.behind() <= least })
	drained := time.Since(r.start)
	b.Left, b.Drain = r.behind(), (drained - resumed).Seconds()
	b.Producing = float64(r.acknowledged()-ackedThen) / b.Drain
	b.Consuming = float64(r.received()-received) / b.Drain
	b.Draining = float64(b.Records-b.Left) / b.Drain
	if !b.Drained {
		b.Why = r.why(ctx, "more than %d were behind after %v", least, s.BacklogTimeout)
		return b
	}
	o.phase("the backlog is drained; %v more", r.w.Duration)
	r.until(ctx, drained+r.w.Duration, func() bool { return false })
	return b
}

func (r *run) why(ctx context.Context, format string, args ...any) string {
	if ctx.Err() != nil {
		return "interrupted"
	}
	return fmt.Sprintf(format, args...)
}

// until waits until done, or until a time from the start, or ctx. It reports whether it was done.
func (r *run) until(ctx context.Context, at time.Duration, done func() bool) bool {
	for !done() {
		left := at - time.Since(r.start)
		if left <= 0 || ctx.Err() != nil {
			return false
		}
		sleep(min(left, 5*time.Millisecond))
	}
	return true
}
