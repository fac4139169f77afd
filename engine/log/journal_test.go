package log

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// memoryJournal is a journal in memory that survives every crash. Entries become
// durable one by one, with turn.
type memoryJournal struct {
	io      ring.IO
	queued  []*journal.Entry
	durable []journal.Entry
	keys    map[*journal.Stake]journal.Key
	full    bool
	grow    bool // entries may, until they are written
	fail    error
}

func (m *memoryJournal) Submit(e *journal.Entry) { m.queued = append(m.queued, e) }
func (m *memoryJournal) EntryMax() int           { return 300 }
func (m *memoryJournal) Full() bool              { return m.full }
func (m *memoryJournal) OnRoom(func())           {}
func (m *memoryJournal) Fence(*journal.Stake)    {}
func (m *memoryJournal) Attach(p journal.Partition, s *journal.Stake) {
	if m.keys == nil {
		m.keys = map[*journal.Stake]journal.Key{}
	}
	m.keys[s] = p.JournalKey()
}
func (m *memoryJournal) Detach(s *journal.Stake) { delete(m.keys, s) }
func (m *memoryJournal) Cut(s *journal.Stake, offset int64) {
	m.durable = slices.DeleteFunc(m.durable, func(e journal.Entry) bool {
		return e.Key == m.keys[s] && e.End <= offset
	})
}

// turn makes the next entry durable.
func (m *memoryJournal) turn() bool {
	if len(m.queued) == 0 {
		return false
	}
	e := m.queued[0]
	m.queued = m.queued[1:]
	if room := m.EntryMax() - e.Size; m.grow && room > 0 {
		e.Done.Grow(e, room)
	}
	if m.fail == nil {
		k := *e
		k.Bufs = [][]byte{bytes.Join(e.Bufs, nil)}
		k.Done = nil
		m.durable = append(m.durable, k)
	}
	e.Done.Durable(e, m.fail)
	return true
}

func (m *memoryJournal) Replay(_ [16]byte, apply func(*journal.Entry) error) error {
	for i := range m.durable {
		if err := apply(&m.durable[i]); err != nil {
			return err
		}
	}
	return nil
}

func TestJournal(t *testing.T) {
	for seed := range uint64(40) {
		r := newRig(t, seed)
		twin := &memoryJournal{grow: seed%2 == 0}
		r.cores.Journal, r.replay = twin, twin
		r.config.Policy = Journal
		r.config.SegmentBytes = 1500
		r.open()
		l := r.create("t")
		both := func(what string, done func() bool) {
			t.Helper()
			for i := 0; !done(); i++ {
				if twin.turn(); !r.turn() && len(twin.queued) == 0 && !done() || i > 10000 {
					t.Fatalf("seed %d: not yet: %s", seed, what)
				}
			}
		}
		ask := func(what string, do func(Done)) {
			t.Helper()
			told := false
			do(DoneFunc(func(_ *Log, err error) {
				if told = true; err != nil {
					t.Fatalf("seed %d: %s: %v", seed, what, err)
				}
			}))
			both(what, func() bool { return told })
		}
		ask("epoch", func(d Done) { l.StartEpoch(2, d) })
		var want []byte
		add := func(b []byte) {
			a := r.add(l, b)
			k := record.Batch(bytes.Clone(b))
			k.SetBaseOffset(a.BaseOffset)
			k.SetLeaderEpoch(2)
			want = append(want, k...)
			if r.world.Random()%2 == 0 {
				r.turn()
				twin.turn()
			}
		}
		for i := range 30 {
			add(batch(1, fmt.Sprint("n", i)))
			if i == 20 {
				add(stamped(1, 900)) // goes round
			}
		}
		both("stable", func() bool { return l.Stable() == l.LogEnd() })
		if l.synced == l.LogEnd() && seed == 0 {
			t.Fatal("everything went round the journal")
		}
		if seed%2 == 0 { // a cut is an entry too
			ask("truncate", func(d Done) { l.Truncate(26, d) })
			var kept []byte
			for rest := want; ; {
				k, next, err := record.Next(rest)
				if err != nil || k.LastOffset() >= 26 {
					break
				}
				kept, rest = append(kept, k...), next
			}
			want = kept
			add(batch(1, "after"))
			both("stable", func() bool { return l.Stable() == l.LogEnd() })
		}
		l.SetHighWatermark(l.LogEnd())
		ask("log start", func(d Done) { l.AdvanceLogStart(3, d) })
		end := l.LogEnd()
		// Power goes; the segments were dirty pages.
		r.disk.Crash(sim.PowerLossClean)
		r.disk.Restart()
		r.open()
		l = r.find("t")
		if l.LogEnd() != end || l.Flushed() != end || l.LogStart() != 3 || l.LatestEpoch() != 2 {
			t.Fatalf("seed %d: %d..%d of %d, flushed %d, epoch %d: %v", seed, l.LogStart(), l.LogEnd(), end, l.Flushed(), l.LatestEpoch(), r.report)
		}
		l.logStart = 0 // to compare all
		if got, err := r.all(l, end); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %v, %d bytes of %d", seed, err, len(got), len(want))
		}
		// Replayed data is in the files for good: without the journal it is still there.
		twin.durable = nil
		r.disk.Crash(sim.PowerLossClean)
		r.disk.Restart()
		r.open()
		if l = r.find("t"); l.LogEnd() != end {
			t.Fatalf("seed %d: %d of %d after the second start", seed, l.LogEnd(), end)
		}
	}
}

func TestJournalRefused(t *testing.T) {
	r := newRig(t, 1).open()
	l := r.create("t")
	cfg := l.Config()
	cfg.Policy = Journal
	if err := l.SetConfig(cfg); err == nil || l.Config().Policy == Journal {
		t.Fatalf("policy journal without one: %v", err)
	}
	u, err := r.dir.Create("u", 0, [16]byte{}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Attach(r.core, &r.owner); err == nil {
		t.Fatal("attached without a journal")
	}
}

func TestJournalFails(t *testing.T) {
	r := newRig(t, 1)
	twin := &memoryJournal{fail: sim.ErrCrashed}
	r.cores.Journal = twin
	r.config.Policy = Journal
	r.open()
	l := r.create("t")
	r.add(l, batch(1, "x"))
	for range 100 {
		r.turn()
		twin.turn()
	}
	if l.Err() == nil || l.Stable() != 0 || len(r.owner.failed) != 1 {
		t.Fatalf("fenced: %v, stable %d", l.Err(), l.Stable())
	}
}

// An entry whose bytes are damaged fences its log, and what the journal has of the log is kept;
// where the files have it all, nothing is lost and nobody is disturbed.
func TestDamagedEntry(t *testing.T) {
	for _, written := range []bool{false, true} {
		r := newRig(t, 11)
		r.journalBytes = 128 << 10
		r.config.Policy, r.config.SegmentBytes = Journal, 1<<20
		r.open()
		l := r.create("t")
		for i := range 6 {
			r.add(l, batch(2, fmt.Sprint("n", i)))
			r.until("flushed", func() bool { return l.Flushed() == l.LogEnd() })
		}
		if l.Written() != 0 {
			t.Fatalf("%d of %d written: nobody waits for that", l.Written(), l.LogEnd())
		}
		if written {
			r.must("flush", l.Flush)
		}
		r.disk.Crash(sim.PowerLossClean)
		r.disk.Restart()
		r.damageJournal(2)
		// A start that comes no further than the end of the replay.
		half := journal.NewFiles(r.host, journal.Config{Dir: "/data/" + JournalName, LogDir: "/data", Cores: 1, Bytes: r.journalBytes})
		if _, _, err := OpenDir(r.host, "/data", DirConfig{ClusterID: "c", NodeID: 1, Config: r.config, Journal: half}); err != nil {
			t.Fatal(err)
		}
		r.disk.Crash(sim.ProcessKill)
		r.disk.Restart()
		r.open()
		l = r.find("t")
		if written {
			if l.Err() != nil || l.LogEnd() != 12 || len(r.files.Report().Damaged) != 1 {
				t.Fatalf("the files had it: end %d, %v; %v", l.LogEnd(), l.Err(), r.files.Report())
			}
			continue
		}
		if l.Err() == nil || l.LogEnd() != 4 || r.report.Logs[0].Damage == nil {
			t.Fatalf("end %d, %v", l.LogEnd(), l.Err())
		}
		aside := r.report.Logs[0].Aside
		kept, err := ring.ReadFile(r.disk, aside)
		if err != nil {
			t.Fatalf("%q: %v", aside, err)
		}
		first, _, err := record.Next(kept)
		if err != nil || first.BaseOffset() != 6 || !first.CheckCRC() {
			t.Errorf("%s begins with %v, %v", aside, first.BaseOffset(), err)
		}
		if len(kept) != 3*len(first) {
			t.Errorf("%s has %d bytes: three entries of %d were whole", aside, len(kept), len(first))
		}
		// Nothing acknowledges, nothing is cut, at this start and at the next.
		if _, err := l.Append(batch(1, "x"), Client, 0, 0); err == nil {
			t.Error("a fenced log takes records")
		}
		r.disk.Crash(sim.PowerLossClean)
		r.disk.Restart()
		r.open()
		if again, err := ring.ReadFile(r.disk, aside); err != nil || !bytes.Equal(again, kept) {
			t.Errorf("%s after another start: %d bytes of %d, %v", aside, len(again), len(kept), err)
		}
		if l = r.find("t"); l.Err() == nil || l.LogEnd() != 4 {
			t.Errorf("after another start: end %d, %v", l.LogEnd(), l.Err())
		}
		// Until somebody decides to go on without.
		if err := r.disk.Remove(aside); err != nil {
			t.Fatal(err)
		}
		r.disk.Crash(sim.ProcessKill)
		r.disk.Restart()
		r.open()
		l = r.find("t")
		r.add(l, batch(1, "on"))
		r.until("flushed", func() bool { return l.Flushed() == 5 })
	}
}
