package log

import (
	"testing"

	"github.com/millrace/millrace/ring"
)

// cacheSpy is an IO on a machine whose page cache holds nothing that was not asked for. It
// notes what is asked for and what is let go.
type cacheSpy struct {
	ring.IO
	asked  []askedRange // still in order
	let    []askedRange
	under  int // ops under way
	most   int
	holdUp bool // Prefetch ops do not complete
	held   []*ring.Op
}

type askedRange struct {
	fd       ring.FD
	from, to int64
}

type spyDone struct {
	spy  *cacheSpy
	done ring.Completer
}

func (s *cacheSpy) Submit(op *ring.Op) {
	at := askedRange{op.FD, op.Off, op.Off + op.Len}
	switch op.Code {
	case ring.Prefetch:
		s.asked = append(s.asked, at)
	case ring.Forget:
		s.let = append(s.let, at)
	default:
		s.IO.Submit(op)
		return
	}
	s.under++
	s.most = max(s.most, s.under)
	if s.holdUp {
		s.held = append(s.held, op)
		return
	}
	op.Done = &spyDone{s, op.Done}
	s.IO.Submit(op)
}

func (d *spyDone) Complete(op *ring.Op) {
	d.spy.under--
	if op.Code == ring.Prefetch {
		op.Result = int32(op.Len) // all of it was missing
	}
	op.Done = d.done
	d.done.Complete(op)
}

// release completes what was held up.
func (s *cacheSpy) release() {
	held := s.held
	s.held, s.holdUp = nil, false
	for _, op := range held {
		s.under--
		op.Result = int32(op.Len)
		op.Done.Complete(op)
	}
}

const aheadTestWindow = 2 << 20

// aheadRig has a log of three segments of 4 MiB, none of it in memory.
func aheadRig(t *testing.T, drop bool) (*rig, *cacheSpy, *Log) {
	r := newRig(t, 1)
	spy := &cacheSpy{}
	r.wrap = func(io ring.IO) ring.IO { spy.IO = io; return spy }
	r.config.SegmentBytes, r.config.IndexBytes, r.config.IndexIntervalBytes = 4<<20, 64<<10, 4096
	r.cores = CoreConfig{TailBytes: 256 << 10, Readahead: aheadTestWindow, DropBehind: drop}
	r.open()
	l := r.create("t")
	for l.Size() < 11<<20 {
		if _, err := l.Append(stamped(1, 20_000), Client, 0, 0); err != nil && (err != ErrPressure || !r.turn()) {
			t.Fatal(err)
		}
	}
	r.idle(l)
	r.dropTail()
	return r, spy, l
}

// scan reads from an offset on, n ranges of at most 100 KB.
func (r *rig) scan(l *Log, offset int64, n int, each func(q *Read)) int64 {
	r.t.Helper()
	for ; n > 0 && offset < l.LogEnd(); n-- {
		var d readDone
		q := &Read{Offset: offset, Limit: l.LogEnd(), MaxBytes: 100_000, MinOne: true, Done: &d}
		if !l.Read(q) {
			r.until("read", func() bool { return d.done })
		}
		if q.Err != nil || q.Len == 0 {
			r.t.Fatalf("at offset %d: %d bytes, %v", offset, q.Len, q.Err)
		}
		offset = q.Next
		if each != nil {
			each(q)
		}
		l.Release(q)
	}
	return offset
}

// One who reads on finds the next bytes asked for, never more than the window, each of them
// once, across segments too.
func TestReadAhead(t *testing.T) {
	r, spy, l := aheadRig(t, false)
	ranges := 0
	reach := map[ring.FD]int64{}
	r.scan(l, 0, 1000, func(q *Read) {
		ranges++
		for _, s := range spy.asked {
			if s.from != reach[s.fd] && reach[s.fd] != 0 {
				t.Fatalf("asked for [%d, %d) behind %d", s.from, s.to, reach[s.fd])
			}
			if s.fd == q.File && s.to > q.Pos+int64(q.Len)+aheadTestWindow || s.to-s.from > ring.PrefetchMax {
				t.Fatalf("asked for [%d, %d) at %d", s.from, s.to, q.Pos)
			}
			reach[s.fd] = s.to
		}
		spy.asked = spy.asked[:0]
		if to := q.Pos + int64(q.Len); ranges > 12 && reach[q.File] < min(to+aheadTestWindow/2, q.seg.size) {
			t.Fatalf("range %d ends at %d of %d, asked for up to %d", ranges, to, q.seg.size, reach[q.File])
		}
	})
	if len(reach) != len(l.segments) {
		t.Errorf("%d of %d segments were read ahead", len(reach), len(l.segments))
	}
	if spy.most > aheadOps || len(spy.let) > 0 {
		t.Errorf("%d ops at once; let go: %v", spy.most, spy.let)
	}
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
}

// One who jumps about is not read ahead for, and who goes on elsewhere begins with a small window.
func TestReadAheadSeek(t *testing.T) {
	r, spy, l := aheadRig(t, false)
	for i := range int64(40) {
		r.scan(l, (i*7919)%l.LogEnd(), 1, nil)
	}
	if len(spy.asked) > 0 {
		t.Fatalf("asked for %v", spy.asked)
	}
	at := r.scan(l, 0, 20, nil)
	spy.asked = nil
	r.scan(l, at+60, 2, nil)
	if n := len(spy.asked); n == 0 || spy.asked[n-1].to-spy.asked[0].from > 2*aheadMin {
		t.Fatalf("asked for %v after a jump", spy.asked)
	}
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
}

// What was read ahead for one reader is let go behind it, once; not what another is about to read.
func TestDropBehind(t *testing.T) {
	r, spy, l := aheadRig(t, true)
	let := map[ring.FD]int64{}
	r.scan(l, 0, 1000, func(q *Read) {
		for _, s := range spy.let {
			if s.from < let[s.fd] || s.fd == q.File && s.to > q.Pos-forgetGap+int64(q.Len) {
				t.Fatalf("[%d, %d) was let go at %d, after %d", s.from, s.to, q.Pos, let[s.fd])
			}
			let[s.fd] = s.to
		}
		spy.let = spy.let[:0]
	})
	if len(let) < 2 {
		t.Fatalf("let go: %v", let)
	}
	// Two, one behind the other.
	first := r.scan(l, 0, 4, nil)
	spy.let = nil
	second := r.scan(l, 0, 2, nil)
	for range 20 {
		first = r.scan(l, first, 1, nil)
		if len(spy.let) > 0 {
			t.Fatalf("%v was let go with a reader at offset %d", spy.let, second)
		}
	}
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
}

// A segment that goes while it is read ahead is closed when that has ended, and a log that
// is closed waits for it.
func TestReadAheadHoldsItsSegment(t *testing.T) {
	r, spy, l := aheadRig(t, true)
	spy.holdUp = true
	r.scan(l, 0, 20, nil)
	if spy.under == 0 || spy.most > aheadOps {
		t.Fatalf("%d under way, %d at most", spy.under, spy.most)
	}
	fd := l.segments[0].fd
	l.SetHighWatermark(l.LogEnd())
	r.must("log start", func(d Done) { l.AdvanceLogStart(l.segments[1].base, d) })
	r.idle(l)
	var b [1]byte
	if _, err := r.disk.ReadAt(fd, b[:], 0); err != nil {
		t.Fatalf("the file was closed while it was read ahead: %v", err)
	}
	closed := false
	l.Close(DoneFunc(func(_ *Log, err error) {
		if err != nil {
			t.Error(err)
		}
		closed = true
	}))
	for range 1000 {
		r.turn()
	}
	if closed {
		t.Fatal("the log was closed while it was read ahead")
	}
	spy.release()
	r.until("close", func() bool { return closed })
}
