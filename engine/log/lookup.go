package log

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"

	"github.com/millrace/millrace/ring"
)

// walkBlock is how much a walk over batch headers reads at a time, bytes.
const walkBlock = 4 << 10

// lookup finds a place in a segment's files on a worker: by the index, then from
// batch header to batch header. It is embedded in the Read or query that waits.
type lookup struct {
	op   ring.Op
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
	f.host, f.fd, f.index, f.base = l.host(), s.fd, s.path(suffixIndex), s.base
	f.entries, f.times = -1, -1
	f.size, f.ended = s.size, s.end
	if l.tail.len() > 0 && l.tail.at(0).seg == s { // the rest is in memory
		f.size, f.ended = l.tail.at(0).pos, l.tail.at(0).base
	}
	if !s.finished {
		f.entries, f.times = int64(s.index.offsets), int64(s.index.times)
	}
	s.lease()
	l.lookups++
	l.core.stats.Lookups++
	f.op = ring.Op{Code: ring.Task, Func: f.run, Done: f}
	l.core.io.Submit(&f.op)
}

// run is the worker's part.
func (f *lookup) run() error {
	if f.time != nil {
		f.err = f.search()
		return nil
	}
	at := f.from
	if at < 0 {
		at, f.err = f.seek(f.offset)
		if f.err != nil {
			return nil
		}
	}
	w := walker{host: f.host, fd: f.fd, size: f.size, at: at}
	found := false
	before := int64(-1)
	for w.next() {
		last := w.batch.LastOffset()
		if last >= f.ended || w.batch.BaseOffset() <= before {
			// No such batch was ever written here: its header is damaged.
			if f.n <= 1 {
				f.err, f.damage = errDamage, w.pos
			}
			return nil
		}
		before = last
		if last < f.offset {
			continue
		}
		if !found {
			found = true
			f.pos = w.pos
			f.ends[0] = cursorEnd{f.offset, w.pos}
			f.n = 1
		}
		if last >= f.limit {
			break
		}
		start, end := f.ends[f.n-1].pos, w.pos+int64(w.length)
		if f.n == 1 || end-f.ends[f.n-2].pos > int64(f.maxBytes) {
			// A new range: the first one begins only if it fits or must.
			if f.n > f.ranges {
				break
			}
			if f.n == 1 && end-start > int64(f.maxBytes) && !f.minOne {
				break
			}
			f.ends[f.n] = cursorEnd{last + 1, end}
			f.n++
			continue
		}
		f.ends[f.n-1] = cursorEnd{last + 1, end}
	}
	f.err = w.err
	if w.err == errDamage {
		f.damage = w.at
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
	r := f.read
	switch {
	case f.err != nil && f.n < 2:
		r.Err = &ReadError{File: s.path(suffixLog), Pos: f.damage, Cause: f.err}
	case f.n == 0 && f.err == nil && f.ended > f.offset && f.ended < f.limit && !l.closing:
		// The end of the segment has been compacted away (Kafka does that): on to the next.
		l.unlease(s)
		if l.readFrom(r, f.ended) {
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
		}
	}
	l.unlease(s)
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

// seek is the position of the last index entry at or below offset, or 0.
func (f *lookup) seek(offset int64) (int64, error) {
	fd, err := f.host.Open(f.index, ring.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) { // renamed for deletion since: walk from the start
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.host.Close(fd)
	n := f.entries
	if n < 0 {
		size, err := f.host.Size(fd)
		if err != nil {
			return 0, err
		}
		n = size / offsetEntrySize
	}
	var e [offsetEntrySize]byte
	var failed error
	read := func(i int) offsetEntry {
		if _, err := f.host.ReadAt(fd, e[:], int64(i)*offsetEntrySize); err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", f.index, err)
		}
		return getOffsetEntry(e[:], f.base)
	}
	i := sort.Search(int(n), func(i int) bool { return failed != nil || read(i).offset > offset })
	if i == 0 || failed != nil {
		return 0, failed
	}
	at := read(i - 1).pos
	return at, failed
}
