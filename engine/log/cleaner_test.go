package log

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// valued is a batch of one record.
func valued(ts int64, key string, size int) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	b.Add(ts, []byte(key), bytes.Repeat([]byte{'v'}, size))
	return b.Finish()
}

// append1 appends what lies in a compacted log, and waits for it.
func (r *rig) append1(l *Log, b []byte, how Origin) {
	r.t.Helper()
	if _, err := l.Append(b, how, max(l.LatestEpoch(), 0), r.io.WallMillis()); err != nil {
		r.t.Fatalf("append: %v", err)
	}
	r.until("stable", func() bool { return l.Stable() == l.LogEnd() })
	l.SetHighWatermark(l.Stable())
}

// pause holds the cleaner until resume.
func (r *rig) pause() { r.core.cleaner.Enabled, r.core.cleaner.at = false, ring.Forever }

func (r *rig) resume() {
	r.core.cleaner.Enabled = true
	r.core.cleaner.soon(r.io.Now())
}

// settle writes the checkpoints, below which is cleaned.
func (r *rig) settle(logs ...*Log) {
	r.t.Helper()
	for _, l := range logs {
		r.idle(l)
	}
	if err := r.dir.Checkpoint(); err != nil {
		r.t.Fatal(err)
	}
}

// passes waits for n more cleanings, and then until their end has been taken in.
func (r *rig) passes(n int, l *Log) {
	r.t.Helper()
	want := r.core.stats.Cleanings + uint64(n)
	r.until("cleaned", func() bool { return r.core.stats.Cleanings >= want })
	r.idle(l)
}

// for a while of the ring's clock nothing is cleaned.
func (r *rig) quietFor(ms int64) {
	r.t.Helper()
	n := r.core.stats.Cleanings
	until := r.io.Now() + ms*1e6
	r.until("time passes", func() bool { return r.io.Now() > until })
	if r.core.stats.Cleanings != n {
		r.t.Fatal("cleaned without need")
	}
}

// TestDirtiestFirst: logs are taken in the order of their share of dirty bytes, whatever the order of their making.
func TestDirtiestFirst(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.config.MinDirtyRatio = 0.3
	r.open()
	logs := []*Log{r.create("a"), r.create("b"), r.create("c")}
	fill := func(l *Log, n int) {
		for i := range n {
			r.append1(l, valued(1000, fmt.Sprint(i), 300), Client)
		}
	}
	r.pause()
	for _, l := range logs {
		fill(l, 30)
	}
	r.settle(logs...)
	r.resume()
	r.passes(3, logs[2])
	r.pause()
	fill(logs[0], 20)
	fill(logs[1], 40)
	fill(logs[2], 4)
	r.settle(logs...)
	clean := logs[2].cleaned
	r.resume()
	var order []string
	for r.core.stats.Cleanings < 5 {
		r.turn()
		if l := r.core.cleaner.log; l != nil && (len(order) == 0 || order[len(order)-1] != l.topic) {
			order = append(order, l.topic)
		}
	}
	if got := strings.Join(order, " "); got != "b a" {
		t.Fatalf("cleaned in the order %s", got)
	}
	r.quietFor(1000)
	if logs[2].cleaned != clean {
		t.Fatal("c is not dirty enough, and was cleaned")
	}
}

// TestCompactionLags: max.compaction.lag.ms has a log cleaned that is not dirty enough, also where its segments are
// from before the start, but not before; min.compaction.lag.ms keeps what is dirty and young.
func TestCompactionLags(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.config.MinDirtyRatio, r.config.MaxCompactionLagMs = 1, 60_000
	r.open()
	l := r.create("t")
	wall := r.io.WallMillis()
	for i := range 20 {
		r.append1(l, valued(wall-int64(20-i), "k", 300), Client)
	}
	r.settle(l)
	r.quietFor(10_000)
	if err := r.closeAll(); err != nil {
		t.Fatal(err)
	}
	r.open()
	l = r.find("t")
	l.SetHighWatermark(l.LogEnd())
	if l.segments[0].firstTimestamp >= 0 {
		t.Fatal("recovery has read the segment: this tests nothing")
	}
	r.quietFor(20_000)
	r.passes(1, l)
	if late := r.io.WallMillis() - wall; late < 60_000 || late > 65_000 {
		t.Fatalf("cleaned after %d ms", late)
	}
	// Young and dirty: not yet. What is clean does not hold it up, however young its records say they are.
	r.config.MinDirtyRatio, r.config.MaxCompactionLagMs, r.config.MinCompactionLagMs = 0.01, Never, 30_000
	if err := l.SetConfig(r.config); err != nil {
		t.Fatal(err)
	}
	begin, from := r.io.WallMillis(), l.LogEnd()
	for i := range 20 {
		r.append1(l, valued(begin, fmt.Sprint("k", i%2), 300), Client)
	}
	r.settle(l)
	l.segments[0].maxTimestamp = begin + 1e9
	r.until("cleaned", func() bool { return l.cleaned > from+3 }) // a segment may begin below from
	if young := r.io.WallMillis() - begin; young < 30_000 || young > 35_000 {
		t.Fatalf("cleaned after %d ms", young)
	}
}

// TestUncleanable: what cannot be cleaned is told once, is not tried again before a restart, and does not keep other logs
// from it. It goes on taking records.
func TestUncleanable(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.open()
	bad, good := r.create("bad"), r.create("good")
	fill := func(l *Log) {
		for i := range 20 {
			r.append1(l, valued(1000, fmt.Sprint(i%3), 300), Client)
		}
	}
	r.pause()
	fill(bad)
	fill(good)
	r.settle(bad, good)
	name := bad.segments[1].path(suffixLog)
	fd, err := r.disk.Open(name, ring.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.disk.WriteAt(fd, []byte("damage"), 100); err != nil {
		t.Fatal(err)
	}
	r.disk.Close(fd)
	before := r.listing()
	r.resume()
	r.passes(1, good)
	r.until("told", func() bool { return len(r.owner.cleaning) > 0 })
	r.idle(bad)
	if s := r.core.stats; len(r.owner.cleaning) != 1 || s.CleaningsFailed != 1 || s.Cleanings != 1 || bad.published.Uncleanable.Load() == nil {
		t.Fatalf("told %v, %d failed, %d done", r.owner.cleaning, s.CleaningsFailed, s.Cleanings)
	}
	for _, want := range []string{"/data/bad-0: ", fileName(bad.segments[1].base, suffixLog) + ": at 0: "} {
		if got := r.owner.cleaning[0].Error(); !strings.Contains(got, want) {
			t.Fatalf("%q is missing in %q", want, got)
		}
	}
	if strings.Contains(r.listing(), suffixCleaned+" ") || bad.cleaned != 0 || strings.Count(r.listing(), "/data/bad-0/") != strings.Count(before, "/data/bad-0/") {
		t.Fatal(r.listing())
	}
	fill(bad)
	fill(good)
	r.settle(bad, good)
	r.passes(1, good)
	r.quietFor(10_000)
	if bad.Err() != nil || len(r.owner.cleaning) != 1 {
		t.Fatalf("%v, told %v", bad.Err(), r.owner.cleaning)
	}
}

// TestCompactionOnFullDisk: a cleaning that finds the disk full is tried again, and leaves nothing.
func TestCompactionOnFullDisk(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.open()
	k := newKeyed(r)
	k.log = r.create("t")
	r.pause()
	k.some(40)
	r.settle(k.log)
	if err := r.rules.Add(`(Write (path "*.cleaned") (nth 1) ENOSPC)`); err != nil {
		t.Fatal(err)
	}
	r.resume()
	r.until("told", func() bool { return r.owner.again > 0 })
	r.idle(k.log)
	if strings.Contains(r.listing(), suffixCleaned+" ") || len(r.owner.cleaning) > 0 || k.log.Err() != nil {
		t.Fatalf("%v, %v:%s", r.owner.cleaning, k.log.Err(), r.listing())
	}
	r.quietFor(cleanAgain/1e6 - 1000)
	r.passes(1, k.log)
	if _, err := k.check(k.log); err != nil {
		t.Fatal(err)
	}
}

// TestFullDiskIsSaidOnceAMinute: of the logs of a core that find the disk full one is told each time, and all are tried again.
func TestFullDiskIsSaidOnceAMinute(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.open()
	logs := []*Log{r.create("a"), r.create("b"), r.create("c")}
	r.pause()
	for _, l := range logs {
		for range 20 {
			r.append1(l, valued(1000, "k", 300), Client)
		}
	}
	r.settle(logs...)
	if err := r.rules.Add(`(Write (path "*.cleaned") ENOSPC)`); err != nil {
		t.Fatal(err)
	}
	r.resume()
	for n := 1; n <= 3; n++ {
		r.until("all have failed", func() bool { return r.core.stats.CleaningsFailed >= uint64(n*len(logs)) })
		if r.owner.again != n || len(r.owner.cleaning) > 0 {
			t.Fatalf("round %d: told %d times, %v", n, r.owner.again, r.owner.cleaning)
		}
	}
	r.rules.Clear()
	r.passes(len(logs), logs[0])
}

// TestDamagedSwap: what compaction made, damaged where only a start can finish it, fences that log, and is not taken for the
// end of the directory. Nothing is removed.
func TestDamagedSwap(t *testing.T) {
	for n := 1; ; n++ {
		r := newCleaned(t, uint64(n))
		r.open()
		k := newKeyed(r)
		k.log = r.create("t")
		r.create("other")
		r.pause()
		k.some(40)
		r.settle(k.log)
		r.resume()
		r.world.CrashAfter(r.disk, n, sim.PowerLoss)
		if k.cleanings(1) {
			t.Fatal("no crash with an exchange begun")
		}
		r.disk.Restart()
		at := strings.Index(r.listing(), suffixLog+suffixSwap+" ")
		if at < 0 {
			r.world.Close()
			continue
		}
		r.world.CrashAfter(r.disk, 0, sim.PowerLoss)
		name := "/data/t-0/" + r.listing()[at-20:at] + suffixLog + suffixSwap
		fd, err := r.disk.Open(name, ring.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.disk.WriteAt(fd, []byte{0, 0, 0, 0, 0, 0, 0, 0}, 8); err != nil {
			t.Fatal(err)
		}
		r.disk.Close(fd)
		before := strings.Count(r.listing(), suffixLog)
		for range 2 {
			r.open()
			if l := r.find("t"); l.Err() == nil || !strings.Contains(l.Err().Error(), name) || r.find("other").Err() != nil {
				t.Fatalf("%v, %v", l.Err(), r.find("other").Err())
			}
			if after := strings.Count(r.listing(), suffixLog); after != before {
				t.Fatalf("%d segments, were %d:%s", after, before, r.listing())
			}
			r.disk.Crash(sim.ProcessKill)
			r.disk.Restart()
		}
		r.world.Close()
		return
	}
}

// TestCompactionAwaitsJournal: what is in the segments, and on its way to the journal too, is not compacted yet: the entry
// counts on its chunks of the tail, and takes more of them when it is written.
func TestCompactionAwaitsJournal(t *testing.T) {
	r := newCleaned(t, 1)
	defer r.world.Close()
	twin := &memoryJournal{grow: true}
	r.cores.Journal, r.replay = twin, twin
	r.config.Policy = Journal
	r.open()
	k := newKeyed(r)
	k.log = r.create("t")
	l := k.log
	put := func() {
		k.key[l.LogEnd()], k.value[l.LogEnd()] = "k", strings.Repeat("v", 40)
		var b record.Builder
		b.Begin(nil, record.None)
		b.Add(1000, []byte("k"), []byte(strings.Repeat("v", 40)), record.Header{Key: "h", Value: []byte("x")})
		if _, err := l.Append(b.Finish(), Client, 0, r.io.WallMillis()); err != nil {
			t.Fatal(err)
		}
	}
	for range 60 {
		put()
	}
	r.must("flush", l.Flush)
	l.SetHighWatermark(l.Stable())
	r.until("finished", func() bool { return len(l.jobs) == 0 })
	if err := r.dir.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if l.Stable() != l.LogEnd() || len(twin.queued) != 1 {
		t.Fatalf("stable %d of %d, %d entries: this tests nothing", l.Stable(), l.LogEnd(), len(twin.queued))
	}
	r.quietFor(1000)
	put() // the entry grows by it
	for twin.turn() || l.tail.undone(l.LogEnd()) < l.LogEnd() {
		r.turn()
	}
	r.passes(1, l)
	if n, err := k.check(l); err != nil || n > 20 {
		t.Fatalf("%d records, %v", n, err)
	}
	r.disk.Crash(sim.PowerLoss)
	r.disk.Restart()
	r.open()
	k.log = r.find("t")
	if k.log.Err() != nil || k.log.LogEnd() != 61 {
		t.Fatalf("%d records after a power loss, 61 were acknowledged: %v", k.log.LogEnd(), k.log.Err())
	}
	if _, err := k.check(k.log); err != nil {
		t.Fatal(err)
	}
}

// TestExchangeOnFullDisk: the directory has no room for the names of an exchange. That is as if it had not been begun, and it
// is tried again; a sync that fails fences the log.
func TestExchangeOnFullDisk(t *testing.T) {
	for _, c := range []struct {
		rule   string
		fences bool
	}{
		{`(Rename (path "*.index.cleaned") ENOSPC)`, false},
		{`(Rename (path "*.timeindex.cleaned") ENOSPC)`, false},
		{`(Rename (path "*.log.cleaned") ENOSPC)`, false},
		{`(SyncDir (path "t-0") ENOSPC)`, true},
		{`(SyncDir (path "t-0") (nth 2) ENOSPC)`, true},
	} {
		r := newCleaned(t, 1)
		r.open()
		k := newKeyed(r)
		k.log = r.create("t")
		l := k.log
		r.pause()
		k.some(40)
		r.settle(l)
		before := r.listing()
		if err := r.rules.Add(c.rule); err != nil {
			t.Fatal(err)
		}
		r.resume()
		r.until(c.rule, func() bool { return l.Err() != nil || r.owner.again > 0 })
		r.idle(l)
		if left := r.rules.Unfired(); len(left) > 0 || (l.Err() != nil) != c.fences {
			t.Fatalf("%s: %v; unfired: %v", c.rule, l.Err(), left)
		}
		if !c.fences {
			if after := r.listing(); after != before {
				t.Fatalf("%s: before:%s\nafter:%s", c.rule, before, after)
			}
			r.rules.Clear()
			r.passes(1, l)
			if _, err := k.check(l); err != nil || l.cleaned == 0 {
				t.Fatalf("%s: cleaned up to %d: %v", c.rule, l.cleaned, err)
			}
		}
		r.world.Close()
	}
}

// TestCleanerLeavesReserve: a segment is compacted only where there is room for all of it beyond the reserve; with little
// room one at a time, and other logs while there is none for the dirtiest.
func TestCleanerLeavesReserve(t *testing.T) {
	const reserve = 1 << 20
	r := newCleaned(t, 1)
	defer r.world.Close()
	r.config.SegmentBytes = 20_000
	r.open()
	large := r.create("large")
	r.config.SegmentBytes = 300
	small := r.create("small")
	r.pause()
	for i := range 60 {
		r.append1(large, valued(1000+int64(i), "k", 8000), Client)
		if i < 20 {
			r.append1(small, valued(1000+int64(i), "k", 40), Client)
		}
	}
	r.settle(large, small)
	r.config.SegmentBytes = 1 << 20 // all that there is fits into one
	for _, l := range []*Log{large, small} {
		if err := l.SetConfig(r.config); err != nil {
			t.Fatal(err)
		}
	}
	segments, size := len(large.segments), large.segments[0].size
	need := spaceFor(size)
	r.core.space = allowance{of: NewSpace(r.dir, reserve, 1)}
	// Until done, at no time is anything of the reserve taken.
	untouched := func(free int64, done func() bool) {
		t.Helper()
		r.disk.SetFree(free)
		r.until("the cleaner", func() bool {
			if left, err := r.dir.Free(); err != nil || left < reserve {
				t.Fatalf("%d bytes left, %v", left, err)
			}
			return done()
		})
	}
	r.resume()
	untouched(reserve+need-1, func() bool { return r.owner.again == 1 && small.cleaned > 0 })
	if left, _ := r.dir.Free(); large.cleaned > 0 || left < reserve+need-1 || len(r.owner.cleaning) > 0 {
		t.Fatalf("cleaned up to %d; %d bytes left; %v", large.cleaned, left, r.owner.cleaning)
	}
	untouched(reserve+need+size, func() bool { return large.cleaned > 0 })
	if n := len(large.segments); n >= segments || large.Err() != nil {
		t.Fatalf("%d segments of %d, %v", n, segments, large.Err())
	}
	// What others take while a segment is being compacted the cleaner gives back.
	r.pause()
	for i := range 30 {
		r.append1(large, valued(2000+int64(i), "k", 8000), Client)
	}
	large.roll(r.io.WallMillis())
	r.settle(large)
	r.core.cleaner.BytesPerSecond = 200_000 // in several pieces
	r.disk.SetFree(reserve + 1<<20)
	failed := r.core.stats.CleaningsFailed
	r.resume()
	r.until("it is being written", func() bool { return large.cleaning != nil && large.cleaning.out != nil && !large.cleaning.busy })
	r.disk.SetFree(reserve - 1)
	r.until("given up", func() bool { return r.core.stats.CleaningsFailed > failed && large.cleaning == nil })
	r.idle(large)
	if strings.Contains(r.listing(), suffixCleaned+" ") || large.Err() != nil {
		t.Fatalf("%v\n%s", large.Err(), r.listing())
	}
}
