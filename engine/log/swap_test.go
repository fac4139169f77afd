package log

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// TestSwapOfSegmentsThatEndEarly: Kafka's cleaner leaves segments whose last batch is gone. A crash in the exchange of such does not
// fence the log.
func TestSwapOfSegmentsThatEndEarly(t *testing.T) {
	for n := 1; ; n++ {
		r := newCleaned(t, 1)
		r.open()
		l := r.create("t")
		r.pause()
		for i := range 30 {
			r.append1(l, valued(1000, fmt.Sprint(i%10), 200), Client)
		}
		r.settle(l)
		if err := r.closeAll(); err != nil {
			t.Fatal(err)
		}
		names := r.named(suffixLog)
		for _, name := range names[:len(names)-1] {
			b, err := ring.ReadFile(r.disk, name)
			if err != nil {
				t.Fatal(err)
			}
			last := 0
			for rest := b; len(rest) > 0; {
				last = len(b) - len(rest)
				if _, rest, err = record.Next(rest); err != nil {
					t.Fatal(err)
				}
			}
			if last == 0 {
				t.Fatal("one batch only")
			}
			if err := ring.WriteFileAtomic(r.disk, name, b[:last]); err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{suffixIndex, suffixTime} {
				r.disk.Remove(strings.TrimSuffix(name, suffixLog) + s)
			}
		}
		r.config.SegmentBytes = 3000
		r.open()
		r.pause()
		if l = r.find("t"); l.Err() != nil {
			t.Fatal(l.Err())
		}
		r.settle(l)
		r.world.CrashAfter(r.disk, n, sim.PowerLossClean)
		cleanings := r.core.stats.Cleanings
		r.resume()
		for !r.disk.Crashed() && r.core.stats.Cleanings == cleanings {
			if !r.turn() && !r.disk.Crashed() {
				t.Fatal("nothing happens")
			}
		}
		if !r.disk.Crashed() {
			r.world.Close()
			if n < 10 {
				t.Fatalf("no crash, %d", n)
			}
			return
		}
		r.disk.Restart()
		before := r.listing()
		r.open()
		if l = r.find("t"); l.Err() != nil {
			t.Fatalf("crash at event %d: %v\n%s", n, l.Err(), before)
		}
		r.world.Close()
	}
}
