package main

import (
	"os"
	"testing"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/bench/forgetfs"
	"github.com/millrace/millrace/ring/ringtest"
)

// TestMain lets the test binary be the broker that a bench starts, and what else it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(runServe(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "bench" { // its catch-up readers
		os.Exit(runBench(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// A real broker under load on a disk that forgets: what a synchronous policy has
// acknowledged survives every cut, once and in order; under os a cut that takes everything
// takes something, or the disk would not forget.
func TestPowerLoss(t *testing.T) {
	ringtest.NeedFUSE(t, forgetfs.Available())
	cuts, life := map[string]int{"journal": 2, "os": 1}, time.Second
	if os.Getenv("MILLRACE_TEST_FULL") != "" {
		cuts, life = map[string]int{"write": 50, "file": 50, "journal": 50, "interval": 10, "os": 10}, 1500*time.Millisecond
	}
	for _, policy := range []string{"write", "file", "journal", "interval", "os"} {
		if cuts[policy] == 0 {
			continue
		}
		t.Run(policy, func(t *testing.T) {
			p := bench.PowerLoss{
				Binary: os.Args[0], Parent: t.TempDir(), Cuts: cuts[policy], Life: life, Recovering: 0.25,
				Partitions: 4, Producers: 2, Rate: 1000, Seed: uint64(time.Now().UnixNano()), Say: t.Logf,
			}
			t.Logf("seed %d", p.Seed)
			row := p.Run(t.Context(), policy)
			switch {
			case !row.OK():
				t.Errorf("%+v", row)
			case row.Cuts != cuts[policy] || row.Acknowledged == 0:
				t.Errorf("%d cuts, %d records acknowledged", row.Cuts, row.Acknowledged)
			case row.Promises == (policy == "os" || policy == "interval"):
				t.Errorf("%s is taken for a policy that flushes before it acknowledges: %v", policy, row.Promises)
			case policy == "os" && len(row.EachCut) >= 10 && row.Findings.Lost == 0:
				t.Errorf("ten cuts took nothing that had not been synced")
			}
		})
	}
}
