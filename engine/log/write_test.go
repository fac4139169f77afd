package log

import (
	"slices"
	"testing"
)

// TestWriteBack: what has been written is on its way to the disk before a sync asks for it, except
// where syncs follow each other as it is.
func TestWriteBack(t *testing.T) {
	for policy, want := range map[Policy]uint64{OS: 3, Interval: 16, Write: 0, File: 0, Journal: 16} {
		r := newRig(t, 1)
		r.journalBytes = 4 << 20
		r.config.Policy, r.config.SegmentBytes = policy, 16<<20
		r.open()
		l := r.create("t")
		for range 70 {
			r.add(l, stamped(1, 60<<10))
			r.idle(l)
			if r.core.Stats().Ranges == 1 && l.back.Off != 0 {
				t.Fatalf("%v: the first write-back of a segment begins at %d", policy, l.back.Off)
			}
		}
		if got := r.core.Stats().Ranges; got < want || got > want+1 {
			t.Errorf("%v: %d write-backs for %d bytes, want %d", policy, got, l.Size(), want)
		}
	}
}

// Logs that grow alike have their write-backs one after another: of 16, no two within half of their share of a piece, at least.
func TestWriteBacksTakeTurns(t *testing.T) {
	for _, topic := range []string{"t", "orders", "millrace-bench-c21d47b1"} {
		const n, piece = 16, 1 << 20
		var at []int64
		for p := range int32(n) {
			l := &Log{turnOf: turnOf(topic, p)}
			at = append(at, l.turn(piece))
		}
		slices.Sort(at)
		for i := range at {
			gap := at[(i+1)%n] - at[i]
			if i == n-1 {
				gap += piece
			}
			if at[i] < 0 || at[i] >= piece || gap < piece/n/2 || gap > 2*piece/n {
				t.Errorf("%s: turns %d, %d behind another", topic, at, gap)
				break
			}
		}
	}
	// Whatever was written before it, a piece ends where the log's turn is, and is not longer than one.
	l := &Log{turnOf: turnOf("t", 3)}
	const piece = 256 << 10
	for _, to := range []int64{0, 4096, 128 << 10, piece, 3*piece + 4096, piece - l.turn(piece)} {
		if next := l.backAfter(to, piece); next <= to || next > to+piece || (next+l.turn(piece))%piece != 0 {
			t.Errorf("after %d at %d, turn %d", to, next, l.turn(piece))
		}
	}
}
