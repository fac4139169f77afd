package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// asidePiece is how much is copied at once, bytes.
const asidePiece = 1 << 20

// aside is a part of a core's journal in a file of its own, because a fenced partition has
// entries there: the frames with positions in [from, to), each where it was, counted from from.
type aside struct {
	core       int
	generation uint64
	from, to   int64
}

const asideFormat = "core-%d.generation-%d.from-%d.to-%d.aside"

func (a aside) name() string {
	return fmt.Sprintf(asideFormat, a.core, a.generation, a.from, a.to)
}

func parseAside(name string) (a aside, ok bool) {
	_, err := fmt.Sscanf(name, asideFormat, &a.core, &a.generation, &a.from, &a.to)
	return a, err == nil && a.name() == name
}

// asideAgain is when it is tried again to set aside what the disk had no room for, ns.
const asideAgain = 5e9

// asideOp copies such a part. Where there is no room for it, that is tried again; where it fails otherwise, the entries
// stay where they are.
type asideOp struct {
	ring.Op
	core    *Core
	host    ring.Host
	log     func(format string, args ...any)
	number  int   // of the core
	reserve int64 // what is left free of the file system, bytes
	due     bool
	busy    bool
	failed  bool
	short   bool  // there was no room: said once
	again   int64 // not before that, ring's clock; 0: at once
	part    aside
}

// kickAside copies what fenced partitions have kept through a cut. No frame is in flight.
func (c *Core) kickAside() {
	a := &c.aside
	if !a.due || a.busy || a.failed || a.again != 0 || c.frame.busy {
		return
	}
	a.due = false
	if !c.pinned() { // what was fenced is closed by now
		return
	}
	a.busy = true
	a.part = aside{core: a.number, generation: c.gen, from: c.tail, to: c.head}
	a.Op = ring.Op{Code: ring.Task, Func: a.copy, Done: a}
	c.io.Submit(&a.Op)
}

// pinned says whether a fenced partition has entries here.
func (c *Core) pinned() bool {
	for _, s := range c.stakes {
		if s.fenced && s.first >= 0 {
			return true
		}
	}
	return false
}

// copy runs on a worker. What it reads is not written again before Complete.
func (a *asideOp) copy() error {
	dir := filepath.Dir(a.core.path)
	path := filepath.Join(dir, a.part.name())
	err := a.room(dir)
	if err == nil {
		err = copyPart(a.host, a.core.path, path, a.core.size, a.part)
	}
	told := a.short
	a.short = noRoom(err)
	switch {
	case a.log == nil || told && a.short:
	case a.short:
		a.log("%s: what fenced partitions have in it could not be set aside, and takes up room until there is space on the disk: %v", a.core.path, err)
	case err != nil:
		a.log("%s: what fenced partitions have in it could not be set aside, and takes up room until the next start: %v", a.core.path, err)
	default:
		a.log("%s: what fenced partitions have in it is kept in %s until the next start", a.core.path, path)
	}
	return err
}

// room is why the file system has no room for the part, or nil.
func (a *asideOp) room(dir string) error {
	free, err := a.host.Free(dir)
	if need := a.part.to - a.part.from; err == nil && free-a.reserve < need {
		err = fmt.Errorf("%s: %d bytes are free, %d of them reserved, and %d needed: %w", dir, free, a.reserve, need, syscall.ENOSPC)
	}
	return err
}

// noRoom says that there was no room, and nothing else is in doubt.
func noRoom(err error) bool {
	var sync *ring.SyncError
	return errors.Is(err, syscall.ENOSPC) && !errors.As(err, &sync)
}

// copyPart copies the part of a journal of so many bytes, durably.
func copyPart(h ring.Host, journal, path string, size int64, part aside) (err error) {
	from, err := h.Open(journal, ring.ReadOnly)
	if err != nil {
		return err
	}
	defer h.Close(from)
	tmp := path + ".tmp"
	to, err := h.Open(tmp, ring.Create)
	if err != nil {
		return err
	}
	defer func() {
		if to != ring.NoFD {
			h.Close(to)
		}
		if err != nil {
			h.Remove(tmp) // what cannot be removed the next start removes
		}
	}()
	piece := make([]byte, asidePiece)
	for at := part.from; at < part.to; {
		n := min(int64(len(piece)), part.to-at, size-at%size)
		if got, err := h.ReadAt(from, piece[:n], at%size); int64(got) < n {
			return fmt.Errorf("%s: read of %d bytes at %d: %d read: %w", journal, n, at%size, got, err)
		}
		if _, err := h.WriteAt(to, piece[:n], at-part.from); err != nil {
			return fmt.Errorf("%s: write: %w", tmp, err)
		}
		at += n
	}
	if err := h.Sync(to); err != nil {
		return &ring.SyncError{Err: fmt.Errorf("%s: sync: %w", tmp, err)}
	}
	err = h.Close(to)
	to = ring.NoFD
	if err != nil {
		return fmt.Errorf("%s: close: %w", tmp, err)
	}
	if err := h.Rename(tmp, path); err != nil {
		return err
	}
	if err := h.SyncDir(filepath.Dir(path)); err != nil {
		return &ring.SyncError{Err: err}
	}
	return nil
}

// Complete frees what has been copied.
func (a *asideOp) Complete(op *ring.Op) {
	c := a.core
	a.busy = false
	if err := op.Error(); err != nil {
		if a.failed = !noRoom(err); !a.failed {
			a.due, a.again = true, c.io.Now()+asideAgain
		}
		return
	}
	c.stats.Asides++
	for _, s := range c.stakes {
		switch {
		case !s.fenced || s.first < 0 || s.first >= a.part.to:
		case s.lastAt < a.part.to:
			c.release(s)
		default:
			s.first = a.part.to
		}
	}
	if !c.cutting {
		c.free()
	}
}

// NextDeadline is when Expire wants to be called, on the ring's clock, or ring.Forever.
func (c *Core) NextDeadline() int64 {
	if c.aside.again == 0 {
		return ring.Forever
	}
	return c.aside.again
}

// Expire has the step that it is in try again what the disk had no room for.
func (c *Core) Expire(now int64) {
	if c.aside.again <= now {
		c.aside.again = 0
	}
}

// asides lists the parts that were set aside, of one generation, in their order; others are
// those of other generations, and files that were not finished.
func (f *Files) asides(generation uint64) (parts []aside, others []string, err error) {
	entries, err := f.host.ReadDir(f.cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name := e.Name
		part, ok := parseAside(strings.TrimSuffix(name, ".tmp"))
		switch {
		case !ok:
		case part.generation != generation || strings.HasSuffix(name, ".tmp"):
			others = append(others, name)
		default:
			parts = append(parts, part)
		}
	}
	slices.SortFunc(parts, func(a, b aside) int {
		if a.core != b.core {
			return a.core - b.core
		}
		if a.from < b.from {
			return -1
		}
		return 1
	})
	return parts, others, nil
}

// replayAsides hands out what was set aside. It is older than what the journals hold.
func (f *Files) replayAsides(apply func(*Entry) error) error {
	parts, _, err := f.asides(f.meta.generation)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err := f.replayFile(filepath.Join(f.cfg.Dir, part.name()), &part, apply); err != nil {
			return err
		}
	}
	return nil
}

// removeAsides removes what no start will ask for.
func (f *Files) removeAsides() error {
	_, others, err := f.asides(f.meta.generation)
	if err != nil {
		return err
	}
	for _, name := range others {
		if err := f.host.Remove(filepath.Join(f.cfg.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
