package log

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/sim"
)

// rig is one simulated machine with a log directory and a core.
type rig struct {
	t     testing.TB
	world *sim.World
	disk  *sim.Host
	rules *fault.Rules

	sim    *sim.IO
	io     ring.IO
	wrap   func(ring.IO) ring.IO // may be nil
	host   ring.Host
	dir    *Dir
	report *RecoveryReport
	core   *Core
	owner  watcher
	config Config
	cores  CoreConfig
	replay journal.Replayer

	journalBytes int64 // of a real journal; 0: none
	files        *journal.Files
	journal      *journal.Core
	way          journal.Way
}

// watcher is an owner that counts.
type watcher struct {
	advanced int
	failed   []error
	cleaning []error // failed for good
	again    int     // failed for now
}

func (w *watcher) Advanced(*Log)            { w.advanced++ }
func (w *watcher) Failed(l *Log, err error) { w.failed = append(w.failed, err) }
func (w *watcher) CleaningFailed(_ *Log, err error, again bool) {
	if again {
		w.again++
		return
	}
	w.cleaning = append(w.cleaning, err)
}

// smallConfig has small files, so that histories roll.
func smallConfig() Config {
	c := DefaultConfig()
	c.SegmentBytes, c.IndexBytes, c.IndexIntervalBytes = 4096, 240, 256
	c.RetentionMs, c.ProducerExpirationMs = -1, Never
	c.TimestampAfterMax = Never
	return c
}

func newRig(t testing.TB, seed uint64) *rig {
	t.Helper()
	r := newRigWithout(t, seed)
	t.Cleanup(func() { r.world.Close() })
	return r
}

func (r *rig) init() {
	r.disk = r.world.NewHost("a", netip.AddrFrom4([4]byte{10, 0, 0, 1}))
	r.rules, _ = fault.Parse("")
}

// open opens the directory and attaches every log.
func (r *rig) open() *rig {
	r.t.Helper()
	if err := r.tryOpen(); err != nil {
		r.t.Fatalf("seed %d: open: %v", r.world.Seed(), err)
	}
	return r
}

func (r *rig) tryOpen() error {
	r.host = fault.WrapHost(r.disk, r.rules)
	var err error
	if r.journalBytes > 0 {
		r.files = journal.NewFiles(r.host, journal.Config{Dir: "/data/" + JournalName, LogDir: "/data", Cores: 1, Bytes: r.journalBytes})
		r.replay = r.files
	}
	r.dir, r.report, err = OpenDir(r.host, "/data", DirConfig{ClusterID: "c", NodeID: 1, Config: r.config, Journal: r.replay})
	if err != nil {
		if r.files != nil {
			r.files.Close(false)
		}
		return err
	}
	r.sim = r.disk.NewIO(sim.IOConfig{PoolBytes: 1 << 20, RecvBuffers: 1, RecvBufferBytes: 1 << 10})
	r.io = fault.Wrap(r.sim, r.rules)
	if r.wrap != nil {
		r.io = r.wrap(r.io)
	}
	if r.journalBytes > 0 {
		if err := r.files.Begin(); err != nil {
			return err
		}
		if r.journal, err = r.files.NewCore(0, r.io); err != nil {
			return err
		}
		r.journal.Use(r.way)
		r.cores.Journal = r.journal
	}
	r.core = NewCore(r.io, r.cores)
	r.owner = watcher{}
	for _, l := range r.dir.Logs() {
		if err := l.Attach(r.core, &r.owner); err != nil {
			return err
		}
	}
	return nil
}

// create makes a partition and attaches it.
func (r *rig) create(topic string) *Log {
	r.t.Helper()
	l, err := r.dir.Create(topic, 0, [16]byte{1, 2, 3}, r.config)
	if err == nil {
		err = l.Attach(r.core, &r.owner)
	}
	if err != nil {
		r.t.Fatalf("create %s: %v", topic, err)
	}
	return l
}

func (r *rig) find(topic string) *Log {
	for _, l := range r.dir.Logs() {
		if l.topic == topic {
			return l
		}
	}
	return nil
}

// turn lets the next thing happen; false: nothing is left, or the machine is down.
func (r *rig) turn() bool {
	if r.journal != nil && !r.disk.Crashed() {
		r.journal.AfterStep()
	}
	if r.disk.Crashed() || !r.world.Step() || r.disk.Crashed() {
		return false
	}
	if r.sim.Due() {
		r.io.Wait(r.core.NextDeadline())
		if now := r.io.Now(); r.core.NextDeadline() <= now {
			r.core.Expire(now)
		}
	}
	return true
}

// until turns until done; false: the machine went down before.
func (r *rig) until(what string, done func() bool) bool {
	r.t.Helper()
	for turns := 0; !done(); turns++ {
		if !r.turn() {
			if r.disk.Crashed() {
				return false
			}
			r.t.Fatalf("seed %d: nothing is left to happen, and not yet: %s", r.world.Seed(), what)
		}
		if turns > 100_000 {
			r.t.Fatalf("seed %d: 100000 turns, and not yet: %s", r.world.Seed(), what)
		}
	}
	return true
}

// ask waits for a Done.
func (r *rig) ask(what string, do func(Done)) error {
	r.t.Helper()
	var result error
	told := false
	do(DoneFunc(func(_ *Log, err error) { result, told = err, true }))
	if told {
		r.t.Fatalf("%s: told from inside the call", what)
	}
	if !r.until(what, func() bool { return told }) {
		return sim.ErrCrashed
	}
	return result
}

func (r *rig) must(what string, do func(Done)) {
	r.t.Helper()
	if err := r.ask(what, do); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

// idle turns until nothing of the log is in flight.
func (r *rig) idle(l *Log) bool {
	return r.until("idle", func() bool {
		if !l.quiet() || l.noSpace {
			return l.noSpace && !l.write.busy
		}
		return len(l.jobs) == 0 && !l.jobOp.busy && (l.fence != nil || l.written == l.logEnd && (l.syncWanted <= l.synced || l.written == l.synced))
	})
}

func (r *rig) closeAll() error {
	for _, l := range r.dir.Logs() {
		if err := r.ask("close", l.Close); err != nil {
			return err
		}
	}
	err := r.dir.CloseClean()
	if r.files != nil {
		err = errors.Join(err, r.files.Close(err == nil))
	}
	return err
}

// batch is a batch of n records, the first of them says what.
func batch(n int, what string) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	for i := range n {
		b.Add(1000+int64(len(what)), []byte("k"), fmt.Appendf(nil, "%s/%d", what, i))
	}
	return b.Finish()
}

// stamped is a batch of one record at a time.
func stamped(ts int64, size int) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	b.Add(ts, []byte("k"), bytes.Repeat([]byte{'v'}, size))
	return b.Finish()
}

// sequenced is an idempotent producer's.
func sequenced(id int64, epoch int16, seq int32, n int, txn bool) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	b.SetProducer(id, epoch, seq, txn)
	for i := range n {
		b.Add(5000+int64(i), []byte("k"), fmt.Appendf(nil, "%d/%d", id, int(seq)+i))
	}
	return b.Finish()
}

// add appends as a client and fails the test where that fails.
func (r *rig) add(l *Log, b []byte) Appended {
	r.t.Helper()
	a, err := l.Append(b, Client, max(l.LatestEpoch(), 0), r.io.WallMillis())
	if err != nil {
		r.t.Fatalf("append: %v", err)
	}
	return a
}

// fill appends n batches of 100 bytes or so, waiting where the log is under pressure.
func (r *rig) fill(l *Log, n int) {
	r.t.Helper()
	for i := range n {
		b := batch(2, fmt.Sprintf("fill %d of %d", i, n))
		for {
			_, err := l.Append(b, Client, max(l.LatestEpoch(), 0), r.io.WallMillis())
			if err == nil {
				break
			}
			if !errors.Is(err, ErrPressure) || !r.turn() {
				r.t.Fatalf("append %d: %v", i, err)
			}
		}
	}
}

type readDone struct{ done bool }

func (d *readDone) ReadDone(*Read) { d.done = true }

// read reads once.
func (r *rig) read(l *Log, offset, limit int64, max int) ([]byte, error) {
	r.t.Helper()
	var d readDone
	q := &Read{Offset: offset, Limit: limit, MaxBytes: max, MinOne: true, Done: &d}
	if !l.Read(q) {
		if !r.until("read", func() bool { return d.done }) {
			return nil, sim.ErrCrashed
		}
	}
	if q.Err != nil {
		return nil, q.Err
	}
	b, err := q.Bytes(r.host)
	l.Release(q)
	return b, err
}

// all reads the log from its start to limit, and checks every batch.
func (r *rig) all(l *Log, limit int64) ([]byte, error) {
	r.t.Helper()
	var all []byte
	for offset := l.LogStart(); offset < limit; {
		b, err := r.read(l, offset, limit, 700)
		if err != nil {
			return all, err
		}
		if len(b) == 0 {
			return all, fmt.Errorf("nothing at offset %d below %d", offset, limit)
		}
		for rest := b; len(rest) > 0; {
			var k record.Batch
			if k, rest, err = record.Next(rest); err != nil {
				return all, fmt.Errorf("at offset %d: %w", offset, err)
			}
			if !k.CheckCRC() || k.LastOffset() < offset {
				return all, fmt.Errorf("at offset %d: wrong batch %d..%d", offset, k.BaseOffset(), k.LastOffset())
			}
			offset = k.LastOffset() + 1
		}
		all = append(all, b...)
	}
	return all, nil
}

// dropTail has the core forget what is in memory, so that reads go to files.
func (r *rig) dropTail() {
	for r.core.evict() {
	}
}

// damageJournal flips a bit in the n-th block of the journal, which has an entry in each.
func (r *rig) damageJournal(n int64) {
	r.t.Helper()
	fd, err := r.disk.Open("/data/journal/core-0.journal", ring.ReadWrite)
	if err != nil {
		r.t.Fatal(err)
	}
	at := n*4096 + 200
	var b [1]byte
	_, err = r.disk.ReadAt(fd, b[:], at)
	b[0] ^= 1
	_, failed := r.disk.WriteAt(fd, b[:], at)
	if err := errors.Join(err, failed, r.disk.Sync(fd), r.disk.Close(fd)); err != nil {
		r.t.Fatal(err)
	}
}
