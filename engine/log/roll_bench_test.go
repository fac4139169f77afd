package log

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkRoll says how long an append waits until it is stable, in a closed loop, where it met a roll and where it did
// not: alone, and beside another writer of the file system, whose dirty pages and journal commits are in the way of
// whoever syncs a directory. With go test -bench Roll -run ^$.
func BenchmarkRoll(b *testing.B) {
	for _, policy := range []Policy{OS, Write, File, Journal} {
		for _, beside := range []bool{false, true} {
			name := policy.String()
			if beside {
				name += "/beside"
			}
			b.Run(name, func(b *testing.B) { rolls(b, policy, beside) })
		}
	}
}

func rolls(b *testing.B, policy Policy, beside bool) {
	const perSegment, size = 20, 4096
	cfg := machineConfig(policy)
	cfg.SegmentBytes = perSegment * (size + 100)
	path := b.TempDir()
	m, l := newMachine(b, path, cfg)
	if beside {
		stop, done := make(chan bool), make(chan bool)
		go dirty(b, path, stop, done)
		defer func() { close(stop); <-done }()
	}
	batch := stamped(1, size)
	var met, others []int64
	for b.Loop() {
		for i := range perSegment {
			if i == perSegment-1 { // what goes on in the background is done by then, as it is with segments of 1 GiB
				m.until(func() bool { return len(l.jobs) == 0 && !l.sync.busy })
			}
			segments := len(l.segments)
			began := m.io.Stamp()
			m.append(l, batch, 0)
			m.until(func() bool { return l.Stable() == l.LogEnd() })
			took := m.io.Stamp() - began
			if len(l.segments) > segments {
				met = append(met, took)
			} else {
				others = append(others, took)
			}
		}
	}
	if len(met) == 0 {
		return // one iteration
	}
	for what, all := range map[string][]int64{"roll": met, "other": others} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2])/1e3, what+"-p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100])/1e3, what+"-p99-µs")
	}
	b.ReportMetric(float64(len(met)), "rolls")
}

// dirty writes 20 MB/s to new files, and removes them, as other partitions and their retention do.
func dirty(b *testing.B, path string, stop, done chan bool) {
	defer close(done)
	block := make([]byte, 64<<10)
	tick := time.NewTicker(time.Second / 300)
	defer tick.Stop()
	for n := 0; ; n++ {
		name := filepath.Join(path, fmt.Sprint("other", n))
		f, err := os.Create(name)
		if err != nil {
			b.Error(err)
			return
		}
		for range 64 {
			select {
			case <-stop:
				f.Close()
				return
			case <-tick.C:
			}
			if _, err := f.Write(block); err != nil {
				b.Error(err)
			}
		}
		f.Close()
		if n > 20 {
			os.Remove(filepath.Join(path, fmt.Sprint("other", n-20)))
		}
	}
}
