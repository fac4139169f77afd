package netio

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/sim"
	"github.com/millrace/millrace/ring/uring"
)

// rig is a server and its clients, in one goroutine. On sim they are two hosts; on
// a real ring they share it.
type rig struct {
	testing.TB
	world  *sim.World // nil on a real ring
	hosts  [2]*sim.Host
	sims   [2]*sim.IO
	io     ring.IO // the server's
	client ring.IO
	srv    *Server
	at     netip.AddrPort
	open   atomic.Int64
	log    []string
	serve  func(x *Exchange)
	after  func() bool // ends each of the server's steps; true: another one soon
	gone   []*Conn     // Closed was told
	alarm  int64       // there is a step at this time
}

// Serve and Closed are Handler's.
func (r *rig) Serve(x *Exchange) { r.serve(x) }
func (r *rig) Closed(c *Conn)    { r.gone = append(r.gone, c) }

const (
	rigPool    = 8 << 20
	rigBuffers = 16
)

// simRig has receive buffers of 1 KiB, so that few frames fit in one.
func simRig(t testing.TB, seed uint64, cfg Config, faults string) *rig {
	t.Helper()
	w := sim.NewWorld(seed)
	t.Cleanup(func() { w.Close() })
	r := &rig{TB: t, world: w}
	for i, name := range []string{"server", "client"} {
		r.hosts[i] = w.NewHost(name, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
		r.sims[i] = r.hosts[i].NewIO(sim.IOConfig{PoolBytes: rigPool, RecvBuffers: rigBuffers, RecvBufferBytes: 1 << 10})
	}
	r.io, r.client = r.sims[0], r.sims[1]
	if faults != "" {
		rules, err := fault.Parse(faults)
		if err != nil {
			t.Fatal(err)
		}
		r.io = fault.Wrap(r.io, rules)
	}
	r.start("10.0.0.1:23000", cfg)
	return r
}

// realRig locks the goroutine to its thread for good: the ring ends with it.
func realRig(t testing.TB, backend string, cfg Config) *rig {
	t.Helper()
	runtime.LockOSThread()
	io := newRing(t, backend)
	t.Cleanup(func() { io.Close() })
	r := &rig{TB: t, io: io, client: io}
	r.start("127.0.0.1:0", cfg)
	return r
}

// backends are the real ones that this binary has. Where the kernel blocks one,
// newRing leaves its test out.
func backends() []string {
	if errors.Is(uring.Available(), uring.ErrNotBuilt) {
		return []string{"posix"}
	}
	return []string{"posix", "uring"}
}

func newRing(t testing.TB, backend string) (io ring.IO) {
	t.Helper()
	var err error
	if backend == "uring" {
		ringtest.NeedUring(t, uring.Available())
		io, err = uring.New(posix.Host(), uring.Config{PoolBytes: 32 << 20, RecvBuffers: 64})
	} else {
		io, err = posix.New(posix.Host(), posix.Config{PoolBytes: 32 << 20, RecvBuffers: 64})
	}
	if err != nil {
		t.Fatal(err)
	}
	return io
}

func (r *rig) start(addr string, cfg Config) {
	r.Helper()
	r.alarm = ring.Forever
	fd, at, err := r.io.Host().Listen(addr, true)
	if err != nil {
		r.Fatal(err)
	}
	r.at = at
	if cfg.FrameMax == 0 {
		cfg.FrameMax = 1 << 20
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 64
	}
	if cfg.Open == nil {
		cfg.Open = &r.open
	}
	cfg.Log = func(format string, args ...any) { r.log = append(r.log, fmt.Sprintf(format, args...)) }
	r.serve = func(x *Exchange) { r.Fatalf("a request of %d bytes that nobody serves", len(x.Frame)) }
	r.srv = NewServer(r.io, fd, cfg, r)
}

// step is one step of the server's loop, and of the clients'.
func (r *rig) step(soon bool) {
	r.Helper()
	until := r.srv.NextDeadline()
	if soon {
		until = min(until, r.io.Now()+50e3)
	}
	if r.world == nil {
		r.io.Wait(min(until, r.alarm, r.io.Stamp()+5e6))
		r.finishStep()
		return
	}
	if !r.sims[0].Due() && !r.sims[1].Due() && !r.world.Step() {
		r.Fatalf("nothing is left to happen; the log: %q", r.log)
	}
	if r.sims[0].Due() {
		r.io.Wait(until)
		r.finishStep()
	}
	if r.sims[1].Due() {
		r.client.Wait(r.alarm)
	}
}

func (r *rig) finishStep() {
	if now := r.io.Now(); r.srv.NextDeadline() <= now {
		r.srv.Expire(now)
	}
	r.srv.Tick()
}

// until drives until done.
func (r *rig) until(what string, done func() bool) {
	r.Helper()
	giveUp := r.io.Stamp() + int64(2*time.Minute)
	if r.world != nil {
		giveUp = r.world.Now() + int64(2*time.Hour)
	}
	r.io.Wake() // the test may have done something that belongs to a step
	for soon := false; !done(); {
		if r.io.Stamp() > giveUp {
			r.Fatalf("gave up waiting: %s; %+v; the log: %q", what, r.srv.Stats, r.log)
		}
		r.step(soon)
		soon = r.after != nil && r.after()
	}
}

// settle lets d pass.
func (r *rig) settle(d time.Duration) {
	r.Helper()
	r.alarm = r.io.Stamp() + int64(d)
	r.client.Wake()
	r.until("time passes", func() bool { return r.io.Stamp() >= r.alarm })
	r.alarm = ring.Forever
}

// call is an op whose outcome is in it.
type call struct{ ring.Op }

func (*call) Complete(*ring.Op) {}

// nothingHeld fails unless the server has given back all that it had.
func (r *rig) nothingHeld(pool int) {
	r.Helper()
	s := r.srv
	for id, n := range s.chunkRefs {
		if n != 0 {
			r.Errorf("receive buffer %d is held %d times", id, n)
		}
	}
	if s.held != 0 || s.unsent != 0 || s.Stats.Open != 0 || s.cfg.Open.Load() != 0 {
		r.Errorf("held=%d unsent=%d open=%d over all cores %d", s.held, s.unsent, s.Stats.Open, s.cfg.Open.Load())
	}
	if used := r.io.Pool().Used(); used != pool {
		r.Errorf("%d bytes of the pool are out, want %d", used, pool)
	}
	if r.world != nil && r.sims[0].Lent() != 0 {
		r.Errorf("%d receive buffers are not returned", r.sims[0].Lent())
	}
	if !s.quiet.empty() || !s.holding.empty() || !s.hungry.empty() || !s.thirsty.empty() || !s.trying.empty() {
		r.Error("a list has connections left")
	}
}

// peer is a client's connection.
type peer struct {
	r          *rig
	fd         ring.FD
	out        []byte // to be sent
	mem        []byte // of the client's pool: a half to send from, a half to receive into
	send, recv ring.Op
	cut        func(left int) int // how much the next send takes
	deaf       bool               // does not receive
	got        []byte
	err        error // the connection has ended; nil and over: by the other side's close
	over       bool
	closed     bool
}

const peerMem = 64 << 10

func (r *rig) dial() *peer {
	r.Helper()
	fd, err := r.client.Host().Socket(r.at)
	if err != nil {
		r.Fatal(err)
	}
	c := &call{}
	c.Op = ring.Op{Code: ring.Connect, FD: fd, Addr: r.at, Done: c}
	r.client.Submit(&c.Op)
	r.until("connect", func() bool { return !c.Active })
	if c.Result < 0 {
		r.Fatal(c.Op.Error())
	}
	p := &peer{r: r, fd: fd, mem: r.client.Pool().Get(peerMem), cut: func(n int) int { return n }}
	p.send.Done, p.recv.Done = (*peerSend)(p), (*peerRecv)(p)
	p.listen()
	return p
}

func (p *peer) write(b []byte) {
	p.out = append(p.out, b...)
	p.push()
}

func (p *peer) push() {
	if p.send.Active || len(p.out) == 0 || p.over || p.closed {
		return
	}
	n := copy(p.mem[:peerMem/2], p.out[:p.cut(min(len(p.out), peerMem/2))])
	p.out = p.out[n:]
	p.send = ring.Op{Code: ring.Send, FD: p.fd, Buf: p.mem[:n], Done: p.send.Done}
	p.r.client.Submit(&p.send)
}

func (p *peer) listen() {
	if p.recv.Active || p.deaf || p.over || p.closed {
		return
	}
	p.recv = ring.Op{Code: ring.Recv, FD: p.fd, Buf: p.mem[peerMem/2:], Done: p.recv.Done}
	p.r.client.Submit(&p.recv)
}

type peerSend peer

func (d *peerSend) Complete(op *ring.Op) {
	p := (*peer)(d)
	if op.Result < 0 {
		p.end(op.Error())
		return
	}
	if rest := op.Buf[op.Result:]; len(rest) > 0 { // short
		p.out = append(slices.Clone(rest), p.out...)
	}
	p.push()
}

type peerRecv peer

func (d *peerRecv) Complete(op *ring.Op) {
	p := (*peer)(d)
	if op.Result <= 0 {
		p.end(op.Error())
		return
	}
	p.got = append(p.got, op.Buf[:op.Result]...)
	p.listen()
}

func (p *peer) end(err error) {
	if !p.over {
		p.over, p.err = true, err
	}
}

// close closes the client's end and waits until nothing of it is in the kernel.
func (p *peer) close() {
	p.r.Helper()
	p.closed = true
	c := &call{}
	c.Op = ring.Op{Code: ring.Close, FD: p.fd, Done: c}
	p.r.client.Submit(&c.Op)
	p.r.until("the client's close", func() bool { return !c.Active && !p.send.Active && !p.recv.Active })
	p.r.client.Pool().Put(p.mem)
}

// frame is body with its size.
func frame(body []byte) []byte {
	n := len(body)
	return append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

// pooled is b in memory of the server's pool.
func (r *rig) pooled(b []byte) []byte {
	r.Helper()
	m := r.io.Pool().Get(max(len(b), 1))
	if m == nil {
		r.Fatalf("the pool has no %d bytes left, %d are out", len(b), r.io.Pool().Used())
	}
	return m[:copy(m, b)]
}

// echo answers x with its own frame.
func (r *rig) echo(x *Exchange) {
	m := r.pooled(frame(x.Frame))
	x.Reply(append(x.Pieces(), Piece{Mem: m}), m, nil)
}

// noise is n bytes that follow from seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
	return b
}
