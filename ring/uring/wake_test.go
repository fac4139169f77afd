//go:build uring

package uring

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/ringtest"
)

var bells = []struct {
	name    string
	without []string
}{{"message", nil}, {"eventfd", []string{checkMsgRing}}}

// Wakers and the waiter race for every order of their steps. The waiter has no
// deadline, so one lost wake stops the test.
func TestWakeRace(t *testing.T) {
	for _, bell := range bells {
		for _, spin := range []time.Duration{0, 5 * time.Microsecond} {
			t.Run(bell.name, func(t *testing.T) {
				runtime.LockOSThread()
				g := openWith(t, Config{Spin: spin}, bell.without)
				const wakers, times = 4, 5000
				var posted, seen [wakers]atomic.Int64
				var all sync.WaitGroup
				watchdog := time.AfterFunc(time.Minute, func() { panic("a wake was lost") })
				defer watchdog.Stop()
				for i := range wakers {
					all.Go(func() {
						for n := range int64(times) {
							posted[i].Store(n + 1)
							g.Wake()
							// Vary the distance to the waiter's next sleep.
							for k := int64(0); seen[i].Load() <= n; k++ {
								if k%((n%7+1)*8) == 0 {
									runtime.Gosched()
								}
							}
						}
					})
				}
				waits := 0
				for total := int64(0); total < wakers*times; waits++ {
					if waits%256 == 0 { // slow is not lost
						watchdog.Reset(time.Minute)
					}
					g.Ring.Wait(ring.Forever)
					total = 0
					for i := range posted {
						n := posted[i].Load()
						seen[i].Store(n)
						total += n
					}
				}
				all.Wait()
				if w := g.Stats().Wakes; w == 0 || w > wakers*times {
					t.Fatalf("%d wakes heard of %d", w, wakers*times)
				}
			})
		}
	}
}

// Two rings on two threads wake each other, and nothing else wakes them.
func TestWakePeer(t *testing.T) {
	for _, bell := range bells {
		t.Run(bell.name, func(t *testing.T) { wakePeer(t, bell.without, false) })
	}
	t.Run("missed", func(t *testing.T) { wakePeer(t, nil, true) })
}

// wakePeer plays ping-pong. With miss the message from ring to ring fails each
// time, as it does when the kernel has no memory for it.
func wakePeer(t *testing.T, without []string, miss bool) {
	ringtest.NeedUring(t, Available()) // here: the goroutines below cannot skip
	const rounds = 2000
	var ball atomic.Int64
	var rings [2]atomic.Pointer[Ring]
	var all, made sync.WaitGroup
	made.Add(2)
	watchdog := time.AfterFunc(time.Minute, func() { panic("a wake was lost") })
	defer watchdog.Stop()
	for me := range int64(2) {
		all.Go(func() {
			runtime.LockOSThread()
			g := openWith(t, Config{}, without)
			if miss {
				g.fdRing = -1
			}
			rings[me].Store(g.Ring)
			made.Done()
			made.Wait()
			peer := rings[1-me].Load()
			for {
				n := ball.Load()
				if n >= rounds {
					break
				}
				if n%2 == me {
					if n%256 == 0 { // slow is not lost
						watchdog.Reset(time.Minute)
					}
					ball.Store(n + 1)
					g.WakePeer(peer)
				}
				g.Ring.Wait(ring.Forever)
			}
			g.WakePeer(peer) // who may sleep still
			g.Ring.Wait(0)
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := ball.Load(); n != rounds {
		t.Fatalf("%d rounds", n)
	}
}

// A ring that does not sleep is woken without a system call, and the wake counts
// for its next Wait.
func TestWakeOfABusyRing(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	before := g.Stats().Enters
	for range 1000 {
		g.Wake()
		g.Ring.Wait(ring.Forever)
	}
	if n := g.Stats().Enters - before; n != 0 {
		t.Fatalf("%d system calls for 1000 wakes of a ring that was awake", n)
	}
	if g.Stats().Wakes != 1000 {
		t.Fatalf("%d wakes", g.Stats().Wakes)
	}
}

// A spinning Wait sees completions, wakes and its deadline without blocking.
func TestSpin(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{Spin: time.Second})
	a, b := g.pair()
	recv := g.submit(ring.Op{Code: ring.Recv, FD: a, Buf: g.get(10)})
	g.want(g.do(ring.Op{Code: ring.Send, FD: b, Buf: g.get(10)}), 10)
	g.want(g.end(recv), 10)
	g.Wake()
	g.Ring.Wait(ring.Forever)
	until := g.Stamp() + int64(3*time.Millisecond)
	before := g.Stats().Enters
	if n := g.Ring.Wait(until); n != 0 || g.Now() < until {
		t.Fatalf("%d completions, %d ns early", n, until-g.Now())
	}
	if n := g.Stats().Enters - before; n != 0 {
		t.Fatalf("%d system calls while spinning over nothing", n)
	}
}

// Go's preemption signals interrupt the wait: nothing of it is seen outside.
func TestWaitIsInterrupted(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // stops the world, and must not wait for ours
			}
		}
	})
	for range 5 {
		until := g.Stamp() + int64(10*time.Millisecond)
		if n := g.Ring.Wait(until); n != 0 || g.Now() < until {
			t.Fatalf("%d completions, %d ns early", n, until-g.Now())
		}
	}
	close(stop)
	all.Wait()
}
