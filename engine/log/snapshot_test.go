package log

import (
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring/sim"
)

// TestCrashInSnapshot ends a log, in each way, at each step of producer snapshots that are taken
// without a sync, among rolls and checkpoints: what a producer sends again is known
// where it is there, and a start after the next finds the same.
func TestCrashInSnapshot(t *testing.T) {
	const producers = 3
	for _, crash := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		for event := 1; ; event++ {
			r := newRigWithout(t, uint64(event))
			r.config.Policy, r.config.SegmentBytes = File, 900
			r.open()
			l := r.create("t")
			r.world.CrashAfter(r.disk, event, crash)
			var told [producers]int32 // the next sequence number
			for i := 0; i < 24 && !r.disk.Crashed(); i++ {
				id := i % producers
				seq := int32(i / producers)
				l.snapshotAt = l.bytesIn - snapshotMax
				if _, err := l.Append(sequenced(int64(id), 0, seq, 1, false), Client, 0, 0); err != nil {
					t.Fatalf("event %d: %v", event, err)
				}
				end := l.LogEnd()
				for j := 0; j < 1000 && l.Stable() < end && r.turn(); j++ {
				}
				if l.Stable() < end {
					break
				}
				told[id] = seq + 1
				if i%4 == 3 && !r.disk.Crashed() {
					r.idle(l)
					if !r.disk.Crashed() {
						r.dir.Checkpoint() // the crash may be in it
					}
				}
			}
			if !r.disk.Crashed() {
				r.world.Close()
				break
			}
			r.disk.Restart()
			for range 2 {
				r.open()
				l = r.find("t")
				if l.Err() != nil {
					t.Fatalf("%v at event %d: %v", crash, event, l.Err())
				}
				// The producers send again what they have not been told of.
				for id, next := range told {
					if _, err := l.Append(sequenced(int64(id), 0, next, 1, false), Client, 0, 0); err != nil {
						t.Fatalf("%v at event %d: producer %d, sequence %d: %v", crash, event, id, next, err)
					}
				}
				r.idle(l)
				once(t, r, l, told)
				r.disk.Crash(crash)
				r.disk.Restart()
			}
			r.world.Close()
		}
	}
}

// once: each producer's batches are there up to the one after what it was told of, each once.
func once(t *testing.T, r *rig, l *Log, told [3]int32) {
	t.Helper()
	var next [3]int32
	b, err := r.all(l, l.LogEnd())
	for err == nil && len(b) > 0 {
		var batch record.Batch
		if batch, b, err = record.Next(b); err == nil {
			id := batch.ProducerID()
			if batch.BaseSequence() != next[id] {
				t.Fatalf("producer %d: sequence %d at offset %d, after %d", id, batch.BaseSequence(), batch.BaseOffset(), next[id]-1)
			}
			next[id]++
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for id := range told {
		if next[id] != told[id]+1 {
			t.Fatalf("producer %d: %d batches, %d were told", id, next[id], told[id])
		}
	}
}

// TestSnapshotsAreShared: where the logs of a core have much to scan together, each takes
// snapshots more often.
func TestSnapshotsAreShared(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 8 << 20
	r.open()
	l := r.create("t")
	add := func() {
		r.add(l, record.Batch(stamped(1, 900<<10)))
		r.idle(l)
	}
	add()
	add()
	if n := len(l.producer.snapshots); n != 0 {
		t.Fatalf("%d snapshots after %d bytes", n, l.bytesIn)
	}
	r.core.unscanned += snapshotAll
	add()
	if n := len(l.producer.snapshots); n != 1 {
		t.Fatalf("%d snapshots after %d bytes", n, l.bytesIn)
	}
	if left := r.core.unscanned - snapshotAll; left > 1<<20 {
		t.Errorf("%d bytes still count", left)
	}
}

// TestDurableSnapshotStays: between two checkpoints the log rolls twice, and the newest snapshot that is not above the
// recovery point is one that a power loss takes. The durable one before it is there: not all of the log is read again.
func TestDurableSnapshotStays(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = File, 900
	r.open()
	l := r.create("t")
	seq := int32(0)
	add := func() {
		r.add(l, sequenced(1, 0, seq, 1, false))
		seq++
		r.idle(l)
	}
	rolls := func(n int) {
		for end := len(l.segments) + n; len(l.segments) < end; {
			add()
		}
		r.idle(l)
	}
	rolls(3)
	add()
	r.settle(l)
	durable := l.active().base
	l.snapshotAt = l.bytesIn - snapshotMax
	add()
	hint := l.LogEnd()
	if _, err := r.disk.Stat(l.path + "/" + fileName(hint, suffixSnapshot)); err != nil {
		t.Fatal(err)
	}
	add()
	r.settle(l)
	rolls(3)
	size := l.Size()
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	if _, err := r.disk.Stat("/data/t-0/" + fileName(durable, suffixSnapshot)); err != nil {
		t.Error(err)
	}
	r.open()
	if l = r.find("t"); l.Err() != nil || r.report.Logs[0].Checked > size*2/3 {
		t.Fatalf("%v, %d bytes of %d checked", l.Err(), r.report.Logs[0].Checked, size)
	}
	if a, err := l.Append(sequenced(1, 0, seq-1, 1, false), Client, 0, 0); err != nil || !a.Duplicate {
		t.Fatalf("%+v, %v", a, err)
	}
}
