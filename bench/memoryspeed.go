package bench

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	speedBytes = 32 << 20 // of each of the two pieces of memory: more than the caches next to a core hold
	speedTime  = 100 * time.Millisecond
)

// SpeedMin is the share of the best speed of memory in a comparison below which a run is disturbed.
const SpeedMin = 0.5

var repeatsUsage = fmt.Sprintf("how often a disturbed run is made again: more than %.0f %% CPU steal, or memory at less than %.0f %% of the best speed before and after it", StealMax, 100*SpeedMin)

// MemorySpeed is how fast the broker's CPU copied memory, in huge pages, just before a run and just after it, with the broker gone, bytes/s.
// Other guests of the host take it away, as they take CPU time, and neither steal nor idle shows it.
type MemorySpeed struct {
	Before float64 `json:"beforeBytesPerSecond"`
	After  float64 `json:"afterBytesPerSecond"`
}

func (m MemorySpeed) mean() float64 { return (m.Before + m.After) / 2 }

func (m MemorySpeed) String() string {
	return fmt.Sprintf("%.1f and %.1f GB/s", m.Before/1e9, m.After/1e9)
}

// cell is the mean for a table; "-" where there is none.
func (m *MemorySpeed) cell() string {
	if m == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", m.mean()/1e9)
}

// memoryWatch measures the speed of memory around the runs of a command. A nil one does not.
type memoryWatch struct {
	best float64                        // mean of a run, bytes/s
	copy func(cpu int) (float64, error) // nil: copySpeed
}

// speed is how fast memory is now on the broker's CPU; 0 where that is not known: there is no such CPU, or it may not be used, or the kernel
// makes no huge pages.
func (m *memoryWatch) speed(c Confinement) float64 {
	if m == nil || len(c.Broker) == 0 {
		return 0
	}
	measure := m.copy
	if measure == nil {
		measure = copySpeed
	}
	v, err := measure(c.Broker[0])
	if err != nil {
		return 0
	}
	return v
}

// judge says of a run what its memory was like.
func (m *memoryWatch) judge(r *Result, s MemorySpeed) {
	if s.Before == 0 || s.After == 0 {
		return
	}
	r.Memory = &s
	m.best = max(m.best, s.mean())
	m.mark(r)
}

// settle marks, and leaves out, runs that were slow by what later ones had.
func (m *memoryWatch) settle(runs []*Result) {
	if m == nil {
		return
	}
	for _, r := range runs {
		if r.Memory != nil && !r.Left && m.mark(r) {
			r.Left = true
		}
	}
}

func (m *memoryWatch) mark(r *Result) (slow bool) {
	if r.Memory.mean() >= SpeedMin*m.best {
		return false
	}
	r.Disturbed = true
	return true
}

// disturbance is what others took of the machine during a run, for a line of progress.
func (r *Result) disturbance() string {
	s := fmt.Sprintf("steal %.1f %%", r.Use.Steal)
	if r.Memory != nil {
		s += "  memory " + r.Memory.cell() + " GB/s"
	}
	if r.Disturbed {
		s += "  disturbed"
	}
	return s
}

// memoryText is how fast memory was around runs, or "" where that was not measured.
func memoryText(runs []*Result) string {
	var all []float64
	for _, r := range runs {
		if r.Memory != nil {
			all = append(all, r.Memory.mean()/1e9)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("the broker's CPU copied memory at %.1f to %.1f GB/s, mean of before and after a run: what is missing, other guests of the host took; a run with less than %.0f %% of the best is disturbed",
		slices.Min(all), slices.Max(all), 100*SpeedMin)
}

// copySpeed copies memory on a CPU for speedTime, and says how much of it in a second.
func copySpeed(cpu int) (bytesPerSecond float64, err error) {
	var set unix.CPUSet
	set.Set(cpu)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with where it may run
		if err = unix.SchedSetaffinity(0, &set); err != nil {
			err = fmt.Errorf("move a thread to CPU %d: %w", cpu, err)
			return
		}
		bytesPerSecond, err = copyMemory()
	}()
	<-done
	return bytesPerSecond, err
}

// copyMemory copies memory of its own, off the Go heap, whose collector is not to see it. It is in huge pages: with small ones what was
// measured would be where the kernel had found them, see Touched.
func copyMemory() (bytesPerSecond float64, err error) {
	if thp := readFile("/sys/kernel/mm/transparent_hugepage/enabled"); thp == "" || strings.Contains(thp, "[never]") { // madvise succeeds all the same
		return 0, fmt.Errorf("the kernel makes no huge pages: transparent_hugepage is %q", thp)
	}
	b, err := unix.Mmap(-1, 0, 2*speedBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, fmt.Errorf("map %d bytes to copy: %w", 2*speedBytes, err)
	}
	defer unix.Munmap(b)
	if err := errors.Join(unix.Madvise(b, unix.MADV_HUGEPAGE), unix.Madvise(b, unix.MADV_POPULATE_WRITE)); err != nil {
		return 0, fmt.Errorf("have %d bytes of huge pages: %w", len(b), err)
	}
	copied, start := 0, time.Now()
	for time.Since(start) < speedTime {
		copied += copy(b[:speedBytes], b[speedBytes:])
	}
	return float64(copied) / time.Since(start).Seconds(), nil
}
