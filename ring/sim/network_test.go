package sim_test

import (
	"bytes"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// stream sends data from one socket while the other receives, and returns what
// has been received when the sender is through and the receiver has it all.
type stream struct {
	data []byte
	sent int
	got  []byte
	send *call
	recv *call
}

func (s *stream) begin(from *sim.IO, fd ring.FD, to *sim.IO, peer ring.FD) {
	s.send = prepare(from, ring.Op{Code: ring.Send, FD: fd, Buf: s.data})
	s.send.then = func(c *call) {
		if c.Result > 0 {
			s.sent += int(c.Result)
			if c.Buf = s.data[s.sent:]; len(c.Buf) > 0 {
				from.Submit(&c.Op)
			}
		}
	}
	from.Submit(&s.send.Op)
	if to != nil {
		s.receive(to, peer)
	}
}

func (s *stream) receive(to *sim.IO, peer ring.FD) {
	s.recv = prepare(to, ring.Op{Code: ring.Recv, FD: peer, Flags: ring.Pick | ring.Multi})
	s.recv.then = func(c *call) {
		if s.got = s.recv.got; c.ended && c.Result == -int32(syscall.ENOBUFS) {
			to.Submit(&c.Op)
		}
	}
	to.Submit(&s.recv.Op)
}

func noise(io *sim.IO, r *rig, n int) []byte {
	b := io.Pool().Get(n)
	for i := range b {
		b[i] = byte(r.Random())
	}
	return b
}

func TestStream(t *testing.T) {
	shapes := map[int]bool{}
	for seed := range uint64(20) {
		r := newRig(t, seed)
		a, b := r.io(r.host("a")), r.io(r.host("b"))
		client, server := r.pair(a, b)
		s := &stream{data: noise(a, r, 300_000)}
		s.begin(a, client, b, server)
		r.until("all has arrived", func() bool { return len(s.got) == len(s.data) })
		if !bytes.Equal(s.got, s.data) {
			t.Fatalf("seed %d: the bytes differ", seed)
		}
		shapes[len(s.recv.results)] = true
		r.do(a, ring.Op{Code: ring.Close, FD: client})
		if n := r.ended(s.recv); n != 0 {
			t.Fatalf("at the end: %d", n)
		}
		r.do(b, ring.Op{Code: ring.Close, FD: server})
		for _, io := range []*sim.IO{a, b} {
			if left := io.Host().(*sim.Host).OpenFiles(); len(left) != 0 || io.Lent() != 0 {
				t.Fatalf("left open: %q, %d buffers", left, io.Lent())
			}
		}
	}
	if len(shapes) < 5 {
		t.Errorf("20 seeds cut the stream in %d ways", len(shapes))
	}
}

// A sender waits, with a bounded number of bytes on the way, until the peer reads.
func TestBackPressure(t *testing.T) {
	r := newRig(t, 7)
	r.Config.NetBufferMin, r.Config.NetBufferMax = 10_000, 20_000
	a, b := r.io(r.host("a")), r.io(r.host("b"))
	client, server := r.pair(a, b)
	s := &stream{data: noise(a, r, 100_000)}
	s.begin(a, client, nil, 0)
	for r.turn() {
	}
	if s.sent < 10_000 || s.sent > 20_000 {
		t.Fatalf("%d bytes went to a peer that does not read, through a buffer of 10,000 to 20,000", s.sent)
	}
	s.receive(b, server)
	r.until("all has arrived", func() bool { return len(s.got) == len(s.data) })
	if !bytes.Equal(s.got, s.data) {
		t.Fatal("the bytes differ")
	}
}

func TestPartition(t *testing.T) {
	r := newRig(t, 3)
	ha, hb := r.host("a"), r.host("b")
	a, b := r.io(ha), r.io(hb)
	client, server := r.pair(a, b)
	r.Partition(ha, hb)
	s := &stream{data: noise(a, r, 1000)}
	s.begin(a, client, b, server)
	begin := r.Now()
	r.until("ten seconds have passed", func() bool { return r.Now() > begin+int64(10*time.Second) })
	if len(s.got) != 0 {
		t.Fatalf("%d bytes came through a partition", len(s.got))
	}
	fd, at, err := hb.Listen(":0", false)
	r.ok(err)
	if at.Addr() != netip.IPv4Unspecified() {
		t.Fatalf("listening on %v", at)
	}
	late, err := ha.Socket(at)
	r.ok(err)
	connect := submit(a, ring.Op{Code: ring.Connect, FD: late, Addr: netip.AddrPortFrom(hb.Addr(), at.Port())})
	accept := submit(b, ring.Op{Code: ring.Accept, FD: fd})
	r.until("a second has passed", func() bool { return r.Now() > begin+int64(11*time.Second) })
	if connect.ended {
		t.Fatalf("connected through a partition: %d", connect.Result)
	}
	r.Heal(ha, hb)
	r.until("all has arrived", func() bool { return len(s.got) == len(s.data) })
	if !bytes.Equal(s.got, s.data) {
		t.Fatal("the bytes differ")
	}
	if n := r.ended(connect); n != 0 {
		t.Fatalf("connect after the partition: %d", n)
	}
	r.ended(accept)

	// A partition that does not heal: both sides' senders give up, and so does a Connect.
	r.Partition(ha, hb)
	begin = r.Now()
	s.data = s.data[:10]
	s.sent = 0
	s.begin(a, client, nil, 0)
	mine := submit(a, ring.Op{Code: ring.Recv, FD: client, Buf: text(a, "........")})
	never, err := ha.Socket(at)
	r.ok(err)
	if n := r.do(a, ring.Op{Code: ring.Connect, FD: never, Addr: netip.AddrPortFrom(hb.Addr(), at.Port())}); n != -int32(syscall.ETIMEDOUT) {
		t.Fatalf("connect: %d", n)
	}
	if waited := time.Duration(r.Now() - begin); waited < r.Config.ConnectTimeout {
		t.Fatalf("connect gave up after %v", waited)
	}
	if n := r.ended(mine); n != -int32(syscall.ETIMEDOUT) {
		t.Fatalf("recv: %d", n)
	}
}

func TestReset(t *testing.T) {
	r := newRig(t, 4)
	ha, hb := r.host("a"), r.host("b")
	a, b := r.io(ha), r.io(hb)
	client, server := r.pair(a, b)
	buf := a.Pool().Get(8)
	mine := submit(a, ring.Op{Code: ring.Recv, FD: client, Buf: buf})
	r.Reset(ha, hb)
	if n := r.ended(mine); n != -int32(syscall.ECONNRESET) {
		t.Fatalf("recv: %d", n)
	}
	if n := r.do(a, ring.Op{Code: ring.Send, FD: client, Buf: buf}); n != -int32(syscall.EPIPE) {
		t.Fatalf("send, told already: %d", n)
	}
	if n := r.do(b, ring.Op{Code: ring.Send, FD: server, Buf: text(b, "x")}); n != -int32(syscall.ECONNRESET) {
		t.Fatalf("the peer's send: %d", n)
	}
	if n := r.do(b, ring.Op{Code: ring.Recv, FD: server, Buf: text(b, "x")}); n != 0 {
		t.Fatalf("the peer's recv: %d", n)
	}
}

// Nothing arrives and nobody is told, but for the sender, after a long time.
func TestHalfOpen(t *testing.T) {
	r := newRig(t, 5)
	ha, hb := r.host("a"), r.host("b")
	a, b := r.io(ha), r.io(hb)
	client, server := r.pair(a, b)
	r.HalfOpen(ha, hb)
	theirs := submit(b, ring.Op{Code: ring.Recv, FD: server, Buf: text(b, "........")})
	mine := submit(a, ring.Op{Code: ring.Recv, FD: client, Buf: text(a, "........")})
	begin := r.Now()
	if n := r.do(a, ring.Op{Code: ring.Send, FD: client, Buf: text(a, "hello")}); n < 1 {
		t.Fatalf("send: %d", n)
	}
	if n := r.ended(mine); n != -int32(syscall.ETIMEDOUT) {
		t.Fatalf("recv: %d", n)
	}
	if waited := time.Duration(r.Now() - begin); waited < r.Config.SendTimeout {
		t.Fatalf("the connection was given up after %v", waited)
	}
	for r.turn() {
	}
	if theirs.ended {
		t.Fatalf("the silent side was told %d", theirs.Result)
	}
	again, back := r.pair(a, b) // a new connection works
	s := &stream{data: text(a, "hello")}
	s.begin(a, again, b, back)
	r.until("it arrives", func() bool { return string(s.got) == "hello" })
}

// When a machine goes its peers are told: at once when the process dies, after a
// while when the power does.
func TestPeerCrash(t *testing.T) {
	for _, mode := range []sim.Crash{sim.ProcessKill, sim.PowerLoss} {
		r := newRig(t, 6)
		ha, hb := r.host("a"), r.host("b")
		a, b := r.io(ha), r.io(hb)
		client, server := r.pair(a, b)
		_, at, err := hb.Listen("b:7000", true)
		r.ok(err)
		submit(b, ring.Op{Code: ring.Recv, FD: server, Buf: text(b, "........")})
		buf := a.Pool().Get(8)
		mine := submit(a, ring.Op{Code: ring.Recv, FD: client, Buf: buf})
		begin := r.Now()
		hb.Crash(mode)
		n := r.ended(mine)
		waited := time.Duration(r.Now() - begin)
		socket, err := ha.Socket(at)
		r.ok(err)
		begin = r.Now()
		refused := r.do(a, ring.Op{Code: ring.Connect, FD: socket, Addr: at})
		refusedAfter := time.Duration(r.Now() - begin)
		if mode == sim.ProcessKill {
			if n != 0 || waited > 10*time.Millisecond || refused != -int32(syscall.ECONNREFUSED) {
				t.Errorf("%v: recv %d after %v, then connect %d", mode, n, waited, refused)
			}
			continue
		}
		if n != -int32(syscall.ECONNRESET) || waited < r.Config.ResetAfter.Min {
			t.Errorf("%v: recv %d after %v", mode, n, waited)
		}
		if refused != -int32(syscall.ETIMEDOUT) || refusedAfter < r.Config.ConnectTimeout {
			t.Errorf("%v: connect %d after %v", mode, refused, refusedAfter)
		}
	}
}

// Listeners of one port share its connections; an exclusive one shares with none.
func TestListeners(t *testing.T) {
	r := newRig(t, 8)
	ha, hb := r.host("a"), r.host("b")
	a, b := r.io(ha), r.io(hb)
	one, at, err := hb.Listen("b:9092", true)
	r.ok(err)
	two, _, err := hb.Listen("b:9092", false)
	r.ok(err)
	if _, _, err := hb.Listen(":9092", true); err == nil {
		t.Fatal("two exclusive listeners on one port")
	}
	if _, _, err := ha.Listen("10.0.0.77:1", true); err == nil {
		t.Fatal("listening on another's address")
	}
	accepts := []*call{
		submit(b, ring.Op{Code: ring.Accept, FD: one, Flags: ring.Multi}),
		submit(b, ring.Op{Code: ring.Accept, FD: two, Flags: ring.Multi}),
	}
	for range 20 {
		fd, err := ha.Socket(at)
		r.ok(err)
		if n := r.do(a, ring.Op{Code: ring.Connect, FD: fd, Addr: at}); n != 0 {
			t.Fatalf("connect: %d", n)
		}
	}
	r.until("all are accepted", func() bool { return len(accepts[0].results)+len(accepts[1].results) == 20 })
	if len(accepts[0].results) == 0 || len(accepts[1].results) == 0 {
		t.Errorf("%d and %d connections", len(accepts[0].results), len(accepts[1].results))
	}
}
