package main

import (
	"os"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/bench/simpower"
)

// runBench is "millrace bench": see package bench.
func runBench(args []string) int { return bench.Main(args, simpower.Grounds, os.Stdout, os.Stderr) }
