package log

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/millrace/millrace/engine/record"
)

func codeOf(err error) int16 {
	var e *record.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestIdempotence(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 700
	r.open()
	l := r.create("t")
	send := func(id int64, epoch int16, seq int32, n int) string {
		a, err := l.Append(sequenced(id, epoch, seq, n, false), Client, 0, r.io.WallMillis())
		switch {
		case err != nil:
			return fmt.Sprint("code ", codeOf(err))
		case a.Duplicate:
			return fmt.Sprint("duplicate ", a.BaseOffset, "-", a.LastOffset)
		}
		return fmt.Sprint(a.BaseOffset, "-", a.LastOffset)
	}
	steps := func(when string, want ...string) {
		t.Helper()
		for i := 0; i < len(want); i += 2 {
			var id int64
			var epoch int16
			var seq int32
			var n int
			if _, err := fmt.Sscan(want[i], &id, &epoch, &seq, &n); err != nil {
				t.Fatal(err)
			}
			if got := send(id, epoch, seq, n); got != want[i+1] {
				t.Errorf("%s: producer, epoch, sequence, records = %s: %s, want %s", when, want[i], got, want[i+1])
			}
		}
	}
	steps("first",
		"1 0 5 2", "0-1", // any first sequence
		"1 0 7 1", "2-2",
		"1 0 5 2", "duplicate 0-1",
		"1 0 9 1", "code 45",
		"1 0 8 3", "3-5",
		"1 0 11 1", "6-6",
		"1 0 12 1", "7-7",
		"1 0 13 1", "8-8",
		"1 0 7 1", "duplicate 2-2",
		"1 0 5 2", "code 45", // the sixth last
		"1 1 14 1", "code 45", // a new epoch starts at 0
		"1 1 0 1", "9-9",
		"1 0 14 1", "code 47",
		"1 1 1 1", "10-10",
		"2 0 2147483646 3", "11-13", // wraps to 0
		"2 0 1 1", "14-14",
		"2 0 2147483646 3", "duplicate 11-13",
	)
	r.idle(l)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	r.open()
	l = r.find("t")
	steps("after a clean stop: the last batch of each is known",
		"1 1 1 1", "duplicate 10-10",
		"1 1 2 1", "15-15",
		"2 0 1 1", "duplicate 14-14",
		"2 0 4 1", "code 45",
		"2 0 2 1", "16-16",
	)
	r.idle(l)
	r.must("flush", l.Flush)
	r.disk.Crash(2)
	r.disk.Restart()
	r.open()
	l = r.find("t")
	steps("after a crash",
		"1 1 2 1", "duplicate 15-15",
		"2 0 2 1", "duplicate 16-16",
		"2 0 3 1", "17-17",
	)
	// Producers that have not been heard of are forgotten.
	r.idle(l)
	cfg := l.Config()
	cfg.ProducerExpirationMs = -3600_000
	if err := l.SetConfig(cfg); err != nil {
		t.Fatal(err)
	}
	l.Retain()
	steps("after they expired", "2 0 99 1", "18-18")
}

func TestSnapshotRoundTrip(t *testing.T) {
	var ps producers
	for i := range int64(5) {
		b := record.Batch(sequenced(i, int16(i), math.MaxInt32-1, 3, i == 3))
		b.SetBaseOffset(i * 10)
		ps.update(b, record.Marker{}, 1000+i)
	}
	b := ps.encode()
	if len(b) != snapshotHeader+5*snapshotEntry {
		t.Fatalf("%d bytes", len(b))
	}
	got, err := decodeProducers(b)
	if err != nil {
		t.Fatal(err)
	}
	if again := got.encode(); !slices.Equal(again, b) {
		t.Fatal("not the same after a round trip")
	}
	if got.firstUnstable() != 30 {
		t.Fatalf("first unstable offset %d", got.firstUnstable())
	}
	q := got.byID[2].batches[0]
	if q.first != math.MaxInt32-1 || q.last != 0 || q.baseOffset() != 20 {
		t.Fatalf("%+v", q)
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 0x40
		if _, err := decodeProducers(bad); err == nil {
			t.Fatalf("byte %d may change", i)
		}
	}
}

// marker appends the end of a transaction, as the transaction coordinator does.
func marker(t *testing.T, l *Log, id int64, epoch int16, kind record.ControlType, coordinator int32) Appended {
	t.Helper()
	a, err := l.Append(record.AppendMarker(nil, id, epoch, record.Marker{Type: kind, CoordinatorEpoch: coordinator}, 5000), Coordinator, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTransactions(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 500
	r.open()
	l := r.create("t")
	add := func(id int64, seq int32, txn bool) int64 {
		t.Helper()
		a, err := l.Append(sequenced(id, 0, seq, 1, txn), Client, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return a.BaseOffset
	}
	mark := func() { l.SetHighWatermark(l.LogEnd()) }
	stable := func(want int64) {
		t.Helper()
		if got := l.LastStable(); got != want {
			t.Errorf("last stable offset %d, want %d", got, want)
		}
	}
	add(9, 0, false)
	add(1, 0, true) // 1
	add(2, 0, true) // 2
	mark()
	stable(1)
	if _, err := l.Append(sequenced(1, 0, 1, 1, false), Client, 0, 0); codeOf(err) != 48 {
		t.Errorf("a batch outside the open transaction: %v", err)
	}
	marker(t, l, 1, 0, record.Abort, 7) // 3
	stable(1)                           // the marker is not replicated
	mark()
	stable(2)
	add(1, 1, true)                      // 4
	marker(t, l, 2, 0, record.Commit, 7) // 5
	mark()
	stable(4)
	marker(t, l, 1, 0, record.Abort, 8) // 6
	mark()
	stable(7)
	if _, err := l.Append(record.AppendMarker(nil, 1, 0, record.Marker{Type: record.Abort, CoordinatorEpoch: 3}, 0), Coordinator, 0, 0); codeOf(err) != 52 {
		t.Errorf("an old coordinator: %v", err)
	}
	if _, err := l.Append(record.AppendMarker(nil, 1, 0, record.Marker{}, 0), Client, 0, 0); codeOf(err) != 87 {
		t.Errorf("a client's marker: %v", err)
	}
	open := add(3, 0, true) // 7
	for i := range int32(10) {
		add(9, i+1, false)
	}
	mark()
	stable(open)
	want := []AbortedTxn{{1, 1, 3, 2}, {1, 4, 6, 7}}
	check := func(when string) {
		t.Helper()
		if got := l.AppendAborted(nil, 0, 100); !slices.Equal(got, want) {
			t.Errorf("%s: aborted %v, want %v", when, got, want)
		}
		if got := l.AppendAborted(nil, 4, 100); !slices.Equal(got, want[1:]) {
			t.Errorf("%s: aborted from 4: %v", when, got)
		}
		if got := l.AppendAborted(nil, 0, 4); !slices.Equal(got, want[:1]) {
			t.Errorf("%s: aborted up to 4: %v", when, got)
		}
		stable(open)
	}
	check("running")
	r.must("flush", l.Flush)
	r.until("written", func() bool { return l.metaFrom < 0 })
	r.dir.Checkpoint()
	r.disk.Crash(1)
	r.disk.Restart()
	r.open()
	l = r.find("t")
	check("after power loss")
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	r.open()
	l = r.find("t")
	check("after a clean stop")
	to := int64(5)
	r.must("truncate", func(d Done) { l.Truncate(to, d) })
	want, open = want[:1], 2
	l.SetHighWatermark(5)
	if got := l.AppendAborted(nil, 0, 100); !slices.Equal(got, want) {
		t.Errorf("after the cut: %v", got)
	}
	stable(open)
}
