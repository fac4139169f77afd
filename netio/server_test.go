package netio

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace/millrace/ring"
)

// An idle connection is this and its socket.
func TestConnSize(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 896 {
		t.Errorf("a connection takes %d bytes", n)
	}
}

// Accepting goes on after errors: at once where a peer has left, in a while where
// there are no descriptors, which the log says once.
func TestAcceptErrors(t *testing.T) {
	r := simRig(t, 1, Config{}, "(Accept (nth 1) EMFILE) (Accept (nth 2) EMFILE) (Accept (nth 3) ECONNABORTED)")
	r.serve = r.echo
	begin := r.world.Now()
	p := r.dial()
	p.write(frames("hello"))
	r.want(p, "hello")
	if took := r.world.Now() - begin; took < 2*acceptRetry || took > 3*acceptRetry {
		t.Errorf("accepted after %v", time.Duration(took))
	}
	if len(r.log) != 1 || !strings.Contains(r.log[0], "accept: too many open files") {
		t.Errorf("the log: %q", r.log)
	}
}

// max.connections holds in a burst, and who is too many is told in the log.
func TestMaxConnections(t *testing.T) {
	const most = 3
	r := simRig(t, 2, Config{ConnMax: most}, "")
	r.serve = r.echo
	var peers []*peer
	for range 10 {
		peers = append(peers, r.dial())
	}
	over := func() (n int) {
		for _, p := range peers {
			if p.over {
				n++
			}
		}
		return n
	}
	r.until("the others are closed", func() bool { return over() == 10-most })
	if r.srv.Stats.Open != most || r.srv.Stats.Refused != 10-most || len(r.log) != 10-most {
		t.Fatalf("%+v; the log: %q", r.srv.Stats, r.log)
	}
	r.logged("refused: max.connections=3 is reached")
	for _, p := range peers {
		p.close()
	}
	r.until("all are closed", func() bool { return r.srv.Stats.Open == 0 })
	p := r.dial()
	p.write(frames("there is room"))
	r.want(p, "there is room")
}

// Servers on several cores share the bound.
func TestMaxConnectionsRace(t *testing.T) {
	const most, cores = 5, 4
	var open atomic.Int64
	var over atomic.Int64
	var wg sync.WaitGroup
	for range cores {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s := &Server{cfg: Config{ConnMax: most, Open: &open}}
			for range 20000 {
				if s.admit() {
					over.Store(max(over.Load(), open.Load()-most))
					open.Add(-1)
				}
			}
		}()
	}
	wg.Wait()
	if over.Load() > 0 || open.Load() != 0 {
		t.Errorf("%d too many at a time; %d are left", over.Load(), open.Load())
	}
}

// Who is silent is closed in time; who waits for us, or talks, is not.
func TestIdle(t *testing.T) {
	const idle = 10 * time.Second
	r := simRig(t, 3, Config{IdleMax: int64(idle)}, "")
	var works []*Exchange
	r.serve = func(x *Exchange) {
		if string(x.Frame) == "wait" {
			works = append(works, x)
			return
		}
		r.echo(x)
	}
	silent, cutOff, waiting, talking := r.dial(), r.dial(), r.dial(), r.dial()
	begin := r.world.Now()
	cutOff.write([]byte{0, 0, 1}) // in the middle of a size
	waiting.write(frames("wait"))
	for range 5 {
		r.settle(idle / 4)
		talking.write(frames("I am here"))
		r.want(talking, "I am here")
		if silent.over && r.world.Now()-begin < int64(idle) {
			t.Fatalf("closed after %v", time.Duration(r.world.Now()-begin))
		}
	}
	if !silent.over || !cutOff.over || waiting.over || talking.over || r.srv.Stats.Idle != 2 {
		t.Fatalf("silent %v, in the middle of a size %v, waiting %v, talking %v, %+v", silent.over, cutOff.over, waiting.over, talking.over, r.srv.Stats)
	}
	r.settle(3 * idle)
	works[0].ReplyBytes(frames("at last"))
	r.want(waiting, "at last")
	if !talking.over {
		t.Error("it has fallen silent, and is still connected")
	}
	// Half open: the peer has gone, and cannot say so.
	gone := r.dial()
	r.world.HalfOpen(r.hosts[0], r.hosts[1])
	r.until("all are reaped", func() bool { return r.srv.Stats.Open == 0 })
	gone.close()
	waiting.close()
	r.nothingHeld(0)
}

// slow is a client that has a large reply to take, and one that takes little of it
// at a time.
func slowReaders(t *testing.T, cfg Config) (r *rig, deaf, slow *peer) {
	r = simRig(t, 4, cfg, "")
	r.world.Config.NetBufferMin, r.world.Config.NetBufferMax = 4<<10, 8<<10
	r.serve = func(x *Exchange) {
		m := r.pooled(noise(1, 256<<10))
		x.Reply(append(x.Pieces(), Piece{Mem: m}), m, nil)
	}
	deaf, slow = r.dial(), r.dial()
	deaf.deaf, slow.deaf = true, true
	deaf.write(frames("a large one"))
	slow.write(frames("a large one"))
	return r, deaf, slow
}

func (p *peer) sip() {
	p.deaf = false
	p.listen()
	p.deaf = true
}

// Who takes nothing of its reply is closed after connections.max.idle.ms, who
// takes a little is not.
func TestStalledSend(t *testing.T) {
	const idle = time.Minute
	r, deaf, slow := slowReaders(t, Config{IdleMax: int64(idle), UnsentMax: 4 << 20})
	for range 3 {
		r.settle(idle * 2 / 5)
		slow.sip()
		deaf.write(frames("more")) // does not help
	}
	if r.srv.Stats.Stalled != 1 || r.srv.Stats.Open != 1 {
		t.Fatalf("%+v; the log: %q", r.srv.Stats, r.log)
	}
	r.logged("nothing moved for 60")
}

// Where unsent replies hold more memory than they may, it is a matter of seconds.
func TestStalledSendShort(t *testing.T) {
	r, _, slow := slowReaders(t, Config{IdleMax: 600e9, UnsentMax: 300 << 10})
	for range 4 {
		r.settle(2 * time.Second)
		slow.sip()
	}
	if r.srv.Stats.Stalled != 1 || r.srv.Stats.Open != 1 {
		t.Fatalf("%+v; the log: %q", r.srv.Stats, r.log)
	}
	r.settle(time.Minute) // there is room now, and it may take its time
	if r.srv.Stats.Open != 1 {
		t.Fatalf("%+v; the log: %q", r.srv.Stats, r.log)
	}
}

// The same for requests that do not arrive: claims do not take all the memory,
// and who claimed and fell silent makes room for others.
func TestStalledRequests(t *testing.T) {
	r := simRig(t, 5, Config{IdleMax: 600e9, FrameMax: 4 << 20}, "")
	r.serve = r.echo
	var peers []*peer
	sizes := func(n int) []byte { return frame(make([]byte, n))[:2000] }
	for range 20 { // of a pool of 8 MiB
		p := r.dial()
		p.write(sizes(1 << 20))
		peers = append(peers, p)
	}
	r.settle(time.Second)
	if used := r.io.Pool().Used(); used > rigPool/4*3 {
		t.Fatalf("%d bytes are out for requests that have not come", used)
	}
	body := strings.Repeat("a request", 10000)
	honest := r.dial()
	honest.write(frames(body))
	r.want(honest, body)
	if r.srv.Stats.Stalled != 0 {
		t.Fatalf("%+v: closed although there was memory", r.srv.Stats)
	}
	// Who has sent much holds much, but not all.
	for range 8 {
		p := r.dial()
		p.write(frame(make([]byte, 3<<20))[:2<<20])
		peers = append(peers, p)
	}
	r.settle(time.Second)
	if used := r.io.Pool().Used(); used > rigPool/4*3 {
		t.Fatalf("%d bytes are out for requests that have not come", used)
	}
	for begin := r.world.Now(); r.world.Now() < begin+int64(20*time.Second); r.settle(time.Second) {
		asked := r.world.Now()
		honest.write(frames(body, body, body))
		r.want(honest, body, body, body)
		if took := r.world.Now() - asked; took > stallMax+1e9 {
			t.Fatalf("waited for memory for %v", time.Duration(took))
		}
	}
	if r.srv.Stats.Stalled == 0 {
		t.Fatalf("%+v: nobody had to make room", r.srv.Stats)
	}
	for _, p := range peers {
		p.close()
	}
	honest.close()
	r.until("all is given back", func() bool { return r.srv.Stats.Open == 0 && r.io.Pool().Used() == 0 })
	r.nothingHeld(0)
}

// Close ends the listener, once, and every connection, whatever it is at.
func TestClose(t *testing.T) {
	r := simRig(t, 6, Config{}, "")
	var works []*Exchange
	r.serve = func(x *Exchange) {
		if string(x.Frame) == "wait" {
			works = append(works, x)
			return
		}
		m := r.pooled(noise(1, 1<<20))
		x.Reply(append(x.Pieces(), Piece{Mem: m}), m, nil)
	}
	idle, waiting, receiving, half := r.dial(), r.dial(), r.dial(), r.dial()
	waiting.write(frames("wait"))
	receiving.write(frames("send"))
	half.write(frame(make([]byte, 100000))[:50000])
	r.until("all are at it", func() bool { return len(works) == 1 && r.srv.unsent > 0 && r.srv.Stats.BytesIn > 50000 })
	r.srv.StopAccepting()
	fd, err := r.hosts[0].Open("/takes the listener's number", ring.Create)
	if err != nil {
		t.Fatal(err)
	}
	r.settle(time.Second)
	if fd2, err := r.hosts[0].Open("/takes it now", ring.Create); err != nil || fd2 == fd {
		t.Fatal(err)
	}
	r.srv.Close()
	r.srv.Close()
	for _, p := range []*peer{idle, waiting, receiving, half} {
		r.until("the connection is closed", func() bool { return p.over })
		p.close()
	}
	works[0].Silent()
	r.until("all is given back", func() bool { return r.io.Pool().Used() == 0 && len(r.hosts[0].OpenFiles()) == 2 })
	r.nothingHeld(0)
	if len(r.gone) != 4 {
		t.Errorf("Closed is told %d times", len(r.gone))
	}
	if at := r.srv.NextDeadline(); at != ring.Forever {
		t.Errorf("something is to be done at %v", fmt.Sprint(at))
	}
}
