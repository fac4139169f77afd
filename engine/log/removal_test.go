package log

import (
	"testing"

	"github.com/millrace/millrace/ring/sim"
)

// removing is a log with segments that retention will remove, where a rule fails the disk.
func removing(t *testing.T, rule string) (*rig, *Log) {
	t.Helper()
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = File, 900
	r.open()
	l := r.create("t")
	r.fill(l, 60)
	r.idle(l)
	l.SetHighWatermark(l.LogEnd())
	if err := r.rules.Add(rule); err != nil {
		t.Fatal(err)
	}
	r.config.RetentionBytes = 1000
	if err := l.SetConfig(r.config); err != nil {
		t.Fatal(err)
	}
	return r, l
}

// TestCutOfWhatIsBeingRemoved: a removal found no room for a name; a cut to before its end makes that segment the active one.
func TestCutOfWhatIsBeingRemoved(t *testing.T) {
	r, l := removing(t, `(Rename (path "*.index") (nth 2) ENOSPC)`)
	l.Retain()
	r.idle(l)
	if l.unremoved == 0 || l.Err() != nil {
		t.Fatal(l.unremoved, l.Err())
	}
	to := l.segments[1].base + 2
	r.must("truncate", func(d Done) { l.Truncate(to, d) })
	r.fill(l, 2)
	r.idle(l)
	end := l.LogEnd()
	if l.Stable() != end || l.Err() != nil {
		t.Fatal(l.Stable(), end, l.Err())
	}
	before := r.listing()
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	r.open()
	if l = r.find("t"); l.Err() != nil || l.LogEnd() != end {
		t.Fatalf("end %d of %d, start %d, %v\n%s", l.LogEnd(), end, l.LogStart(), l.Err(), before)
	}
}

// TestRemovalThatFailsBeforeACut: what a removal could not do is not done to what comes in after a cut.
func TestRemovalThatFailsBeforeACut(t *testing.T) {
	r, l := removing(t, `(Rename (path "*.log") ENOSPC)`)
	l.Retain()
	to := l.segments[1].base + 2
	r.config.RetentionBytes = -1
	if err := l.SetConfig(r.config); err != nil {
		t.Fatal(err)
	}
	r.must("truncate", func(d Done) { l.Truncate(to, d) })
	r.fill(l, 40)
	r.idle(l)
	if l.LogStart() != 0 || l.unremoved != 0 {
		t.Errorf("start %d, to be removed below %d", l.LogStart(), l.unremoved)
	}
	r.rules.Clear()
	until := r.io.Now() + 3e9
	r.until("time", func() bool { return r.io.Now() > until })
	if l.LogStart() != 0 {
		t.Fatalf("the log starts at %d, cut at %d, end %d", l.LogStart(), to, l.LogEnd())
	}
}
