package log

import "testing"

// TestWriteBack: what has been written is on its way to the disk before a sync asks for it, except
// where syncs follow each other as it is.
func TestWriteBack(t *testing.T) {
	for policy, want := range map[Policy]uint64{OS: 3, Interval: 13, Write: 0, File: 0, Journal: 13} {
		r := newRig(t, 1)
		r.journalBytes = 4 << 20
		r.config.Policy, r.config.SegmentBytes = policy, 16<<20
		r.open()
		l := r.create("t")
		for range 70 {
			r.add(l, stamped(1, 60<<10))
			r.idle(l)
		}
		if got := r.core.Stats().Ranges; got < want || got > want+1 {
			t.Errorf("%v: %d write-backs for %d bytes, want %d", policy, got, l.Size(), want)
		}
	}
}
