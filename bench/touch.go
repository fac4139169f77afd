package bench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/engine/cgroup"
	"golang.org/x/sys/unix"
)

const (
	touchPiece = 64 << 20
	touchSpare = 512 << 20 // bytes of free memory that are left alone
)

// Touched is memory that was written to and given back before a run. A virtual machine's memory is the host's only once it was
// used, and may go back to the host while it is free: the first use of a page then costs a fault of the host's, ten times what copying
// into it does, and a broker that fills the page cache pays it for each byte. Who pays depends on who ran before. Memory that was just
// given back is what the kernel hands out next.
type Touched struct {
	Bytes   int64   `json:"bytes"` // 0: too little was free
	Seconds float64 `json:"seconds"`
}

func (t Touched) String() string {
	if t.Bytes == 0 {
		return "none: too little was free"
	}
	return fmt.Sprintf("%d MiB in %.1f s, %.1f µs a page of 4 KiB", t.Bytes>>20, t.Seconds, t.micros())
}

const touchUsage = "`MiB` of free memory to write to and give back before each run: a virtual machine's memory costs the host's page faults when it is used for the first time"

// touchedText is what runs touched, or "" where none did.
func touchedText(runs []*Result) string {
	var mib, micros []float64
	asked := false
	for _, r := range runs {
		asked = asked || r.Touched != nil
		if t := r.Touched; t != nil && t.Bytes > 0 {
			mib = append(mib, float64(t.Bytes>>20))
			micros = append(micros, t.micros())
		}
	}
	switch {
	case !asked:
		return ""
	case len(mib) == 0:
		return "free memory was to be written to and given back before each run, and was before none: too little was free"
	}
	before := "each run"
	if len(mib) < len(runs) {
		before = fmt.Sprintf("%d of %d runs", len(mib), len(runs))
	}
	least, most := slices.Min(mib), slices.Max(mib)
	return fmt.Sprintf("free memory was written to and given back before %s, %s to %s MiB, which took %.1f to %.1f µs a page of 4 KiB", before, number(&least), number(&most), slices.Min(micros), slices.Max(micros))
}

// micros is the time a page; there is one at least.
func (t Touched) micros() float64 { return t.Seconds * 1e6 / float64(t.Bytes>>12) }

// touchMemory touches n bytes, or what is free but for touchSpare, in whole pages, and tells how long that took. Free is what this
// process's control group may still have, too.
func touchMemory(ctx context.Context, n int64) (*Touched, error) {
	_, left := cgroup.Memory("/")
	n = min(n, min(freeMemory(readFile("/proc/meminfo")), left)-touchSpare) &^ (4<<10 - 1)
	if n <= 0 {
		return &Touched{}, nil
	}
	start := time.Now()
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes to touch: %w", n, err)
	}
	defer unix.Munmap(b)
	for at := 0; at < len(b); at += touchPiece {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := unix.Madvise(b[at:min(at+touchPiece, len(b))], unix.MADV_POPULATE_WRITE); err != nil {
			return nil, fmt.Errorf("touch %d bytes of memory (MADV_POPULATE_WRITE, Linux 5.14 or later): %w", n, err)
		}
	}
	return &Touched{Bytes: n, Seconds: time.Since(start).Seconds()}, nil
}

// freeMemory is MemFree of /proc/meminfo in bytes, or 0: memory that holds nothing, not even the page cache.
func freeMemory(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemFree:" && f[2] == "kB" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}
