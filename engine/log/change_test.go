package log

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring/sim"
)

// TestTruncate cuts everywhere, in and between segments, memory and files.
func TestTruncate(t *testing.T) {
	for _, dropped := range []bool{false, true} {
		for to := int64(0); to <= 61; to++ {
			r := newRig(t, uint64(to)+1)
			r.config.Policy = File
			r.config.SegmentBytes = 900
			r.config.IndexIntervalBytes = 150
			r.open()
			l := r.create("t")
			for epoch := int32(1); epoch <= 3; epoch++ {
				r.must("epoch", func(d Done) { l.StartEpoch(epoch, d) })
				r.fill(l, 10)
				if dropped {
					r.idle(l)
				}
			}
			whole, err := r.all(l, 60)
			if err != nil {
				t.Fatal(err)
			}
			if dropped {
				r.dropTail()
			}
			r.must("truncate", func(d Done) { l.Truncate(to, d) })
			want := min(to/2*2, 60)
			if l.LogEnd() != want || l.Written() != want || l.Flushed() > want || l.Stable() > want {
				t.Fatalf("to %d: end %d written %d flushed %d stable %d", to, l.LogEnd(), l.Written(), l.Flushed(), l.Stable())
			}
			got, err := r.all(l, l.LogEnd())
			if err != nil || !bytes.HasPrefix(whole, got) {
				t.Fatalf("to %d: %v", to, err)
			}
			for i, e := range l.Epochs() {
				if e.Epoch != int32(i+1) || e.Start != int64(i)*20 || e.Start >= to && e.Start > 0 {
					t.Fatalf("to %d: epochs %v", to, l.Epochs())
				}
			}
			if to >= 60 {
				r.must("flush", l.Flush) // nothing was cut
			}
			// The cut is durable: power loss brings nothing back.
			r.disk.Crash(sim.PowerLossClean)
			r.disk.Restart()
			r.open()
			l = r.find("t")
			if l.LogEnd() != want || r.report.Logs[0].Damage != nil {
				t.Fatalf("to %d: end %d after power loss: %v", to, l.LogEnd(), r.report)
			}
			again, err := r.all(l, l.LogEnd())
			if err != nil || !bytes.Equal(again, got) {
				t.Fatalf("to %d: after power loss: %v", to, err)
			}
			r.fill(l, 10)
			r.idle(l)
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
			if open := r.disk.OpenFiles(); len(open) > 0 {
				t.Fatalf("to %d: left open: %v", to, open)
			}
		}
	}
}

// TestTruncateUnsynced cuts an idle log of which nothing is on disk in its own files: what stays is synced for it.
func TestTruncateUnsynced(t *testing.T) {
	for _, policy := range []Policy{OS, Interval, Journal} {
		r := newRig(t, 1)
		r.config.Policy, r.config.FlushMs, r.config.FlushMessages, r.config.FlushBytes = policy, Never, Never, Never
		r.journalBytes = 64 << 10
		r.open()
		l := r.create("t")
		r.fill(l, 10)
		r.idle(l)
		if l.synced != 0 {
			t.Fatalf("%v: synced %d", policy, l.synced)
		}
		r.must("truncate", func(d Done) { l.Truncate(10, d) })
		if l.LogEnd() != 10 || l.synced != 10 {
			t.Fatalf("%v: end %d, synced %d", policy, l.LogEnd(), l.synced)
		}
	}
}

// TestTruncateInsideBatch cuts inside a batch below the recovery point, with a crash at each step: the log comes up as it
// was, or ends before that batch.
func TestTruncateInsideBatch(t *testing.T) {
	for _, crash := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		for event := 1; ; event++ {
			r := newRig(t, uint64(event))
			r.config.Policy = File
			r.open()
			l := r.create("t")
			for i := range 5 {
				r.add(l, batch(5, fmt.Sprint(i)))
			}
			r.settle(l)
			r.world.CrashAfter(r.disk, event, crash)
			err := r.ask("truncate", func(d Done) { l.Truncate(13, d) })
			crashed := r.disk.Crashed()
			if !crashed {
				r.disk.Crash(crash)
			}
			r.disk.Restart()
			r.open()
			l = r.find("t")
			if end := l.LogEnd(); l.Err() != nil || end != 10 && (err == nil || end < 10 || end%5 != 0) {
				t.Fatalf("%v at event %d: end %d, %v", crash, event, end, l.Err())
			}
			if !crashed {
				break
			}
		}
	}
}

// TestTruncateIntoGap cuts to where a snapshot is and compaction has left no batch below: the snapshot is of what
// is not there any more.
func TestTruncateIntoGap(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.open()
	l := r.create("t")
	r.pause()
	for i := range 40 {
		r.append1(l, valued(1000+int64(i), "k", 300), Client)
	}
	r.settle(l)
	to := l.segments[len(l.segments)-2].base
	r.config.SegmentBytes = 1 << 20
	if err := l.SetConfig(r.config); err != nil || !slices.Contains(l.producer.snapshots, to) {
		t.Fatalf("%v; snapshots at %d, not at %d", err, l.producer.snapshots, to)
	}
	r.resume()
	r.passes(1, l)
	r.must("truncate", func(d Done) { l.Truncate(to, d) })
	end := l.LogEnd()
	if end >= to {
		t.Fatalf("end %d of %d: there is no gap", end, to)
	}
	name := l.path + "/" + fileName(to, suffixSnapshot)
	if _, err := r.disk.Stat(name); err == nil || slices.Contains(l.producer.snapshots, to) {
		t.Fatalf("a snapshot at %d, and the log ends at %d", to, end)
	}
	// What a producer appends from here on is known after a crash.
	r.append1(l, sequenced(7, 0, 0, 1, false), Client)
	for i := l.LogEnd(); i < to+3; i++ {
		r.append1(l, valued(1000, "k", 10), Client)
	}
	r.settle(l)
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	r.open()
	l = r.find("t")
	if a, err := l.Append(sequenced(7, 0, 0, 1, false), Client, 0, 0); err != nil || !a.Duplicate || a.BaseOffset != end {
		t.Fatalf("%+v, %v: it is at %d", a, err, end)
	}
}

// TestTruncateInFlight cuts while writes, syncs, rolls and reads are under way.
func TestTruncateInFlight(t *testing.T) {
	for seed := range uint64(150) {
		r := newRig(t, seed)
		r.config.Policy = []Policy{OS, Write, File}[seed%3]
		r.config.SegmentBytes = 900
		r.open()
		l := r.create("t")
		var d readDone
		q := &Read{Limit: Never, MaxBytes: 500, MinOne: true, Done: &d}
		reading := false
		for round := range 6 {
			for range 12 {
				l.Append(batch(2, fmt.Sprint(round)), Client, int32(round), r.io.WallMillis())
				for range r.world.Random() % 4 {
					r.turn()
				}
			}
			if !reading && l.LogEnd() > 0 {
				q.Offset = int64(r.world.Random() % uint64(l.LogEnd()))
				d.done = l.Read(q)
				reading = true
			}
			to := int64(r.world.Random() % uint64(l.LogEnd()+2))
			r.must("truncate", func(d Done) { l.Truncate(to, d) })
			if l.LogEnd() > to {
				t.Fatalf("seed %d: end %d, cut to %d", seed, l.LogEnd(), to)
			}
			if reading && d.done {
				l.Release(q)
				reading = false
			}
		}
		if reading {
			r.until("read", func() bool { return d.done })
			l.Release(q)
		}
		r.idle(l)
		if _, err := r.all(l, l.LogEnd()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		end := l.LogEnd()
		if err := r.closeAll(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if r.core.unwritten != 0 || r.core.held != 0 || r.io.Pool().Used() != 0 {
			t.Fatalf("seed %d: %d bytes unwritten, %d held, %d of the pool used", seed, r.core.unwritten, r.core.held, r.io.Pool().Used())
		}
		r.open()
		if l = r.find("t"); l.LogEnd() != end {
			t.Fatalf("seed %d: end %d of %d", seed, l.LogEnd(), end)
		}
	}
}

func TestRestart(t *testing.T) {
	for _, at := range []int64{0, 7, 40, 1000} {
		r := newRig(t, 1)
		r.config.SegmentBytes = 900
		r.open()
		l := r.create("t")
		r.fill(l, 20)
		r.idle(l)
		r.dir.Checkpoint()
		r.must("restart", func(d Done) { l.Restart(at, d) })
		if l.LogStart() != at || l.LogEnd() != at || l.HighWatermark() != at || len(l.Epochs()) != 0 {
			t.Fatalf("at %d: %d..%d", at, l.LogStart(), l.LogEnd())
		}
		r.disk.Crash(sim.PowerLossClean)
		r.disk.Restart()
		r.open()
		l = r.find("t")
		if l.LogStart() != at || l.LogEnd() != at {
			t.Fatalf("at %d: %d..%d after power loss: %v", at, l.LogStart(), l.LogEnd(), r.report)
		}
		r.fill(l, 3)
		r.idle(l)
		if _, err := r.all(l, at+6); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEpochEnd(t *testing.T) {
	r := newRig(t, 1).open()
	l := r.create("t")
	for _, e := range []int32{2, 5, 6} {
		r.must("epoch", func(d Done) { l.StartEpoch(e, d) })
		r.fill(l, 5)
	}
	for _, c := range []struct {
		ask   int32
		epoch int32
		end   int64
	}{{1, 1, 0}, {2, 2, 10}, {3, 2, 10}, {4, 2, 10}, {5, 5, 20}, {6, 6, 30}, {7, -1, -1}, {-1, -1, -1}} {
		if e, end := l.EpochEnd(c.ask); e != c.epoch || end != c.end {
			t.Errorf("epoch %d: %d ends at %d, want %d at %d", c.ask, e, end, c.epoch, c.end)
		}
	}
	if err := r.ask("older epoch", func(d Done) { l.StartEpoch(4, d) }); err == nil {
		t.Error("an older epoch was started")
	}
	l.SetHighWatermark(30)
	r.idle(l)
	r.must("log start", func(d Done) { l.AdvanceLogStart(14, d) })
	if want := []Epoch{{5, 14}, {6, 20}}; !slices.Equal(l.Epochs(), want) {
		t.Errorf("epochs %v, want %v", l.Epochs(), want)
	}
	if err := r.ask("beyond the mark", func(d Done) { l.AdvanceLogStart(31, d) }); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("log start above the high watermark: %v", err)
	}
}

func TestRetention(t *testing.T) {
	r := newRig(t, 1)
	r.config.SegmentBytes = 900
	r.config.RetentionBytes = 2000
	r.config.FileDeleteDelayMs = 1000
	r.open()
	l := r.create("t")
	r.fill(l, 60)
	r.idle(l)
	l.Retain()
	if r.idle(l); l.LogStart() != 0 {
		t.Fatalf("records above the high watermark were removed up to %d", l.LogStart())
	}
	l.SetHighWatermark(l.LogEnd())
	var d readDone
	r.dropTail()
	q := &Read{Offset: 0, Limit: Never, MaxBytes: 100, MinOne: true, Done: &d}
	if !l.Read(q) {
		r.until("read", func() bool { return d.done })
	}
	l.Retain()
	r.idle(l)
	if l.LogStart() == 0 || l.Size() > 2900 || l.Size() < 2000 {
		t.Fatalf("log start %d, size %d", l.LogStart(), l.Size())
	}
	if n := strings.Count(r.listing(), suffixDeleted); n == 0 {
		t.Fatal("nothing was renamed")
	}
	// A reader keeps its file open; the others go when their time has come.
	r.until("time", func() bool { return r.world.Now() > 3e9 })
	r.idle(l)
	if n := strings.Count(r.listing(), ".log.deleted"); n != 1 {
		t.Fatalf("%d deleted files while one is read", n)
	}
	if b, err := q.Bytes(r.host); err != nil || len(b) == 0 {
		t.Fatal(err)
	}
	l.Release(q)
	r.until("the last one", func() bool { return !strings.Contains(r.listing(), suffixDeleted) })
	// Time: everything is old, and yet a segment remains.
	cfg := l.Config()
	cfg.RetentionMs = 1000
	if err := l.SetConfig(cfg); err != nil {
		t.Fatal(err)
	}
	l.Retain()
	r.idle(l)
	if l.LogStart() != l.LogEnd() || len(l.segments) != 1 || l.LogEnd() != 120 {
		t.Fatalf("%d..%d in %d segments", l.LogStart(), l.LogEnd(), len(l.segments))
	}
	r.fill(l, 1)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	r.open()
	if l = r.find("t"); l.LogStart() != 120 || l.LogEnd() != 122 {
		t.Fatalf("reopened: %d..%d", l.LogStart(), l.LogEnd())
	}
}

func TestDelete(t *testing.T) {
	r := newRig(t, 1)
	r.config.FileDeleteDelayMs = 1000
	r.open()
	l := r.create("t")
	r.fill(l, 100)
	l.SetHighWatermark(50)
	r.idle(l)
	r.dir.Checkpoint()
	r.must("delete", l.Delete)
	if _, err := l.Append(batch(1, "x"), Client, 0, 0); !errors.Is(err, ErrClosed) {
		t.Fatalf("append: %v", err)
	}
	// A successor knows nothing of it, whatever happens.
	n := r.create("t")
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	r.open()
	if len(r.report.Removed) != 1 {
		t.Fatalf("removed: %v", r.report)
	}
	n = r.find("t")
	if n.LogEnd() != 0 || n.HighWatermark() != 0 || n.Err() != nil || n.Incarnation() == l.Incarnation() {
		t.Fatalf("successor: end %d, mark %d, %v", n.LogEnd(), n.HighWatermark(), n.Err())
	}
	r.must("delete", n.Delete)
	r.until("removed", func() bool { return !strings.Contains(r.listing(), "t-0") })
	if err := r.dir.CloseClean(); err != nil {
		t.Fatal(err)
	}
	if open := r.disk.OpenFiles(); len(open) > 0 {
		t.Fatalf("left open: %v", open)
	}
}

// TestInterval: what is acknowledged is never further ahead of the disk than the bound.
func TestInterval(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Config)
	}{
		{"messages", func(c *Config) { c.FlushMessages = 7 }},
		{"bytes", func(c *Config) { c.FlushBytes = 400 }},
		{"ms", func(c *Config) { c.FlushMs = 20 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 3)
			r.config.Policy = Interval
			c.set(&r.config)
			r.config.SegmentBytes = 900
			r.open()
			l := r.create("t")
			refused := 0
			aheadSince := int64(0)
			r.rules.Add(`(Sync (path "*.log") (every 5) (delay 30ms))`)
			for i := range 300 {
				n := 1 + i%3
				if i%50 == 0 {
					n = 12
				}
				_, err := l.Append(batch(n, "x"), Client, 0, r.io.WallMillis())
				if errors.Is(err, ErrPressure) {
					refused++
				} else if err != nil {
					t.Fatal(err)
				}
				r.turn()
				if ahead := l.Stable() - l.Flushed(); ahead > l.cfg.FlushMessages {
					t.Fatalf("acknowledged %d messages ahead of the disk", ahead)
				}
				if l.Stable() == l.Flushed() {
					aheadSince = 0
				} else if aheadSince == 0 {
					aheadSince = r.world.Now()
				}
			}
			if c.name != "ms" && refused == 0 {
				t.Fatal("nothing was refused")
			}
			if c.name == "ms" {
				r.rules.Clear()
				r.idle(l)
				r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
				r.add(l, batch(1, "late"))
				at := r.world.Now()
				r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
				if late := r.world.Now() - at; late > 20e6 {
					t.Fatalf("flushed after %d ns", late)
				}
			}
			end := l.LogEnd()
			r.until("the rest", func() bool { return l.Stable() == end })
		})
	}
}

// TestPolicyChange: Stable never goes back, and below it an acknowledgement is true
// under the new policy before Stable moves on.
func TestPolicyChange(t *testing.T) {
	for seed := range uint64(60) {
		r := newRig(t, seed)
		twin := &memoryJournal{}
		r.cores.Journal = twin
		r.config.SegmentBytes = 1500
		r.open()
		twin.io = r.io
		l := r.create("t")
		stable := int64(0)
		for i := range 120 {
			if i%10 == 9 {
				cfg := l.Config()
				cfg.Policy = Policy(r.world.Random() % 5)
				if err := l.SetConfig(cfg); err != nil {
					t.Fatal(err)
				}
			}
			r.add(l, batch(1, fmt.Sprint(i)))
			for range r.world.Random() % 3 {
				r.turn()
				twin.turn()
				if l.Stable() < stable || l.Flushed() > l.LogEnd() {
					t.Fatalf("seed %d: stable %d -> %d", seed, stable, l.Stable())
				}
				if l.Stable() > stable && l.cfg.Policy.Synchronous() && l.Stable() > l.Flushed() {
					t.Fatalf("seed %d: stable moved to %d with flushed %d under %v", seed, l.Stable(), l.Flushed(), l.cfg.Policy)
				}
				stable = l.Stable()
			}
		}
		for range 1000 {
			r.turn()
			twin.turn()
		}
		if l.Stable() != l.LogEnd() {
			t.Fatalf("seed %d: stable %d of %d", seed, l.Stable(), l.LogEnd())
		}
		if _, err := r.all(l, l.LogEnd()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplica: a follower takes the leader's batches with their offsets and epochs.
func TestReplica(t *testing.T) {
	r := newRig(t, 1).open()
	leader, follower := r.create("leader"), r.create("follower")
	r.must("epoch", func(d Done) { leader.StartEpoch(4, d) })
	r.fill(leader, 10)
	r.must("epoch", func(d Done) { leader.StartEpoch(6, d) })
	r.fill(leader, 10)
	all, err := r.all(leader, 40)
	if err != nil {
		t.Fatal(err)
	}
	// Under epoch 5 the batches of epoch 6 are left out; a partial one is ignored.
	a, err := follower.Append(all[:len(all)-3], Replica, 5, 0)
	if err != nil || a.LastOffset != 19 {
		t.Fatalf("%+v %v", a, err)
	}
	half := all[len(all)/2:]
	bad := bytes.Clone(half)
	bad[len(bad)-1] ^= 1
	a, err = follower.Append(bad, Replica, 6, 0)
	if err == nil || a.LastOffset != 37 {
		t.Fatalf("corrupt: %+v %v", a, err)
	}
	if _, err = follower.Append(half, Replica, 6, 0); err == nil {
		t.Fatal("offsets went back")
	}
	last := half[len(half)-(len(half)/10):]
	if a, err = follower.Append(last, Replica, 6, 0); err != nil || a.LastOffset != 39 {
		t.Fatalf("%+v %v", a, err)
	}
	if !slices.Equal(follower.Epochs(), []Epoch{{4, 0}, {6, 20}}) {
		t.Fatalf("epochs %v", follower.Epochs())
	}
	r.idle(follower)
	if got, err := r.all(follower, 40); err != nil || !bytes.Equal(got, all) {
		t.Fatal("the follower differs", err)
	}
	r.until("epochs written", func() bool { return follower.metaFrom < 0 })
	gap := record.Batch(batch(1, "gap"))
	gap.SetBaseOffset(100)
	gap.SetLeaderEpoch(6)
	if a, err = follower.Append(gap, Replica, 6, 0); err != nil || a.BaseOffset != 100 || follower.LogEnd() != 101 {
		t.Fatalf("gap: %+v %v", a, err)
	}
	if b, err := r.read(follower, 50, 101, 1000); err != nil || record.Batch(b).BaseOffset() != 100 {
		t.Fatalf("read in a gap: %v", err)
	}
}

// TestRelief: memory that a reader gives back is told, whoever reads nothing meanwhile.
func TestRelief(t *testing.T) {
	r := newRig(t, 1).open()
	l := r.create("t")
	r.fill(l, 3)
	r.idle(l)
	told := 0
	r.core.OnRelief(relieved(func() { told++ }))
	held, empty := &Read{Limit: Never, MaxBytes: 1000}, &Read{Offset: l.LogEnd(), Limit: Never, MaxBytes: 1000}
	if !l.Read(held) || held.N == 0 || !l.Read(empty) {
		t.Fatal("not from memory")
	}
	r.core.pressed = true // as a refused append leaves it
	l.Release(held)
	l.Release(empty)
	r.core.Expire(r.io.Now())
	if told != 1 {
		t.Fatalf("told %d times", told)
	}
}

// TestPinnedTail: readers that hold half of the memory get the rest from the files.
func TestPinnedTail(t *testing.T) {
	r := newRig(t, 1).open()
	l := r.create("t")
	r.fill(l, 3)
	r.idle(l)
	first, second := &Read{Limit: Never, MaxBytes: 1 << 20}, &Read{Limit: Never, MaxBytes: 1 << 20}
	if !l.Read(first) || first.N == 0 {
		t.Fatal("not from memory")
	}
	r.core.tailMax = 2*r.core.pinned - 1
	if !l.Read(second) || second.N != 0 || second.Len != first.Len || second.Next != first.Next {
		t.Fatalf("%d pieces, %d bytes to %d, want a file's %d to %d", second.N, second.Len, second.Next, first.Len, first.Next)
	}
	memory, err := first.Bytes(r.host)
	if err != nil {
		t.Fatal(err)
	}
	if file, err := second.Bytes(r.host); err != nil || !bytes.Equal(memory, file) {
		t.Fatalf("file and memory differ: %v", err)
	}
	l.Release(first)
	l.Release(second)
	if r.core.pinned != 0 {
		t.Fatalf("%d bytes pinned", r.core.pinned)
	}
}

type relieved func()

func (f relieved) Relieved() { f() }

// TestFlushDuringTruncate: what is asked of the disk while a cut is on its way waits
// for it: a sync would speak of what is being removed.
func TestFlushDuringTruncate(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for asked := range 40 {
			r := newRig(t, uint64(asked)+1)
			r.config.Policy = Interval
			r.config.SegmentBytes = 900
			r.open()
			l := r.create("t")
			r.fill(l, 30)
			r.idle(l)
			r.add(l, batch(2, "not synced"))
			r.until("written", func() bool { return l.Written() == l.LogEnd() })
			told := 0
			note := DoneFunc(func(_ *Log, err error) {
				if told++; err != nil {
					t.Fatal(err)
				}
			})
			end := int64(31)
			if restart {
				l.Restart(end, note)
			} else {
				l.Truncate(end, note)
			}
			for range asked {
				r.turn()
			}
			l.Flush(note)
			seen := int64(0)
			r.until("both are done", func() bool {
				if l.cutting && l.jobOp.busy {
					seen = max(seen, l.published.RecoveryPoint.Load())
				}
				return told == 2
			})
			if seen > end {
				t.Fatalf("after %d turns: recovery point %d while the log was cut at %d", asked, seen, end)
			}
			if r.idle(l); !restart && l.LogEnd() != 30 || restart && l.LogEnd() != end {
				t.Fatalf("end %d", l.LogEnd())
			}
			r.disk.Crash(sim.PowerLossClean)
		}
	}
}
