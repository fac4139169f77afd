package log

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// TestCompactionInterrupted has a cleaning meet, at every turn of its way, what changes the log: a truncation,
// a restart of it, a close, a deletion, retention. A reader holds on to a segment all the while.
func TestCompactionInterrupted(t *testing.T) {
	for _, what := range []string{"truncate", "restart", "close", "delete", "log start", "policy", "lookups"} {
		for turns := 0; turns < 90; turns += 2 {
			r := newCleaned(t, uint64(turns))
			r.cores.Cleaner.BytesPerSecond = 400_000 // so that there are several pieces
			r.open()
			k := newKeyed(r)
			k.log = r.create("t")
			l := k.log
			r.core.cleaner.Enabled, r.core.cleaner.at = false, ring.Forever
			k.some(40)
			r.idle(l)
			r.dir.Checkpoint()
			r.dropTail()
			r.core.cleaner.Enabled = true
			r.core.cleaner.soon(r.io.Now())
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("%s after %d turns: %s\ndisk: %s", what, turns, fmt.Sprintf(format, args...), r.listing())
			}
			var d readDone
			held := &Read{Offset: 0, Limit: l.LogEnd(), MaxBytes: 300, MinOne: true, Done: &d}
			if !l.Read(held) {
				r.until("read", func() bool { return d.done })
			}
			was, err := held.Bytes(r.host)
			if err != nil || len(was) == 0 {
				fail("%v", err)
			}
			r.until("cleaning", func() bool { return l.cleaning != nil })
			for range turns {
				r.turn()
			}
			is, err := held.Bytes(r.host)
			if err != nil || !bytes.Equal(is, was) {
				fail("what a reader holds has changed: %v", err)
			}
			end := l.LogEnd()
			switch what {
			case "truncate":
				r.must(what, func(d Done) { l.Truncate(end-3, d) })
				for o := l.LogEnd(); o < end; o++ {
					delete(k.key, o)
					delete(k.value, o)
					delete(k.aborted, o)
				}
				if l.cleaned > l.LogEnd() {
					fail("cleaned %d", l.cleaned)
				}
			case "restart":
				r.must(what, func(d Done) { l.Restart(5, d) })
				clear(k.key)
			case "close":
				r.until("released", func() bool { l.Release(held); return true })
				if err := r.closeAll(); err != nil {
					fail("%v", err)
				}
				if strings.Contains(r.listing(), suffixCleaned+" ") {
					fail("leftovers")
				}
				r.open()
				k.log = r.find("t")
				l = k.log
				l.SetHighWatermark(l.LogEnd())
			case "delete":
				r.must(what, l.Delete)
				l.Release(held)
				r.until("removed", func() bool { return l.closed })
				if strings.Contains(r.listing(), suffixLog) {
					fail("leftovers")
				}
				k.log = r.create("t")
				l = k.log
				*k = keyed{rig: r, log: l, key: map[int64]string{}, value: map[int64]string{}, aborted: map[int64]bool{}, txn: map[int64]int64{}}
			case "log start":
				to := l.segments[1].base
				r.must(what, func(d Done) { l.AdvanceLogStart(to, d) })
			case "policy":
				cfg := l.Config()
				cfg.Compacted = false
				if err := l.SetConfig(cfg); err != nil {
					fail("%v", err)
				}
				r.idle(l)
				cfg.Compacted = true
				if err := l.SetConfig(cfg); err != nil {
					fail("%v", err)
				}
			case "lookups":
				// Many at once, some of them slow, while segments are exchanged.
				r.rules.Add(fmt.Sprintf("(Task (every %d) (delay 3ms))", 2+turns/2%3))
				rng := r.world.Random
				for range 40 {
					var told [4]readDone
					var reads [4]Read
					for i := range reads {
						o := int64(rng() % uint64(end))
						reads[i] = Read{Offset: o, Limit: end, MaxBytes: 100, MinOne: true, Done: &told[i]}
						told[i].done = l.Read(&reads[i])
						r.turn()
					}
					for i := range reads {
						r.until("read", func() bool { return told[i].done })
						b, err := reads[i].Bytes(r.host)
						if err != nil || reads[i].Err != nil || len(b) == 0 || record.Batch(b).LastOffset() < reads[i].Offset {
							fail("at %d: %v, %v", reads[i].Offset, err, reads[i].Err)
						}
						l.Release(&reads[i])
					}
				}
				for o := range end {
					b, err := r.read(l, o, end, 100)
					if err != nil || record.Batch(b).LastOffset() < o {
						fail("at %d: %v", o, err)
					}
				}
			}
			if held.seg != nil {
				l.Release(held)
			}
			if what == "log start" { // the model is not of a log that begins later
				r.idle(l)
				if _, err := r.all(l, l.LogEnd()); err != nil {
					fail("%v", err)
				}
				r.world.Close()
				continue
			}
			n := r.core.stats.Cleanings
			if !k.some(30) || !r.idle(l) || r.dir.Checkpoint() != nil || !k.cleanings(n+1) || !r.idle(l) {
				fail("going on")
			}
			if _, err := k.check(l); err != nil {
				fail("%v", err)
			}
			for _, d := range l.doomed {
				if d.seg.leases > 0 {
					fail("a lease is left")
				}
			}
			if l.Err() != nil || r.core.stats.CleaningsFailed > 0 {
				fail("%v, %d failed", l.Err(), r.core.stats.CleaningsFailed)
			}
			r.world.Close()
		}
	}
}
