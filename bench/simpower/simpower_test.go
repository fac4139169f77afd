package simpower

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench"
)

var allPolicies = []string{"write", "file", "journal", "interval", "os"}

// full says that the full counts are wanted.
func full() bool { return os.Getenv("MILLRACE_TEST_FULL") != "" }

func simulation(t *testing.T, seed uint64) bench.PowerSimulation {
	return bench.PowerSimulation{Recovering: 0.25, Partitions: 8, Producers: 2, Seed: seed, Say: func(string, ...any) {}}
}

// check says what a row must be, whatever was drawn.
func check(t *testing.T, row *bench.PowerRow) {
	t.Helper()
	t.Logf("%s, %s: %d cuts, %d in recovery, %d acknowledged, %d lost, window %.1f ms, %d bytes and %d frames torn",
		row.Policy, row.Points, row.Cuts, row.InRecovery, row.Acknowledged, row.Findings.Lost, row.Findings.LossWindow, row.TornBytes, row.TornFrames)
	if !row.OK() {
		row.EachCut = nil
		t.Errorf("%+v", row)
	}
	if row.Acknowledged == 0 || row.Survived != row.Acknowledged-row.Findings.Lost {
		t.Errorf("%d acknowledged, %d survived, %d lost", row.Acknowledged, row.Survived, row.Findings.Lost)
	}
	if !row.Promises && row.Findings.Lost == 0 {
		t.Errorf("%d cuts took nothing that had not been synced", row.Cuts)
	}
}

// A short history is cut at every point, with every outcome; reduced, at one point of five for the
// journal and one of seventeen for the others.
func TestEveryPoint(t *testing.T) {
	seeds := uint64(1)
	if full() {
		seeds = 3
	}
	for _, policy := range allPolicies {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", policy, seed+1), func(t *testing.T) {
				t.Parallel()
				g := every{simulation(t, seed+1), wrapped{}, 1}
				switch {
				case full():
				case policy == "journal":
					g.step = 5
				default:
					g.step = 17
				}
				check(t, g.Run(t.Context(), policy))
			})
		}
	}
}

// Longer histories are cut where the seed says.
func TestSampled(t *testing.T) {
	cuts := 16
	if full() {
		cuts = 1000
	}
	for _, policy := range allPolicies {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s := simulation(t, 1)
			s.Cuts = cuts
			row := sampled{s, wrapped{}}.Run(t.Context(), policy)
			check(t, row)
			if row.Cuts != cuts || len(row.EachCut) != cuts {
				t.Errorf("%d cuts, %d told of, want %d", row.Cuts, len(row.EachCut), cuts)
			}
		})
	}
}

// The short history is what it is to be: in each partition segments roll, the journal is
// cut and comes round, the policy is switched and back.
func TestHistoryHasEverything(t *testing.T) {
	for _, policy := range allPolicies {
		g := every{simulation(t, 1), wrapped{}, 1}
		h := g.history(policy, newRow(policy, ""))
		err := h.play(func() error {
			if err := h.begin(); err != nil {
				return err
			}
			events, err := h.load()
			if err != nil {
				return err
			}
			stats := h.broker.b.Shared().Cores[0].Journal.Stats()
			t.Logf("%s: %d disk events, %d batches, journal: %d frames, %d bytes, %d cuts", policy, events, everyProducers*everyBatches, stats.Frames, stats.Bytes, stats.Cuts)
			if h.stage != 2 {
				t.Errorf("%s: the policy was switched %d times", policy, h.stage)
			}
			if policy == "journal" && (stats.Cuts == 0 || stats.Bytes < 64<<10) {
				t.Errorf("the journal was cut %d times, and has written %d bytes", stats.Cuts, stats.Bytes)
			}
			for i := range everyPartitions {
				names, err := h.broker.host.ReadDir(filepath.Join(dataDir, fmt.Sprintf("%s-%d", topic, i)))
				if err != nil {
					return err
				}
				segments := 0
				for _, n := range names {
					if strings.HasSuffix(n.Name, ".log") {
						segments++
					}
				}
				if segments < 2 {
					t.Errorf("%s: partition %d has %d segments", policy, i, segments)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", policy, err)
		}
	}
}

// A seed is the same row every time, and a cut's own seed finds it again.
func TestSeedsRepeat(t *testing.T) {
	s := simulation(t, 8431)
	s.Cuts = 12
	for _, policy := range []string{"journal", "os"} {
		a, b := sampled{s, wrapped{}}.Run(t.Context(), policy), sampled{s, wrapped{}}.Run(t.Context(), policy)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %+v, then %+v", policy, a, b)
		}
		last := a.EachCut[len(a.EachCut)-1]
		one := s
		one.Seed, one.Cuts = last.Seed, last.Cut
		row := sampled{one, wrapped{}}.Run(t.Context(), policy)
		if again := row.EachCut[len(row.EachCut)-1]; !reflect.DeepEqual(again, last) {
			t.Errorf("%s: %+v, by its own seed %+v", policy, last, again)
		}
	}
}
