package log

import (
	"errors"
	"fmt"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// spin turns so often, or until nothing is left.
func (r *rig) spin(n int) {
	for range n {
		if !r.turn() {
			return
		}
	}
}

// pass lets so much of the ring's time pass, ns.
func (r *rig) pass(nanos int64) {
	for at := r.io.Now(); r.io.Now()-at < nanos && r.turn(); {
	}
}

// What was asked to be synced is not forgotten because less of it has been written.
func TestCloseAndFlushEnd(t *testing.T) {
	for _, what := range []string{"close", "flush"} {
		for seed := range uint64(100) {
			r := newRig(t, seed)
			r.config.Policy, r.config.FlushMessages, r.config.SegmentBytes = Interval, 100, 900
			r.open()
			l := r.create("t")
			r.idle(l)
			r.add(l, batch(60, "a"))
			r.add(l, batch(30, "b")) // rolls
			do := l.Close
			if what == "flush" {
				do = l.Flush
			}
			r.must(what, do)
		}
	}
}

// Damage behind a clean stop stays damage, however often the broker is started.
func TestDamageAfterCleanStopIsNeverCut(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = File, 1<<20
	r.open()
	l := r.create("t")
	r.fill(l, 40)
	r.idle(l)
	size, end := l.active().size, l.LogEnd()
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	name := "/data/t-0/00000000000000000000.log"
	fd, err := r.disk.Open(name, ring.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	r.disk.ReadAt(fd, b[:], size-50)
	b[0] ^= 0xff
	r.disk.WriteAt(fd, b[:], size-50)
	r.disk.Sync(fd)
	r.disk.Close(fd)
	for start := range 3 {
		r.open()
		if l = r.find("t"); l.Err() == nil || l.LogEnd() >= end {
			t.Fatalf("start %d: not fenced, end %d of %d: %v", start, l.LogEnd(), end, r.report)
		}
		if info, err := r.disk.Stat(name); err != nil || info.Size != size {
			t.Fatalf("start %d: the file has %d bytes of %d (%v)", start, info.Size, size, err)
		}
		if err := r.closeAll(); err == nil {
			t.Fatal("a fenced log was closed cleanly")
		}
		r.dir.Abandon()
	}
}

// However many chunks readers hold, the others can be evicted.
func TestEvictPastHeldChunks(t *testing.T) {
	for _, stalled := range []int{0, 63, 64, 90} {
		r := newRig(t, 1)
		r.cores.TailBytes = 512 << 10
		r.config.Policy, r.config.SegmentBytes, r.config.IndexBytes = OS, 1<<30, 1<<20
		r.open()
		for i := range stalled {
			l := r.create(fmt.Sprint("t", i))
			r.add(l, stamped(1, 3500))
			r.idle(l)
			if !l.Read(&Read{Offset: 0, Limit: Never, MaxBytes: 1 << 20, MinOne: true, Done: &readDone{}}) {
				t.Fatal("not from memory")
			}
		}
		x := r.create("x")
		for range 500 {
			r.add(x, stamped(1, 3500))
			r.idle(x)
		}
	}
}

// A cut that another one, or a deletion, has overtaken does not wait for ever.
func TestCutsInARow(t *testing.T) {
	for _, what := range []string{"truncate", "restart", "delete"} {
		for seed := range uint64(50) {
			r := newRig(t, seed)
			r.config.Policy, r.config.SegmentBytes = OS, 1<<20
			r.open()
			l := r.create("t")
			r.idle(l)
			for i := range 10 {
				r.add(l, batch(10, fmt.Sprint("n", i)))
				if i == 3 {
					r.idle(l)
				}
			}
			told := 0
			done := DoneFunc(func(_ *Log, err error) {
				if told++; err != nil {
					t.Errorf("seed %d: %s: %v", seed, what, err)
				}
			})
			l.Truncate(95, done)
			want := int64(20)
			switch what {
			case "truncate":
				l.Truncate(25, done)
			case "restart":
				l.Restart(500, done)
				want = 500
			case "delete":
				l.Delete(done)
				want = -1
			}
			r.until("both cuts", func() bool { return told == 2 })
			if want >= 0 && l.LogEnd() != want {
				t.Errorf("seed %d: %s: the log ends at %d, not %d", seed, what, l.LogEnd(), want)
			}
		}
	}
}

// The age of what waits survives a full disk: flush.ms is kept.
func TestFlushMsAfterFullDisk(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.FlushMs, r.config.SegmentBytes = Interval, 10_000, 1<<20
	r.open()
	l := r.create("t")
	r.idle(l)
	if err := r.rules.Add(`(Write (path "*.log") (nth 1) ENOSPC)`); err != nil {
		t.Fatal(err)
	}
	r.add(l, batch(1, "x"))
	r.until("written", func() bool { return l.Written() == 1 })
	r.pass(11e9)
	if l.synced != 1 {
		t.Fatalf("not on disk 11 s after the write: age %+v", l.age)
	}
}

// A log start that a cut has made impossible is refused, and leaves nothing behind.
func TestLogStartBehindATruncation(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = File, 1<<20
	r.open()
	l := r.create("t")
	for i := range 10 {
		r.add(l, batch(10, fmt.Sprint("n", i)))
	}
	r.idle(l)
	l.SetHighWatermark(100)
	told := 0
	l.Truncate(50, DoneFunc(func(*Log, error) { told++ }))
	l.AdvanceLogStart(90, DoneFunc(func(_ *Log, err error) {
		if told++; !errors.Is(err, ErrOutOfRange) {
			t.Errorf("log start above the end: %v", err)
		}
	}))
	r.until("both", func() bool { return told == 2 })
	for i := range 3 {
		r.add(l, batch(10, fmt.Sprint("m", i)))
	}
	r.idle(l)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	r.open()
	if l = r.find("t"); l.LogStart() != 0 || l.LogEnd() != 80 {
		t.Fatalf("after a clean stop: %d to %d: %v", l.LogStart(), l.LogEnd(), r.report)
	}
}

// Close finishes the segment that is active when its turn comes.
func TestCloseBehindATruncation(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = File, 900
	r.open()
	l := r.create("t")
	r.fill(l, 30)
	r.idle(l)
	told := 0
	done := DoneFunc(func(_ *Log, err error) {
		if told++; err != nil {
			t.Error(err)
		}
	})
	l.Truncate(11, done)
	l.Close(done)
	r.until("both", func() bool { return told == 2 })
	r.spin(100) // what was cut off is closed by a job of its own
	if err := r.dir.CloseClean(); err != nil {
		t.Fatal(err)
	}
	if open := r.disk.OpenFiles(); len(open) > 0 {
		t.Errorf("still open: %v", open)
	}
	if _, err := r.disk.Stat("/data/t-0/" + fileName(l.LogEnd(), suffixSnapshot)); err != nil {
		t.Error(err)
	}
	r.open()
	if l := r.find("t"); len(r.report.Logs[0].Mended) > 0 || l.LogEnd() != 10 {
		t.Errorf("%v", r.report)
	}
}

// A fenced log leaves its core's memory to the others.
func TestFencedLogGivesItsMemoryBack(t *testing.T) {
	r := newRig(t, 1)
	r.cores.TailBytes = 64 << 10
	r.config.Policy, r.config.SegmentBytes = OS, 1<<20
	r.open()
	l, x := r.create("bad"), r.create("good")
	r.idle(l)
	r.idle(x)
	if err := r.rules.Add(`(Write (path "*.log") (nth 1) EIO)`); err != nil {
		t.Fatal(err)
	}
	for l.Err() == nil {
		if _, err := l.Append(stamped(1, 3500), Client, 0, 1); err != nil {
			break
		}
	}
	r.spin(1000)
	if l.Err() == nil || r.core.unwritten != 0 || r.core.Pressure() {
		t.Fatalf("fenced by %v; %d bytes unwritten, pressure %v", l.Err(), r.core.unwritten, r.core.Pressure())
	}
	r.add(x, stamped(1, 3500))
}

// A full disk is not kept full by logs that would remove old segments.
func TestRetentionOnAFullDisk(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = OS, 900
	r.open()
	l := r.create("t")
	r.fill(l, 60)
	r.idle(l)
	l.SetHighWatermark(l.LogEnd())
	r.disk.SetFree(0)
	for range 200 {
		if _, err := l.Append(batch(2, "y"), Client, 0, 1); err != nil {
			break
		}
		r.spin(5)
	}
	if !l.noSpace {
		t.Fatal("the disk is not full")
	}
	c := l.Config()
	c.RetentionBytes = 1000
	if err := l.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	before := len(l.segments)
	r.pass(2 * retainEvery)
	if l.Err() != nil || len(l.segments) >= before {
		t.Fatalf("%d segments of %d, %v", len(l.segments), before, l.Err())
	}
}

// A sync that fails for want of space fences: it is not tried again.
func TestSyncWithoutSpaceFences(t *testing.T) {
	for _, rule := range []string{`(Sync (path "*.index") (nth 1) ENOSPC)`, `(SyncDir (path "/data/t-0") (nth 1) ENOSPC)`} {
		r := newRig(t, 1)
		r.config.Policy, r.config.SegmentBytes = OS, 900
		r.open()
		l := r.create("t")
		r.idle(l)
		if err := r.rules.Add(rule); err != nil {
			t.Fatal(err)
		}
		for i := range 30 {
			l.Append(batch(2, fmt.Sprint(i)), Client, 0, 1)
		}
		r.spin(5000)
		if l.Err() == nil || l.noSpace {
			t.Errorf("%s: fenced by %v, no space %v", rule, l.Err(), l.noSpace)
		}
	}
}

// A log that is fenced before a rolled segment is finished closes its indexes too.
func TestFencedLogClosesItsFiles(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.SegmentBytes = OS, 900
	r.open()
	l := r.create("t")
	r.idle(l)
	if err := r.rules.Add(`(Create (path "*.log") EIO)`); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		l.Append(batch(2, fmt.Sprint(i)), Client, 0, 1)
	}
	r.spin(5000)
	if l.Err() == nil {
		t.Fatal("not fenced")
	}
	r.ask("close", l.Close)
	r.dir.CloseClean()
	if open := r.disk.OpenFiles(); len(open) > 0 {
		t.Fatalf("still open: %v", open)
	}
}

// All expired producers go, a bounded number at a time.
func TestManyProducersExpire(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.ProducerExpirationMs, r.config.SegmentBytes, r.config.IndexBytes = OS, 1000, 1<<30, 1<<20
	r.open()
	l := r.create("t")
	for i := range 5000 {
		for {
			if _, err := l.Append(sequenced(int64(i), 0, 0, 1, false), Client, 0, r.io.WallMillis()); !errors.Is(err, ErrPressure) {
				break
			}
			r.turn()
		}
	}
	r.idle(l)
	r.pass(retainEvery + 2e9)
	if n := len(l.producer.byID); n != 0 {
		t.Fatalf("%d producers left", n)
	}
}

// The directories above a new directory of logs are as durable as what is in it.
func TestNewDirectorySurvives(t *testing.T) {
	r := newRig(t, 1)
	d, _, err := OpenDir(r.disk, "/a/b/data", DirConfig{ClusterID: "c", NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create("t", 0, [16]byte{1}, DefaultConfig()); err != nil {
		t.Fatal(err)
	}
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	if _, err := r.disk.Stat("/a/b/data/t-0/partition.metadata"); err != nil {
		t.Fatal(err)
	}
}
