package log

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// TestCrashInCompaction crashes two passes of compaction before each of their disk events, and
// once more in the recovery.
func TestCrashInCompaction(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 3
	}
	for _, mode := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		for _, policy := range []Policy{File, Journal} {
			t.Run(mode.String()+"/"+policy.String(), func(t *testing.T) {
				t.Parallel()
				step := step
				if policy == Journal { // what is new there is the replay behind the gaps
					step *= 3
				}
				n, swaps := 1, 0
				for more := true; more; n += step {
					var swapped bool
					if more, swapped = compactionAt(t, mode, policy, n, 0, 0); !swapped {
						continue
					}
					// Recovery puts segments in the place of others: it is crashed everywhere.
					for second := 1; second <= 24; second += step {
						swaps++
						compactionAt(t, mode, policy, n, second, uint64(1000*second))
					}
				}
				t.Logf("%d crashes, %d in recoveries with an exchange", n/step, swaps)
			})
		}
	}
}

// compactionAt crashes before the n-th disk event, and then before the second-th of the recovery, or
// somewhere where that is 0. It says whether there were so many events, and whether the first
// crash came between the durable point of an exchange and its end.
func compactionAt(t *testing.T, mode sim.Crash, policy Policy, n, second int, seed uint64) (crashed, swapped bool) {
	r := newCleaned(t, uint64(n)+seed)
	defer r.world.Close()
	if r.config.Policy = policy; policy == Journal {
		r.journalBytes = 64 << 10
	}
	r.config.DeleteRetentionMs = int64(n%2) * 1e12
	r.open()
	k := newKeyed(r)
	k.codec = record.Codec(n % 5)
	k.log = r.create("t")
	r.core.cleaner.Enabled, r.core.cleaner.at = false, ring.Forever
	k.some(40)
	r.idle(k.log)
	r.dir.Checkpoint()
	segments := len(k.log.segments)
	r.config.SegmentBytes = 3000 // several of them fit into one
	if err := k.log.SetConfig(r.config); err != nil {
		t.Fatal(err)
	}
	r.core.cleaner.Enabled = true
	r.core.cleaner.soon(r.io.Now())
	r.world.CrashAfter(r.disk, n, mode)
	end := k.log.LogEnd()
	func() {
		for pass := range uint64(2) {
			if !k.cleanings(pass + 1) {
				return
			}
			if pass == 1 && len(k.log.segments) > segments/2 {
				t.Fatalf("%d segments of %d", len(k.log.segments), segments)
			}
			if pass == 0 && !k.some(20) {
				return
			}
			end = k.log.Stable()
			if !r.idle(k.log) || r.dir.Checkpoint() != nil {
				return
			}
		}
	}()
	end = max(end, k.log.Stable())
	if !r.disk.Crashed() {
		return false, false
	}
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%v, %v before disk event %d, then %d, seed %d: %s\n%v\ndisk: %s", policy, mode, n, second, uint64(n)+seed, fmt.Sprintf(format, args...), r.report, r.listing())
	}
	for start := range 3 {
		r.disk.Restart()
		if start == 0 {
			swapped = strings.Contains(r.listing(), suffixLog+suffixSwap+" ")
		}
		if start == 0 && second > 0 {
			r.world.CrashAfter(r.disk, second, mode)
		} else if start < 2 {
			r.world.CrashAfter(r.disk, 1+int(r.world.Random()%25), mode)
		} else {
			r.world.CrashAfter(r.disk, 0, mode)
		}
		if err := r.tryOpen(); err != nil && !r.disk.Crashed() {
			fail("open: %v", err)
		}
		if start < 2 && !r.disk.Crashed() {
			r.disk.Crash(mode)
		}
	}
	l := r.find("t")
	if l == nil || l.Err() != nil || l.LogEnd() < end {
		fail("end %d, promised %d", l.LogEnd(), end)
	}
	k.log = l
	if _, err := k.check(l); err != nil {
		fail("%v", err)
	}
	if strings.Contains(r.listing(), suffixCleaned+" ") || strings.Contains(r.listing(), suffixSwap+" ") {
		fail("leftovers")
	}
	// And it goes on, and is cleaned again.
	k.safe()
	if !k.some(20) || !r.idle(l) || r.dir.Checkpoint() != nil || !k.cleanings(1) {
		fail("going on")
	}
	if _, err := k.check(l); err != nil {
		fail("cleaned again: %v", err)
	}
	if l.LastStable() != l.LogEnd() {
		fail("a transaction is open at %d: all have ended", l.LastStable())
	}
	return true, swapped
}

// TestDamagedBatchOfSwap: what compaction has made of some segments is damaged before a start puts it in their place. The log is
// fenced, and nothing of them is removed.
func TestDamagedBatchOfSwap(t *testing.T) {
	for _, c := range []struct {
		name string
		at   int64 // in the last batch
	}{
		{"base offset, up", 4}, {"base offset, down", 7}, {"length", 11}, {"CRC", 17}, {"producer", 43},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r *rig
			for n := 1; r == nil || !strings.Contains(r.listing(), suffixLog+suffixSwap+" "); n++ {
				if r != nil {
					r.world.Close()
				}
				r = newCleaned(t, 1)
				r.open()
				l := r.create("t")
				r.pause()
				for i := range 30 {
					r.append1(l, valued(1000, fmt.Sprint(i%10), 300), Client)
				}
				r.settle(l)
				r.config.SegmentBytes = 3000
				if err := l.SetConfig(r.config); err != nil {
					t.Fatal(err)
				}
				r.world.CrashAfter(r.disk, n, sim.PowerLossClean)
				r.resume()
				for !r.disk.Crashed() {
					if n > 1000 || !r.turn() && !r.disk.Crashed() {
						t.Fatal("no exchange")
					}
				}
				r.disk.Restart()
			}
			defer r.world.Close()
			names := r.named(suffixLog)
			swap := r.named(suffixLog + suffixSwap)[0]
			b, err := ring.ReadFile(r.disk, swap)
			if err != nil {
				t.Fatal(err)
			}
			last := b
			for rest := b; len(rest) > 0; {
				last = rest
				if _, rest, err = record.Next(rest); err != nil {
					t.Fatal(err)
				}
			}
			last[c.at] ^= 1
			if err := ring.WriteFileAtomic(r.disk, swap, b); err != nil {
				t.Fatal(err)
			}
			if err := r.tryOpen(); err != nil {
				t.Fatal(err)
			}
			if l := r.find("t"); l.Err() == nil || !strings.Contains(l.Err().Error(), suffixSwap) {
				t.Errorf("%v\n%v", l.Err(), r.report)
			}
			if left := r.named(suffixLog); len(left) != len(names) {
				t.Errorf("%d segments of %d are left:\n%s", len(left), len(names), r.listing())
			}
		})
	}
}

// named are the files of the partition t whose names end so.
func (r *rig) named(suffix string) (paths []string) {
	entries, err := r.disk.ReadDir("/data/t-0")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, suffix) {
			paths = append(paths, "/data/t-0/"+e.Name)
		}
	}
	return paths
}
