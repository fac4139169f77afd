package log

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/ring/sim"
)

// stalled is twelve logs whose journal has no room: its next frame waits for a cut.
func stalled(t *testing.T) (*rig, []*Log) {
	r := newRig(t, 3)
	r.journalBytes = 64 << 10
	r.config.Policy, r.config.SegmentBytes = Journal, 1<<20
	r.open()
	var logs []*Log
	for i := range 12 {
		l, err := r.dir.Create(fmt.Sprint("t", i), 0, [16]byte{1, 2, byte(i)}, r.config)
		if err == nil {
			err = l.Attach(r.core, &r.owner)
		}
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, l)
	}
	for i := 0; r.journal.Stats().Waits == 0; i++ {
		if i > 10_000 {
			t.Fatal("the journal is never full")
		}
		logs[i%12].Append(stamped(1, 3000), Client, 0, 0)
		if i%4 == 0 {
			r.turn()
		}
	}
	return r, logs
}

// A partition that is deleted, or cut, while its entry waits for room in the journal, and the
// journal for it, holds up nobody.
func TestDeleteWhileTheJournalIsFull(t *testing.T) {
	for n := range 12 {
		for _, what := range []string{"delete", "truncate"} {
			r, logs := stalled(t)
			do := logs[n].Delete
			if what == "truncate" {
				do = func(d Done) { logs[n].Truncate(0, d) }
			}
			r.must(what, do)
			for i, l := range logs {
				if i != n {
					r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
				}
			}
		}
	}
}

// A fenced partition keeps its part of the journal, until there is no room for the others: they can
// still be closed cleanly.
func TestCloseWhileAFencedLogFillsTheJournal(t *testing.T) {
	r := newRig(t, 3)
	r.journalBytes = 64 << 10
	r.config.Policy, r.config.SegmentBytes = Journal, 1<<20
	r.open()
	l, u := r.create("t"), r.create("u")
	r.add(l, batch(1, "x"))
	r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
	l.fail("test", sim.ErrCrashed)
	for i := 0; r.journal.Stats().Waits == 0; i++ {
		if i > 20_000 {
			t.Fatal("the journal is never full")
		}
		u.Append(stamped(1, 3000), Client, 0, 0)
		r.turn()
	}
	if err := r.ask("close the fenced one", l.Close); err == nil {
		t.Error("a fenced log was closed cleanly")
	}
	r.must("close the other", u.Close)
}

// A log whose last entry is damaged stays fenced at the start after the next.
func TestDamagedLastEntryStaysFenced(t *testing.T) {
	r := newRig(t, 11)
	r.journalBytes = 128 << 10
	r.config.Policy, r.config.SegmentBytes = Journal, 1<<20
	r.open()
	l, u := r.create("t"), r.create("u")
	for i := range 2 {
		r.add(l, batch(2, fmt.Sprint("n", i)))
		r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
	}
	r.add(u, batch(2, "u"))
	r.until("flushed", func() bool { return u.Flushed() == u.LogEnd() })
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	r.damageJournal(1)
	for start := range 3 {
		r.open()
		if l = r.find("t"); l.Err() == nil || l.LogEnd() != 2 {
			t.Fatalf("start %d: end %d, %v", start, l.LogEnd(), l.Err())
		}
		r.disk.Crash(sim.ProcessKill)
		r.disk.Restart()
	}
}
