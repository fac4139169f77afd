package bench

import (
	"context"
	"time"
)

// Driven is a Client with a thread of its own on which it can also run the schedule, so that no record is handed from one
// thread to another. On one core that hand-over is a change of threads; see docs/decisions.md for what it costs.
type Driven interface {
	Client
	// Drive calls step on the client's thread until it says that there is no more to do. step sends what is due, and says after how
	// long it wants to be called again, at the latest; it is also called when records have ended. Close ends Drive.
	Drive(step func() (wait time.Duration, more bool))
}

// sleepMax is how long a pacer sleeps at most before it looks whether the run was ended.
const sleepMax = 50 * time.Millisecond

// pacer sends on the schedule: every strideth send, from the first on, round all producers.
type pacer struct {
	run      *run
	schedule Schedule
	next     int64
	stride   int64
	unsent   int64 // records that were due and not sent by the end
}

func newPacer(r *run, first, stride int) *pacer {
	return &pacer{run: r, schedule: Schedule{Rate: r.w.Rate, Batch: r.w.Batch}, next: int64(first), stride: int64(stride)}
}

// burst is how many sends a pacer that is behind makes at a time, so that the thread that drives it gets to its ring.
const burst = 32

// step sends what is due, burst sends at most, and says how long it is until the next is: 0 where it is due already.
func (p *pacer) step(ctx context.Context) (wait time.Duration, more bool) {
	r := p.run
	for range burst {
		if ctx.Err() != nil {
			return 0, false // the run was ended: nobody was kept waiting
		}
		end := r.end() // it may come earlier than it was thought
		at, now := p.schedule.At(p.next), time.Since(r.start)
		if at >= end {
			return 0, false
		}
		if now < at {
			return min(at-now, sleepMax), true
		}
		if now-end > r.lateMax {
			for count := p.schedule.Count(end); p.next < count; p.next += p.stride {
				r.late(p.schedule.At(p.next), end)
				p.unsent += int64(r.w.Batch)
			}
			return 0, false
		}
		if at >= r.w.Warmup {
			r.lagMu.Lock()
			record(r.lag, now-at, int64(r.w.Batch))
			r.lagMu.Unlock()
		}
		r.producers[p.next%int64(len(r.producers))].send(at)
		p.next += p.stride
	}
	return 0, true
}

// drive offers a producer's share of the load from its client's own thread.
func (r *run) drive(ctx context.Context, p *producer, client Driven) (unsent int64) {
	if r.w.Rate == 0 {
		client.Drive(func() (time.Duration, bool) { return p.fill(ctx) })
		return 0
	}
	pace := newPacer(r, int(p.id), len(r.producers))
	client.Drive(func() (time.Duration, bool) { return pace.step(ctx) })
	return pace.unsent
}

// fill sends as much as the bound on records in flight allows now, but no more than that, so that the thread gets to its ring
// even where all that is sent fails at once.
func (p *producer) fill(ctx context.Context) (wait time.Duration, more bool) {
	for range cap(p.tokens) {
		now := time.Since(p.run.start)
		if ctx.Err() != nil || now >= p.run.end() {
			return 0, false
		}
		select {
		case p.tokens <- struct{}{}:
		default:
			return sleepMax, true
		}
		p.send(now)
	}
	return 0, true
}
