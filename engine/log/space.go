package log

import (
	"math"
	"sync/atomic"
)

// Space is how much room a log directory has for records. What its file system has beyond a reserve is shared
// out to the cores at each Check; clients' appends stop where a core's share ends, so that the reserve stays
// for what must still be written then: checkpoints, metadata, offsets, what is in memory.
type Space struct {
	dir     *Dir
	reserve int64
	cores   int64

	free    atomic.Int64
	checks  atomic.Int64 // how many there have been
	refused atomic.Bool  // somebody was
	short   bool         // Check's
}

// NewSpace is a directory's, for so many cores. reserve is bytes; 0: there is none.
func NewSpace(d *Dir, reserve int64, cores int) *Space {
	return &Space{dir: d, reserve: reserve, cores: int64(cores)}
}

// Check looks how much there is, and says whether clients are refused for want of it: until an eighth of the
// reserve is there beyond it. Blocking; one at a time. Until the first one nothing is refused.
func (s *Space) Check() (free int64, short bool, err error) {
	if free, err = s.dir.Free(); err != nil {
		return 0, s.short, err
	}
	if s.refused.Swap(false) || free <= s.reserve {
		s.short = true
	} else if free > s.reserve+s.reserve/8 {
		s.short = false
	}
	s.free.Store(free)
	s.checks.Add(1)
	return free, s.short && s.reserve > 0, nil
}

// room is how many bytes there are beyond the reserve now; no end of them where there is none. Blocking; any
// goroutine.
func (s *Space) room() (int64, error) {
	if s == nil || s.reserve == 0 {
		return math.MaxInt64, nil
	}
	free, err := s.dir.Free()
	return free - s.reserve, err
}

// allowance is a core's share of a Space.
type allowance struct {
	of    *Space
	check int64 // the one that it is of
	left  int64 // bytes
}

// take says whether n bytes are within the share; unwritten is what the core has taken before and the file
// system does not know of.
func (a *allowance) take(n, unwritten int) bool {
	if a.of == nil || a.of.reserve == 0 {
		return true
	}
	if check := a.of.checks.Load(); check != a.check {
		a.check, a.left = check, (a.of.free.Load()-a.of.reserve)/a.of.cores-int64(unwritten)
	}
	if a.check == 0 {
		return true
	}
	if a.left < int64(n) {
		a.of.refused.Store(true)
		return false
	}
	a.left -= int64(n)
	return true
}
