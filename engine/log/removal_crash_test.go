package log

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring/sim"
)

// TestCrashInRemovals crashes, before each disk event, what makes and removes whole
// files and directories: CreateAll, retention, Delete, and a successor of the same name.
func TestCrashInRemovals(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 2
	}
	for _, mode := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			for n := 1; removalsAt(t, mode, n); n += step {
			}
		})
	}
}

// removalsAt crashes before the n-th disk event; false: there are not so many.
func removalsAt(t *testing.T, mode sim.Crash, n int) bool {
	r := newRigWithout(t, uint64(n))
	defer r.world.Close()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%v before disk event %d: %s\n%v\ndisk: %s", mode, n, fmt.Sprintf(format, args...), r.report, r.listing())
	}
	r.config.Policy, r.config.SegmentBytes, r.config.RetentionBytes = File, 900, 900
	r.config.FileDeleteDelayMs = int64(n%2) * 10_000 // at once, or not before the crash
	r.world.CrashAfter(r.disk, n, mode)
	var made int           // of the three, promised
	var start, mark int64  // of "keep": log start promised, and the most it may be
	var end int64          // of "keep", promised
	var gone, again bool   // "drop" is promised to be removed; its successor to be there
	var successor uint64   // its incarnation
	var successorEnd int64 // promised
	func() {
		if r.tryOpen() != nil {
			return
		}
		parts := make([]NewPartition, 3)
		for i, name := range []string{"drop", "keep", "spare"} {
			parts[i] = NewPartition{name, 0, [16]byte{byte(i + 1)}, r.config}
		}
		logs, err := r.dir.CreateAll(parts)
		if err != nil {
			return
		}
		made = len(logs)
		for _, l := range logs {
			if err := l.Attach(r.core, &r.owner); err != nil {
				fail("attach: %v", err)
			}
		}
		drop, keep := logs[0], logs[1]
		// Removed from the front, in two steps, by size.
		for range 2 {
			for _, l := range []*Log{keep, drop} {
				for i := range 25 {
					if _, err := l.Append(batch(2, fmt.Sprint(i)), Client, 0, 0); err != nil && !r.disk.Crashed() {
						fail("append: %v", err)
					}
					if !r.until("stable", func() bool { return l.Stable() == l.LogEnd() }) {
						return
					}
				}
			}
			end = keep.Stable()
			keep.SetHighWatermark(end)
			mark = end
			if r.dir.Checkpoint() != nil {
				return
			}
			keep.Retain()
			if !r.idle(keep) {
				return
			}
			if keep.LogStart() == start {
				fail("retention removed nothing")
			}
			start = keep.LogStart()
		}
		if r.ask("delete", drop.Delete) != nil {
			return
		}
		gone = true
		next, err := r.dir.Create("drop", 0, [16]byte{1, 1}, r.config)
		if err != nil {
			return
		}
		again, successor = true, next.Incarnation()
		if err := next.Attach(r.core, &r.owner); err != nil {
			fail("attach: %v", err)
		}
		for next.LogEnd() < 6 {
			r.add(next, batch(2, "next"))
			if !r.until("stable", func() bool { return next.Stable() == next.LogEnd() }) {
				return
			}
			successorEnd = next.Stable()
		}
		r.dir.Checkpoint()
		r.until("removed", func() bool { return drop.closed || n%2 == 1 })
	}()
	if !r.disk.Crashed() {
		return false
	}
	for start := range 2 {
		r.disk.Restart()
		if start == 0 { // once more, somewhere in the recovery
			r.world.CrashAfter(r.disk, 1+int(r.world.Random()%30), mode)
		} else {
			r.world.CrashAfter(r.disk, 0, mode)
		}
		if err := r.tryOpen(); err == nil {
			if start == 0 && !r.disk.Crashed() {
				r.disk.Crash(mode)
			}
		} else if !r.disk.Crashed() {
			fail("open: %v", err)
		}
	}
	for _, l := range r.report.Logs {
		if l.Damage != nil {
			fail("damage: %v", l.Damage)
		}
	}
	for _, name := range []string{"drop", "keep", "spare"} {
		l := r.find(name)
		if l == nil {
			if made == 3 && (name != "drop" || again) {
				fail("%s is gone", name)
			}
			continue
		}
		if l.LogEnd() > l.LogStart() {
			r.dropTail()
			if _, err := r.all(l, l.LogEnd()); err != nil {
				fail("%s: %v", name, err)
			}
		}
		switch {
		case name == "keep" && (l.LogEnd() < end || l.LogStart() < start || l.LogStart() > max(mark, start)):
			fail("keep: %d..%d, promised %d..%d", l.LogStart(), l.LogEnd(), start, end)
		case name == "drop" && gone && l.topicID != [16]byte{1, 1}:
			fail("what was deleted is there: %x", l.topicID)
		case name == "drop" && again && (l.Incarnation() != successor || l.LogEnd() < successorEnd || l.LogEnd() > 6):
			fail("successor: incarnation %x, end %d of %d", l.Incarnation(), l.LogEnd(), successorEnd)
		case l.topicID == [16]byte{}:
			fail("%s has no topic id", name)
		}
	}
	return true
}

// kill ends the process and starts it again: what was written is in the page cache, and
// not on disk for that.
func (r *rig) kill() {
	r.t.Helper()
	r.disk.Crash(sim.ProcessKill)
	r.disk.Restart()
	r.open()
}

// TestKillThenPowerLoss: what recovery found in the page cache, and promises from
// then on, is on disk before it does.
func TestKillThenPowerLoss(t *testing.T) {
	for _, policy := range []Policy{OS, File} {
		for seed := range uint64(60) {
			r := newRig(t, seed)
			r.config.Policy, r.config.SegmentBytes, r.config.IndexIntervalBytes = policy, 900, 100
			r.open()
			l := r.create("t")
			r.fill(l, 5)
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
			// The start after a clean stop is killed before it has done anything.
			r.open()
			r.kill()
			if r.report.Clean {
				t.Fatalf("seed %d: the mark of a clean stop outlived the start", seed)
			}
			l = r.find("t")
			r.fill(l, 1+int(seed)%25)
			for range r.world.Random() % 60 {
				r.turn()
			}
			r.kill()
			l = r.find("t")
			end := l.LogEnd()
			if l.Flushed() != end || l.Stable() != end {
				t.Fatalf("seed %d: flushed %d, stable %d of %d", seed, l.Flushed(), l.Stable(), end)
			}
			r.disk.Crash(sim.PowerLossClean)
			r.disk.Restart()
			r.open()
			if l = r.find("t"); r.report.Clean || l.Err() != nil || l.LogEnd() != end {
				t.Fatalf("%v, seed %d: end %d of %d: %v", policy, seed, l.LogEnd(), end, r.report)
			}
			r.dropTail()
			if _, err := r.all(l, end); err != nil {
				t.Fatalf("%v, seed %d: %v\n%v", policy, seed, err, r.report)
			}
		}
	}
}

// TestCrashInFinish loses power at each step of the end of a segment, whose indexes
// take several sectors and whose end has had a producer snapshot since before the
// roll: what a lookup finds is right.
func TestCrashInFinish(t *testing.T) {
	const seeds = 20
	for i := seeds; ; i++ {
		n := i / seeds
		r := newRigWithout(t, uint64(i))
		r.config.Policy, r.config.IndexIntervalBytes, r.config.IndexBytes, r.config.SegmentBytes = File, 1, 12*62, 1<<20
		r.open()
		l := r.create("t")
		for l.logEnd < 62 { // the next one rolls
			r.add(l, stamped(1000+l.logEnd*10, 20))
			if l.logEnd == 62 {
				l.snapshotAt = l.bytesIn - snapshotMax
			}
			r.idle(l)
		}
		if len(l.segments) != 1 || len(l.producer.snapshots) != 1 {
			t.Fatalf("%d segments, snapshots %v", len(l.segments), l.producer.snapshots)
		}
		if err := r.dir.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		r.world.CrashAfter(r.disk, n, sim.PowerLoss)
		r.add(l, stamped(1000+l.logEnd*10, 20))
		end := l.Stable()
		if len(l.segments) != 2 || l.active().base != l.producer.snapshots[0] {
			t.Fatalf("%d segments, snapshots %v", len(l.segments), l.producer.snapshots)
		}
		for i := 0; i < 1000 && r.turn(); i++ {
			end = l.Stable()
		}
		if !r.disk.Crashed() {
			r.world.Close()
			return
		}
		r.disk.Restart()
		r.open()
		l = r.find("t")
		if l.Err() != nil || l.LogEnd() < end {
			t.Fatalf("event %d, seed %d: end %d of %d: %v", n, i, l.LogEnd(), end, r.report)
		}
		r.dropTail()
		for at := range end {
			q := &TimeQuery{Timestamp: 1000 + at*10}
			var told timeDone
			q.Done = &told
			if !l.FindTimestamp(q) {
				r.until("search", func() bool { return told.done })
			}
			if b, err := r.read(l, at, end, 1); err != nil || record.Batch(b).BaseOffset() != at || q.Err != nil || q.Offset != at {
				t.Fatalf("event %d, seed %d: offset %d: %v; by time: %d, %v", n, i, at, err, q.Offset, q.Err)
			}
		}
		r.world.Close()
	}
}

// TestSnapshotOfUse: however many snapshots follow, the one that a restart after a crash
// may believe stays, so that it need not scan the whole log.
func TestSnapshotOfUse(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 900
	r.open()
	l := r.create("t")
	r.fill(l, 30)
	r.must("flush", l.Flush)
	r.idle(l)
	if err := r.dir.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	point := l.published.checkpointed.Load()
	r.fill(l, 200)
	r.idle(l)
	r.kill()
	if got := r.report.Logs[0]; got.RecoveryPoint != point || got.Checked == 0 {
		t.Fatalf("%v", r.report)
	}
	for _, s := range r.find("t").segments {
		if s.end <= point && s.index.maxOffsets != 0 {
			t.Fatalf("the segment of %d was scanned, the recovery point is %d: %v", s.base, point, r.report)
		}
	}
}
