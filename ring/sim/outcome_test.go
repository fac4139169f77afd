package sim_test

import (
	"bytes"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// decided are the power losses that say what becomes of what was not synced.
var decided = []sim.Crash{sim.PowerLossWhole, sim.PowerLossTorn, sim.PowerLossSectors, sim.PowerLossContents, sim.PowerLossNames}

// One file has a synced name and three writes, of which the first is synced and the last in
// flight, with a sync; another has neither.
func TestOutcomes(t *testing.T) {
	const part = 8 * sector
	fill := func(b byte) []byte { return bytes.Repeat([]byte{b}, part) }
	torn := map[bool]int{} // by: the file's end is missing
	for seed := range uint64(40) {
		for _, mode := range append([]sim.Crash{sim.PowerLossClean}, decided...) {
			r := newRig(t, seed)
			h := r.host("a")
			io := r.io(h)
			fd := r.open(h, "/d/f", ring.CreateNew)
			r.ok(h.SyncDir("/d"))
			put := func(b byte, at int64) ring.Op {
				return ring.Op{Code: ring.Write, FD: fd, Buf: text(io, string(fill(b))), Off: at * part}
			}
			r.do(io, put('a', 0))
			r.do(io, ring.Op{Code: ring.Sync, FD: fd})
			r.do(io, put('b', 1))
			other := r.open(h, "/d/new", ring.CreateNew)
			_, err := h.WriteAt(other, fill('n'), 0)
			r.ok(err)
			sync := submit(io, ring.Op{Code: ring.Sync, FD: other})
			last := submit(io, put('c', 2))
			h.Crash(mode)
			if sync.ended || last.ended {
				t.Fatal("what was to be in flight has ended")
			}
			h.Restart()
			got, err := ring.ReadFile(h, "/d/f")
			r.ok(err)
			n, newErr := ring.ReadFile(h, "/d/new")
			whole := string(fill('a')) + string(fill('b')) + string(fill('c'))
			named := newErr == nil
			bad := false
			switch mode {
			case sim.PowerLossClean, sim.PowerLossNames:
				// What is in flight and a sync may have happened: of the new file in the first, if its name were there.
				bad = string(got) != string(fill('a')) || named != (mode == sim.PowerLossNames)
			case sim.PowerLossWhole:
				bad = string(got) != whole || string(n) != string(fill('n'))
			case sim.PowerLossContents:
				bad = string(got) != whole || named
			case sim.PowerLossTorn:
				bad = !named || !bytes.HasPrefix(got, []byte(whole[:2*part])) || len(bytes.Trim(got[2*part:], "c\x00")) > 0
				torn[len(got) < 3*part]++
				if string(got) == whole {
					torn[false]-- // nothing of it was missing
				}
			case sim.PowerLossSectors:
				bad = !named || !bytes.HasPrefix(got, fill('a')) || len(bytes.Trim(got[part:], "bc\x00")) > 0
			}
			if bad {
				t.Fatalf("seed %d, %v: %d bytes, %q...; the new file: %d bytes, %v", seed, mode, len(got), got[:min(len(got), 20)], len(n), newErr)
			}
		}
	}
	if torn[true] == 0 || torn[false] == 0 {
		t.Errorf("last writes without their end, and with holes: %v", torn)
	}
}
