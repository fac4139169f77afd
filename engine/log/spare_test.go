package log

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/millrace/millrace/ring/sim"
)

const sparePath = "/data/t-0/" + spareName

// TestSpareFaults: where a spare cannot be made, or not be given its name, the roll makes the file.
func TestSpareFaults(t *testing.T) {
	for _, rule := range []string{
		`(Create (path "next.log.tmp") EIO)`,
		`(Create (path "next.log.tmp") (nth 1) ENOSPC)`,
		`(Rename (path "next.log.tmp") EIO)`,
		`(Rename (path "next.log.tmp") (nth 1) ENOSPC)`,
		`(Rename (path "next.log.tmp") EIO) (Create (path "*.log") (nth 1) ENOSPC)`,
		`(Rename (path "next.log.tmp") EIO) (Remove (path "next.log.tmp") EIO)`,
	} {
		for _, policy := range []Policy{OS, Interval, Write, File, Journal} {
			t.Run(policy.String()+rule, func(t *testing.T) {
				r := newRig(t, 1)
				if policy == Journal {
					r.journalBytes = 1
				}
				r.config.Policy, r.config.SegmentBytes = policy, 900
				r.open()
				l := r.create("t")
				if err := r.rules.Add(rule); err != nil {
					t.Fatal(err)
				}
				for range 40 {
					r.until("space", func() bool { return !l.noSpace })
					r.fill(l, 1)
					r.idle(l)
				}
				if l.Err() != nil || l.core.stats.Rolls < 3 || len(r.rules.Unfired()) > 0 {
					t.Fatalf("%v, %d rolls, unfired: %v", l.Err(), l.core.stats.Rolls, r.rules.Unfired())
				}
				r.rules.Clear()
				end := l.LogEnd()
				if err := r.closeAll(); err != nil {
					t.Fatal(err)
				}
				if open := r.disk.OpenFiles(); len(open) > 0 {
					t.Errorf("left open: %v", open)
				}
				r.open()
				if l = r.find("t"); l.LogEnd() != end || !r.report.Clean {
					t.Fatalf("end %d of %d: %v", l.LogEnd(), end, r.report)
				}
				if _, err := r.all(l, end); err != nil {
					t.Fatal(err)
				}
				if _, err := r.disk.Stat(sparePath); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the spare is there after a start: %v", err)
				}
			})
		}
	}
}

// prepared is a log that has a spare, and whose next append rolls.
func prepared(t *testing.T, policy Policy) (*rig, *Log) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = policy, 900
	r.open()
	l := r.create("t")
	for l.active().size < 800 {
		r.fill(l, 1)
		r.idle(l)
	}
	if _, err := r.disk.Stat(sparePath); err != nil || len(l.segments) != 1 {
		t.Fatalf("no spare: %v, %d segments", err, len(l.segments))
	}
	return r, l
}

// slowNames delays the second task of a roll: the first gives the file its name.
const slowNames = `(Task (nth 2) (delay 500ms))`

// TestRollDoesNotWaitForNames: a batch in a new segment is written, and under policies that promise no
// more stable, before the segment's name is durable; under those that do, it is stable then.
func TestRollDoesNotWaitForNames(t *testing.T) {
	for _, policy := range []Policy{OS, Interval, Write, File} {
		t.Run(policy.String(), func(t *testing.T) {
			r, l := prepared(t, policy)
			base := l.LogEnd()
			r.rules.Add(slowNames)
			began := r.io.Now()
			r.fill(l, 1)
			l.Flush(nil)
			s := l.active()
			r.until("written", func() bool { return l.Written() == l.LogEnd() })
			if !s.unnamed || l.core.stats.Spares != 1 || r.io.Now()-began > 400e6 {
				t.Fatalf("unnamed: %v, %d spares, %d ms", s.unnamed, l.core.stats.Spares, (r.io.Now()-began)/1e6)
			}
			if (l.Stable() > base) == policy.Synchronous() {
				t.Errorf("stable %d, the segment begins at %d", l.Stable(), base)
			}
			r.until("the sync", func() bool { return l.sync.held || l.write.forced.held })
			if l.synced != base || r.io.Now()-began > 400e6 {
				t.Errorf("synced %d, the segment begins at %d, %d ms", l.synced, base, (r.io.Now()-began)/1e6)
			}
			r.until("named", func() bool { return !s.unnamed })
			if l.synced != l.LogEnd() || l.Stable() != l.LogEnd() {
				t.Errorf("synced %d, stable %d, end %d", l.synced, l.Stable(), l.LogEnd())
			}
		})
	}
}

// TestNamesNotSynced: nothing in a segment whose name could not be made durable counts as synced.
func TestNamesNotSynced(t *testing.T) {
	for _, policy := range []Policy{OS, Interval, Write, File} {
		t.Run(policy.String(), func(t *testing.T) {
			r, l := prepared(t, policy)
			base := l.LogEnd()
			r.rules.Add(slowNames + `(SyncDir (path "t-0") EIO)`)
			r.fill(l, 1)
			var told error
			l.Flush(DoneFunc(func(_ *Log, err error) { told = err }))
			r.until("fenced", func() bool { return l.Err() != nil })
			r.until("told", func() bool { return told != nil })
			if l.synced != base || policy.Synchronous() && l.Stable() != base || !errors.Is(told, syscall.EIO) || l.sync.busy || l.write.busy {
				t.Errorf("synced %d, stable %d, the segment begins at %d; %v", l.synced, l.Stable(), base, told)
			}
			r.rules.Clear()
			r.ask("close", l.Close)
			r.dir.CloseClean()
			if open := r.disk.OpenFiles(); len(open) > 0 {
				t.Errorf("left open: %v", open)
			}
		})
	}
}

// TestSpareIsGivenUp: by a log that is idle, and by one that is closed or deleted.
func TestSpareIsGivenUp(t *testing.T) {
	for _, how := range []string{"idle", "close", "delete"} {
		r, l := prepared(t, OS)
		switch how {
		case "idle":
			l.Retain() // nothing has come since it was made
			r.until("removed", func() bool { return !l.spare.busy })
		case "close":
			r.must("close", l.Close)
		case "delete":
			r.must("delete", l.Delete)
			r.until("removed", func() bool { return l.closed })
		}
		if _, err := r.disk.Stat(sparePath); !errors.Is(err, fs.ErrNotExist) || r.core.spares != 0 {
			t.Errorf("%s: %v, %d spares", how, err, r.core.spares)
		}
		if open := r.disk.OpenFiles(); how == "delete" && len(open) > 1 { // the directory's lock
			t.Errorf("%s: left open: %v", how, open)
		}
	}
}

// TestSparesAreBounded: a log beyond the bound rolls without.
func TestSparesAreBounded(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 900
	r.open()
	l := r.create("t")
	r.core.spares = sparesMax
	r.fill(l, 20)
	r.idle(l)
	if s := r.core.stats; s.Rolls == 0 || s.Spares != 0 || r.core.spares != sparesMax {
		t.Errorf("%d rolls, %d with a spare, %d spares", s.Rolls, s.Spares, r.core.spares)
	}
}

// TestSpareBeforeARollByAge: one is made in the last minute before it.
func TestSpareBeforeARollByAge(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes, r.config.SegmentMs = 1<<20, 3600_000
	r.open()
	l := r.create("t")
	for _, step := range []struct {
		ts    int64
		spare bool
		rolls int
	}{{1000, false, 0}, {3500_000, false, 0}, {3545_000, true, 0}, {3602_000, false, 1}} {
		r.add(l, stamped(step.ts, 10))
		r.idle(l)
		if (l.spare.fd >= 0) != step.spare || len(l.segments) != 1+step.rolls {
			t.Errorf("at %d ms: spare %d, %d segments", step.ts, l.spare.fd, len(l.segments))
		}
	}
}

// TestSpareAfterACrash: a start removes it.
func TestSpareAfterACrash(t *testing.T) {
	r, _ := prepared(t, OS)
	r.disk.Crash(sim.ProcessKill)
	r.disk.Restart()
	r.open()
	if _, err := r.disk.Stat(sparePath); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
