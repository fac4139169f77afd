//go:build uring

package uring

import (
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// stream sends all of a file to a socket by one op after the other, and checks at
// the other end that each byte comes once and in its place.
type stream struct {
	g        *rig
	file     ring.FD
	out, in  ring.FD
	size     int
	sent     int
	received int
	ops      int
	send     *call
}

func (s *stream) next(c *call) {
	switch {
	case c.Result <= 0 || int(c.Result) > s.size-s.sent:
		s.g.t.Fatalf("send-file at %d of %d: %d", s.sent, s.size, c.Result)
	case len(c.results) > s.size: // at least a byte each
		s.g.t.Fatalf("%d ops for %d bytes", len(c.results), s.size)
	}
	s.ops++
	s.sent += int(c.Result)
	if s.sent < s.size {
		c.Off, c.Len = int64(s.sent), int64(s.size-s.sent)
		s.g.Submit(&c.Op)
	}
}

// read takes what has arrived, at most n bytes.
func (s *stream) read(n int) {
	buf := make([]byte, n)
	n, err := unix.Read(int(s.in), buf)
	if err == unix.EAGAIN {
		return
	}
	if err != nil || n == 0 {
		s.g.t.Fatalf("read at %d: %d, %v", s.received, n, err)
	}
	for i, b := range buf[:n] {
		if b != pattern(s.received+i) {
			s.g.t.Fatalf("byte %d is %#x, want %#x", s.received+i, b, pattern(s.received+i))
		}
	}
	s.received += n
}

// More slow readers than there are pipes: nobody starves, nothing is lost, and
// nothing is sent twice, although nearly every splice comes out short.
func TestSpliceToSlowReaders(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	g.pipes.limit = 2
	const readers, size = 20, 1<<20 + 777
	file := g.file("f", size)
	if err := unix.Fsync(int(file)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(file), 0, 0, unix.FADV_DONTNEED); err != nil { // cold
		t.Fatal(err)
	}
	l, at := g.listen()
	streams := make([]*stream, readers)
	for i := range streams {
		s := &stream{g: g, file: file, size: size}
		s.in, s.out = g.connect(l, at)
		for fd, opt := range map[ring.FD]int{s.in: unix.SO_RCVBUF, s.out: unix.SO_SNDBUF} {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, 20_000+1000*i); err != nil {
				t.Fatal(err)
			}
		}
		s.send = g.prepare(ring.Op{Code: ring.SendFile, FD: s.out, From: file, Len: size})
		s.send.then = s.next
		streams[i] = s
		g.Submit(&s.send.Op)
	}
	giveUp := g.Stamp() + int64(2*time.Minute)
	for turn, left := 0, 1; left > 0; turn++ {
		if g.Stamp() > giveUp {
			t.Fatalf("%d bytes have not arrived", left)
		}
		g.Wait(g.Stamp() + int64(200*time.Microsecond))
		left = 0
		for i, s := range streams {
			if turn%(i%4+1) == 0 && s.received < size { // some are slower
				s.read(3000 + 7000*(i%5))
			}
			left += size - s.received
		}
	}
	var sent, ops int
	for _, s := range streams {
		sent, ops = sent+s.sent, ops+s.ops
		g.want(g.do(ring.Op{Code: ring.Close, FD: s.out}), 0)
		g.want(g.do(ring.Op{Code: ring.Close, FD: s.in}), 0)
	}
	st := g.Stats()
	if sent != readers*size || st.SendFileIn+st.SendFileSpl != uint64(sent) {
		t.Fatalf("%d sent, %d counted (%d inline, %d spliced), %d received", sent, st.SendFileIn+st.SendFileSpl, st.SendFileIn, st.SendFileSpl, readers*size)
	}
	if st.SendFileSpl == 0 || ops < 2*readers {
		t.Fatalf("%d bytes spliced, %d ops: this did not test short splices", st.SendFileSpl, ops)
	}
	t.Logf("%d ops, %d bytes inline, %d spliced", ops, st.SendFileIn, st.SendFileSpl)
	if g.inKernel != 0 || len(g.pipes.idle) != g.pipes.count || g.pipes.waiting.head >= 0 {
		t.Fatalf("left: %d requests, %d of %d pipes idle, queue %d", g.inKernel, len(g.pipes.idle), g.pipes.count, g.pipes.waiting.head)
	}
	g.want(g.do(ring.Op{Code: ring.Close, FD: l}), 0)
}

// A SendFile that waits for a reader, for a pipe or for the disk ends when it is
// cancelled, when its socket is closed, and when the peer goes.
func TestSpliceEnds(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	const size = 8 << 20
	file := g.file("f", size)
	for _, how := range []string{"cancel", "close", "peer"} {
		for _, turns := range []int{0, 1, 2, 50} {
			in, out := g.pair()
			send := g.prepare(ring.Op{Code: ring.SendFile, FD: out, From: file, Len: size})
			stop := false
			send.then = func(c *call) {
				if c.Result > 0 && !stop {
					c.Off += int64(c.Result)
					g.Submit(&c.Op)
				}
			}
			g.Submit(&send.Op)
			for range turns { // 50: it waits for room
				g.Wait(g.Stamp() + 100_000)
			}
			stop = true
			switch how {
			case "cancel":
				g.Cancel(&send.Op)
			case "close":
				g.want(g.do(ring.Op{Code: ring.Close, FD: out}), 0)
			case "peer":
				g.want(g.do(ring.Op{Code: ring.Close, FD: in}), 0)
			}
			switch r := g.end(send); {
			case r > 0, r == -int32(unix.ECANCELED), how == "peer" && (r == -int32(unix.EPIPE) || r == -int32(unix.ECONNRESET)):
			default:
				t.Fatalf("%s after %d turns: %d", how, turns, r)
			}
			if how != "close" {
				g.want(g.do(ring.Op{Code: ring.Close, FD: out}), 0)
			}
			if how != "peer" {
				g.want(g.do(ring.Op{Code: ring.Close, FD: in}), 0)
			}
		}
	}
	if g.inKernel != 0 || len(g.pipes.idle) != g.pipes.count {
		t.Fatalf("left: %d requests, %d of %d pipes idle", g.inKernel, len(g.pipes.idle), g.pipes.count)
	}
}

// The end of the file inside the range breaks the link between the splices: what
// there was is sent all the same.
func TestSpliceAtTheEnd(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	const size = 300_001
	file := g.file("f", size)
	in, out := g.pair()
	s := &stream{g: g, in: in, size: size}
	at := int64(0)
	for at < size {
		n := g.do(ring.Op{Code: ring.SendFile, FD: out, From: file, Off: at, Len: 1 << 30})
		if n <= 0 {
			t.Fatalf("at %d: %d", at, n)
		}
		at += int64(n)
		for s.received < int(at) {
			s.read(1 << 20)
		}
	}
	g.want(g.do(ring.Op{Code: ring.SendFile, FD: out, From: file, Off: at, Len: 1 << 30}), 0)
	g.want(g.do(ring.Op{Code: ring.SendFile, FD: out, From: 1 << 20, Off: at, Len: 1 << 30}), -int32(unix.EBADF))
	if g.Stats().SendFileSpl != size || g.Stats().SendFileIn != 0 {
		t.Fatalf("%d inline, %d spliced", g.Stats().SendFileIn, g.Stats().SendFileSpl)
	}
}

// Two on one socket fill it under each other's feet: a splice that finds no room
// after all gives its pipe back and waits again.
func TestSplicesOnOneSocket(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	const size, ops = 200 << 10, 8
	file := g.file("f", size)
	in, out := g.pair()
	if err := unix.SetsockoptInt(int(out), unix.SOL_SOCKET, unix.SO_SNDBUF, 20_000); err != nil {
		t.Fatal(err)
	}
	received, sent := 0, 0
	buf := make([]byte, 64<<10)
	for range 5 {
		var calls []*call
		for range ops {
			calls = append(calls, g.submit(ring.Op{Code: ring.SendFile, FD: out, From: file, Len: size}))
		}
		g.until("all end", func() bool {
			if n, err := unix.Read(int(in), buf); err == nil {
				received += n
			}
			for _, c := range calls {
				if c.Active {
					return false
				}
			}
			return true
		})
		for _, c := range calls {
			if c.Result <= 0 {
				t.Fatal(c.Result)
			}
			sent += int(c.Result)
		}
	}
	g.until("all arrives", func() bool {
		if n, err := unix.Read(int(in), buf); err == nil {
			received += n
		}
		return received >= sent
	})
	if uint64(received) != g.Stats().SendFileSpl {
		t.Fatalf("%d bytes arrived, the results add up to %d, %d are counted", received, sent, g.Stats().SendFileSpl)
	}
}
