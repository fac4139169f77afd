package bench

import "context"

// PowerGround is what a broker stands on while its power is cut.
type PowerGround interface {
	// Run makes one row: a broker with this flush policy on an empty disk, and all its cuts.
	// It ends early when ctx does.
	Run(ctx context.Context, policy string) *PowerRow
}

var _ PowerGround = PowerLoss{}

// PowerSimulation is what is asked of the simulated ground.
type PowerSimulation struct {
	// EveryPoint cuts a short history at each of its disk events, with each outcome.
	EveryPoint bool
	Cuts       int     // of longer histories, at points that are drawn; 0: none
	Recovering float64 // the chance that a start is cut as well
	Partitions int     // of the longer histories, as the next
	Producers  int
	Seed       uint64
	Overrides  []string // key=value, for the broker
	Faults     string   // rules of package ring/fault for the broker's ring: faults that the ledger is to find
	Say        func(format string, args ...any)
}

// Simulator makes grounds of a simulation: each gives a row for each policy. Who links the
// program brings it (package bench/simpower): this package knows no backend.
type Simulator func(PowerSimulation) ([]PowerGround, error)
