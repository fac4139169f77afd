package shard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/uring"
)

// What a step leaves, the next one knows of before it waits.
func TestStepWaits(t *testing.T) {
	loops := stillLoops(2)
	a, b := loops[0], loops[1]
	io := a.IO.(*still)
	io.now = 100
	step := func(what string, until int64) {
		t.Helper()
		if a.Step(); io.until != until {
			t.Fatalf("%s: waited until %d, want %d", what, io.until, until)
		}
	}
	step("nothing to do", ring.Forever)
	timer := &again{loop: a}
	b.Send(0, Func(func(l *Loop) { l.SetTimer(&timer.Timer, 150, timer) }))
	step("a message waits", 0)
	step("a timer is set by it", 150)
	a.Post(Func(func(l *Loop) { l.StopTimer(&timer.Timer) }))
	step("the edge has posted", 0)
	step("the timer is stopped", ring.Forever)
	note := &Note{Message: Func(func(*Loop) {})}
	b.Control(0, note)
	step("a note waits", 0)
	b.Send(0, Func(func(*Loop) {}))
	b.Reply(0, Func(func(*Loop) {}))
	step("a request and a reply wait", 0)
	more := false
	a.AfterStep(func() bool { return more })
	more = true
	step("nothing is left yet", ring.Forever)
	more = false
	step("the step before has left something", 0)
	step("nothing is left", ring.Forever)
	for range drainMax + 1 {
		b.Send(0, Func(func(*Loop) {}))
	}
	step("many messages wait", 0)
	step("one is left", 0)
	step("none is left", ring.Forever)
}

// Who is sent something is woken, once in a step, and nobody else.
func TestWakes(t *testing.T) {
	loops := stillLoops(3)
	loops[0].AfterStep(func() bool {
		loops[0].Send(1, Func(func(*Loop) {}))
		loops[0].Reply(1, Func(func(*Loop) {}))
		return false
	})
	loops[0].Step()
	for i, want := range []int{0, 1, 0} {
		if n := int(loops[i].IO.(*still).wakes.Load()); n != want {
			t.Errorf("core %d is woken %d times, want %d", i, n, want)
		}
	}
}

// The edge's queue is bounded, and empty after a step.
func TestPostBound(t *testing.T) {
	loop := stillLoops(1)[0]
	got := 0
	for round := 1; round <= 3; round++ {
		var taken atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range edgeMax / 2 {
					if loop.Post(Func(func(*Loop) { got++ })) {
						taken.Add(1)
					}
				}
			}()
		}
		wg.Wait()
		if taken.Load() != edgeMax {
			t.Fatalf("%d messages taken, want %d", taken.Load(), edgeMax)
		}
		if loop.Step(); got != round*edgeMax {
			t.Fatalf("%d messages delivered, want %d", got, round*edgeMax)
		}
	}
}

// ask is a request to another core: there, a note comes back ahead of the reply;
// here, the reply gives the credit back.
type ask struct {
	Waiter
	from, to *Loop
	note     Note
	done     *[]*ask
	noted    bool
}

type answer ask

func newAsk(from, to *Loop, done *[]*ask) *ask {
	a := &ask{from: from, to: to, done: done}
	a.Waiter.Retry = a
	a.note.Message = (*noted)(a)
	return a
}

type noted ask

func (n *noted) Deliver(*Loop) { n.noted = true }

func (a *ask) start() {
	if !a.from.Send(a.to.ID, a) {
		a.from.WaitForCredit(a.to.ID, &a.Waiter)
	}
}

func (a *ask) Retry() { a.start() }

func (a *ask) Deliver(at *Loop) {
	at.Control(a.from.ID, &a.note)
	at.Reply(a.from.ID, (*answer)(a))
}

func (r *answer) Deliver(at *Loop) {
	*r.done = append(*r.done, (*ask)(r))
	at.Credit(r.to.ID)
}

// Two cores that have sent each other all they may, with as many again in line,
// come to an end, in order.
func TestFullCores(t *testing.T) {
	const each = 5 * Credits
	loops := stillLoops(2)
	var done [2][]*ask
	var asks [2][]*ask
	for range each {
		for i := range 2 {
			a := newAsk(loops[i], loops[1-i], &done[i])
			asks[i] = append(asks[i], a)
			a.start()
		}
	}
	for i := range 2 {
		if loops[i].HasCredits(1-i, 1) || loops[i].Send(1-i, Func(func(*Loop) {})) {
			t.Fatalf("core %d has credits left", i)
		}
	}
	for range 10 * each / drainMax {
		loops[0].Step()
		loops[1].Step()
	}
	for i := range 2 {
		if len(done[i]) != each || !loops[i].HasCredits(1-i, Credits) {
			t.Fatalf("core %d: %d of %d requests are done, %d credits are back", i, len(done[i]), each, loops[i].credits[1-i])
		}
		for n, a := range done[i] {
			if a != asks[i][n] || !a.noted {
				t.Fatalf("core %d: request %d is out of order, or its note is missing (%v)", i, n, a.noted)
			}
		}
	}
}

// retry is a waiter that does what the test says.
type retry struct {
	Waiter
	f func()
}

func (r *retry) Retry() { r.f() }

// A waiter that goes on to wait for another core leaves the credit to the next.
func TestWaiterForTwo(t *testing.T) {
	loops := stillLoops(3)
	l := loops[0]
	for range Credits {
		l.Send(1, Func(func(*Loop) {}))
		l.Send(2, Func(func(*Loop) {}))
	}
	for range Credits / drainMax {
		loops[1].Step()
		loops[2].Step()
	}
	var got []string
	both, one := &retry{}, &retry{}
	both.Waiter.Retry, one.Waiter.Retry = both, one
	both.f = func() {
		for _, to := range []int{1, 2} {
			if !l.HasCredits(to, 1) {
				got = append(got, fmt.Sprint("both waits for ", to))
				l.WaitForCredit(to, &both.Waiter)
				return
			}
		}
		got = append(got, "both")
	}
	one.f = func() {
		got = append(got, "one")
		l.Send(1, Func(func(*Loop) {}))
	}
	l.WaitForCredit(1, &both.Waiter)
	l.WaitForCredit(1, &one.Waiter)
	l.Credit(1)
	if want := "[both waits for 2 one]"; fmt.Sprint(got) != want {
		t.Fatalf("%v, want %s", got, want)
	}
	l.Credit(1)
	l.Credit(2)
	if want := "[both waits for 2 one both]"; fmt.Sprint(got) != want {
		t.Fatalf("%v, want %s", got, want)
	}
}

// Messages, notes and timers allocate nothing.
func TestNoAllocations(t *testing.T) {
	loops := stillLoops(2)
	done := make([]*ask, 0, 8)
	a := newAsk(loops[0], loops[1], &done)
	timer := &again{loop: loops[0]}
	round := func() {
		done = done[:0]
		a.start()
		loops[0].SetTimer(&timer.Timer, loops[0].IO.Now(), timer)
		loops[1].Step()
		loops[0].Step()
		if len(done) != 1 {
			t.Fatal("there is no answer")
		}
	}
	round()
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// backends are the real rings that were built; runLoops leaves out what the machine does not have.
func backends() []string {
	if errors.Is(uring.Available(), uring.ErrNotBuilt) {
		return []string{"posix"}
	}
	return []string{"posix", "uring"}
}

func newRing(backend string) (ring.IO, error) {
	if backend == "uring" {
		return uring.New(posix.Host(), uring.Config{PoolBytes: 1 << 20, RecvBuffers: 4})
	}
	return posix.New(posix.Host(), posix.Config{PoolBytes: 1 << 20, RecvBuffers: 4})
}

// runLoops runs n loops on threads of their own until the test is over.
func runLoops(t testing.TB, backend string, n int, setup func(l *Loop)) []*Loop {
	t.Helper()
	if backend == "uring" {
		ringtest.NeedUring(t, uring.Available())
	}
	loops := New(n)
	ready := make(chan error, n)
	run := make(chan struct{})
	var wg sync.WaitGroup
	for _, l := range loops {
		wg.Add(1)
		go func() {
			defer wg.Done()
			runtime.LockOSThread()
			io, err := newRing(backend)
			if l.IO = io; err == nil {
				setup(l)
			}
			ready <- err
			<-run
			if err == nil {
				l.Run()
				io.Close()
			}
		}()
	}
	var first error
	for range loops {
		if err := <-ready; err != nil {
			first = err
		}
	}
	t.Cleanup(func() {
		for _, l := range loops {
			if l.IO != nil {
				l.Stop()
			}
		}
		wg.Wait()
	})
	close(run)
	if first != nil {
		t.Fatal(first)
	}
	return loops
}

// pingPong is one request at a time between two cores, both of which sleep in between.
type pingPong struct {
	ask
	left int
	over chan struct{}
}

func (p *pingPong) Deliver(at *Loop) {
	if at == p.to {
		at.Reply(p.from.ID, p)
		return
	}
	at.Credit(p.to.ID)
	if p.left--; p.left == 0 {
		close(p.over)
		return
	}
	at.Send(p.to.ID, p)
}

func (p *pingPong) run(t testing.TB, loops []*Loop, rounds int) {
	p.from, p.to, p.left, p.over = loops[0], loops[1], rounds, make(chan struct{})
	loops[0].Post(Func(func(l *Loop) { l.Send(1, p) }))
	select {
	case <-p.over:
	case <-time.After(2 * time.Minute):
		t.Fatal("a wake-up was lost, or the machine is very busy")
	}
}

// No wake-up is lost between threads that block in their rings.
func TestWakesOnThreads(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			new(pingPong).run(t, runLoops(t, backend, 2, func(*Loop) {}), 3000)
		})
	}
}

// storm is one core's part of a random exchange between all.
type storm struct {
	loop     *Loop
	rnd      *rand.Rand
	left     int // requests to begin
	open     int // begun and not done
	timer    Timer
	finished chan<- int
}

type gust struct {
	ask
	s *storm
}

// Fire begins a few requests, and sleeps for a moment.
func (s *storm) Fire(now int64) {
	for range min(s.left, s.rnd.IntN(3*Credits/2)) {
		to := s.rnd.IntN(len(s.loop.peers) - 1)
		if to >= s.loop.ID {
			to++
		}
		s.left--
		s.open++
		g := &gust{s: s}
		g.ask = *newAsk(s.loop, s.loop.peers[to], nil)
		g.Waiter.Retry, g.note.Message = g, Func(func(*Loop) {})
		g.Retry()
	}
	if s.left > 0 {
		s.loop.SetTimer(&s.timer, now+s.rnd.Int64N(2e6), s)
	}
}

func (g *gust) Retry() {
	if !g.from.Send(g.to.ID, g) {
		g.from.WaitForCredit(g.to.ID, &g.Waiter)
	}
}

func (g *gust) Deliver(at *Loop) {
	if at == g.to {
		at.Control(g.from.ID, &g.note)
		at.Reply(g.from.ID, g)
		return
	}
	at.Credit(g.to.ID)
	s := g.s
	if s.open--; s.open == 0 && s.left == 0 {
		s.finished <- at.ID
	}
}

// Several cores ask each other more than they may, on real rings and threads, while
// the edge posts: everything is answered. Run it with -race.
func TestThreads(t *testing.T) {
	const cores, each = 3, 20000
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			finished := make(chan int, cores)
			loops := runLoops(t, backend, cores, func(l *Loop) {
				s := &storm{loop: l, rnd: rand.New(rand.NewPCG(uint64(l.ID), 0)), left: each, finished: finished}
				l.SetTimer(&s.timer, l.IO.Now(), s)
			})
			posted, delivered := 0, make(chan struct{}, 2*edgeMax)
			deadline := time.After(2 * time.Minute)
			for left := cores; left > 0; {
				if posted < edgeMax {
					if !loops[posted%cores].Post(Func(func(*Loop) { delivered <- struct{}{} })) {
						t.Fatal("no room for a post")
					}
					posted++
				}
				select {
				case <-finished:
					left--
				case <-deadline:
					t.Fatal("not everything is answered")
				default:
					runtime.Gosched()
				}
			}
			for range posted {
				select {
				case <-delivered:
				case <-deadline:
					t.Fatal("a post is not delivered")
				}
			}
		})
	}
}

// BenchmarkMailbox is a request and its reply between two threads: one at a time,
// so that each is a wake-up of a core that sleeps, and many at a time.
func BenchmarkMailbox(b *testing.B) {
	for _, backend := range backends() {
		b.Run(backend+"/1", func(b *testing.B) {
			b.ReportAllocs()
			loops := runLoops(b, backend, 2, func(*Loop) {})
			b.ResetTimer()
			new(pingPong).run(b, loops, b.N)
		})
		b.Run(backend+"/512", func(b *testing.B) {
			b.ReportAllocs()
			const many = 512
			loops := runLoops(b, backend, 2, func(*Loop) {})
			all := make([]pingPong, many)
			b.ResetTimer()
			for i := range all {
				p := &all[i]
				p.from, p.to, p.left, p.over = loops[0], loops[1], b.N/many+1, make(chan struct{})
			}
			loops[0].Post(Func(func(l *Loop) {
				for i := range all {
					l.Send(1, &all[i])
				}
			}))
			for i := range all {
				<-all[i].over
			}
		})
	}
}
