package log

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring/sim"
)

// model is what a log must hold. The machine may go down at any step; what was
// promised before must be there afterwards.
type model struct {
	batches  []record.Batch // appended, as they should be stored
	promised int64          // stable offset seen
	flushed  int64          // survives power loss under any policy
	start    int64          // log start asked for, and promised
	startMay int64
	cutMay   int64 // a truncation to here was asked for and not answered; -1: none
	created  bool
	deleted  int // 1: asked for, 2: promised
}

func (m *model) end() int64 {
	if len(m.batches) == 0 {
		return 0
	}
	return m.batches[len(m.batches)-1].LastOffset() + 1
}

func (m *model) cut(to int64) {
	for len(m.batches) > 0 && m.batches[len(m.batches)-1].LastOffset() >= to {
		m.batches = m.batches[:len(m.batches)-1]
	}
	m.promised, m.flushed = min(m.promised, to), min(m.flushed, to)
}

// history is a small one that does everything; it stops when the machine does.
type history struct {
	*rig
	model
	log    *Log
	seq    int32
	value  int  // bytes of a record's value
	behind bool // each batch is safe before the next, so that only the work on files lags
}

func (h *history) saw() {
	h.promised = max(h.promised, h.log.Stable())
}

func (h *history) down() bool { return h.disk.Crashed() }

func (h *history) append(n int) bool {
	for appended := 0; appended < n; appended++ {
		b := sized(7, h.seq, 2, h.value)
		a, err := h.log.Append(b, Client, 1, h.io.WallMillis())
		if errors.Is(err, ErrPressure) {
			if !h.turn() {
				return false
			}
			appended--
			continue
		}
		if err != nil {
			if h.down() {
				return false
			}
			h.t.Fatalf("append: %v", err)
		}
		h.seq += 2
		k := record.Batch(bytes.Clone(b))
		k.SetBaseOffset(a.BaseOffset)
		k.SetLeaderEpoch(1)
		h.batches = append(h.batches, k)
		if h.world.Random()%2 == 0 && !h.turn() {
			return false
		}
		for i := 0; h.behind && i < 30 && h.log.Stable() < h.log.LogEnd(); i++ {
			if !h.turn() {
				return false
			}
		}
		h.saw()
		if h.world.Random()%4 == 0 && h.dir.Checkpoint() != nil {
			return false
		}
	}
	return true
}

// sized is an idempotent producer's batch with values of so many bytes.
func sized(id int64, seq int32, n, value int) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	b.SetProducer(id, 0, seq, false)
	for i := range n {
		b.Add(5000+int64(seq), []byte("k"), bytes.Repeat([]byte{byte('a' + (int(seq)+i)%26)}, value))
	}
	return b.Finish()
}

func (h *history) settle() bool {
	ok := h.until("settled", func() bool { h.saw(); return h.log.Written() == h.log.LogEnd() })
	return ok && h.idle(h.log)
}

// run goes through all of it.
func (h *history) run() {
	if err := h.tryOpen(); err != nil {
		if !h.down() {
			h.t.Fatal(err)
		}
		return
	}
	l, err := h.dir.Create("t", 0, [16]byte{9}, h.config)
	if err != nil {
		if !h.down() {
			h.t.Fatal(err)
		}
		return
	}
	h.created = true
	h.log = l
	if err := l.Attach(h.core, &h.owner); err != nil {
		h.t.Fatal(err)
	}
	if h.ask("epoch", func(d Done) { l.StartEpoch(1, d) }) != nil {
		return
	}
	if !h.append(12) || !h.settle() {
		return
	}
	if h.dir.Checkpoint() != nil || !h.append(12) {
		return
	}
	if h.ask("flush", l.Flush) != nil {
		return
	}
	h.saw()
	h.flushed = l.LogEnd()
	if h.dir.Checkpoint() != nil || !h.append(5) || !h.settle() {
		return
	}
	// Cut a part that had been flushed and checkpointed.
	to := h.batches[len(h.batches)-9].BaseOffset()
	h.cutMay = to
	if h.ask("truncate", func(d Done) { l.Truncate(to, d) }) != nil {
		return
	}
	h.cut(to)
	h.cutMay = -1
	h.seq = h.batches[len(h.batches)-1].LastSequence() + 1
	if !h.append(10) || !h.settle() {
		return
	}
	l.SetHighWatermark(l.Stable())
	h.startMay = h.promised / 2
	if h.ask("log start", func(d Done) { l.AdvanceLogStart(h.startMay, d) }) != nil {
		return
	}
	h.start = h.startMay
	if h.dir.Checkpoint() != nil || !h.append(4) || !h.settle() {
		return
	}
	h.closeAll()
}

// check opens what the crash left.
func (h *history) check(mode sim.Crash) error {
	if err := h.tryOpen(); err != nil {
		if h.down() {
			return nil
		}
		return fmt.Errorf("open: %w", err)
	}
	for _, r := range h.report.Logs {
		if r.Damage != nil {
			return fmt.Errorf("damage: %v", r.Damage)
		}
	}
	l := h.find("t")
	if l == nil {
		if h.created && h.deleted == 0 {
			return errors.New("the log is gone")
		}
		return nil
	}
	if h.deleted == 2 {
		return errors.New("the deleted log is there")
	}
	if l.topicID != [16]byte{9} {
		return fmt.Errorf("topic id %x", l.topicID)
	}
	safe := h.promised
	switch {
	case mode == sim.ProcessKill:
	case h.config.Policy == Interval: // no more is lost than the bound allows
		safe = max(h.flushed, safe-h.config.FlushMessages)
	case !h.config.Policy.Synchronous():
		safe = h.flushed
	}
	if h.cutMay >= 0 {
		safe = min(safe, h.cutMay)
	}
	if l.LogEnd() < safe || l.LogEnd() > h.end() {
		return fmt.Errorf("log end %d, but %d was promised and %d appended\n%v", l.LogEnd(), safe, h.end(), h.report)
	}
	if l.LogStart() < h.start || l.LogStart() > max(h.startMay, h.start) {
		return fmt.Errorf("log start %d, not in %d..%d", l.LogStart(), h.start, h.startMay)
	}
	got, err := h.all(l, l.LogEnd())
	if h.down() { // reading takes time, in which a journal zeroes its file
		return nil
	}
	if err != nil {
		return err
	}
	var want []byte
	last := int32(-1)
	for _, b := range h.batches {
		if b.LastOffset() >= l.LogEnd() {
			break
		}
		last = b.LastSequence()
		if b.LastOffset() >= l.LogStart() {
			want = append(want, b...)
		}
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes of batches differ from the %d that were appended", len(got), len(want))
	}
	if l.LogEnd() > 0 && l.LatestEpoch() != 1 && l.LogEnd() > l.LogStart() {
		return fmt.Errorf("epoch %d", l.LatestEpoch())
	}
	// The producer's state is that of the batches.
	if last >= 0 {
		a, err := l.Append(sized(7, last-1, 2, h.value), Client, 1, 0)
		if err != nil || !a.Duplicate {
			return fmt.Errorf("a duplicate is not known: %v %v; %+v last %d end %d %v", a, err, l.producer.byID[7], last, l.LogEnd(), h.report)
		}
		if _, err := l.Append(sized(7, last+3, 2, h.value), Client, 1, 0); err == nil {
			return errors.New("a gap in the sequence was taken")
		}
	}
	h.seq = last + 1
	for len(h.batches) > 0 && h.end() > l.LogEnd() {
		h.batches = h.batches[:len(h.batches)-1]
	}
	// Recovery syncs what it found.
	h.promised, h.flushed, h.cutMay = l.LogEnd(), l.Flushed(), -1
	if h.flushed != h.promised {
		return fmt.Errorf("flushed %d of %d after recovery", h.flushed, h.promised)
	}
	h.start = l.LogStart()
	h.startMay = h.start
	h.log = l
	return nil
}

// TestCrashEverywhere crashes a history before each of its disk events, and again
// inside the recovery.
func TestCrashEverywhere(t *testing.T) {
	step, modes := 1, []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean, sim.PowerLossTorn}
	if testing.Short() {
		step = 3
	} else {
		modes = append(modes, sim.PowerLossWhole, sim.PowerLossSectors, sim.PowerLossContents, sim.PowerLossNames)
	}
	for _, policy := range []Policy{OS, Interval, Write, File, Journal} {
		for _, mode := range modes {
			t.Run(fmt.Sprintf("%v/%v", policy, mode), func(t *testing.T) {
				t.Parallel()
				for n := 1; crashAt(t, policy, journal.DSync, mode, (n+int(mode))/step%3, uint64(n), n); n += step {
				}
			})
		}
	}
	for _, mode := range modes {
		t.Run(fmt.Sprintf("journal, fdatasync/%v", mode), func(t *testing.T) {
			t.Parallel()
			for n := 1; crashAt(t, Journal, journal.Linked, mode, (n+int(mode))/step%3, uint64(n), n); n += 2 * step {
			}
		})
	}
}

// crashAt crashes before the n-th disk event; false: there are not so many.
func crashAt(t *testing.T, policy Policy, way journal.Way, mode sim.Crash, variant int, seed uint64, n int) bool {
	h := &history{rig: newRigWithout(t, seed), model: model{cutMay: -1}}
	defer h.world.Close()
	h.config.Policy, h.way = policy, way
	h.config.SegmentBytes, h.config.IndexIntervalBytes, h.value = 900, 150, 3
	if policy == Interval {
		h.config.FlushMessages = 6
	}
	if policy == Journal {
		h.journalBytes = 1 // as small as they come
	}
	switch variant {
	case 1: // work on files is far behind the appends
		h.behind = true
		if err := h.rules.Add(fmt.Sprintf("(Task (every %d) (delay 100ms))", 2+n%2)); err != nil {
			t.Fatal(err)
		}
	case 2: // batches lie on several sectors
		h.config.SegmentBytes, h.value = 9000, 500
	}
	if n%2 == 0 { // some rolls make their file themselves
		if err := h.rules.Add(`(Create (path "next.log.tmp") (every 2) EIO)`); err != nil {
			t.Fatal(err)
		}
	}
	h.world.CrashAfter(h.disk, n, mode)
	h.run()
	if !h.down() {
		if s := h.core.stats; s.Spares == 0 || n%2 == 0 && s.Spares == s.Rolls {
			t.Fatalf("policy %v, variant %d: %d rolls, %d of them with a spare", policy, variant, s.Rolls, s.Spares)
		}
		return false
	}
	fail := func(when string, err error) {
		t.Helper()
		t.Fatalf("policy %v, %v before disk event %d, variant %d, seed %d: %s: %v\ndisk: %s", policy, mode, n, variant, seed, when, err, h.listing())
	}
	h.disk.Restart()
	// Once more, somewhere in the recovery.
	h.world.CrashAfter(h.disk, 1+int(h.world.Random()%40), mode)
	if err := h.check(mode); err != nil {
		fail("first recovery", err)
	}
	if h.down() {
		h.disk.Restart()
		if err := h.check(mode); err != nil {
			fail("second recovery", err)
		}
	}
	h.world.CrashAfter(h.disk, 0, mode)
	if h.log == nil || h.log.core != h.core {
		return true
	}
	again := func(when string, mode sim.Crash) {
		t.Helper()
		h.disk.Crash(mode)
		h.disk.Restart()
		if err := h.check(mode); err != nil {
			fail(when, err)
		}
	}
	again("power loss after the recovery", sim.PowerLossClean)
	// And it goes on as if nothing had been.
	if !h.append(8) || !h.settle() {
		fail("going on", errors.New("the machine went down"))
	}
	if err := h.closeAll(); err != nil {
		fail("close", err)
	}
	h.promised, h.flushed = h.end(), h.end()
	if err := h.check(mode); err != nil {
		fail("after a clean close", err)
	}
	if !h.report.Clean {
		fail("after a clean close", fmt.Errorf("not clean: %v", h.report))
	}
	if !h.append(3) || !h.settle() {
		fail("going on", errors.New("the machine went down"))
	}
	again("crash after a clean close", mode)
	if h.report.Clean {
		fail("crash after a clean close", errors.New("taken for a clean close"))
	}
	return true
}

// newRigWithout is newRig without a cleanup for each of thousands of worlds.
func newRigWithout(t testing.TB, seed uint64) *rig {
	r := &rig{t: t, world: sim.NewWorld(seed), config: smallConfig(), cores: CoreConfig{TailBytes: 512 << 10}}
	r.init()
	return r
}

// listing is what is on the disk.
func (r *rig) listing() string {
	var b strings.Builder
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := r.disk.ReadDir(dir)
		if err != nil {
			fmt.Fprintf(&b, "\n  %v", err)
		}
		for _, e := range entries {
			fmt.Fprintf(&b, "\n  %s/%s %d", dir, e.Name, e.Size)
			if e.Dir {
				walk(dir + "/" + e.Name)
			}
		}
	}
	walk("/data")
	return b.String()
}
