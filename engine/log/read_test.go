package log

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/millrace/millrace/engine/record"
)

// TestReadEverywhere reads every offset with every kind of bound, from memory, from
// files and across the two, and compares with a walk over all batches.
func TestReadEverywhere(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 2000
	r.config.IndexIntervalBytes = 300
	r.open()
	l := r.create("t")
	var stored []record.Batch
	add := func(n int) {
		for i := range n {
			b := batch(1+i%4, fmt.Sprint("record ", i))
			a := r.add(l, b)
			k := record.Batch(bytes.Clone(b))
			k.SetBaseOffset(a.BaseOffset)
			k.SetLeaderEpoch(0)
			stored = append(stored, k)
		}
		r.idle(l)
	}
	add(60)
	check := func(where string) {
		t.Helper()
		for offset := int64(0); offset < l.LogEnd(); offset++ {
			for _, max := range []int{1, 150, 1000} {
				for _, limit := range []int64{l.LogEnd(), offset + 10, offset} {
					for _, one := range []bool{true, false} {
						readOnce(t, r, l, stored, offset, limit, max, one, where)
					}
				}
			}
		}
	}
	check("memory")
	r.dropTail()
	check("files")
	add(20)
	check("both")
	if r.core.stats.Lookups == 0 || r.core.stats.TailReads == 0 {
		t.Fatalf("%+v", r.core.stats)
	}
	// One who reads on needs few searches.
	r.dropTail()
	before := r.core.stats
	if _, err := r.all(l, l.LogEnd()); err != nil {
		t.Fatal(err)
	}
	reads, lookups := r.core.stats.FileReads-before.FileReads, r.core.stats.Lookups-before.Lookups
	if reads < 8 || lookups > reads*3/4 {
		t.Fatalf("%d searches for %d reads", lookups, reads)
	}
	if r.core.pool.Used() > 1<<10 {
		t.Fatalf("%d bytes of the pool are still used", r.core.pool.Used())
	}
}

func readOnce(t *testing.T, r *rig, l *Log, stored []record.Batch, offset, limit int64, max int, one bool, where string) {
	t.Helper()
	var d readDone
	q := &Read{Offset: offset, Limit: limit, MaxBytes: max, MinOne: one, Done: &d}
	if !l.Read(q) {
		r.until("read", func() bool { return d.done })
	}
	if q.Err != nil {
		t.Fatalf("%s: offset %d: %v", where, offset, q.Err)
	}
	got, err := q.Bytes(r.host)
	if err != nil || len(got) != q.Len {
		t.Fatalf("%s: offset %d: %v", where, offset, err)
	}
	l.Release(q)
	var want []byte
	next := offset
	for _, b := range stored {
		if b.LastOffset() < offset {
			continue
		}
		if b.LastOffset() >= limit || len(want)+len(b) > max && !(one && len(want) == 0) {
			break
		}
		want = append(want, b...)
		next = b.LastOffset() + 1
	}
	// It may stop earlier, at the end of a segment or of the file part.
	if !bytes.HasPrefix(want, got) || len(want) > 0 && len(got) == 0 {
		t.Fatalf("%s: offset %d limit %d max %d one %v: %d bytes, want %d", where, offset, limit, max, one, len(got), len(want))
	}
	if len(got) == len(want) && q.Next != next {
		t.Fatalf("%s: offset %d: next %d, want %d", where, offset, q.Next, next)
	}
}

type timeDone struct{ done bool }

func (d *timeDone) TimeDone(*TimeQuery) { d.done = true }

func (r *rig) findTime(l *Log, q TimeQuery) TimeQuery {
	r.t.Helper()
	var d timeDone
	q.Done = &d
	if !l.FindTimestamp(&q) {
		r.until("timestamp", func() bool { return d.done })
	}
	if q.Err != nil {
		r.t.Fatal(q.Err)
	}
	return q
}

func TestFindTimestamp(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 1200
	r.config.IndexIntervalBytes = 150
	r.open()
	l := r.create("t")
	var stamps []int64
	for i := range 80 {
		ts := int64(10_000 + i*10 + (i*7919)%37) // roughly up
		stamps = append(stamps, ts)
		r.add(l, stamped(ts, 20))
	}
	check := func(where string) {
		t.Helper()
		for ts := int64(9_990); ts < 10_900; ts += 3 {
			want, found := int64(-1), int64(-1)
			for i, s := range stamps {
				if s >= ts && int64(i) >= l.LogStart() {
					want, found = int64(i), s
					break
				}
			}
			if q := r.findTime(l, TimeQuery{Timestamp: ts}); q.Offset != want || q.Found != found {
				t.Fatalf("%s: timestamp %d: offset %d (%d), want %d (%d)", where, ts, q.Offset, q.Found, want, found)
			}
		}
		newest := 0
		for i, s := range stamps {
			if s > stamps[newest] {
				newest = i
			}
		}
		if q := r.findTime(l, TimeQuery{Max: true}); q.Offset != int64(newest) || q.Found != stamps[newest] {
			t.Fatalf("%s: newest: offset %d, want %d", where, q.Offset, newest)
		}
	}
	check("in flight")
	r.idle(l)
	check("memory")
	r.dropTail()
	check("files")
	r.must("flush", l.Flush)
	r.dir.Checkpoint()
	r.disk.Crash(1)
	r.disk.Restart()
	r.open()
	l = r.find("t")
	check("after a crash")
	l.SetHighWatermark(80)
	r.must("log start", func(d Done) { l.AdvanceLogStart(33, d) })
	check("behind a log start")
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	r.open()
	l = r.find("t")
	check("after a clean stop")
}

func TestPressure(t *testing.T) {
	r := newRig(t, 1)
	r.cores.TailBytes = 64 << 10
	r.config.SegmentBytes = 1 << 20
	r.open()
	l := r.create("t")
	r.idle(l)
	var told counter
	r.core.OnRelief(&told)
	n := 0
	var err error
	for err == nil {
		_, err = l.Append(stamped(1, 2000), Client, 0, 0)
		n++
	}
	if err != ErrPressure || !r.core.Pressure() || n < 15 || r.core.unwritten > r.core.tailMax {
		t.Fatalf("after %d appends: %v, %d bytes unwritten", n, err, r.core.unwritten)
	}
	// What is reserved for coordinators is still there.
	if _, err := l.Append(stamped(1, 2000), Coordinator, 0, 0); err != nil {
		t.Fatal(err)
	}
	r.until("relief", func() bool { return told > 0 })
	if r.core.Pressure() {
		t.Fatal("still under pressure")
	}
	r.fill(l, 1000)
	r.idle(l)
	if r.core.TailBytes() > r.core.tailMax {
		t.Fatalf("%d bytes in tails", r.core.TailBytes())
	}
	if _, err := r.all(l, l.LogEnd()); err != nil {
		t.Fatal(err)
	}
}

type counter int

func (c *counter) Relieved() { *c++ }
