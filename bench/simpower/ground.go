package simpower

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/sim"
)

// outcomes are what may become of what was not synced.
var outcomes = []sim.Crash{
	sim.PowerLossClean, sim.PowerLossWhole, sim.PowerLossTorn, sim.PowerLossSectors,
	sim.PowerLossContents, sim.PowerLossNames, sim.PowerLoss,
}

// Grounds is the bench.Simulator.
func Grounds(s bench.PowerSimulation) ([]bench.PowerGround, error) {
	if _, err := parseSettings(s.Overrides...); err != nil {
		return nil, err
	}
	if _, err := fault.Parse(s.Faults); err != nil {
		return nil, fmt.Errorf("--faults: %w", err)
	}
	if s.Say == nil {
		s.Say = func(string, ...any) {}
	}
	var grounds []bench.PowerGround
	if s.EveryPoint {
		grounds = append(grounds, every{s, wrapped{}, 1})
	}
	if s.Cuts > 0 {
		grounds = append(grounds, sampled{s, wrapped{}})
	}
	return grounds, nil
}

// row is an empty row of this policy.
func newRow(policy, points string) *bench.PowerRow {
	return &bench.PowerRow{Policy: policy, Points: points, Promises: policy != "os" && policy != "interval"}
}

// finish closes a row.
func finish(row *bench.PowerRow, err error) *bench.PowerRow {
	if err != nil {
		row.Error = err.Error()
	}
	row.Survived = row.Acknowledged - row.Findings.Lost
	return row
}

// every cuts one short history at every point, with every outcome.
type every struct {
	bench.PowerSimulation
	wrapped
	step int // 1: every point; n: every n-th
}

// The short history: enough that segments roll and the journal is cut and comes round.
const (
	everyPartitions = 3
	everyProducers  = 2
	everyBatches    = 15 // of each producer
)

// Run makes one row. See bench.PowerGround.
func (g every) Run(ctx context.Context, policy string) *bench.PowerRow {
	row := newRow(policy, "every point")
	events, err := g.count(policy)
	if err != nil {
		return finish(row, err)
	}
	g.Say("%s: a history of %d disk events, %d outcomes of each", policy, events, len(outcomes))
	for point := 1; point <= events+1; point += g.step { // the last is after the last event
		for _, outcome := range outcomes {
			if ctx.Err() != nil {
				return finish(row, ctx.Err())
			}
			if err := g.cut(policy, point, outcome, row); err != nil {
				return finish(row, err)
			}
		}
		if point%50 == 0 {
			g.Say("%s: %d of %d points, %s", policy, point, events+1, progress(row))
		}
	}
	return finish(row, nil)
}

func (g every) history(policy string, row *bench.PowerRow) *history {
	s := g.PowerSimulation
	s.Partitions, s.Producers = everyPartitions, everyProducers
	h := newHistory(s, g.wrapped, policy, s.Seed, row)
	h.shape = shape{
		cores: 1, poolBytes: 8 << 20, pace: 3 * time.Millisecond, batchMax: 3, valueMax: 700,
		batches: everyBatches, switches: true, flushMs: 50, flushMessages: 6, flushBytes: 4 << 10,
	}
	h.shape.set(64<<10, 36)
	return h
}

// count plays the history without a cut.
func (g every) count(policy string) (events int, err error) {
	h := g.history(policy, newRow(policy, ""))
	err = h.play(func() error {
		if err := h.begin(); err != nil {
			return err
		}
		var err error
		events, err = h.load()
		return err
	})
	return events, err
}

// cut plays the history up to a point.
func (g every) cut(policy string, point int, outcome sim.Crash, row *bench.PowerRow) error {
	h := g.history(policy, row)
	return h.play(func() error {
		if err := h.begin(); err != nil {
			return err
		}
		h.cut = bench.PowerCut{Seed: h.seed, Cut: 1, Point: point, Outcome: outcome.String()}
		h.world.CrashAfter(h.broker.host, point, outcome)
		if _, err := h.load(); err != nil {
			return err
		}
		h.cutPower(outcome)
		h.random = rand.New(rand.NewPCG(h.seed, uint64(point)<<8|uint64(outcome))) // another recovery for each
		return h.recover()
	})
}

// sampled cuts histories that are drawn, at points that are.
type sampled struct {
	bench.PowerSimulation
	wrapped
}

// livesMax is how many cuts one history has at most.
const livesMax = 4

// Run makes one row. See bench.PowerGround.
func (g sampled) Run(ctx context.Context, policy string) *bench.PowerRow {
	row := newRow(policy, "sampled")
	for seed := g.Seed; row.Cuts < g.Cuts; seed++ {
		if ctx.Err() != nil {
			return finish(row, ctx.Err())
		}
		before := row.Cuts
		if err := g.history(policy, seed, row, g.Cuts-row.Cuts); err != nil {
			return finish(row, err)
		}
		if row.Cuts/100 > before/100 {
			g.Say("%s: %d of %d cuts, %s", policy, row.Cuts, g.Cuts, progress(row))
		}
	}
	return finish(row, nil)
}

func progress(row *bench.PowerRow) string {
	f := row.Findings
	return fmt.Sprintf("%d in recovery; %d acknowledged, %d lost, %d duplicated, %d reordered, window %.1f ms",
		row.InRecovery, row.Acknowledged, f.Lost, f.Duplicated, f.Reordered, f.LossWindow)
}

func pick[T any](h *history, from ...T) T { return from[h.random.IntN(len(from))] }

// history is one seed's. It has no more cuts than most: how many else is drawn, so that --cuts does not
// change what comes before the last of them.
func (g sampled) history(policy string, seed uint64, row *bench.PowerRow, most int) error {
	h := newHistory(g.PowerSimulation, g.wrapped, policy, seed, row)
	h.shape = shape{
		cores: 1 + h.random.IntN(3), poolBytes: pick(h, 8<<20, 32<<20), batches: -1,
		pace:     pick(h, 500*time.Microsecond, 2*time.Millisecond, 10*time.Millisecond),
		batchMax: pick(h, 1, 4, 16), valueMax: pick(h, 64, 1024, 6<<10),
		switches: h.random.IntN(3) == 0,
		flushMs:  pick(h, int64(20), 100, 500), flushMessages: pick(h, int64(20), 200, 10000), flushBytes: pick(h, int64(16<<10), 256<<10, 8<<20),
	}
	h.shape.set(pick(h, 64<<10, 128<<10, 1<<20), pick(h, 36, 192, 4096))
	h.world.Config.ShortWriteOneIn = pick(h, 0, 0, 8)
	return h.play(func() error {
		if err := h.begin(); err != nil {
			return err
		}
		lives := 1 + h.random.IntN(livesMax)
		for life := 1; life <= min(lives, most); life++ {
			point, outcome := 1+h.random.IntN(pick(h, 10, 100, 600, 2000)), pick(h, outcomes...)
			h.cut = bench.PowerCut{Seed: seed, Cut: life, Point: point, Outcome: outcome.String()}
			h.world.CrashAfter(h.broker.host, point, outcome)
			if _, err := h.load(); err != nil {
				return err
			}
			h.cutPower(outcome)
			if h.random.IntN(3) == 0 { // another number of cores: partitions move between journals
				h.cores = 1 + h.random.IntN(3)
			}
			if err := h.recover(); err != nil {
				return err
			}
		}
		return nil
	})
}

// set puts the shape's bounds into the broker's settings.
func (s *shape) set(journalBytes, indexBytes int) {
	s.settings = []string{
		fmt.Sprintf("journal.bytes=%d", journalBytes),
		fmt.Sprintf("log.index.size.max.bytes=%d", indexBytes),
		fmt.Sprintf("flush.ms=%d", s.flushMs),
		fmt.Sprintf("flush.messages=%d", s.flushMessages),
		fmt.Sprintf("flush.bytes=%d", s.flushBytes),
		"tail.bytes=1048576",
	}
}
