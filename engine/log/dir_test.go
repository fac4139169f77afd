package log

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/sim"
)

// TestRecoverInParallel opens a directory of several partitions, left without a
// clean stop, with several goroutines, on the real file system.
func TestRecoverInParallel(t *testing.T) {
	path := t.TempDir()
	h := posix.Host()
	cfg := machineConfig(File)
	io, err := posix.New(h, posix.Config{PoolBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer io.Close()
	for start := range 3 {
		d, report, err := OpenDir(h, path, DirConfig{NodeID: 1, Config: cfg, Parallel: 4})
		if err != nil {
			t.Fatal(err)
		}
		m := &machine{TB: t, io: io, dir: d, core: NewCore(io, CoreConfig{TailBytes: 8 << 20})}
		if start == 0 {
			for i := range 12 {
				if _, err := d.Create(fmt.Sprint("topic", i/3), int32(i%3), [16]byte{byte(i)}, cfg); err != nil {
					t.Fatal(err)
				}
			}
		}
		logs := d.Logs()
		if len(logs) != 12 || start > 0 && len(report.Logs) != 12 || report.Clean {
			t.Fatalf("start %d: %d logs, %v", start, len(logs), report)
		}
		for i, l := range logs {
			if l.LogEnd() != int64(start*(i+1)) || l.TopicID() != [16]byte{byte(i)} {
				t.Fatalf("start %d: %s-%d ends at %d", start, l.Topic(), l.Partition(), l.LogEnd())
			}
			if err := l.Attach(m.core, &m.own); err != nil {
				t.Fatal(err)
			}
			for range i + 1 {
				m.append(l, stamped(1, 100), 0)
			}
		}
		for _, l := range logs {
			m.until(func() bool { return l.Stable() == l.LogEnd() && len(l.jobs) == 0 })
			l.closeFiles() // as a crash would: nothing is trimmed
		}
		d.Abandon()
	}
}

// TestCreateAll: all or nothing, and three syncs for each that share what they can.
func TestCreateAll(t *testing.T) {
	r := newRig(t, 1).open()
	parts := make([]NewPartition, 5)
	for i := range parts {
		parts[i] = NewPartition{"t", int32(i), [16]byte{1}, r.config}
	}
	before := r.listing()
	for _, rule := range []string{`(Create (path "*.timeindex") (nth 4) EIO)`, `(Sync (nth 3) EIO)`, `(SyncDir (nth 2) EIO)`, `(Rename (nth 5) EIO)`} {
		if err := r.rules.Add(rule); err != nil {
			t.Fatal(err)
		}
		if logs, err := r.dir.CreateAll(parts); err == nil || len(logs) > 0 || len(r.dir.Logs()) > 0 {
			t.Fatalf("%s: %v", rule, err)
		}
		if left := r.rules.Unfired(); len(left) > 0 {
			t.Fatalf("unfired: %v", left)
		}
		r.rules.Clear()
		if after := r.listing(); after != before {
			t.Fatalf("%s left %s", rule, after)
		}
	}
	if open := r.disk.OpenFiles(); len(open) != 1 { // the lock
		t.Fatalf("open: %v", open)
	}
	logs, err := r.dir.CreateAll(parts)
	if err != nil || len(logs) != 5 || len(r.dir.Logs()) != 5 {
		t.Fatalf("%d logs: %v", len(logs), err)
	}
	if _, err := r.dir.CreateAll(parts[4:]); err == nil {
		t.Fatal("created twice")
	}
	if !r.report.New || !strings.Contains(r.report.String(), "0 logs in a new directory") {
		t.Errorf("%v", r.report)
	}
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
	r.open()
	if r.report.New || len(r.dir.Logs()) != 5 {
		t.Errorf("after power loss: %v", r.report)
	}
}

// TestImpossibleOffset: a checkpoint without a sum, as Kafka writes them, has an offset behind which nothing can be
// appended. It is as if it were not there.
func TestImpossibleOffset(t *testing.T) {
	for _, name := range []string{recoveryPointsName, highWatermarksName, logStartsName, cleanedName} {
		for _, offset := range []string{"9223372036854775807", "9223372036854775806", "9223372034707292161"} {
			r := newRig(t, 1).open()
			l := r.create("t")
			r.fill(l, 3)
			r.idle(l)
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
			if err := ring.WriteFileAtomic(r.disk, "/data/"+name, []byte("0\n1\nt 0 "+offset+"\n")); err != nil {
				t.Fatal(err)
			}
			r.open()
			if l = r.find("t"); l.Err() != nil || l.LogStart() != 0 || l.LogEnd() != 6 || len(r.report.Damaged) != 1 {
				t.Fatalf("%s, %s: offsets %d to %d, %v: %v", name, offset, l.LogStart(), l.LogEnd(), l.Err(), r.report)
			}
			r.fill(l, 1)
			r.idle(l)
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
