package log

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/millrace/millrace/ring/sim"
)

// TestFailedSync: a sync fails, and the kernel calls the pages clean. What the next start has found and shows, a
// power loss after it does not take: wherever that start, or the one that failed, was killed before.
func TestFailedSync(t *testing.T) {
	for _, policy := range []Policy{Write, File, Interval} {
		for at := 1; ; at++ {
			r := newRig(t, uint64(at))
			r.config.Policy, r.config.FlushMs, r.config.FlushMessages, r.config.FlushBytes = policy, 100, Never, Never
			r.config.SegmentBytes = 4000
			r.open()
			l := r.create("t")
			r.fill(l, 5)
			r.idle(l)
			flushed := l.Flushed()
			if err := r.rules.Add(`(Sync (path "*.log") EIO)`); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				l.Append(batch(2, fmt.Sprint("in doubt ", i)), Client, 0, r.io.WallMillis())
			}
			r.until("fenced", func() bool { return l.Err() != nil })
			r.idle(l)
			r.disk.FailedSync(l.segments[0].path(suffixLog))
			if _, err := r.disk.Stat("/data/" + failedSyncName); err != nil {
				t.Fatal(err)
			}
			r.disk.Crash(sim.ProcessKill)
			r.disk.Restart()
			r.rules.Clear()
			// The start crashes at each event of the disk.
			r.world.CrashAfter(r.disk, at, sim.ProcessKill)
			err := r.tryOpen()
			crashed := r.disk.Crashed()
			if crashed {
				r.disk.Restart()
				err = r.tryOpen()
			}
			if err != nil {
				t.Fatal(err)
			}
			r.world.CrashAfter(r.disk, 0, sim.ProcessKill)
			l = r.find("t")
			end := l.LogEnd()
			if l.Err() != nil || end < flushed || l.Flushed() != end {
				t.Fatalf("%v: %v, flushed %d of %d, before %d", policy, l.Err(), l.Flushed(), end, flushed)
			}
			if _, err := r.disk.Stat("/data/" + failedSyncName); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s: %v", failedSyncName, err)
			}
			whole, err := r.all(l, end)
			if err != nil {
				t.Fatal(err)
			}
			if !r.disk.Crashed() {
				r.disk.Crash(sim.PowerLossClean)
			}
			r.disk.Restart()
			r.open()
			if l = r.find("t"); l.Err() != nil || l.LogEnd() < end {
				t.Fatalf("%v, killed at event %d: the start before said that %d offsets are on disk, and after a power loss there are %d: %v\n%v", policy, at, end, l.LogEnd(), l.Err(), r.report)
			}
			if again, err := r.all(l, end); err != nil || string(again) != string(whole) {
				t.Fatalf("other records than before the power loss: %v", err)
			}
			if !crashed {
				if at < 10 {
					t.Fatalf("only %d places to crash at", at-1)
				}
				break
			}
		}
	}
}

// TestFailedSyncOfStart: a start fails because of a sync. The next one does not take the page cache's word for what
// is on disk.
func TestFailedSyncOfStart(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy = OS
	r.open()
	l := r.create("t")
	r.fill(l, 5)
	r.idle(l)
	end := l.LogEnd()
	name := l.segments[0].path(suffixLog)
	r.disk.Crash(sim.ProcessKill)
	r.disk.Restart()
	if err := r.rules.Add(`(Sync (path "*.log") EIO)`); err != nil {
		t.Fatal(err)
	}
	if err := r.tryOpen(); err == nil {
		t.Fatal("opened, and a sync had failed")
	}
	r.disk.FailedSync(name)
	r.rules.Clear()
	r.open()
	if l = r.find("t"); l.Flushed() != end || r.report.Logs[0].Rewritten == 0 {
		t.Fatalf("flushed %d of %d: %v", l.Flushed(), end, r.report)
	}
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	r.open()
	if l = r.find("t"); l.Err() != nil || l.LogEnd() != end {
		t.Fatalf("%d of %d offsets after a power loss: %v", l.LogEnd(), end, l.Err())
	}
}

// TestFailedSyncOfClose: the sync of a log that is being closed fails while somebody reads. It is noted at once,
// and in any case by the end of the stop.
func TestFailedSyncOfClose(t *testing.T) {
	for _, waits := range []bool{false, true} {
		r := newRig(t, 1)
		r.config.Policy = OS
		r.open()
		l := r.create("t")
		r.fill(l, 5)
		r.idle(l)
		q := &Read{Limit: 4, MaxBytes: 1000, MinOne: true}
		if !l.Read(q) || q.Len == 0 {
			t.Fatal("not in memory")
		}
		if err := r.rules.Add(`(Sync (path "*.log") EIO)`); err != nil {
			t.Fatal(err)
		}
		told := false
		l.Close(DoneFunc(func(*Log, error) { told = true }))
		r.until("fenced", func() bool { return l.Err() != nil })
		noted := func() bool {
			_, err := r.disk.Stat("/data/" + failedSyncName)
			return err == nil
		}
		if waits {
			r.until("noted", noted)
			if told {
				t.Fatal("closed while it is read")
			}
		}
		l.Release(q)
		r.until("closed", func() bool { return told })
		if err := r.dir.CloseClean(); err == nil || !noted() {
			t.Fatalf("noted: %v; the stop: %v", noted(), err)
		}
	}
}

// TestFailedSyncOfFencedLog: a log is fenced for another reason while a sync of it is in flight, and then that fails too,
// as where the journal and the segments are on one device.
func TestFailedSyncOfFencedLog(t *testing.T) {
	r := newRig(t, 1)
	r.config.Policy, r.config.FlushMs, r.config.FlushMessages, r.config.FlushBytes = Interval, Never, Never, Never
	r.open()
	l := r.create("t")
	r.fill(l, 5)
	r.idle(l)
	if err := r.rules.Add("(Sync (path \"*.log\") EIO (delay 50ms))\n(Write (path \"*.log\") EIO)"); err != nil {
		t.Fatal(err)
	}
	l.Flush(nil)
	if !l.sync.busy {
		t.Fatal("no sync")
	}
	r.fill(l, 1)
	r.until("fenced", func() bool { return l.Err() != nil })
	if !l.sync.busy {
		t.Fatalf("%v: the sync was the first to fail", l.Err())
	}
	r.until("the sync", func() bool { return !l.sync.busy })
	r.idle(l)
	if _, err := r.disk.Stat("/data/" + failedSyncName); err != nil {
		t.Fatal(err)
	}
}
