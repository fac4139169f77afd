package main

import (
	"os"

	"github.com/millrace/millrace/bench"
)

// runBench is "millrace bench": see package bench.
func runBench(args []string) int { return bench.Main(args, os.Stdout, os.Stderr) }
