package bench

import (
	"context"
	"fmt"
	"os"
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
//
// Before that, where it may, the kernel is asked to put free memory together (vm.compact_memory). After hours of files that come and go it is
// in single pages here and there, and whoever copies into such pages waits for a translation for each, on a virtual machine for two.
type Touched struct {
	Bytes     int64   `json:"bytes"` // 0: too little was free
	Seconds   float64 `json:"seconds"`
	Compacted bool    `json:"compacted,omitempty"`
}

func (t Touched) String() string {
	if t.Bytes == 0 {
		return "none: too little was free"
	}
	s := fmt.Sprintf("%d MiB in %.1f s, %.1f µs a page of 4 KiB", t.Bytes>>20, t.Seconds, t.micros())
	if t.Compacted {
		s += ", free memory put together"
	}
	return s
}

const touchUsage = "`MiB` of free memory to write to and give back before each run: a virtual machine's memory costs the host's page faults when it is used for the first time; as root, free memory is put together first, else what is in pieces makes copying slow"

// touchedText is what runs touched, or "" where none did.
func touchedText(runs []*Result) string {
	var mib, micros []float64
	asked, compacted := false, 0
	for _, r := range runs {
		asked = asked || r.Touched != nil
		if t := r.Touched; t != nil && t.Bytes > 0 {
			mib = append(mib, float64(t.Bytes>>20))
			micros = append(micros, t.micros())
			if t.Compacted {
				compacted++
			}
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
	how := ""
	if compacted == len(mib) {
		how = "put together by the kernel, and then "
	}
	least, most := slices.Min(mib), slices.Max(mib)
	return fmt.Sprintf("free memory was %swritten to and given back before %s, %s to %s MiB, which took %.1f to %.1f µs a page of 4 KiB", how, before, number(&least), number(&most), slices.Min(micros), slices.Max(micros))
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
	compacted := os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0) == nil // root may
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
	return &Touched{Bytes: n, Seconds: time.Since(start).Seconds(), Compacted: compacted}, nil
}

// memoryTexts say what memory was like before and around runs, as far as that is known.
func memoryTexts(runs []*Result) (all []string) {
	var huge []float64
	for _, r := range runs {
		if r.FreeHuge != nil {
			huge = append(huge, 100**r.FreeHuge)
		}
	}
	pieces := ""
	if len(huge) > 0 {
		pieces = fmt.Sprintf("of free memory %.0f to %.0f %% were in pieces of 2 MiB and more before a run", slices.Min(huge), slices.Max(huge))
	}
	for _, s := range []string{touchedText(runs), pieces, memoryText(runs)} {
		if s != "" {
			all = append(all, s)
		}
	}
	return all
}

// freeHuge is the share of free memory that is in pieces of 2 MiB and more, from /proc/buddyinfo; nil where that does not tell. Pages
// are taken for 4 KiB.
func freeHuge(buddyinfo string) *float64 {
	const huge = 9 // order of 2 MiB
	var all, large float64
	for line := range strings.Lines(buddyinfo) { // "Node 0, zone Normal" and how many of each order there are
		f := strings.Fields(line)
		for order := range max(0, len(f)-4) {
			n, err := strconv.ParseFloat(f[4+order], 64)
			if err != nil {
				return nil
			}
			n *= float64(int64(1) << order)
			if all += n; order >= huge {
				large += n
			}
		}
	}
	if all == 0 {
		return nil
	}
	large /= all
	return &large
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
