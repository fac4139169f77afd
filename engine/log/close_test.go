package log

import (
	"errors"
	"testing"
)

// TestClosed: a closed log answers everything, and touches nothing.
func TestClosed(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		r := newRig(t, 1).open()
		l := r.create("t")
		r.fill(l, 50)
		// Asked for before the close, and done; asked for after it, and refused.
		told := map[string]error{}
		note := func(what string) Done {
			return DoneFunc(func(_ *Log, err error) { told[what] = err })
		}
		l.Flush(note("flush before"))
		l.StartEpoch(8, note("epoch before"))
		end := l.Close
		if deleted {
			end = l.Delete
		}
		end(note("end"))
		l.StartEpoch(9, note("epoch"))
		l.Truncate(10, note("truncate"))
		l.Restart(10, note("restart"))
		l.AdvanceLogStart(0, note("log start"))
		end(note("end again"))
		r.until("all are told", func() bool { return len(told) == 8 || len(told) == 7 && deleted })
		l.Flush(note("flush"))
		r.until("the last is told", func() bool { _, ok := told["flush"]; return ok })
		for what, err := range told {
			early := what == "epoch before" || what == "end" || what == "flush before" && !deleted
			if early && err != nil || !early && !errors.Is(err, ErrClosed) && what != "flush" && what != "flush before" {
				t.Errorf("deleted %v: %s: %v", deleted, what, err)
			}
		}
		if _, err := l.Append(batch(1, "x"), Client, 9, 0); !errors.Is(err, ErrClosed) {
			t.Errorf("append: %v", err)
		}
		if _, err := r.read(l, 0, 10, 10); !errors.Is(err, ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if !deleted {
			if err := r.dir.CloseClean(); err != nil {
				t.Error(err)
			}
			r.open()
			if l = r.find("t"); l.LogEnd() != 100 || l.LatestEpoch() != 8 || !r.report.Clean {
				t.Errorf("end %d, epoch %d", l.LogEnd(), l.LatestEpoch())
			}
		}
	}
}

// TestDeterministic: the same seed is the same history.
func TestDeterministic(t *testing.T) {
	trace := func() uint64 {
		h := &history{rig: newRig(t, 8431), model: model{cutMay: -1}, value: 3}
		h.config.Policy = File
		h.config.SegmentBytes = 900
		h.run()
		return h.world.Trace()
	}
	if a, b := trace(), trace(); a != b {
		t.Fatalf("traces %x and %x", a, b)
	}
}
