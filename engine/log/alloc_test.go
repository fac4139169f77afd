package log

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
)

// machine is a log directory on the real file system, for what time and memory cost.
type machine struct {
	testing.TB
	io   ring.IO
	dir  *Dir
	core *Core
	own  watcher

	journal *journal.Core
}

// wait is one step of a core's loop.
func (m *machine) wait(until int64) {
	if m.journal != nil {
		m.journal.AfterStep()
	}
	if next := m.core.NextDeadline(); next < until {
		until = next
	}
	m.io.Wait(until)
	if m.core.NextDeadline() <= m.io.Now() {
		m.core.Expire(m.io.Now())
	}
}

func newMachine(t testing.TB, path string, cfg Config) (*machine, *Log) {
	t.Helper()
	runtime.LockOSThread()
	h := posix.Host()
	files := journal.NewFiles(h, journal.Config{Dir: filepath.Join(path, JournalName), LogDir: path, Cores: 1, Bytes: 32 << 20})
	dir, _, err := OpenDir(h, path, DirConfig{NodeID: 1, Config: cfg, Journal: files})
	if err == nil {
		err = files.Begin()
	}
	if err != nil {
		t.Fatal(err)
	}
	io, err := posix.New(h, posix.Config{PoolBytes: 128 << 20})
	if err != nil {
		t.Fatal(err)
	}
	j, err := files.NewCore(0, io)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{TB: t, io: io, dir: dir, journal: j, core: NewCore(io, CoreConfig{TailBytes: 32 << 20, Inline: true, Journal: j})}
	l, err := dir.Create("t", 0, [16]byte{1}, cfg)
	if err == nil {
		err = l.Attach(m.core, &m.own)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closed := false
		l.Close(DoneFunc(func(*Log, error) { closed = true }))
		m.until(func() bool { return closed })
		if err := dir.CloseClean(); err != nil {
			t.Error(err)
		}
		io.Close()
		if err := files.Close(true); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
	return m, l
}

// until waits for a condition, two minutes at most: closing syncs all that was written.
func (m *machine) until(done func() bool) {
	deadline := m.io.Stamp() + 120e9
	for !done() {
		m.wait(min(m.io.Now()+1e8, deadline))
		if m.io.Stamp() > deadline {
			m.Fatal("two minutes, and not yet")
		}
	}
}

func (m *machine) append(l *Log, b []byte, epoch int32) {
	record.Batch(b).SetBaseOffset(0)
	for {
		_, err := l.Append(b, Client, epoch, 0)
		if err == nil {
			return
		}
		if err != ErrPressure {
			m.Fatal(err)
		}
		m.wait(m.io.Now() + 1e8)
	}
}

func machineConfig(p Policy) Config {
	cfg := DefaultConfig()
	cfg.Policy = p
	cfg.TimestampAfterMax = Never
	return cfg
}

// TestNoAllocations: the way of a record allocates nothing once it is warm, whatever
// the policy, writes, syncs and index entries included.
func TestNoAllocations(t *testing.T) {
	for _, policy := range []Policy{OS, Write, File, Journal} {
		t.Run(policy.String(), func(t *testing.T) {
			m, l := newMachine(t, t.TempDir(), machineConfig(policy))
			m.until(func() bool { return l.active().open })
			plain := stamped(1000, 3000)
			var epoch int32
			round := func() {
				m.append(l, plain, epoch)
				m.until(func() bool { return l.Stable() == l.LogEnd() })
			}
			rounds := 200
			if policy == OS {
				rounds = 20_000 // through evictions and index writes
			}
			for range rounds {
				round()
			}
			if n := testing.AllocsPerRun(rounds, round); n != 0 {
				t.Errorf("append, write, sync: %v allocations", n)
			}
			r := &Read{MaxBytes: 64 << 10, MinOne: true}
			reading := func() {
				r.Offset, r.Limit = l.LogEnd()-10, l.LogEnd()
				if !l.Read(r) || r.Err != nil || r.Len != 10*len(plain) {
					t.Fatalf("read: %v, %d bytes", r.Err, r.Len)
				}
				l.Release(r)
			}
			if n := testing.AllocsPerRun(1000, reading); n != 0 {
				t.Errorf("read from the tail: %v allocations", n)
			}
		})
	}
}

// TestNoAllocationsIdempotent is the same for an idempotent producer.
func TestNoAllocationsIdempotent(t *testing.T) {
	m, l := newMachine(t, t.TempDir(), machineConfig(OS))
	m.until(func() bool { return l.active().open })
	b := record.Batch(sequenced(5, 0, 0, 3, false))
	seq := int32(0)
	round := func() {
		putSequence(b, seq)
		seq += 3
		m.append(l, b, 0)
		m.until(func() bool { return l.Stable() == l.LogEnd() })
	}
	for range 2000 {
		round()
	}
	if n := testing.AllocsPerRun(2000, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func putSequence(b record.Batch, seq int32) {
	b[53], b[54], b[55], b[56] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
	b.UpdateCRC()
}

func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		name   string
		policy Policy
		bytes  int
	}{{"os/100B", OS, 100}, {"os/1KiB", OS, 1 << 10}, {"os/16KiB", OS, 16 << 10}, {"file/1KiB", File, 1 << 10}, {"journal/1KiB", Journal, 1 << 10}, {"journal/16KiB", Journal, 16 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			cfg := machineConfig(c.policy)
			cfg.RetentionMs = -1
			m, l := newMachine(b, b.TempDir(), cfg)
			batch := stamped(1000, c.bytes)
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				m.append(l, batch, 0)
				m.wait(0)
			}
			m.until(func() bool { return l.Stable() == l.LogEnd() })
		})
	}
}

func BenchmarkReadTail(b *testing.B) {
	m, l := newMachine(b, b.TempDir(), machineConfig(OS))
	for range 10_000 {
		m.append(l, stamped(1000, 1000), 0)
	}
	m.until(func() bool { return l.Stable() == l.LogEnd() })
	r := &Read{MaxBytes: 64 << 10, MinOne: true, Limit: l.LogEnd()}
	start := l.LogEnd() - 9_000
	r.Next = start
	bytes := 0
	b.ReportAllocs()
	for b.Loop() {
		r.Offset = r.Next
		if r.Offset >= l.LogEnd() {
			r.Offset = start
		}
		if !l.Read(r) {
			b.Fatal("not in memory")
		}
		bytes += r.Len
		l.Release(r)
	}
	b.SetBytes(int64(bytes / b.N))
}
