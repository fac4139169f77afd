package log

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// script runs appends under fault rules and says how each ended.
func script(t *testing.T, policy Policy, rules string, appends int) (*rig, *Log, string) {
	t.Helper()
	r := newRig(t, 1)
	r.config.Policy = policy
	r.open()
	l := r.create("t")
	r.idle(l)
	if err := r.rules.Add(rules); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range appends {
		a, err := l.Append(batch(1, fmt.Sprint("n", i)), Client, 0, r.io.WallMillis())
		switch {
		case err != nil:
			fmt.Fprintf(&b, "error: %v\n", err)
		default:
			r.idle(l)
			fmt.Fprintf(&b, "offset=%d logEnd=%d written=%d flushed=%d stable=%d\n", a.BaseOffset, l.LogEnd(), l.Written(), l.Flushed(), l.Stable())
		}
	}
	for i, err := range r.owner.failed {
		fmt.Fprintf(&b, "failed %d: %v\n", i, err)
	}
	return r, l, b.String()
}

const segment0 = "/data/t-0/00000000000000000000"

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name    string
		policy  Policy
		rules   string
		appends int
		want    string
	}{
		{"second sync fails", Write, `(Sync (path "*.log") (nth 2) EIO)`, 3, `
offset=0 logEnd=1 written=1 flushed=1 stable=1
offset=1 logEnd=2 written=2 flushed=1 stable=1
error: ` + segment0 + `.log: sync: input/output error; log fenced
failed 0: ` + segment0 + `.log: sync: input/output error; log fenced
`},
		{"sync fails under file", File, `(Sync (path "*.log") (nth 2) EIO)`, 3, `
offset=0 logEnd=1 written=1 flushed=1 stable=1
offset=1 logEnd=2 written=2 flushed=1 stable=1
error: ` + segment0 + `.log: sync: input/output error; log fenced
failed 0: ` + segment0 + `.log: sync: input/output error; log fenced
`},
		{"write fails", OS, `(Write (path "*.log") (nth 2) EIO)`, 3, `
offset=0 logEnd=1 written=1 flushed=0 stable=1
offset=1 logEnd=2 written=1 flushed=0 stable=1
error: ` + segment0 + `.log: write: input/output error; log fenced
failed 0: ` + segment0 + `.log: write: input/output error; log fenced
`},
		{"torn write", Write, `(Write (path "*.log") (nth 2) torn)`, 3, `
offset=0 logEnd=1 written=1 flushed=1 stable=1
offset=1 logEnd=2 written=1 flushed=1 stable=1
error: ` + segment0 + `.log: write: input/output error; log fenced
failed 0: ` + segment0 + `.log: write: input/output error; log fenced
`},
		{"short writes are written on", Write, `(Write (path "*.log") (every 2) short 10)`, 3, `
offset=0 logEnd=1 written=1 flushed=1 stable=1
offset=1 logEnd=2 written=2 flushed=2 stable=2
offset=2 logEnd=3 written=3 flushed=3 stable=3
`},
		{"short writes, one sync for all", File, `(Write (path "*.log") (every 2) short 10)`, 2, `
offset=0 logEnd=1 written=1 flushed=1 stable=1
offset=1 logEnd=2 written=2 flushed=2 stable=2
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, l, got := script(t, c.policy, c.rules, c.appends)
			if want := c.want[1:]; got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if b, err := r.all(l, l.Stable()); err != nil || len(b) == 0 {
				t.Errorf("what is stable cannot be read: %v", err)
			}
			if left := r.rules.Unfired(); len(left) > 0 {
				t.Errorf("unfired: %v", left)
			}
			fenced := l.Err() != nil
			err := r.ask("close", l.Close)
			if (err != nil) != fenced {
				t.Errorf("close: %v", err)
			}
			if err := r.dir.CloseClean(); (err != nil) != fenced {
				t.Errorf("close the directory: %v", err)
			}
			if open := r.disk.OpenFiles(); len(open) > 0 {
				t.Errorf("left open: %v", open)
			}
		})
	}
}

// TestFaultsOfWork breaks what jobs do: each failure fences the log, names the
// file and loses nothing that was stable.
func TestFaultsOfWork(t *testing.T) {
	for _, c := range []struct{ name, rules, names string }{
		{"create segment", `(Create (path "next.log.tmp") EIO) (Create (path "*.log") EIO)`, ".log"},
		{"sync directory", `(SyncDir (path "t-0") EIO)`, "t-0"},
		{"size index", `(Truncate (path "*.index") EIO)`, ".index"},
		{"map index", `(Map EIO)`, "index"},
		{"sync index", `(Sync (path "*.index") EIO)`, ".index"},
		{"write snapshot", `(Write (path "*.snapshot.tmp") EIO)`, "snapshot"},
		{"rename snapshot", `(Rename (path "*.snapshot*") EIO)`, "snapshot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.config.Policy = File
			r.config.SegmentBytes = 600
			r.open()
			l := r.create("t")
			if err := r.rules.Add(c.rules); err != nil {
				t.Fatal(err)
			}
			for i := 0; l.Err() == nil && i < 50; i++ {
				if _, err := l.Append(batch(2, fmt.Sprint(i)), Client, 0, 0); err != nil && l.Err() == nil {
					t.Fatal(err)
				}
				r.idle(l)
			}
			if l.Err() == nil || len(r.owner.failed) != 1 || !strings.Contains(l.Err().Error(), c.names) || !errors.Is(l.Err(), syscall.EIO) {
				t.Fatalf("fenced: %v, told %d times", l.Err(), len(r.owner.failed))
			}
			stable := l.Stable()
			if _, err := r.all(l, stable); err != nil {
				t.Fatal(err)
			}
			r.rules.Clear()
			r.ask("close", l.Close)
			if err := r.dir.CloseClean(); err == nil {
				t.Fatal("a clean stop")
			}
			r.open()
			l = r.find("t")
			if l.Err() != nil || l.LogEnd() < stable {
				t.Fatalf("after a restart: %v, end %d of %d", l.Err(), l.LogEnd(), stable)
			}
			if _, err := r.all(l, l.LogEnd()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFullDisk: a full disk refuses appends and loses nothing; with space again
// everything goes on, in order.
func TestFullDisk(t *testing.T) {
	for _, policy := range []Policy{OS, Write, File} {
		t.Run(policy.String(), func(t *testing.T) {
			r := newRig(t, 1)
			r.config.Policy = policy
			r.open()
			l := r.create("t")
			r.fill(l, 5)
			r.idle(l)
			r.disk.SetFree(150)
			var err error
			for i := 0; i < 200 && err == nil; i++ {
				_, err = l.Append(batch(2, fmt.Sprint("full ", i)), Client, 0, r.io.WallMillis())
				r.idle(l)
			}
			if !errors.Is(err, ErrNoSpace) || l.Err() != nil {
				t.Fatalf("on a full disk: %v, %v", err, l.Err())
			}
			stable, end := l.Stable(), l.LogEnd()
			if stable == end {
				t.Fatalf("stable %d of %d", stable, end)
			}
			r.disk.SetFree(1 << 30)
			if !r.until("space again", func() bool { return l.Stable() == end }) {
				t.Fatal("down")
			}
			r.fill(l, 20)
			r.idle(l)
			if _, err := r.all(l, l.LogEnd()); err != nil {
				t.Fatal(err)
			}
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFullDiskWhereverItHits fills the disk at every distance and frees it again.
func TestFullDiskWhereverItHits(t *testing.T) {
	for free := int64(0); free < 12_000; free += 401 {
		r := newRig(t, uint64(free)+1)
		r.config.Policy = File
		r.config.SegmentBytes = 900
		r.open()
		l := r.create("t")
		r.idle(l)
		r.disk.SetFree(free)
		var stored int64
		for i := range 60 {
			a, err := l.Append(batch(2, fmt.Sprint("n", i)), Client, 0, r.io.WallMillis())
			switch {
			case err == nil:
				stored = a.LastOffset + 1
			case errors.Is(err, ErrNoSpace):
				r.disk.SetFree(1 << 30)
				r.until("space", func() bool { return !l.noSpace })
			case errors.Is(err, ErrPressure):
			default:
				t.Fatalf("free %d: append %d: %v", free, i, err)
			}
			r.idle(l)
		}
		r.disk.SetFree(1 << 30)
		r.until("all stable", func() bool { return l.Stable() == stored })
		if _, err := r.all(l, stored); err != nil {
			t.Fatalf("free %d: %v", free, err)
		}
		if err := r.closeAll(); err != nil {
			t.Fatalf("free %d: %v", free, err)
		}
		r.open()
		if l = r.find("t"); l.LogEnd() != stored || !r.report.Clean {
			t.Fatalf("free %d: end %d of %d: %v", free, l.LogEnd(), stored, r.report)
		}
	}
}

// TestRemovalOnFullDisk: the directory has no room for the names that segments get before they go. What would make
// room is tried again, and the log lacks nothing.
func TestRemovalOnFullDisk(t *testing.T) {
	for _, what := range []string{"retention", "log start"} {
		for _, suffix := range segmentSuffixes[:3] {
			r := newRig(t, 1)
			r.config.Policy, r.config.SegmentBytes = File, 900
			r.open()
			l := r.create("t")
			r.fill(l, 60)
			r.idle(l)
			l.SetHighWatermark(l.LogEnd())
			segments := len(l.segments)
			if err := r.rules.Add(`(Rename (path "*` + suffix + `") (nth 2) ENOSPC)`); err != nil {
				t.Fatal(err)
			}
			if what == "retention" {
				r.config.RetentionBytes = 1000
				if err := l.SetConfig(r.config); err != nil {
					t.Fatal(err)
				}
				l.Retain()
			} else {
				r.must(what, func(d Done) { l.AdvanceLogStart(l.active().base, d) })
			}
			r.idle(l)
			if left := r.rules.Unfired(); len(left) > 0 || l.Err() != nil || len(l.segments) > segments || len(l.segments) <= 2 {
				t.Fatalf("%s, %s: %d segments of %d, %v; unfired: %v", what, suffix, len(l.segments), segments, l.Err(), left)
			}
			r.until("tried again", func() bool { return len(l.segments) <= 2 })
			if _, err := r.all(l, l.LogEnd()); err != nil || l.Err() != nil {
				t.Fatalf("%s, %s: %v, %v", what, suffix, err, l.Err())
			}
			if at := r.io.Now(); at > 5*spaceRetry {
				t.Fatalf("%s, %s: after %d ns", what, suffix, at)
			}
		}
	}
}

// TestSyncOrder: nothing counts as flushed before a sync that was submitted after
// the write had completed, and a later segment never before an earlier one.
func TestSyncOrder(t *testing.T) {
	for seed := range uint64(20) {
		r := newRig(t, seed)
		r.config.Policy = File
		r.config.SegmentBytes = 700
		r.open()
		l := r.create("t")
		r.idle(l)
		// The first segment's syncs are slow; the second's are not.
		r.rules.Add(`(Sync (path "00000000000000000000.log") (delay 50ms))`)
		first := int64(0)
		for i := range 20 {
			r.add(l, batch(2, fmt.Sprint(i)))
			if len(l.segments) == 2 && first == 0 {
				first = l.segments[1].base
			}
			r.turn()
			if first > 0 && l.Flushed() > first && l.segments[0].end != first {
				t.Fatalf("seed %d: flushed %d past the first segment %d", seed, l.Flushed(), first)
			}
		}
		r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
		r.disk.Crash(2)
		r.disk.Restart()
		r.rules.Clear()
		r.open()
		if got := r.find("t"); got.LogEnd() != 40 {
			t.Fatalf("seed %d: %d of 40 offsets: %v", seed, got.LogEnd(), r.report)
		}
	}
}

// TestShareUnderPressure: what is refused for want of memory takes nothing of the core's share of the disk, and gives
// it nothing.
func TestShareUnderPressure(t *testing.T) {
	r := newRig(t, 1)
	r.cores.TailBytes = 16 << 10
	r.open()
	l := r.create("t")
	r.idle(l)
	r.core.space = allowance{of: NewSpace(r.dir, 1<<20, 1)}
	r.disk.SetFree(2 << 20)
	if _, short, err := r.core.space.of.Check(); short || err != nil {
		t.Fatal(short, err)
	}
	for _, how := range []Origin{Client, Coordinator} {
		for {
			left := r.core.space.left
			_, err := l.Append(batch(20, "a batch"), how, 0, r.io.WallMillis())
			if err == nil {
				continue
			}
			if now := r.core.space.left; !errors.Is(err, ErrPressure) || now != left || now >= 1<<20 {
				t.Fatalf("%v: origin %d: %d bytes were left of the share, and now %d", err, how, left, now)
			}
			break
		}
	}
}
