package netio

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
)

// frames are the bytes of requests, each of them framed.
func frames(bodies ...string) (all []byte) {
	for _, b := range bodies {
		all = append(all, frame([]byte(b))...)
	}
	return all
}

func (r *rig) want(p *peer, bodies ...string) {
	r.Helper()
	want := frames(bodies...)
	r.until("replies", func() bool { return len(p.got) >= len(want) || p.over })
	if !bytes.Equal(p.got, want) {
		r.Fatalf("received %q, want %q", p.got, want)
	}
	p.got = nil
}

func (r *rig) logged(part string) {
	r.Helper()
	for _, line := range r.log {
		if strings.Contains(line, part) {
			return
		}
	}
	r.Fatalf("the log says nothing of %q: %q", part, r.log)
}

// A stream cut anywhere is the same requests.
func TestCutAtEveryByte(t *testing.T) {
	r := simRig(t, 1, Config{}, "")
	r.serve = r.echo
	long := strings.Repeat("long", 700) // more than a receive buffer
	all := frames("a", "bc", long, "d")
	for cut := 1; cut < len(all); cut++ {
		if cut == 40 {
			cut = len(all) - 40
		}
		p := r.dial()
		p.write(all[:cut])
		r.settle(2 * time.Millisecond)
		p.write(all[cut:])
		r.want(p, "a", "bc", long, "d")
		p.close()
	}
	p := r.dial()
	p.cut = func(int) int { return 1 }
	p.write(frames("a", "bc", "d"))
	r.want(p, "a", "bc", "d")
}

// Sizes that nobody sends close their connection, with a line in the log, and no
// other.
func TestSizes(t *testing.T) {
	const most = 10000
	r := simRig(t, 1, Config{FrameMax: most}, "")
	r.serve = r.echo
	good := r.dial()
	for i, size := range []uint32{0, 1<<32 - 1, 1 << 31, 1<<31 - 1, most + 1, 0x47455420} {
		p := r.dial()
		p.write(append(frames("fine"), byte(size>>24), byte(size>>16), byte(size>>8), byte(size), 'x'))
		r.until("the connection is closed", func() bool { return p.over })
		r.logged(fmt.Sprintf("%v: closed: a frame of %d bytes", r.gone[i].Peer, int32(size)))
		p.close()
	}
	if r.srv.Stats.BadFrames != 6 {
		t.Errorf("%d bad frames are counted, want 6", r.srv.Stats.BadFrames)
	}
	largest := strings.Repeat("x", most)
	good.write(frames(largest))
	r.want(good, largest)
	good.close()
	r.until("it is closed", func() bool { return r.srv.Stats.Open == 0 && r.io.Pool().Used() == 0 })
	r.nothingHeld(0)
}

// A connection has no more in the works than it may; then its socket is not read.
func TestInFlight(t *testing.T) {
	const most = 4
	r := simRig(t, 2, Config{InFlight: most}, "")
	var works []*Exchange
	r.serve = func(x *Exchange) {
		if works = append(works, x); len(works) > most {
			t.Fatalf("%d requests in the works", len(works))
		}
	}
	p := r.dial()
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint("request ", i))
	}
	p.write(frames(want...))
	for done := 0; done < len(want); {
		n := min(most, len(want)-done)
		r.until("as many as may be", func() bool { return len(works) == n })
		for len(works) > 0 { // the last one first
			r.echo(works[len(works)-1])
			works = works[:len(works)-1]
		}
		done += n
	}
	r.want(p, want...)
}

// Who does not read what it asked for is not asked for more than unsentMax and a reply.
func TestUnsent(t *testing.T) {
	const size = 300 << 10
	r := simRig(t, 3, Config{}, "")
	served := 0
	reply := noise(1, size)
	r.serve = func(x *Exchange) {
		served++
		m := r.pooled(reply)
		x.Reply(append(x.Pieces(), Piece{Mem: m}), m, nil)
	}
	p := r.dial()
	p.deaf = true
	p.write(frames("first")) // takes the recv that is armed
	r.until("it is served", func() bool { return served == 1 })
	p.write(frames(strings.Split(strings.Repeat("request ", 20), " ")[:20]...))
	r.settle(time.Second)
	if max := unsentMax/size + 2; served > max {
		t.Fatalf("%d requests served, with %d bytes unsent; want at most %d", served, r.srv.unsent, max)
	}
	p.deaf = false
	p.listen()
	r.until("all replies", func() bool { return len(p.got) == 21*size })
	if want := bytes.Repeat(reply, 21); !bytes.Equal(p.got, want) {
		t.Fatal("the replies differ")
	}
}

// Without memory a large request waits, small ones do not, and it goes on when
// there is memory again though nothing else happens.
func TestNoMemory(t *testing.T) {
	r := simRig(t, 4, Config{FrameMax: 4 << 20}, "")
	r.serve = func(x *Exchange) {
		if len(x.Frame) > 1<<20 {
			x.Silent()
			return
		}
		r.echo(x)
	}
	pool := r.io.Pool()
	var taken [][]byte
	take := func(leave int) {
		for pool.Size()-pool.Used() > leave {
			taken = append(taken, pool.Get(64<<10))
		}
	}
	release := func() {
		for _, b := range taken {
			pool.Put(b)
		}
		taken = nil
	}
	take(rigPool / 8)
	large := strings.Repeat("large", 3000)
	one, two := r.dial(), r.dial()
	one.write(frames("before", large, "after"))
	two.write(frames("small"))
	r.want(two, "small")
	r.want(one, "before")
	release()
	r.want(one, large, "after")

	// In the middle of a frame that has to grow. It has to be waited for.
	huge := noise(5, 3<<20)
	one.write(frame(huge)[:growFrame/2])
	r.until("it has begun", func() bool { return r.srv.Stats.BytesIn > growFrame/2 })
	take(rigPool / 4)
	one.write(frame(huge)[growFrame/2:])
	r.settle(time.Second)
	if n := r.srv.Stats.Frames; n != 4 {
		t.Fatalf("%d frames served, want 4", n)
	}
	release()
	r.until("it is served", func() bool { return r.srv.Stats.Frames == 5 })
	one.write(frames("still here"))
	r.want(one, "still here")
}

// Pause while a receive is armed holds what then arrives; Resume serves it.
func TestPause(t *testing.T) {
	r := simRig(t, 5, Config{}, "")
	r.serve = r.echo
	p := r.dial()
	p.write(frames("one"))
	r.want(p, "one")
	r.srv.Pause()
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint("while paused ", i))
	}
	p.write(frames(want...))
	r.settle(time.Second)
	if n := r.srv.Stats.Frames; n != 1 {
		t.Fatalf("%d frames served while paused", n-1)
	}
	r.srv.Resume()
	r.want(p, want...)
}

// Requests in the works leave receive buffers to others.
func TestHeld(t *testing.T) {
	const most = 3
	r := simRig(t, 6, Config{HeldMax: most, InFlight: 1000}, "")
	var works []*Exchange
	r.serve = func(x *Exchange) { works = append(works, x) }
	const conns, each = 10, 10
	var peers []*peer
	for range conns {
		p := r.dial()
		peers = append(peers, p)
		for i := range each {
			p.write(frames(fmt.Sprint("request ", i)))
			r.until("it is served", func() bool { return len(works) == int(r.srv.Stats.Frames) && len(p.out) == 0 && !p.send.Active })
		}
	}
	r.until("all are in the works", func() bool { return len(works) == conns*each })
	if r.srv.held > most {
		t.Fatalf("%d receive buffers are held, want at most %d", r.srv.held, most)
	}
	if used := r.srv.io.Pool().Used(); used > conns*each<<10 {
		t.Fatalf("%d bytes of the pool are used for %d requests", used, conns*each)
	}
	for _, x := range works {
		r.echo(x)
	}
	for _, p := range peers {
		r.until("the replies", func() bool { return bytes.Count(p.got, []byte("request")) == each })
		p.close()
	}
	r.until("it is closed", func() bool { return r.srv.Stats.Open == 0 && r.srv.unsent == 0 })
	r.nothingHeld(0)
}

// Without a receive buffer a connection waits, and not busily; with one it goes on.
func TestNoBuffers(t *testing.T) {
	r := simRig(t, 12, Config{HeldMax: 1000}, "")
	r.world.Config.SplitOneIn, r.world.Config.ShortSendOneIn = 0, 0 // each in a buffer
	var works []*Exchange
	r.serve = func(x *Exchange) { works = append(works, x) }
	var peers []*peer
	for range rigBuffers + 3 {
		p := r.dial()
		p.write(frames("request"))
		peers = append(peers, p)
	}
	r.until("all buffers are out", func() bool { return len(works) == rigBuffers })
	recvs := r.io.Stats().Count(ring.Recv)
	r.settle(time.Second)
	if n := int(r.io.Stats().Count(ring.Recv) - recvs); len(works) != rigBuffers || n > 3*150 {
		t.Fatalf("%d requests served with %d buffers; %d receives submitted meanwhile", len(works), rigBuffers, n)
	}
	for len(works) > 0 {
		r.echo(works[0])
		works = works[1:]
		if r.srv.NextDeadline() > r.io.Now() {
			t.Fatal("the next step would wait, with a buffer for who waits for one")
		}
	}
	r.until("the others are served", func() bool { return len(works) == 3 })
	for _, x := range works {
		r.echo(x)
	}
	for _, p := range peers {
		r.want(p, "request")
	}
}

// What came before the end of a connection is served, even if it had to wait.
func TestEndBehindRest(t *testing.T) {
	r := simRig(t, 7, Config{InFlight: 1}, "")
	var works []*Exchange
	r.serve = func(x *Exchange) { works = append(works, x) }
	p := r.dial()
	p.write(frames("a", "b", "c", "d"))
	r.until("the first", func() bool { return len(works) == 1 })
	p.close()
	r.settle(100 * time.Millisecond)
	for i := 1; i <= 4; i++ {
		r.until("the next", func() bool { return len(works) == i })
		works[i-1].Silent()
		if i < 4 && r.srv.NextDeadline() > r.io.Now() {
			t.Fatal("the next step would wait, with a request to be served")
		}
	}
	r.until("it is closed", func() bool { return r.srv.Stats.Open == 0 })
	r.nothingHeld(0)
}

// The same where the end is there before the server looks at what came ahead of it.
func TestEndAtOnce(t *testing.T) {
	r := simRig(t, 13, Config{InFlight: 1}, "")
	var works []*Exchange
	r.serve = func(x *Exchange) { works = append(works, x) }
	p := r.dial()
	p.write(frames("a", "b", "c", "d"))
	end := &call{}
	end.Op = ring.Op{Code: ring.Shutdown, FD: p.fd, Done: end}
	for ended := false; r.world.Step(); { // the server sleeps
		if r.sims[1].Due() {
			r.client.Wait(ring.Forever)
		}
		if len(p.out) == 0 && !p.send.Active && !ended {
			ended = true
			r.client.Submit(&end.Op)
		}
	}
	for i := 1; i <= 4; i++ {
		r.until("the next", func() bool { return len(works) == i })
		works[i-1].Silent()
	}
	p.close()
	r.until("it is closed", func() bool { return r.srv.Stats.Open == 0 })
	r.nothingHeld(0)
}

type sentFunc func(x *Exchange)

func (f sentFunc) Sent(x *Exchange) { f(x) }

// A closed connection keeps what the kernel sends from until the send has ended.
func TestCloseWhileSending(t *testing.T) {
	r := simRig(t, 8, Config{}, "")
	var conn *Conn
	var works []*Exchange
	told := 0
	r.serve = func(x *Exchange) {
		conn = x.Conn
		if works = append(works, x); len(works) > 1 {
			return
		}
		m := r.pooled(noise(8, unsentMax-1))
		x.Reply(append(x.Pieces(), Piece{Mem: m}), m, sentFunc(func(*Exchange) {
			told++
			if conn.send.Active {
				t.Error("Sent is told while the kernel sends")
			}
		}))
	}
	p := r.dial()
	p.deaf = true
	p.write(frames("the first is sent", "the second is in the works"))
	r.until("the second is in the works", func() bool { return len(works) == 2 })
	r.settle(100 * time.Millisecond) // the socket is full
	if !conn.send.Active {
		t.Fatal("nothing is being sent")
	}
	conn.Close()
	if told != 0 || !conn.Closed() || len(r.gone) != 1 {
		t.Fatalf("Sent told %d times at once, closed %v, Closed told %d times", told, conn.Closed(), len(r.gone))
	}
	r.until("Sent is told", func() bool { return told == 1 })
	works[1].ReplyBytes(make([]byte, 100)) // goes nowhere
	p.close()
	r.until("it is all given back", func() bool { return r.io.Pool().Used() == 0 })
	r.nothingHeld(0)
}

// A Sent may answer other requests of its connection, or close it.
func TestAnswerFromSent(t *testing.T) {
	for _, end := range []bool{false, true} {
		r := simRig(t, 9, Config{}, "")
		r.world.Config.ShortSendOneIn = 2
		var works []*Exchange
		r.serve = func(x *Exchange) { works = append(works, x) }
		p := r.dial()
		p.write(frames("a", "b", "c", "d"))
		r.until("all are in the works", func() bool { return len(works) == 4 })
		reply := func(x *Exchange, then func()) {
			m := r.pooled(frame(x.Frame))
			x.Reply(append(x.Pieces(), Piece{Mem: m}, Piece{}, Piece{Mem: m[:0]}), m, sentFunc(func(*Exchange) { then() }))
		}
		reply(works[0], func() {
			reply(works[1], func() {
				if end {
					works[2].Conn.Fail("enough")
				}
				works[2].Silent()
				reply(works[3], func() {})
			})
		})
		if end {
			r.until("the connection ends", func() bool { return p.over })
		} else {
			r.want(p, "a", "b", "d")
		}
		p.close()
		r.until("it is all given back", func() bool { return r.srv.Stats.Open == 0 && r.io.Pool().Used() == 0 })
		r.nothingHeld(0)
	}
}

// A range of a file may come in pieces; one that ends early, or cannot be read,
// ends the connection with a line in the log.
func TestFilePieces(t *testing.T) {
	for _, c := range []struct {
		name, faults, log string
		len               int64
		copied            bool
	}{
		{name: "short", faults: "(SendFile (every 2) short 10)", len: 1000},
		{name: "empty", len: 0},
		{name: "beyond the end", len: fileBytes, log: "a segment ended before the reply did"},
		{name: "unreadable", faults: "(SendFile (nth 2) EIO) (SendFile (nth 1) short 500)", len: 1000, log: "input/output error"},
		{name: "copied", len: 1000, copied: true},
		{name: "copied in turns", len: fileBytes - 100, copied: true},
		{name: "copied, short", faults: "(Read (every 2) short 10) (Send (every 3) short 7)", len: 1000, copied: true},
		{name: "copied, not read ahead", faults: "(Prefetch (every 2) EIO)", len: fileBytes - 100, copied: true},
		{name: "copied, empty", len: 0, copied: true},
		{name: "copied, beyond the end", len: fileBytes, log: "a segment ended before the reply did", copied: true},
		{name: "copied, unreadable", faults: "(Read (nth 2) EIO) (Read (nth 1) short 500)", len: 1000, log: "input/output error", copied: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := simRig(t, 10, Config{}, c.faults)
			r.hosts[0].MkdirAll("/data")
			tr := &traffic{rig: r}
			tr.openFile("/data")
			r.srv.SetPaths(Paths{})
			if c.copied {
				r.srv.SetPaths(Paths{CopyMax: math.MaxInt64})
			}
			r.serve = func(x *Exchange) {
				head, foot := r.pooled([]byte("head")), r.pooled([]byte("foot"))
				x.Reply(append(x.Pieces(), Piece{Mem: head}, Piece{File: tr.file, Pos: 77, Len: c.len}, Piece{Mem: foot}), head,
					sentFunc(func(*Exchange) { r.io.Pool().Put(foot) }))
			}
			p := r.dial()
			p.write(frames("give"))
			r.until("the reply or the end", func() bool { return p.over || bytes.HasSuffix(p.got, []byte("foot")) })
			if n := r.srv.Stats.Read; c.log == "" && (n == uint64(c.len)) != (c.copied || c.len == 0) {
				t.Errorf("%d bytes were copied", n)
			}
			if c.log != "" {
				if r.logged(c.log); !p.over {
					t.Fatal("the connection goes on")
				}
			} else {
				want := []byte("head")
				for i := range c.len {
					want = append(want, fileByte(77+i))
				}
				if want = append(want, "foot"...); !bytes.Equal(p.got, want) {
					t.Fatalf("%d bytes, want %d", len(p.got), len(want))
				}
				if x := r.srv.free; cap(x.pieces) > 6 { // for its turns, it needs no more than two
					t.Fatalf("the exchange keeps room for %d pieces", cap(x.pieces))
				}
			}
			p.close()
			r.until("it is all given back", func() bool { return r.srv.Stats.Open == 0 && r.io.Pool().Used() == 0 })
			r.nothingHeld(0)
		})
	}
}

// A frame larger than a receive buffer is copied as far as it came with the
// buffer that its start came in; a small one is not copied at all.
func TestCopied(t *testing.T) {
	check := func(t *testing.T, r *rig, buffer int) {
		served, body := 0, noise(1, 100<<10)
		r.serve = func(x *Exchange) {
			if served++; !bytes.Equal(x.Frame, body[:len(x.Frame)]) {
				t.Error("the request differs")
			}
			x.Silent()
		}
		p := r.dial()
		send := func(n int) {
			before := served
			p.write(frame(body[:n]))
			r.until("it is served", func() bool { return served > before })
		}
		for range 20 {
			send(500)
		}
		if n := r.srv.Stats.Copied; n > 3*500 { // TCP may cut one
			t.Errorf("%d bytes of small requests were copied", n)
		}
		send(len(body)) // the first disarms the receive of many, which may have gone on
		before := r.srv.Stats.Copied
		for range 20 {
			send(len(body))
		}
		if n := int(r.srv.Stats.Copied - before); n > 20*buffer {
			t.Errorf("%d bytes of 20 requests of %d were copied, more than a receive buffer of %d each", n, len(body), buffer)
		}
	}
	t.Run("sim", func(t *testing.T) {
		r := simRig(t, 11, Config{}, "")
		r.world.Config.SplitOneIn = 0
		check(t, r, 1<<10)
	})
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) { check(t, realRig(t, backend, Config{}), 16<<10) })
	}
}

// In steady state an exchange allocates nothing: small ones and large ones,
// answered by one piece and by several.
func TestNoAllocations(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			r := realRig(t, backend, Config{IdleMax: 60e9})
			replies := r.pooled(noise(1, 4096))
			r.serve = func(x *Exchange) {
				m := r.pooled(replies[:64])
				out := append(x.Pieces(), Piece{Mem: m})
				if len(x.Frame) > 1000 {
					out = append(out, Piece{Mem: replies}, Piece{Mem: replies})
				}
				x.Reply(out, m, nil)
			}
			p := &echoPeer{rig: r}
			p.dial()
			for _, size := range []int{100, 50 << 10} {
				want := 64
				if size > 1000 {
					want += 2 * len(replies)
				}
				for range 50 {
					p.round(size, want)
				}
				if n := testing.AllocsPerRun(300, func() { p.round(size, want) }); n != 0 {
					t.Errorf("%v allocations for a request of %d bytes", n, size)
				}
			}
		})
	}
}

// echoPeer is a client that allocates nothing.
type echoPeer struct {
	*rig
	fd  ring.FD
	op  call
	out []byte
	in  []byte
}

func (p *echoPeer) dial() {
	q := p.rig.dial()
	q.deaf = true
	p.client.Cancel(&q.recv)
	p.until("the receive is disarmed", func() bool { return !q.recv.Active })
	p.fd, p.out, p.in = q.fd, p.client.Pool().Get(64<<10), p.client.Pool().Get(64<<10)
	p.op.Done = &p.op
}

func (p *echoPeer) do(code ring.Code, buf []byte) int {
	p.op.Op = ring.Op{Code: code, FD: p.fd, Buf: buf, Done: p.op.Done}
	p.client.Submit(&p.op.Op)
	for p.op.Active {
		p.step(false)
	}
	if p.op.Result <= 0 {
		p.Fatalf("%v: %d", code, p.op.Result)
	}
	return int(p.op.Result)
}

// round sends a request of size bytes and takes a reply of want.
func (p *echoPeer) round(size, want int) {
	binary.BigEndian.PutUint32(p.out, uint32(size))
	for at := 0; at < size+4; {
		at += p.do(ring.Send, p.out[at:size+4])
	}
	for at := 0; at < want; {
		at += p.do(ring.Recv, p.in[:want-at])
	}
}
