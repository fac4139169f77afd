package netio

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/millrace/millrace/ring"
)

var seedFlag = flag.Int64("seed", -1, "TestProperty: run this seed only")

// traffic is random requests on several connections, answered in random order by
// replies of random shape.
type traffic struct {
	*rig
	rnd     *rand.Rand
	frames  int // per connection
	sizeMax int
	chaos   bool // connections end in the middle
	pausing bool
	file    ring.FD
	streams []*stream
	works   []*work
	sents   int // replies whose Sent is to come
	failure string
}

type stream struct {
	number int
	peer   *peer
	served int      // requests
	want   [][]byte // replies, by request
}

type work struct {
	x   *Exchange
	s   *stream
	seq int
	mem []byte
	tr  *traffic
}

// body is the request number seq of stream n.
func (tr *traffic) body(n, seq int) []byte {
	at := uint64(n)<<32 | uint64(seq)
	r := rand.New(rand.NewPCG(at, 7))
	size := 8
	switch r.IntN(8) {
	case 0:
		size += r.IntN(tr.sizeMax)
	case 1:
		size += r.IntN(20 << 10)
	default:
		size += r.IntN(600)
	}
	return append(binary.BigEndian.AppendUint64(nil, at), noise(at, size-8)...)
}

const fileBytes = 1 << 20

func fileByte(at int64) byte { return byte(at*131 ^ at>>8) }

func (tr *traffic) openFile(dir string) {
	h := tr.io.Host()
	fd, err := h.Open(dir+"/segment", ring.CreateNew)
	if err != nil {
		tr.Fatal(err)
	}
	b := make([]byte, fileBytes)
	for i := range b {
		b[i] = fileByte(int64(i))
	}
	if _, err := h.WriteAt(fd, b, 0); err != nil {
		tr.Fatal(err)
	}
	tr.Cleanup(func() { h.Close(fd) })
	tr.file = fd
}

func (tr *traffic) serveOne(x *Exchange) {
	if len(x.Frame) < 8 {
		tr.failure = fmt.Sprintf("a request of %d bytes", len(x.Frame))
		return
	}
	n := int(binary.BigEndian.Uint32(x.Frame))
	s := tr.streams[n]
	if want := tr.body(n, s.served); !bytes.Equal(x.Frame, want) {
		tr.failure = fmt.Sprintf("stream %d, request %d: %d bytes, want %d", n, s.served, len(x.Frame), len(want))
	}
	w := &work{x: x, s: s, seq: s.served, tr: tr}
	s.served++
	if tr.chaos && tr.rnd.IntN(200) == 0 {
		x.Conn.Fail("by the handler")
	}
	switch tr.rnd.IntN(6) {
	case 0:
		tr.answer(w)
		return
	case 1:
		x.Own()
	case 2:
		x.ReleaseFrame()
	}
	tr.works = append(tr.works, w)
}

// Sent is Sent's: what the reply lay in may be used for something else.
func (w *work) Sent(x *Exchange) {
	w.tr.sents--
	if x != w.x || x.Conn.send.Active {
		w.tr.failure = "Sent is told of another exchange, or while the kernel sends"
	}
	for i := range w.mem {
		w.mem[i] = 0xdd
	}
}

func (tr *traffic) answer(w *work) {
	r, x := tr.rnd, w.x
	switch r.IntN(7) {
	case 0:
		w.s.want[w.seq] = []byte{}
		x.Silent()
		return
	case 1:
		body := noise(r.Uint64(), 4+r.IntN(300))
		w.s.want[w.seq] = append(binary.BigEndian.AppendUint32(nil, uint32(len(body)-4)), body[4:]...)
		x.ReplyBytes(body)
		return
	}
	pieces := 1 + r.IntN(4)
	if r.IntN(4) == 0 {
		pieces = r.IntN(3 * ring.IOVMax)
	}
	memory := r.IntN(3000)
	if r.IntN(8) == 0 {
		memory = r.IntN(100 << 10)
	}
	mem := tr.io.Pool().Get(max(memory, 1))
	if mem == nil {
		w.s.want[w.seq] = []byte{}
		x.Silent()
		return
	}
	mem = mem[:memory]
	copy(mem, noise(r.Uint64(), memory))
	w.mem = mem
	want := []byte{}
	out := x.Pieces()
	files := r.IntN(2) // in half of the replies
	for at := 0; pieces > 0; pieces-- {
		if files > 0 && r.IntN(4) == 0 {
			p := Piece{File: tr.file, Pos: int64(r.IntN(fileBytes / 2)), Len: int64(r.IntN(40 << 10))}
			for i := range p.Len {
				want = append(want, fileByte(p.Pos+i))
			}
			out = append(out, p)
			continue
		}
		n := 0
		if memory > at {
			n = r.IntN((memory-at)/(1+r.IntN(pieces)) + 1)
		}
		out = append(out, Piece{Mem: mem[at : at+n]})
		want = append(want, mem[at:at+n]...)
		at += n
	}
	w.s.want[w.seq] = want
	tr.sents++
	x.Reply(out, mem, w)
}

// turn is the end of a step: some are answered, sockets are read or not.
func (tr *traffic) turn() bool {
	for len(tr.works) > 0 && tr.rnd.IntN(3) > 0 {
		i := tr.rnd.IntN(len(tr.works))
		w := tr.works[i]
		tr.works[i] = tr.works[len(tr.works)-1]
		tr.works = tr.works[:len(tr.works)-1]
		tr.answer(w)
	}
	if tr.pausing {
		if tr.rnd.IntN(8) == 0 {
			tr.srv.Pause()
		} else {
			tr.srv.Resume()
		}
	}
	if tr.chaos && tr.rnd.IntN(100) == 0 {
		s := tr.streams[tr.rnd.IntN(len(tr.streams))]
		if p := s.peer; p != nil && !p.closed && tr.rnd.IntN(2) == 0 {
			p.deaf = true
		} else if p != nil && !p.over && !p.closed {
			p.over = true // closed by run
		}
	}
	return true
}

// run sends all, and checks what comes back.
func (tr *traffic) run(conns int) {
	tr.serve, tr.after = tr.serveOne, tr.turn
	tr.srv.SetPaths(Paths{CopyMax: []int64{0, 10 << 10, math.MaxInt64}[tr.rnd.IntN(3)], InlineMax: []int64{0, 20 << 10, math.MaxInt64}[tr.rnd.IntN(3)]})
	for n := range conns {
		tr.streams = append(tr.streams, &stream{number: n, want: make([][]byte, tr.frames)})
	}
	for n, s := range tr.streams {
		s.peer = tr.dial()
		s.peer.cut = func(left int) int {
			switch tr.rnd.IntN(4) {
			case 0:
				return 1 + tr.rnd.IntN(min(left, 8))
			case 1:
				return left
			}
			return 1 + tr.rnd.IntN(left)
		}
		for seq := range tr.frames {
			s.peer.out = append(s.peer.out, frame(tr.body(n, seq))...)
		}
		s.peer.push()
	}
	tr.until("every stream is answered", func() bool {
		if tr.failure != "" {
			tr.Fatal(tr.failure)
		}
		for _, s := range tr.streams {
			if !tr.done(s) {
				return false
			}
		}
		return true
	})
	for _, s := range tr.streams {
		got := s.peer.got
		for seq, want := range s.want {
			n := min(len(want), len(got))
			if !bytes.Equal(got[:n], want[:n]) {
				tr.Fatalf("stream %d: the reply to request %d differs", s.number, seq)
			}
			got = got[n:]
			if n < len(want) {
				break
			}
		}
		if len(got) > 0 {
			tr.Fatalf("stream %d: %d bytes behind the last reply", s.number, len(got))
		}
		if !s.peer.closed {
			s.peer.close()
		}
	}
	tr.srv.Resume()
	tr.pausing = false
	tr.until("everything has ended", func() bool {
		return tr.srv.Stats.Open == 0 && len(tr.works) == 0 && tr.sents == 0 && int(tr.srv.Stats.Accepted) == len(tr.gone) &&
			tr.srv.unsent == 0 && tr.io.Pool().Used() == 0
	})
	tr.nothingHeld(0)
}

// done says whether there is no more to come on a stream; under chaos a
// connection that has ended is done.
func (tr *traffic) done(s *stream) bool {
	if tr.chaos {
		if s.peer.over && !s.peer.closed || s.peer.deaf && !s.peer.closed && tr.rnd.IntN(1000) == 0 {
			after := tr.after
			tr.after = nil // it is not for close to break others
			s.peer.close()
			tr.after = after
		}
		if s.peer.closed {
			return true
		}
	}
	want := 0
	for _, w := range s.want {
		if w == nil {
			return false
		}
		want += len(w)
	}
	return len(s.peer.got) >= want
}

func simTraffic(t *testing.T, seed uint64, chaos bool) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	cfg := Config{InFlight: 1 + rnd.IntN(20), FrameMax: 400 << 10, HeldMax: 1 + rnd.IntN(8), UnsentMax: 100 << 10, IdleMax: 600e9}
	r := simRig(t, seed, cfg, "")
	if err := r.hosts[0].MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	tr := &traffic{rig: r, rnd: rnd, frames: 5 + rnd.IntN(40), sizeMax: 300 << 10, chaos: chaos, pausing: rnd.IntN(2) == 0}
	tr.openFile("/data")
	tr.run(1 + rnd.IntN(5))
}

// Frames of any size, cut anywhere, are served whole and in order, and the
// replies come back whole and in the order of the requests, whatever shape they
// have and in whatever order they are given; then nothing is left held.
func TestProperty(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 40
	}
	for seed := range uint64(seeds) {
		if *seedFlag >= 0 && seed != uint64(*seedFlag) {
			continue
		}
		for _, chaos := range []bool{false, true} {
			if !t.Run(fmt.Sprintf("seed=%d/chaos=%v", seed, chaos), func(t *testing.T) { simTraffic(t, seed, chaos) }) {
				return
			}
		}
	}
}

// The same on real sockets.
func TestPropertyReal(t *testing.T) {
	for _, backend := range backends() {
		for _, chaos := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/chaos=%v", backend, chaos), func(t *testing.T) {
				for seed := range uint64(2) {
					t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
						rnd := rand.New(rand.NewPCG(seed, 2))
						// Nobody is closed for being slow: here time is the machine's.
						r := realRig(t, backend, Config{InFlight: 1 + rnd.IntN(20), HeldMax: 1 + rnd.IntN(40), IdleMax: 300e9, UnsentMax: 1 << 30})
						tr := &traffic{rig: r, rnd: rnd, frames: 60, sizeMax: 1000 << 10, chaos: chaos, pausing: rnd.IntN(2) == 0}
						tr.openFile(t.TempDir())
						tr.run(8)
					})
				}
			})
		}
	}
}
