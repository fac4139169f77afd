package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Trust is how far a disk's word that a write is durable can be believed, by what
// "bench disk" measured there.
type Trust string

// The kinds of trust, from none to most.
const (
	TrustNone     Trust = "none"     // it is memory, or a sync does nothing
	TrustDoubtful Trust = "doubtful" // fewer flushes reached the device than syncs were answered
	TrustCache    Trust = "cache"    // faster than a medium: a cache answered, and what it does without power cannot be seen
	TrustUnknown  Trust = "unknown"  // not measured, or not to be told
	TrustMedium   Trust = "medium"   // flushes reached the device and took as long as a medium takes
)

// Judgement is a Trust with its reason, in words that follow "survives".
type Judgement struct {
	Trust   Trust     `json:"trust"`
	Reason  string    `json:"reason"`
	Started time.Time `json:"measured,omitzero"` // when it was measured
	Device  string    `json:"device,omitempty"`
}

// ReadDiskFile reads what "bench disk" left. The error wraps fs.ErrNotExist where
// there is nothing.
func ReadDiskFile(path string) (DiskFile, error) {
	var f DiskFile
	b, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	if f.Format != resultFormat {
		return f, fmt.Errorf("%s: format %d, and this program reads %d: measure again", path, f.Format, resultFormat)
	}
	return f, nil
}

// durableRow is the row by which the disk's speed is judged, or nil.
func (f DiskFile) durableRow() *DiskRow {
	if r := find(f.Rows, WayDSync, PlaceOverwrite, 4<<10, 1); r != nil {
		return r
	}
	return find(f.Rows, WayBuffered, PlaceOverwrite, 4<<10, 1)
}

// fewestFlushes is the smallest number of flushes a synchronous write, one at a time, of the
// ways that should make one each. ok is false where the kernel does not count them.
func (f DiskFile) fewestFlushes() (fewest float64, ok bool) {
	for _, way := range diskWays {
		r := find(f.Rows, way, PlaceOverwrite, 4<<10, 1)
		if r == nil || way == WayDSync && f.Machine.Disk.FUA == "1" { // with FUA the write itself is durable
			continue
		}
		if r.FlushesPerWrite == nil {
			return 0, false
		}
		if !ok || *r.FlushesPerWrite < fewest {
			fewest, ok = *r.FlushesPerWrite, true
		}
	}
	return fewest, ok
}

// Judge says how far the disk's word can be believed. It is never "certain": only a power cut tells that.
func (f DiskFile) Judge() Judgement {
	d := f.Machine.Disk
	j := Judgement{Trust: TrustUnknown, Started: f.Started, Device: d.Device}
	r := f.durableRow()
	p50 := median(r)
	if p50 == nil {
		j.Reason = "cannot be told: disk.json has too few samples of a durable write"
		return j
	}
	virtual := ""
	if f.Machine.Hypervisor {
		virtual = "; what the host behind a virtual disk does with a flush cannot be seen"
	}
	fewest, counted := f.fewestFlushes()
	through := d.WriteCache == "write through"
	turns := d.Rotational == "1" && !f.Machine.Hypervisor
	switch v := *p50; {
	case v < memoryMicros:
		j.Trust, j.Reason = TrustNone, fmt.Sprintf("a durable write took %s: that is memory, or a sync that does nothing", micros(p50))
	case d.Device == "":
		j.Reason = fmt.Sprintf("cannot be told: %s has no block device of its own here", or(d.FileSystem, "the file system"))
	case d.Stacked:
		j.Reason = fmt.Sprintf("cannot be told: %s lies on several devices and does not count flushes", d.Device)
	case !through && !counted:
		j.Reason = "cannot be told: the kernel does not count the flushes of " + d.Device
	case !through && fewest < 0.95:
		j.Trust, j.Reason = TrustDoubtful, fmt.Sprintf("only %.2f flushes for each synchronous write reached %s: some were answered while its cache may have held them", fewest, d.Device)
	case v < flashMicros || turns && v < turnMicros:
		j.Trust, j.Reason = TrustCache, fmt.Sprintf("as far as can be told: %s acknowledged flushes faster than a medium can (%s), so a cache answered, and whether that outlives the power cannot be seen%s", d.Device, micros(p50), virtual)
	case through:
		j.Trust, j.Reason = TrustMedium, fmt.Sprintf("as far as can be told: %s says that it has no volatile cache, and a durable write took %s%s", d.Device, micros(p50), virtual)
	default:
		j.Trust, j.Reason = TrustMedium, fmt.Sprintf("as far as can be told: each synchronous write's flush reached %s, and took as long as a medium does (%s)%s", d.Device, micros(p50), virtual)
	}
	return j
}

// ChoiceLine compares RWF_DSYNC, one of the journal's ways, with the other ways; "" where
// that was not measured.
func (f DiskFile) ChoiceLine() string {
	c := f.Choice
	switch {
	case c == nil:
		return ""
	case !c.Sure || c.OtherMicros <= c.Micros*sameMax:
		return fmt.Sprintf("for the journal RWF_DSYNC costs here what %s costs, as far as can be told apart", map[bool]string{true: c.Other, false: c.Way}[c.Way == WayDSync])
	case c.Way == WayDSync:
		return fmt.Sprintf("for the journal RWF_DSYNC is the cheapest way here, %s against %s with %s (4 KiB, p50)", micros(&c.Micros), micros(&c.OtherMicros), c.Other)
	}
	return fmt.Sprintf("for the journal %s is cheaper here than RWF_DSYNC: %s against %s (4 KiB, p50)", c.Way, micros(&c.Micros), micros(&c.OtherMicros))
}
