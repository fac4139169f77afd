package ringtest

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/millrace/millrace/ring"
)

var steadyCases = []testCase{
	{"NoAllocations", allocFree, noAllocations},
	{"Soak", 0, soak},
}

// steadyOp counts its completions, and nothing else.
type steadyOp struct {
	ring.Op
	io   ring.IO
	left int // completions to come
	err  int32
}

func (o *steadyOp) Complete(op *ring.Op) {
	o.left--
	if op.Result <= 0 {
		o.err = op.Result
	}
	if op.Flags&ring.Pick != 0 && op.Result > 0 {
		o.io.ReturnChunk(op.Chunk)
	}
}

func noAllocations(r *rig) {
	fd, _ := r.file()
	client, server := r.pair()
	steady := func(op ring.Op) *steadyOp {
		o := &steadyOp{Op: op, io: r.io}
		o.Done = o
		return o
	}
	pieces := [][]byte{r.noise(1000, 1), r.noise(3000, 2)}
	writeInline := steady(ring.Op{Code: ring.Write, FD: fd, Buf: r.noise(4096, 1), Flags: ring.Inline})
	write := steady(ring.Op{Code: ring.Write, FD: fd, Bufs: pieces, Off: 4096})
	durable := steady(ring.Op{Code: ring.Write, FD: fd, Buf: r.noise(512, 1), Flags: ring.DSync})
	read := steady(ring.Op{Code: ring.Read, FD: fd, Buf: r.bytes(4096)})
	send := steady(ring.Op{Code: ring.Send, FD: client, Buf: r.text("ping")})
	sendPieces := steady(ring.Op{Code: ring.Send, FD: client, Bufs: pieces})
	sendFile := steady(ring.Op{Code: ring.SendFile, FD: client, From: fd, Len: 1000})
	recv := steady(ring.Op{Code: ring.Recv, FD: server, Buf: r.bytes(1 << 20)})
	pick := steady(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick})
	multi := steady(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick | ring.Multi})
	chained := steady(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("x")})
	last := steady(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("y"), Off: 1})
	chained.Next = &last.Op

	var waiting []*steadyOp
	done := func() bool {
		for _, o := range waiting {
			if o.left > 0 {
				return false
			}
		}
		return true
	}
	multi.left = 1 << 30 // armed last of all, and never ends
	for _, c := range []struct {
		name   string
		submit []*steadyOp
		wait   []*steadyOp
	}{
		{"write inline", []*steadyOp{writeInline}, nil},
		{"write vectored", []*steadyOp{write}, nil},
		{"write durable", []*steadyOp{durable}, nil},
		{"read", []*steadyOp{read}, nil},
		{"chain", []*steadyOp{chained}, []*steadyOp{chained, last}},
		{"send, recv", []*steadyOp{recv, send}, nil},
		{"send vectored, recv", []*steadyOp{sendPieces, recv}, nil},
		{"send, recv picked", []*steadyOp{pick, send}, nil},
		{"send-file, recv", []*steadyOp{sendFile, recv}, nil},
		{"multi recv", []*steadyOp{send}, []*steadyOp{send, multi}},
	} {
		if c.wait == nil {
			c.wait = c.submit
		}
		if c.name == "multi recv" {
			r.io.Submit(&multi.Op)
		}
		waiting = c.wait
		allocs := testing.AllocsPerRun(50, func() {
			for _, o := range c.wait {
				o.left, o.err = 1, 0
			}
			for _, o := range c.submit {
				r.io.Submit(&o.Op)
			}
			if !r.Drive(done) {
				r.Fatalf("%s: gave up waiting", c.name)
			}
		})
		if allocs != 0 {
			r.Errorf("%s: %v allocations", c.name, allocs)
		}
		for _, o := range c.wait {
			if o.err < 0 {
				r.Errorf("%s: %v: %v", c.name, o.Code, o.Op.Error())
			}
		}
	}
}

// soak echoes random bytes over many connections, in messages of random sizes,
// received in every way that there is, and compares every byte.
func soak(r *rig) {
	const conns, total = 24, 200_000
	random := rand.New(rand.NewPCG(1, 2))
	listener, at := r.listen()
	ended := 0
	for i := range conns {
		a, b := r.connect(listener, at)
		e := &echo{r: r, fd: b, name: fmt.Sprintf("echo %d", i)}
		e.flags = []ring.Flags{0, ring.Pick, ring.Pick | ring.Multi}[i%3]
		e.begin()
		s := &soaker{r: r, fd: a, name: fmt.Sprintf("client %d", i), seed: uint64(i), total: total, random: random, ended: &ended}
		s.begin()
	}
	r.until("all that was sent has come back", func() bool { return ended == 2*conns || r.Failed() })
	r.closeAll(listener)
}

// soaker sends a stream in messages, and compares what comes back.
type soaker struct {
	r         *rig
	name      string
	fd        ring.FD
	seed      uint64
	total     int
	sent, got int
	out, in   []byte
	random    *rand.Rand
	send      *call
	recv      *call
	ended     *int // counts this soaker, and its echo, which has it by closing
}

func (s *soaker) begin() {
	s.out, s.in = s.r.bytes(32<<10), s.r.bytes(8<<10)
	s.send = s.r.prepare(ring.Op{Code: ring.Send, FD: s.fd})
	s.recv = s.r.prepare(ring.Op{Code: ring.Recv, FD: s.fd, Buf: s.in})
	s.send.thenDo = func(c *call) {
		if c.Result <= 0 {
			s.r.Errorf("%s: send: %s", s.name, resultString(c.Result))
			return
		}
		s.sent += int(c.Result)
		s.next()
	}
	s.recv.thenDo = func(c *call) {
		if c.Result <= 0 {
			s.r.Errorf("%s: recv at %d: %s", s.name, s.got, resultString(c.Result))
			return
		}
		for _, b := range s.in[:c.Result] {
			if b != noiseAt(s.seed, s.got) {
				s.r.Errorf("%s: byte %d differs", s.name, s.got)
				return
			}
			s.got++
		}
		if s.got < s.total {
			s.r.start(c)
			return
		}
		shut := s.r.prepare(ring.Op{Code: ring.Close, FD: s.fd})
		shut.thenDo = func(*call) { *s.ended += 2 }
		s.r.start(shut)
	}
	s.r.start(s.recv)
	s.next()
}

// next sends a message, whole or in pieces.
func (s *soaker) next() {
	left := s.total - s.sent
	if left == 0 {
		return
	}
	n := min(left, 1+s.random.IntN(len(s.out)))
	if s.random.IntN(3) == 0 {
		n = min(left, 1+s.random.IntN(100))
	}
	msg := s.out[:n]
	fillNoise(msg, s.seed, s.sent)
	if n > 3 && s.random.IntN(2) == 0 {
		s.send.Bufs, s.send.Buf = [][]byte{msg[:n/3], msg[n/3 : n/2], msg[n/2:]}, nil
	} else {
		s.send.Bufs, s.send.Buf = nil, msg
	}
	s.r.start(s.send)
}

// echo sends back what it receives. Chunks wait in a queue for their turn; when
// the ring has no buffer left the echo receives again after its next send.
type echo struct {
	r     *rig
	name  string
	fd    ring.FD
	flags ring.Flags
	recv  *call
	send  *call
	queue []ring.Chunk
	idle  bool // not receiving, until a send completes
}

func (e *echo) begin() {
	e.recv = e.r.prepare(ring.Op{Code: ring.Recv, FD: e.fd, Flags: e.flags})
	e.recv.hold = true
	if e.flags == 0 {
		e.recv.Buf = e.r.bytes(8 << 10)
	}
	e.send = e.r.prepare(ring.Op{Code: ring.Send, FD: e.fd})
	e.send.ended = true
	e.recv.thenDo = e.received
	e.send.thenDo = e.wasSent
	e.r.start(e.recv)
}

func (e *echo) received(c *call) {
	switch {
	case c.Result > 0 && e.flags == 0:
		e.queue = append(e.queue, ring.Chunk{Bytes: e.recv.Buf[:c.Result]})
	case c.Result > 0:
		e.queue = append(e.queue, c.Chunk)
		c.held, c.got = c.held[:0], c.got[:0]
		if !c.More {
			e.r.start(c)
		}
	case c.Result == -int32(syscall.ENOBUFS):
		if len(e.queue) > 0 || !e.send.ended {
			e.idle = true
		} else {
			e.r.start(nopThen(e.r, func() { e.r.start(e.recv) }))
		}
	case c.Result == 0: // the client is through
		e.r.start(e.r.prepare(ring.Op{Code: ring.Close, FD: e.fd}))
		return
	default:
		e.r.Errorf("%s: recv: %s", e.name, resultString(c.Result))
		return
	}
	e.flush()
}

func (e *echo) flush() {
	if e.send.ended && len(e.queue) > 0 {
		e.send.Buf = e.queue[0].Bytes
		e.r.start(e.send)
	}
}

func (e *echo) wasSent(c *call) {
	if c.Result <= 0 {
		e.r.Errorf("%s: send: %s", e.name, resultString(c.Result))
		return
	}
	if c.Buf = c.Buf[c.Result:]; len(c.Buf) > 0 {
		e.r.start(c)
		return
	}
	if e.flags == 0 {
		e.r.start(e.recv)
	} else {
		e.r.io.ReturnChunk(e.queue[0])
	}
	e.queue = append(e.queue[:0], e.queue[1:]...)
	if e.idle {
		e.idle = false
		e.r.start(e.recv)
	}
	e.flush()
}

// nopThen is a nop that does f when it completes: one turn later.
func nopThen(r *rig, f func()) *call {
	c := r.prepare(ring.Op{Code: ring.Nop})
	c.thenDo = func(*call) { f() }
	return c
}
