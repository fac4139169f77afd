package log

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// walkBlock is how much a walk over batch headers reads at a time, bytes; behind a batch that is larger it reads one header.
const walkBlock = 4 << 10

// walkBlockCold is the same where the kernel reads nothing ahead, and nor do we.
const walkBlockCold = 32 << 10

// coldRanges is how many ranges one search finds where their CRC is to be checked.
const coldRanges = 2

// lookup finds a place in a segment's files on a worker: by the index, then from
// batch header to batch header. A query embeds one; for reads the core keeps some.
type lookup struct {
	op   ring.Op
	work func() error // run
	next *lookup      // free
	log  *Log
	seg  *segment
	read *Read      // who waits:
	time *TimeQuery // one of the two

	// What the worker needs, by value.
	host     ring.Host
	fd       ring.FD
	index    string
	base     int64
	size     int64 // bytes in the file
	entries  int64 // in the index file; -1: as many as it has
	times    int64 // in the time index
	offset   int64
	limit    int64
	maxBytes int
	minOne   bool
	from     int64 // position known to be right, or -1
	ranges   int   // how many ranges of maxBytes to find
	ended    int64 // offset at size
	walker   walker
	// Batches below cold were in the file at the start; of these only those in checked have had
	// their CRC checked since.
	cold      int64
	checked   span
	compacted bool // offsets may be missing

	// What it found.
	pos    int64
	ends   [cursorsAhead + 1]cursorEnd
	n      int
	err    error
	damage int64 // position, when err is damage
}

// parked is a lookup that came while the log was being cut, or segments exchanged.
type parked struct{ f *lookup }

// startLookup gives f to a worker.
func (l *Log) startLookup(f *lookup) {
	if l.cutting || l.swapping {
		l.parked = append(l.parked, parked{f})
		return
	}
	s := f.seg
	f.host, f.fd, f.index, f.base = l.host(), s.fd, "", s.base
	if f.from < 0 || f.time != nil {
		f.index = s.path(suffixIndex)
	}
	if f.work == nil {
		f.work = f.run
	}
	f.entries, f.times = -1, -1
	f.size, f.ended = s.size, s.end
	if l.tail.len() > 0 && l.tail.at(0).seg == s { // the rest is in memory
		f.size, f.ended = l.tail.at(0).pos, l.tail.at(0).base
	}
	if !s.finished {
		f.entries, f.times = int64(s.index.offsets), int64(s.index.times)
	}
	f.cold, f.checked, f.compacted = s.cold, s.checked, l.cfg.Compacted || l.cleaned > 0
	if s.cold > 0 { // not all at once: who reads waits while it is checked
		f.ranges = min(f.ranges, coldRanges)
	}
	s.lease()
	l.lookups++
	l.core.stats.Lookups++
	f.op = ring.Op{Code: ring.Task, Func: f.work, Done: f}
	l.core.io.Submit(&f.op)
}

// lookupBlock is the largest block that a lookup keeps for the next one, bytes.
const lookupBlock = 64 << 10

// takeLookup is a lookup that nobody uses, all zero but its work and its walker's block.
func (c *Core) takeLookup() *lookup {
	f := c.lookups
	if f == nil {
		return new(lookup)
	}
	c.lookups = f.next
	f.next = nil
	return f
}

// putLookup gives it back. There are never more than there were reads at once.
func (c *Core) putLookup(f *lookup) {
	block := f.walker.block
	if cap(block) > lookupBlock {
		block = nil
	}
	*f = lookup{work: f.work, next: c.lookups, walker: walker{block: block[:0]}}
	c.lookups = f
}

// run is the worker's part.
func (f *lookup) run() error {
	if f.time != nil {
		f.err = f.search()
		return nil
	}
	at, before := f.from, f.offset
	if at < 0 {
		if at, before, f.err = f.seek(f.offset); f.err != nil {
			return nil
		}
	}
	w := &f.walker
	*w = walker{host: f.host, fd: f.fd, size: f.size, at: at, block: w.block[:0], step: walkBlock}
	if f.from < 0 { // nothing has been read ahead for it
		w.step = walkBlockCold
	}
	f.walk(w, before)
	if f.n > 1 {
		f.checked.add(span{f.pos, f.ends[f.n-1].pos})
	}
	return nil
}

// advance moves the walker on: to a header, or where the CRC is to be checked, to a whole batch.
func (f *lookup) advance(w *walker) bool {
	w.whole = w.at < f.cold && !f.checked.has(w.at)
	return w.next()
}

// walk finds the ranges. before is where what comes before the walker ends, or -1. Ranges end
// before a batch that is damaged; only where there is none is that an error.
func (f *lookup) walk(w *walker, before int64) {
	for f.advance(w) {
		b := w.batch
		last := b.LastOffset()
		if err := f.wrong(w, before); err != nil {
			if f.n <= 1 {
				f.err, f.damage = err, w.pos
			}
			return
		}
		before = last + 1
		if last < f.offset {
			continue
		}
		if f.n == 0 {
			f.pos = w.pos
			f.ends[0] = cursorEnd{f.offset, w.pos}
			f.n = 1
		}
		if last >= f.limit {
			return
		}
		start, end := f.ends[f.n-1].pos, w.pos+int64(w.length)
		if f.n == 1 || end-f.ends[f.n-2].pos > int64(f.maxBytes) {
			// A new range: the first one begins only if it fits or must.
			if f.n > f.ranges || f.n == 1 && end-start > int64(f.maxBytes) && !f.minOne {
				return
			}
			f.ends[f.n] = cursorEnd{last + 1, end}
			f.n++
			continue
		}
		f.ends[f.n-1] = cursorEnd{last + 1, end}
	}
	switch {
	case f.n > 1:
	case errors.Is(w.err, errDamage):
		f.err, f.damage = w.err, w.at
	case w.err != nil:
		f.err = w.err
	case f.n == 0 && !f.compacted:
		f.err, f.damage = fmt.Errorf("%w: the file ends, and its records are to go on up to offset %d", errDamage, f.ended), w.at
	}
}

// wrong says why the batch that the walker is at is not what was written there, or nil. Its
// CRC is checked where this start has not done it yet. Base offsets are not under the CRC: a
// wrong one shows by its neighbours.
func (f *lookup) wrong(w *walker, before int64) error {
	b := w.batch
	first, last := b.BaseOffset(), b.LastOffset()
	switch {
	case last >= f.ended:
		return fmt.Errorf("%w: offset %d, and the segment goes to %d", errDamage, last, f.ended-1)
	case first < before:
		return fmt.Errorf("%w: offset %d after %d", errDamage, first, before-1)
	case before >= 0 && first > before && w.overlaps(f.ended):
		return fmt.Errorf("%w: offset %d after %d, and what follows is below %d", errDamage, first, before-1, last)
	case w.whole && last >= f.offset && !b.CheckCRC():
		return fmt.Errorf("%w: CRC-32C does not match", errDamage)
	}
	return nil
}

// Complete hands over what the worker found.
func (f *lookup) Complete(op *ring.Op) {
	l, s := f.log, f.seg
	l.lookups--
	if f.time != nil {
		f.time.found(l)
		l.unlease(s)
		l.step()
		return
	}
	if s.cold > 0 && !l.cutting {
		s.checked.add(f.checked)
	}
	r := f.read
	switch {
	case f.err != nil && f.n < 2:
		r.Err = &ReadError{File: s.path(suffixLog), Pos: f.damage, Cause: f.err}
	case f.n == 0 && f.err == nil && f.ended > f.offset && f.ended < f.limit && !l.closing:
		// The end of the segment has been compacted away (Kafka does that): on to the next.
		ended := f.ended
		l.unlease(s)
		l.core.putLookup(f)
		if l.readFrom(r, ended) {
			r.Done.ReadDone(r)
		}
		l.step()
		return
	case f.n >= 2:
		r.show(s, f.pos, f.ends[1])
		if !l.cutting {
			k := l.cursors.of(s, f.offset)
			l.cursors.move(&k, s, f.ends[1].offset, f.ends[1].pos)
			k.aheads = copy(k.ahead[:], f.ends[2:f.n])
			l.forgetBehind(k)
		}
	}
	l.unlease(s)
	l.core.putLookup(f)
	r.Done.ReadDone(r)
	l.step()
}

// ReadError says that a segment's file could not be read, or is damaged there.
type ReadError struct {
	File  string
	Pos   int64
	Cause error
}

func (e *ReadError) Error() string { return fmt.Sprintf("%s: at %d: %v", e.File, e.Pos, e.Cause) }

// Unwrap is the cause.
func (e *ReadError) Unwrap() error { return e.Cause }

// seek is a position to walk from to offset: that of the last index entry at or below it, or
// 0; and where what lies before it ends, or -1. An entry is believed when the batch that it means
// is there: a damaged index makes a walk longer, and never wrong.
func (f *lookup) seek(offset int64) (at, before int64, err error) {
	fd, err := f.host.Open(f.index, ring.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) { // renamed for deletion since: walk from the start
		return 0, f.base, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer f.host.Close(fd)
	n := f.entries
	if n < 0 {
		size, err := f.host.Size(fd)
		if err != nil {
			return 0, 0, err
		}
		n = size / offsetEntrySize
	}
	var e [offsetEntrySize]byte
	var failed error
	read := func(i int) offsetEntry {
		if _, err := f.host.ReadAt(fd, e[:], int64(i)*offsetEntrySize); err != nil && err != io.EOF && failed == nil {
			failed = fmt.Errorf("%s: %w", f.index, err)
		}
		return getOffsetEntry(e[:], f.base)
	}
	i := sort.Search(int(n), func(i int) bool { return failed != nil || read(i).offset > offset })
	for back := 1; i > 0 && failed == nil; i, back = i-back, 2*back {
		if e := read(i - 1); failed == nil && e.offset <= offset && isBatch(f.host, f.fd, f.size, e) {
			return e.pos, -1, nil
		}
	}
	return 0, f.base, failed
}

// isBatch says whether the batch that an index entry means is where it says.
func isBatch(h ring.Host, fd ring.FD, size int64, e offsetEntry) bool {
	var b [record.HeaderSize]byte
	if e.pos < 0 || e.pos >= size {
		return false
	}
	if _, err := h.ReadAt(fd, b[:], e.pos); err != nil {
		return false
	}
	batch, _, ok := headerOf(b[:])
	return ok && batch.LastOffset() == e.offset
}

// span is a range of a file.
type span struct{ from, to int64 }

// has says whether a position is in it.
func (s span) has(at int64) bool { return at >= s.from && at < s.to }

// add adds what lies beside it or overlaps; else the newer one stands: it is a memory of one range.
func (s *span) add(o span) {
	switch {
	case o.from >= o.to:
	case o.to < s.from || o.from > s.to:
		*s = o
	default:
		*s = span{min(s.from, o.from), max(s.to, o.to)}
	}
}
