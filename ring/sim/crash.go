package sim

import (
	"errors"
	"fmt"
	"maps"

	"github.com/millrace/millrace/ring"
)

// Crash says what a crash leaves of what was not synced.
type Crash uint8

const (
	// ProcessKill leaves everything written: the page cache survives, and what was not
	// synced in it a later power loss can still take. Ops in flight have happened or
	// not. Peers see the connections end at once.
	ProcessKill Crash = iota
	// PowerLoss leaves what was synced, and of the rest what the seed says:
	// for each file all of it, nothing, some of its writes, or some sectors of
	// them, older contents of a sector included; of names, each change or not (a
	// rename: the old name or the new one). Peers see a reset after a while.
	PowerLoss
	// PowerLossClean leaves what was synced and nothing else.
	PowerLossClean
	// The others are what PowerLoss may come to, to try each of them at every point. Here
	// all that was written is there, names too, and what was in flight has happened.
	PowerLossWhole
	// PowerLossTorn is PowerLossWhole, but of the last write to each file that was not
	// synced some sectors are missing, or its end. Writes in flight have happened, so these are
	// the ones that are torn; syncs in flight have not.
	PowerLossTorn
	// PowerLossSectors leaves all names, and of each sector any of the contents it has had.
	PowerLossSectors
	// PowerLossContents leaves all that was written to files whose names were synced, and no other name.
	PowerLossContents
	// PowerLossNames leaves all names, and of the files what was synced.
	PowerLossNames
	crashes
)

var crashNames = [crashes]string{"process-kill", "power-loss", "power-loss-clean",
	"power-loss-whole", "power-loss-torn", "power-loss-sectors", "power-loss-contents", "power-loss-names"}

func (c Crash) String() string { return crashNames[c] }

// happened decides whether an op that is in flight has happened.
func (c Crash) happened(w *World, code ring.Code) bool {
	switch c {
	case PowerLossWhole, PowerLossContents, PowerLossNames:
		return true
	case PowerLossTorn:
		return code == ring.Write
	}
	return w.happens(2)
}

// ErrCrashed is the error of every verb of a Host that has crashed.
var ErrCrashed = errors.New("the machine has crashed")

// Crash stops the host now. Its IOs are dead: their ops never complete. Its verbs
// fail with ErrCrashed and change nothing, until Restart. What the disk then holds
// is decided here, by mode and seed.
func (h *Host) Crash(mode Crash) {
	if h.down {
		panic(fmt.Sprintf("BUG: sim: host %s has crashed already", h.name))
	}
	w := h.world
	w.note("crash "+mode.String(), h.id, int64(h.diskEvents), 0, 0)
	h.down, h.crashAt = true, 0
	h.powerless = mode != ProcessKill
	for _, io := range h.ios { // what is in flight may still happen
		if io.dead {
			continue
		}
		io.dead = true
		for _, f := range io.flights {
			if f != nil && f.state == stateDisk && mode.happened(w, f.op.Code) {
				f.apply()
			}
		}
	}
	h.ios = nil
	for _, d := range h.fds {
		switch {
		case d == nil:
		case d.listener != nil:
			for _, e := range d.listener.backlog {
				e.crash(mode)
			}
			d.listener.closed = true
		case d.end != nil:
			d.end.crash(mode)
		}
	}
	h.fds, h.listeners, h.maps = nil, nil, nil
	h.settleDisk(mode)
}

// settleKill leaves the page cache and the names as they are, durable or not. What
// was in flight and happened has completed, as far as a later Sync is concerned.
func (h *Host) settleKill() {
	seen := map[*file]bool{}
	var walk func(f *file)
	walk = func(f *file) {
		if seen[f] {
			return
		}
		seen[f] = true
		if f.dir {
			for _, name := range sortedNames(f.names) {
				walk(f.names[name])
			}
			for _, name := range sortedNames(f.durable) {
				walk(f.durable[name])
			}
			return
		}
		f.unslab()
		f.opens, f.lock = 0, nil
		for _, v := range f.dirty {
			for i := range v[1:] {
				h.complete(v[i+1].change)
			}
		}
		for i := range f.sizes[1:] {
			h.complete(f.sizes[i+1].change)
		}
		h.reclaim(f)
	}
	walk(h.root)
}

// settleDisk makes what survives the disk's content.
func (h *Host) settleDisk(mode Crash) {
	if mode == ProcessKill {
		h.settleKill()
		return
	}
	r := &h.world.random
	all := func(int) bool { return true }
	fate := r.below(4)
	switch mode {
	case PowerLossClean, PowerLossContents:
		fate = 0
	case PowerLossWhole, PowerLossTorn, PowerLossSectors, PowerLossNames:
		fate = 1
	}
	switch fate {
	case 0:
	case 1:
		h.settleNames(all)
	case 2: // as a journaling file system has it: in order
		upTo := int(r.below(int64(len(h.pending) + 1)))
		h.settleNames(func(i int) bool { return i < upTo })
	default:
		salt := r.next()
		h.settleNames(func(i int) bool { return mix(salt+uint64(i))&1 == 0 })
	}
	h.pending = nil
	h.used = 0
	seen := map[*file]bool{}
	var walk func(dir *file)
	walk = func(dir *file) {
		dir.names = maps.Clone(dir.durable)
		for _, name := range sortedNames(dir.names) {
			f := dir.names[name]
			if seen[f] {
				panic(fmt.Sprintf("BUG: sim: host %s: file %d has two names after a crash, one is %s", h.name, f.id, name))
			}
			seen[f] = true
			f.links = 1
			if f.dir {
				walk(f)
				continue
			}
			f.settle(r, mode)
			h.used += f.used
		}
	}
	walk(h.root)
}

// Restart starts the machine again, on the disk that the crash left.
func (h *Host) Restart() {
	if !h.down {
		panic(fmt.Sprintf("BUG: sim: host %s is running", h.name))
	}
	h.world.note("restart", h.id, 0, 0, 0)
	h.down, h.powerless = false, false
}

// Crashed says whether the host has crashed and not been restarted.
func (h *Host) Crashed() bool { return h.down }

// DiskEvents counts the disk events of the host: see World.CrashAfter.
func (h *Host) DiskEvents() int { return h.diskEvents }

// diskEvent is asked before every change of the disk. False: the host is down, or
// has just crashed, and nothing may be changed.
func (h *Host) diskEvent(what string, id int, off, n int64, sum uint32) bool {
	if h.down {
		return false
	}
	h.diskEvents++
	if h.diskEvents == h.crashAt {
		h.Crash(h.crashMode)
		return false
	}
	h.world.note(what, h.id, int64(id)<<40^off, n, sum)
	return true
}
