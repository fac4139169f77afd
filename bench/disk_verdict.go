package bench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of the verdicts, in microseconds. They are coarse on purpose: they
// tell what is impossible, not what is good.
const (
	memoryMicros = 15   // no block device with a medium finishes a write and a flush sooner
	flashMicros  = 200  // programming a page of flash takes this and more
	turnMicros   = 2000 // a quarter of a turn at 7,200 a minute
)

// sameMax is the ratio up to which two medians are not told apart.
const sameMax = 1.05

// Choice is which synchronous write is cheaper for the journal here: 4 KiB,
// one at a time, over space written before. Figures are medians.
type Choice struct {
	Way         string  `json:"way"`
	Micros      float64 `json:"micros"`
	Other       string  `json:"other"` // the best of the other ways
	OtherMicros float64 `json:"otherMicros"`
	Sure        bool    `json:"sure"` // every round says so; else the two are not told apart
}

// find is the row with figures, or nil.
func find(rows []DiskRow, way, place string, size, depth int) *DiskRow {
	for i := range rows {
		if r := &rows[i]; r.Way == way && r.Place == place && r.Size == size && r.Depth == depth && r.Missing == "" {
			return r
		}
	}
	return nil
}

// median is nil where there is no row, or where it may not be printed.
func median(r *DiskRow) *float64 {
	if r == nil {
		return nil
	}
	return r.Latency.P50
}

// journalChoice compares one call with the better of the two ways that take two.
// It is nil when either has no median.
func journalChoice(rows []DiskRow) *Choice {
	best, other := find(rows, WayDSync, PlaceOverwrite, 4<<10, 1), find(rows, WayDirect, PlaceOverwrite, 4<<10, 1)
	if b := find(rows, WayBuffered, PlaceOverwrite, 4<<10, 1); median(b) != nil && (median(other) == nil || *median(b) < *median(other)) {
		other = b
	}
	if median(best) == nil || median(other) == nil {
		return nil
	}
	if *median(other) < *median(best) {
		best, other = other, best
	}
	c := &Choice{best.Way, *median(best), other.Way, *median(other), len(best.Rounds) == diskRounds && len(other.Rounds) == diskRounds}
	for i := 0; c.Sure && i < diskRounds; i++ {
		c.Sure = best.Rounds[i] < other.Rounds[i]
	}
	return c
}

// verdicts says in words what the figures of f mean, and what they cannot say.
func verdicts(f DiskFile) []string {
	lines := flushVerdict(f)
	lines = append(lines, speedVerdict(f), tornVerdict(f.Machine.Disk))
	lines = append(lines, choiceVerdict(f)...)
	for _, r := range f.Rows {
		if r.Disturbed {
			return append(lines, fmt.Sprintf("rows marked * were disturbed: over %.0f %% of CPU time was stolen by the hypervisor", StealMax))
		}
	}
	return lines
}

// flushVerdict compares the device's flushes with the synchronous writes.
func flushVerdict(f DiskFile) []string {
	d := f.Machine.Disk
	switch {
	case d.Device == "":
		return []string{fmt.Sprintf("flushes: %s has no block device of its own here, so whether a sync reaches a medium cannot be told", or(d.FileSystem, "the file system"))}
	case d.Stacked:
		return []string{fmt.Sprintf("flushes: %s lies on several devices and does not count flushes, so whether a sync reaches them cannot be told", d.Device)}
	case d.WriteCache == "write through":
		return []string{fmt.Sprintf("flushes: %s says that it has no volatile cache (write through), so the kernel sends it none: what it has finished is durable, if that is true", d.Device)}
	}
	var whole, lines []string
	for _, way := range diskWays {
		r := find(f.Rows, way, PlaceOverwrite, 4<<10, 1)
		if r == nil {
			continue
		}
		if r.FlushesPerWrite == nil {
			return []string{"flushes: the kernel does not count them, so whether a sync reaches the device cannot be told"}
		}
		switch v := *r.FlushesPerWrite; {
		case v >= 0.95 && v <= 1.5:
			whole = append(whole, fmt.Sprintf("%s %.2f", way, v))
		case v > 1.5:
			lines = append(lines, fmt.Sprintf("flushes: %.2f per synchronous write reached the device (%s): the file system adds its own, or other programs do (%s/s before the run)", v, way, number(f.Others)))
		case way == WayDSync && d.FUA == "1":
			lines = append(lines, fmt.Sprintf("flushes: %.2f per synchronous write (%s): the device has FUA, the write itself says that it must be durable", v, way))
		default:
			lines = append(lines, fmt.Sprintf("flushes: fewer flushes than synchronous writes: %.2f each, one at a time (%s): some were answered while the device may still have held them in its cache; look for nobarrier among the mount options, or a layer between that drops flushes", v, way))
		}
	}
	if len(whole) > 0 {
		lines = append([]string{fmt.Sprintf("flushes: one flush per synchronous write reached the device (%s); what it does with one cannot be seen from here", strings.Join(whole, ", "))}, lines...)
	}
	if r := find(f.Rows, WayDSync, PlaceOverwrite, 4<<10, 16); r != nil && r.FlushesPerWrite != nil && *r.FlushesPerWrite < 0.95 && len(whole) > 0 {
		lines = append(lines, fmt.Sprintf("flushes: with 16 writes in flight they share them, %.2f per write (%s)", *r.FlushesPerWrite, r.Way))
	}
	return lines
}

// speedVerdict asks whether a sync takes as long as a medium would.
func speedVerdict(f DiskFile) string {
	d := f.Machine.Disk
	r := f.durableRow()
	p50 := median(r)
	if p50 == nil {
		return "speed: too few samples of a 4 KiB write to judge it"
	}
	what := fmt.Sprintf("speed: a durable write of 4 KiB takes %s (%s, p50)", micros(p50), r.Way)
	virtual := f.Machine.Hypervisor
	cache := fmt.Sprintf("%s says that its cache is %s", d.Device, or(d.WriteCache, "of a kind it does not tell"))
	switch v := *p50; {
	case v < memoryMicros:
		return what + ": that is memory, or a sync that does nothing; it is not a disk"
	case d.Rotational == "1" && !virtual && v < turnMicros:
		return what + ": faster than a disk that turns can reach the place; it answers from a cache, and whether that survives a power failure cannot be told (" + cache + ")"
	case v < flashMicros && virtual:
		return what + ": faster than flash is programmed, so a cache answers, the disk's or the host's; whether it has power-loss protection, and whether the host passes flushes on, cannot be told from inside a virtual machine (" + cache + ")"
	case v < flashMicros:
		return what + ": faster than flash is programmed, so a cache answers; with power-loss protection that is as it should be, without it a sync is a lie, and the two cannot be told apart without cutting the power (" + cache + ")"
	case virtual:
		return what + ": slow enough for a medium, which does not prove that the host behind this virtual disk waits for one (" + cache + ")"
	}
	return what + ": slow enough for a medium, which does not prove that one was reached (" + cache + ")"
}

// tornVerdict gives the unit that a power failure leaves whole, as far as it is stated.
func tornVerdict(d Disk) string {
	if d.Device == "" {
		return "torn writes: no block device to ask"
	}
	s := fmt.Sprintf("torn writes: blocks are %s bytes logical, %s physical; ", or(d.BlockBytes, "?"), or(d.PhysicalBytes, "?"))
	if n, err := strconv.ParseInt(d.AtomicBytes, 10, 64); err == nil && n > 0 {
		return s + fmt.Sprintf("the device states that a write of up to %s, aligned and asked for with RWF_ATOMIC, is whole or not there; an ordinary write has no such promise", binarySize(n))
	}
	return s + "the device states no atomic write unit, so a write above one block may be torn, and below it only habit says otherwise; it cannot be measured without cutting the power"
}

// choiceVerdict says what the journal should use here, and what it gains.
func choiceVerdict(f DiskFile) []string {
	c := f.Choice
	if c == nil {
		return []string{"journal: one call (RWF_DSYNC) and two (write, fdatasync) cannot be compared: too few samples, or no O_DIRECT"}
	}
	var sizes []string
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		one, two := median(find(f.Rows, WayDSync, PlaceOverwrite, size, 1)), median(find(f.Rows, WayDirect, PlaceOverwrite, size, 1))
		if one != nil && two != nil {
			sizes = append(sizes, fmt.Sprintf("%s %s", binarySize(int64(size)), ratioOf(two, one)))
		}
	}
	line := fmt.Sprintf("journal: %s is cheaper, %s against %s with %s at 4 KiB (p50, %.0f %% less)", c.Way, micros(&c.Micros), micros(&c.OtherMicros), c.Other, 100*(1-c.Micros/c.OtherMicros))
	switch {
	case !c.Sure:
		line = fmt.Sprintf("journal: %s (%s) and %s (%s) cannot be told apart: not every one of %d rounds agrees (p50 at 4 KiB)", c.Way, micros(&c.Micros), c.Other, micros(&c.OtherMicros), diskRounds)
	case c.OtherMicros <= c.Micros*sameMax:
		line = fmt.Sprintf("journal: %s and %s cost the same, %s and %s at 4 KiB (p50)", c.Way, c.Other, micros(&c.Micros), micros(&c.OtherMicros))
	}
	if len(sizes) > 0 {
		line += fmt.Sprintf("; %s costs, of %s: %s", WayDirect, WayDSync, strings.Join(sizes, ", "))
	}
	lines := []string{line}
	over := median(find(f.Rows, WayDSync, PlaceOverwrite, 4<<10, 1))
	first, extend := median(find(f.Rows, WayDSync, PlaceFallocated, 4<<10, 1)), median(find(f.Rows, WayDSync, PlaceExtend, 4<<10, 1))
	if over == nil || first == nil && extend == nil {
		return lines
	}
	advice := "writing zeros before use gains little here"
	if first != nil && *first > *over*sameMax {
		advice = "it is worth writing zeros before use"
	}
	return append(lines, fmt.Sprintf("places: a first write into fallocated space costs %s of an overwrite, a write at the end %s (4 KiB, %s): %s",
		ratioOf(first, over), ratioOf(extend, over), WayDSync, advice))
}

// PrintDisk writes a run of "bench disk" for reading at a terminal.
func PrintDisk(out io.Writer, f DiskFile) {
	p := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	m, d := f.Machine, f.Machine.Disk
	p("directory   %s, %s (%s)", d.Directory, or(d.FileSystem, "unknown file system"), d.Mount)
	if d.Device == "" {
		p("device      none of its own")
	} else {
		p("device      %s, cache %s, fua %s, scheduler %s, blocks %s/%s bytes logical/physical, atomic writes %s bytes", d.Device, or(d.WriteCache, "?"),
			or(d.FUA, "?"), or(d.Scheduler, "?"), or(d.BlockBytes, "?"), or(d.PhysicalBytes, "?"), or(d.AtomicBytes, "?"))
	}
	m.Disk = Disk{}
	p("machine     %s", m)
	p("before      %s flushes/s on the device, by others\n", number(f.Others))
	p("%-8s %5s  %-10s  %-16s %8s %8s %8s %9s %8s %7s %6s", "size", "depth", "place", "way", "p50", "p99", "max", "writes/s", "MB/s", "flushes", "steal")
	var bytes int64
	for _, r := range f.Rows {
		head := fmt.Sprintf("%-8s %5d  %-10s  %-16s", binarySize(int64(r.Size)), r.Depth, r.Place, r.Way)
		if r.Missing != "" {
			p("%s not measured: %s", head, r.Missing)
			continue
		}
		flushes, mark := "-", ""
		if r.FlushesPerWrite != nil {
			flushes = fmt.Sprintf("%.2f", *r.FlushesPerWrite)
		}
		if r.Disturbed {
			mark = "*"
		}
		perSecond := r.BytesPerSecond / float64(r.Size)
		p("%s %8s %8s %8s %9s %8.1f %7s %5.1f%%%s", head, micros(r.Latency.P50), micros(r.Latency.P99), micros(&r.Latency.Max),
			number(&perSecond), r.BytesPerSecond/1e6, flushes, r.Use.Steal, mark)
		bytes += r.Writes * int64(r.Size)
	}
	p("\nflushes are the device's for each write, others' included; %s were written; a percentile with fewer than %d samples above it is a -\n", binarySize(bytes), SamplesAbove)
	for _, v := range f.Verdicts {
		p("%s", v)
	}
}

// binarySize prints a power of two as it is called.
func binarySize(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
