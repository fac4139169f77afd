package shard

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/ring"
)

// still is a ring on which nothing happens; its clock is set by the test.
type still struct {
	ring.IO
	now   int64
	until int64 // of the last Wait
	wakes atomic.Int32
}

func (s *still) Wait(until int64) int { s.until = until; return 0 }
func (s *still) Now() int64           { return s.now }
func (s *still) Wake()                { s.wakes.Add(1) }

func stillLoops(n int) []*Loop {
	loops := New(n)
	for _, l := range loops {
		l.IO = &still{}
	}
	return loops
}

// clocks is the loop's timers beside a plain list of what is set.
type clocks struct {
	*testing.T
	loop   *Loop
	io     *still
	rnd    *rand.Rand
	timers []clock
	fired  int
	resets bool // Fire sets, moves and stops timers
	late   bool // one was set for a time that had passed
}

type clock struct {
	Timer
	c    *clocks
	when int64 // 0: not set
}

func (k *clock) Fire(now int64) {
	c := k.c
	c.fired++
	switch {
	case k.when == 0:
		c.Fatal("a timer fired that is not set")
	case k.when > now || now != c.io.now:
		c.Fatalf("a timer for %d fired at %d", k.when, now)
	case k.Set():
		c.Fatal("a timer that fires is set")
	}
	for i := range c.timers {
		if w := c.timers[i].when; w != 0 && w < k.when {
			c.Fatalf("the timer for %d fired before the one for %d", k.when, w)
		}
	}
	k.when = 0
	if c.resets && c.rnd.IntN(2) == 0 {
		c.change(k)
		c.change(&c.timers[c.rnd.IntN(len(c.timers))])
	}
}

// change sets, moves or stops a timer.
func (c *clocks) change(k *clock) {
	if c.rnd.IntN(3) == 0 {
		c.loop.StopTimer(&k.Timer)
		k.when = 0
	} else {
		k.when = max(1, c.io.now-5+c.rnd.Int64N(50))
		c.late = c.late || k.when <= c.io.now
		c.loop.SetTimer(&k.Timer, k.when, k)
	}
	if k.Set() != (k.when != 0) {
		c.Fatalf("set %v for %d", k.Set(), k.when)
	}
}

// Timers fire when they are due, once, the earliest first, whatever is set, moved
// and stopped between and while they fire; and the loop waits for the next one.
func TestTimers(t *testing.T) {
	for seed := range uint64(30) {
		io := &still{now: 10}
		loop := New(1)[0]
		loop.IO = io
		c := &clocks{T: t, loop: loop, io: io, rnd: rand.New(rand.NewPCG(seed, 0)), timers: make([]clock, 1+seed*3), resets: seed%2 == 1}
		for i := range c.timers {
			c.timers[i].c = c
		}
		for range 400 {
			for range c.rnd.IntN(4) {
				c.change(&c.timers[c.rnd.IntN(len(c.timers))])
			}
			io.now += c.rnd.Int64N(10)
			next, set := int64(ring.Forever), 0
			for i := range c.timers {
				if w := c.timers[i].when; w != 0 {
					next, set = min(next, w), set+1
				}
			}
			c.fired, c.late = 0, false
			loop.Step()
			if io.until != next {
				t.Fatalf("waited until %d, the next timer is for %d", io.until, next)
			}
			if c.fired > set {
				t.Fatalf("%d timers were set, and %d fired in one step", set, c.fired)
			}
			for i := range c.timers {
				if w := c.timers[i].when; w != 0 && w <= io.now && !c.late {
					t.Fatalf("at %d the timer for %d has not fired", io.now, w)
				}
			}
		}
	}
}

// A timer that sets itself again for now does not hold up the loop.
func TestTimerAgain(t *testing.T) {
	io := &still{now: 7}
	loop := New(1)[0]
	loop.IO = io
	again := &again{loop: loop}
	loop.SetTimer(&again.Timer, 7, again)
	for i := 1; i <= 5; i++ {
		if loop.Step(); again.n != i {
			t.Fatalf("fired %d times in %d steps", again.n, i)
		}
	}
}

type again struct {
	Timer
	loop *Loop
	n    int
}

func (a *again) Fire(now int64) {
	a.n++
	a.loop.SetTimer(&a.Timer, now, a)
}
