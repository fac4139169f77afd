package engine_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/ring/sim"
)

// TestDiskErrors has each verb fail once, or for ever, where the log and the journal use it. An error is never
// tried again: who it concerns takes no more records and says the file and the cause, and acknowledges
// nothing more; the others go on; and after a restart on a disk that works everything that was acknowledged is there.
func TestDiskErrors(t *testing.T) {
	for _, c := range []struct {
		policy, rules string
		names         string // what the error names; empty: nobody is fenced
		all           bool   // the partitions of the core, not one
		do            func(m *machine)
		turns         int // how many batches each topic gets, if not 80
	}{
		{"os", `(Write (path "/data/data-0/*.log") (nth 3) EIO)`, ".log: write: input/output error", false, nil, 0},
		{"file", `(Write (path "/data/data-0/*.log") (nth 3) torn 100)`, ".log: write: input/output error", false, nil, 0},
		{"write", `(Sync (path "/data/data-0/*.log") (nth 3) EIO)`, ".log: sync: input/output error", false, nil, 0},
		{"file", `(Sync (path "/data/data-0/*.log") (nth 3) ENOSPC)`, ".log: sync: no space left on device", false, nil, 0},
		{"interval", `(Sync (path "/data/data-0/*.log") (nth 1) EIO)`, ".log: sync: input/output error", false, nil, 0},
		{"journal", `(Write (path "core-*.journal") (from 5) EIO)`, ".journal: write of", true, nil, 0},
		{"journal", `(Write (path "core-*.journal") (from 5) ENOSPC)`, ".journal: write of", true, nil, 0},
		{"journal", `(Write (path "core-*.journal") (from 5) torn 512)`, ".journal: write of", true, nil, 0},
		{"journal", `(Write (path "/data/data-0/*.log") (nth 2) EIO)`, ".log: write: input/output error", false, nil, 0},
		{"journal", `(Sync (path "/data/data-0/*.log") (nth 1) EIO)`, ".log: sync: input/output error", false, nil, 0},
		{"journal", `(SyncRange (path "*.log") EIO)`, "", false, nil, 1000}, // the sync says it, if it is true
		{"file", `(Create (path "/data/data-0/*.log") EIO)`, "input/output error", false, nil, 0},
		{"file", `(Truncate (path "/data/data-0/*.index") EIO)`, "input/output error", false, nil, 0},
		{"file", `(Map EIO)`, "input/output error", true, nil, 0},
		{"file", `(SyncDir (path "/data/data-0") EIO)`, "/data/data-0", false, nil, 0},
		{"file", `(Sync (path "/data/data-0/*.index") EIO)`, ".index", false, nil, 0},
		{"file", `(Write (path "/data/data-0/*.snapshot.tmp") EIO)`, "snapshot", false, nil, 0},
		{"file", `(Rename (path "/data/data-0/*.snapshot") EIO)`, "snapshot", false, nil, 0},
		{"file", `(Rename (path "/data/data-0/*.log") EIO)`, ".log", false, func(m *machine) { m.deleteAnyhow("data", 60) }, 0},
		{"file", `(Write (path "/data/log-start-offset-checkpoint.tmp") EIO)`, "log-start-offset-checkpoint", false, func(m *machine) { m.deleteAnyhow("data", 60) }, 0},
		{"file", `(Remove (path "/data/data-0/*.deleted") EIO)`, "", false, func(m *machine) { m.deleteAnyhow("data", 60); m.pass(120e9) }, 0},
		{"file", `(Write (path "/data/recovery-point-offset-checkpoint.tmp") EIO)`, "", false, func(m *machine) { m.pass(31e9) }, 0},
	} {
		t.Run(c.policy+" "+c.rules, func(t *testing.T) {
			m := newMachine(t, 5)
			defer m.world.Close()
			m.what = c.rules
			m.set = []string{"flush.policy=" + c.policy, "flush.ms=1000", "journal.bytes=4194304"}
			m.faulty()
			if c.turns > 0 {
				m.index = "4096"
			}
			m.boot()
			topics := []string{"data", "other"}
			for _, name := range topics {
				m.make(name)
			}
			l := &left{records: map[string][]acknowledged{}, produced: map[string]int{}}
			l.append(m, "data", 1)
			l.append(m, "other", 1)
			m.must(m.rules.Add(c.rules))
			for n := 2; n < max(c.turns, 80); n++ { // to both, until one does not take them
				for _, name := range topics {
					l.tryAppend(m, name, n)
				}
				m.pass(20e6)
			}
			if c.do != nil {
				c.do(m)
				m.pass(1e9)
			}
			fenced := 0
			for _, name := range topics {
				p := m.Shared().Routes.Load().ByName[name].Partitions[0]
				err := p.Partition.Log().Err()
				before := len(l.records[name+"-0"])
				l.tryAppend(m, name, 1000)
				took := len(l.records[name+"-0"]) > before
				switch {
				case err == nil && !took:
					t.Errorf("%s is not fenced and takes no more", name)
				case err == nil:
				case took:
					t.Errorf("%s is fenced and acknowledges", name)
				case c.names == "" || name != "data" && !c.all || !strings.Contains(err.Error(), c.names) || !strings.Contains(err.Error(), "/data/"):
					t.Errorf("%s: %v", name, err)
				default:
					fenced++
					if !strings.Contains(strings.Join(m.lines, "\n"), err.Error()) {
						t.Errorf("nobody was told: %v", err)
					}
				}
				for _, want := range l.records[name+"-0"] { // what was acknowledged can still be read
					if want.last < p.Partition.Log().LogStart() {
						continue
					}
					if b, err := m.readAt(p, want.base); err != nil || want.differs(b) != "" {
						t.Fatalf("%s: offset %d: %v", name, want.base, err)
					}
				}
			}
			if (fenced == 0) != (c.names == "") {
				t.Errorf("%d are fenced", fenced)
			}
			if left := m.rules.Unfired(); len(left) > 0 {
				t.Errorf("unfired: %v", left)
			}
			m.host.Crash(sim.ProcessKill)
			m.host.Restart()
			m.rules.Clear()
			m.boot()
			for _, name := range topics {
				p := m.Shared().Routes.Load().ByName[name].Partitions[0]
				if err := p.Partition.Log().Err(); err != nil {
					t.Errorf("%s after a restart: %v", name, err)
				}
				for _, want := range l.records[name+"-0"] {
					if want.last < p.Partition.Log().LogStart() {
						continue
					}
					if b, err := m.readAt(p, want.base); err != nil || len(b) == 0 || want.differs(b) != "" {
						t.Fatalf("%s after a restart: offset %d: %v", name, want.base, err)
					}
				}
				l.append(m, name, 2000)
			}
		})
	}
}

// make makes a topic with one partition and small segments.
func (m *machine) make(name string) {
	m.Helper()
	m.must(m.tryMake(name))
}

func (m *machine) tryMake(name string) (err error) {
	m.Helper()
	done := false
	m.onCore0(func() { m.create(name, func(failed error) { err, done = failed, true }) })
	m.drive(&done)
	return err
}

// deleteAnyhow moves a log's start, which may fail.
func (m *machine) deleteAnyhow(topic string, to int64) {
	m.Helper()
	done := false
	p := m.Shared().Routes.Load().ByName[topic].Partitions[0]
	m.Loops()[p.Core].Post(api.Func(m.Shared().Cores[p.Core], func(*api.Core) {
		p.Partition.Log().AdvanceLogStart(to, log.DoneFunc(func(_ *log.Log, err error) { done = true }))
	}))
	m.drive(&done)
}

// A segment that cannot be read is said, and the partition goes on.
func TestReadErrors(t *testing.T) {
	m := newMachine(t, 6)
	defer m.world.Close()
	m.what = "read"
	m.faulty()
	m.boot()
	m.make("data")
	m.make("other")
	l := &left{records: map[string][]acknowledged{}, produced: map[string]int{}}
	for n := range 60 {
		l.append(m, "data", n)
		l.append(m, "other", n)
	}
	m.shutdown()
	m.boot()
	m.must(m.rules.Add(`(Read (path "/data/data-0/*.log") (nth 1) EIO)`))
	p := m.Shared().Routes.Load().ByName["data"].Partitions[0]
	if _, err := m.readAt(p, 0); err == nil || !strings.Contains(err.Error(), "/data/data-0/") || !strings.Contains(err.Error(), "input/output error") {
		t.Fatalf("read: %v", err)
	}
	for name, all := range l.records {
		p := m.Shared().Routes.Load().ByName[strings.TrimSuffix(name, "-0")].Partitions[0]
		for _, want := range all {
			if b, err := m.readAt(p, want.base); err != nil || want.differs(b) != "" {
				t.Fatalf("%s: offset %d: %v", name, want.base, err)
			}
		}
	}
	l.append(m, "data", 100)
}

// What the start needs and cannot have refuses it, and is named.
func TestStartErrors(t *testing.T) {
	for rules, names := range map[string]string{
		`(Allocate (path "*.journal") EIO)`:          "core-0.journal",
		`(Open (path "*.journal") EIO)`:              "core-0.journal",
		`(Sync (path "journal.properties.tmp") EIO)`: "journal.properties",
		`(Rename (path "journal-checkpoint") EIO)`:   "journal-checkpoint",
		`(SyncDir (path "/data") EIO)`:               "/data",
		`(Write (path "meta.properties.tmp") EIO)`:   "meta.properties",
		`(Lock EIO)`: ".lock",
	} {
		t.Run(rules, func(t *testing.T) {
			m := newMachine(t, 6)
			defer m.world.Close()
			m.faulty()
			m.must(m.rules.Add(rules))
			if err := m.tryBoot(); err == nil || !strings.Contains(err.Error(), names) {
				t.Fatalf("%v does not name %s", err, names)
			}
			if open := m.host.OpenFiles(); len(open) > 0 {
				t.Errorf("left open: %v", open)
			}
			m.rules.Clear()
			m.boot()
		})
	}
}
