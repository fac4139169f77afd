package log

import "github.com/millrace/millrace/ring"

// Who reads a log's files on and on is read ahead for: the file's next bytes are on
// their way into the page cache before they are asked for, so that the core finds
// them there. A [cursor] is such a reader. Its window doubles with each range, from
// aheadMin to what is set; one who reads elsewhere is another cursor, and begins
// anew. What was brought in for one reader alone can be let go again behind it.
const (
	aheadMin = 512 << 10 // bytes
	// aheadOps is how many ops of a core may be under way for that; beyond it nothing is read ahead.
	aheadOps = 32
	// forgetStep is how much is let go at once, and forgetGap how far behind the reader
	// it stays, bytes: sockets may still look at those pages.
	forgetStep = 1 << 20
	forgetGap  = 2 << 20
)

// aheadOp is a Prefetch or Forget. It leases the segment until it completes.
type aheadOp struct {
	ring.Op
	seg    *segment
	cursor *cursor
	life   uint64 // cursor's, when it was submitted
	next   *aheadOp
}

// tame has the kernel read nothing ahead of reads of s's file. Else the core's own sends would
// make it do so, on the core's thread, whenever they come to a page that the kernel has
// marked for that: 8 MiB at once take 2 ms.
func (l *Log) tame(s *segment) {
	if s.tamed || l.core.readahead == 0 || !s.open {
		return
	}
	op := l.core.takeAhead()
	if op == nil { // the next read does it
		return
	}
	s.tamed = true
	op.Op = ring.Op{Code: ring.NoReadahead, FD: s.fd, Done: op}
	op.seg = s
	s.lease()
	l.core.io.Submit(&op.Op)
}

// readAhead starts to read what k's reader will ask for next.
func (l *Log) readAhead(k *cursor) {
	c := l.core
	if c.readahead == 0 || l.closing || l.cutting {
		return
	}
	k.window = min(max(2*k.window, aheadMin), c.readahead)
	s := k.seg
	end := k.pos + k.window
	k.fetched = l.prefetch(k, s, max(k.fetched, k.pos), min(end, l.inFile(s)))
	if over := end - s.size; over > 0 {
		if next := l.after(s); next != nil {
			k.fetchedNext = l.prefetch(k, next, k.fetchedNext, min(over, l.inFile(next)))
		}
	}
}

// prefetch asks for [from, to) of a segment in large pieces: a small rest waits until it
// is larger, unless the file ends with it. It returns how far it came.
func (l *Log) prefetch(k *cursor, s *segment, from, to int64) int64 {
	for from < to && s.open {
		n := min(to-from, ring.PrefetchMax)
		if n < min(ring.PrefetchMax, k.window/2) && from+n < l.inFile(s) {
			break
		}
		op := l.core.takeAhead()
		if op == nil {
			break
		}
		op.Op = ring.Op{Code: ring.Prefetch, FD: s.fd, Off: from, Len: n, Done: op}
		op.seg, op.cursor, op.life = s, k, k.life
		s.lease()
		l.core.stats.Prefetches++
		l.core.io.Submit(&op.Op)
		from += n
	}
	return from
}

// Complete notes what was not in memory.
func (a *aheadOp) Complete(op *ring.Op) {
	s, l := a.seg, a.seg.log
	c := l.core
	if op.Code == ring.Prefetch && op.Result > 0 {
		c.stats.PrefetchedBytes += uint64(op.Result)
		if k := a.cursor; k.life == a.life && k.seg == s && int64(op.Result) >= op.Len/2 {
			if op.Off != k.coldTo {
				k.coldFrom = op.Off
			}
			k.coldTo = op.Off + op.Len
		}
	}
	a.seg, a.cursor = nil, nil
	a.next, c.aheads = c.aheads, a
	l.unlease(s)
}

// takeAhead is nil when too many are under way.
func (c *Core) takeAhead() *aheadOp {
	a := c.aheads
	if a != nil {
		c.aheads = a.next
	}
	return a
}

// forgetBehind lets go of what k's reader has passed and nobody else is about to read:
// no cursor is behind it, and it was not in memory before it was read ahead for k.
func (l *Log) forgetBehind(k *cursor) {
	if to := min(k.pos-forgetGap, k.coldTo); to-k.coldFrom >= forgetStep {
		l.forget(k, to)
	}
}

// forget lets go of what was cold for k below to.
func (l *Log) forget(k *cursor, to int64) {
	if !l.core.dropBehind || l.closing || l.cutting || to <= k.coldFrom {
		return
	}
	for i := range l.cursors.all {
		if o := &l.cursors.all[i]; o != k && o.seg == k.seg && o.pos < k.pos {
			return
		}
	}
	op := l.core.takeAhead()
	if op == nil {
		return
	}
	op.Op = ring.Op{Code: ring.Forget, FD: k.seg.fd, Off: k.coldFrom, Len: to - k.coldFrom, Done: op}
	op.seg = k.seg
	k.coldFrom = to
	k.seg.lease()
	l.core.stats.ForgottenBytes += uint64(op.Len)
	l.core.io.Submit(&op.Op)
}

// inFile is where the part of a segment ends that is read from its file: what comes
// behind it is in memory.
func (l *Log) inFile(s *segment) int64 {
	if l.tail.len() > 0 {
		switch k := l.tail.at(0); {
		case k.seg == s:
			return k.pos
		case k.seg.base < s.base:
			return 0
		}
	}
	return s.size
}

// after is the segment behind s, or nil.
func (l *Log) after(s *segment) *segment {
	for i := len(l.segments) - 2; i >= 0; i-- {
		if l.segments[i] == s {
			return l.segments[i+1]
		}
	}
	return nil
}
