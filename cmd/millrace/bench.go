package main

import (
	"os"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/bench/simpower"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/uring"
)

// runBench is "millrace bench": see package bench.
func runBench(args []string) int {
	return bench.Program{Simulate: simpower.Grounds, Rings: benchRings()}.Main(args, os.Stdout, os.Stderr)
}

// benchRings are io_uring where it can be used, else epoll.
func benchRings() *bench.Rings {
	backend := "uring"
	if uringBlocked() != nil {
		backend = "posix"
	}
	return &bench.Rings{Backend: backend, New: func(poolBytes int) (ring.IO, error) { return newBenchIO(backend, poolBytes) }}
}

// newBenchIO makes a ring with the backends' own number of receive buffers: there may be hundreds of clients.
func newBenchIO(backend string, poolBytes int) (ring.IO, error) {
	if backend == "uring" {
		return uring.New(posix.Host(), uring.Config{PoolBytes: poolBytes})
	}
	return posix.New(posix.Host(), posix.Config{PoolBytes: poolBytes})
}
