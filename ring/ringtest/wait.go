package ringtest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ring"
)

var waitCases = []testCase{
	{"WaitCounts", 0, waitCounts},
	{"WaitZero", 0, waitZero},
	{"WaitNeverBlocks", 0, waitNeverBlocks},
	{"Clock", 0, clock},
	{"WaitDeadline", threads, waitDeadline},
	{"WakeBefore", 0, wakeBefore},
	{"WakeDuring", threads, wakeDuring},
	{"WakesCoalesce", threads, wakesCoalesce},
	{"WakeUnderLoad", threads, wakeUnderLoad},
}

// What ends before a deadline that is farOff ends within lateMax: on a machine that
// others use too it may be long until a thread runs again.
const (
	farOff  = 2 * time.Minute
	lateMax = 30 * time.Second
)

// Wait returns how many completions it has delivered.
func waitCounts(r *rig) {
	completed := 0
	for range 10 {
		c := r.prepare(ring.Op{Code: ring.Nop})
		c.thenDo = func(*call) { completed++ }
		r.start(c)
	}
	r.until("ten nops", func() bool {
		before := completed // Drive waits as well
		if n := r.io.Wait(0); n != completed-before {
			r.Fatalf("Wait said %d, %d completed", n, completed-before)
		}
		return completed == 10
	})
}

func waitZero(r *rig) {
	if n := r.io.Wait(0); n != 0 {
		r.Fatalf("%d completions of nothing", n)
	}
	client, server := r.pair()
	recv := r.submit(ring.Op{Code: ring.Recv, FD: client, Buf: r.bytes(1)})
	for range 20 { // an armed op does not make it block
		if n := r.io.Wait(0); n != 0 {
			r.Fatalf("Wait(0) delivered %d, recv %s", n, resultString(recv.Result))
		}
	}
	r.closeAll(client, server)
	recv.wait()
}

// Without threads a Wait that has nothing to deliver returns.
func waitNeverBlocks(r *rig) {
	if r.Traits().Threads {
		now := r.io.Stamp()
		r.io.Wait(now) // a time that has come is no reason to block either
		r.io.Wait(now - 1)
		r.io.Wait(1)
		return
	}
	if n := r.io.Wait(ring.Forever); n != 0 {
		r.Fatalf("%d completions of nothing", n)
	}
}

func clock(r *rig) {
	before := r.io.Stamp()
	r.io.Wait(0)
	after := r.io.Stamp()
	if now := r.io.Now(); now < before || now > after {
		r.Fatalf("Now %d is not between %d and %d, around the last Wait", now, before, after)
	}
	now := r.io.Now()
	r.io.Stamp()
	if r.io.Now() != now {
		r.Fatal("Now changes without a Wait")
	}
	if host := r.host.Monotonic(); host < after {
		r.Fatalf("the Host's clock says %d, the ring's %d: they differ", host, after)
	}
	if wall, host := r.io.WallMillis(), r.host.WallMillis(); wall > host || host-wall > 60_000 {
		r.Fatalf("the ring's wall clock says %d, the Host's %d", wall, host)
	}
}

func waitDeadline(r *rig) {
	for _, d := range []time.Duration{200 * time.Microsecond, 3 * time.Millisecond, 30 * time.Millisecond} {
		until := r.io.Stamp() + int64(d)
		if n := r.io.Wait(until); n != 0 {
			r.Fatalf("%d completions of nothing", n)
		}
		if now := r.io.Now(); now < until {
			r.Fatalf("Wait of %v returned %v early", d, time.Duration(until-now))
		}
		if late := time.Duration(r.io.Stamp() - until); late > lateMax {
			r.Fatalf("Wait of %v returned %v late", d, late)
		}
	}
	// With something to deliver it does not wait for the deadline.
	c := r.submit(ring.Op{Code: ring.Nop})
	begin := r.io.Stamp()
	if n := r.io.Wait(begin + int64(farOff)); n != 1 || !c.ended {
		r.Fatalf("delivered %d", n)
	}
	if took := time.Duration(r.io.Stamp() - begin); took > lateMax {
		r.Fatalf("a nop took %v", took)
	}
}

// A Wake that comes before Wait is not lost.
func wakeBefore(r *rig) {
	for range 10 {
		r.io.Wake()
		begin := r.io.Stamp()
		until := begin + int64(farOff)
		if !r.Traits().Threads {
			until = 0
		}
		r.io.Wait(until)
		if took := time.Duration(r.io.Stamp() - begin); took > lateMax {
			r.Fatalf("a Wait after Wake took %v", took)
		}
	}
}

func wakeDuring(r *rig) {
	before := r.io.Stats().Wakes
	for range 20 {
		var asleep atomic.Bool
		var woken sync.WaitGroup
		woken.Go(func() {
			for !asleep.Load() {
				runtime.Gosched()
			}
			r.io.Wake()
		})
		asleep.Store(true)
		begin := r.io.Stamp()
		r.io.Wait(begin + int64(farOff))
		if took := time.Duration(r.io.Stamp() - begin); took > lateMax {
			r.Fatalf("a Wait that is woken took %v", took)
		}
		woken.Wait()
	}
	if r.io.Stats().Wakes == before {
		r.Error("Stats.Wakes did not count them")
	}
	// And from a wait without a deadline.
	var woken sync.WaitGroup
	woken.Go(func() { r.io.Wake() })
	r.io.Wait(ring.Forever)
	woken.Wait()
}

// A thousand wakes are one: they leave at most one early return behind.
func wakesCoalesce(r *rig) {
	var woken sync.WaitGroup
	for range 10 {
		woken.Go(func() {
			for range 100 {
				r.io.Wake()
			}
		})
	}
	woken.Wait()
	r.io.Wait(r.io.Stamp() + int64(farOff))
	early := 0
	for {
		until := r.io.Stamp() + int64(5*time.Millisecond)
		r.io.Wait(until)
		if r.io.Now() >= until {
			break
		}
		if early++; early > 1 {
			r.Fatal("the second Wait after the wakes was woken as well")
		}
	}
}

// Wakes from several goroutines while the ring works: the ring sees every flag
// that was set before a Wake, without a deadline to help.
func wakeUnderLoad(r *rig) {
	const wakers, times = 3, 200
	var posted, seen [wakers]atomic.Int64
	var all sync.WaitGroup
	for i := range wakers {
		all.Go(func() {
			for n := range int64(times) {
				posted[i].Store(n + 1)
				r.io.Wake()
				for giveUp := time.Now().Add(time.Minute); seen[i].Load() <= n; {
					if time.Now().After(giveUp) {
						r.Errorf("wake %d of waker %d was lost", n, i)
						return
					}
					runtime.Gosched()
				}
			}
		})
	}
	client, server := r.pair()
	recv := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick | ring.Multi})
	sent := 0
	for done := false; !done && !r.Failed(); {
		done = true
		for i := range posted {
			n := posted[i].Load()
			seen[i].Store(n)
			done = done && n == times
		}
		if done {
			break
		}
		if sent++; sent%16 == 0 {
			r.submit(ring.Op{Code: ring.Send, FD: client, Buf: r.text("x")})
		}
		r.io.Wait(r.io.Stamp() + int64(farOff))
	}
	all.Wait()
	r.closeAll(server, client)
	recv.wait()
}
