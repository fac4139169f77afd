package log

import (
	"fmt"
	"math"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// ReadPieces is how many pieces of the tail one read shows at most.
const ReadPieces = 8

// ReadDone is told when a Read that went to a worker is done.
type ReadDone interface{ ReadDone(r *Read) }

// Read asks for batches. It is embedded in what waits for it; a read allocates
// nothing of its own. From Log.Read to ReadDone it belongs to the log; afterwards,
// until Log.Release, the caller may look at what it shows.
type Read struct {
	Offset   int64 // read from the batch that holds this offset
	Limit    int64 // batches that end above this are not shown: an exclusive offset
	MaxBytes int
	MinOne   bool // show the first batch even if it is larger than MaxBytes
	Done     ReadDone

	// The result: whole batches, the first one holding Offset. Either pieces of
	// memory (N of them), or a range of a file, or nothing: Len is 0 and Err nil
	// when there is nothing at Offset below Limit (yet), or nothing that small.
	Err  error
	Mem  [ReadPieces][]byte
	N    int
	File ring.FD
	Pos  int64 // in File
	Len  int   // bytes, of the range or of all pieces
	Next int64 // the offset after the last batch shown; Offset when there is none

	log    *Log
	seg    *segment
	chunks [ReadPieces]*chunk
}

// Read fills r: true, and the result is there; false, and r.Done is told later. Each
// successful read is given back by Release.
func (l *Log) Read(r *Read) bool {
	r.log, r.seg, r.N, r.Len, r.Err, r.File, r.Next = l, nil, 0, 0, nil, ring.NoFD, r.Offset
	switch {
	case l.closing || l.closed:
		r.Err = ErrClosed
		return true
	case r.Offset < l.logStart:
		r.Err = ErrOutOfRange
		return true
	case l.damaged && r.Offset >= l.logEnd: // what is there cannot be read, and is not gone
		r.Err = l.fence
		return true
	case r.Offset > l.logEnd:
		r.Err = ErrOutOfRange
		return true
	case r.Offset >= min(r.Limit, l.logEnd):
		return true
	}
	return l.readFrom(r, r.Offset)
}

// readFrom reads from offset, which is r's or, where that is in a gap, an end of a
// segment behind it.
func (l *Log) readFrom(r *Read, offset int64) bool {
	if offset >= l.tail.start(l.logEnd) {
		l.core.stats.TailReads++
		l.readTail(r, offset)
		return true
	}
	l.core.stats.FileReads++
	return l.readFile(r, offset)
}

// readTail shows chunks. Only the first and the last one are walked.
func (l *Log) readTail(r *Read, offset int64) {
	i := l.tail.find(offset)
	k := l.tail.at(i)
	from := 0
	at := l.cursors.of(k.seg, offset)
	switch {
	case offset <= k.base:
	case at != nil && at.pos >= k.pos && at.pos < k.pos+int64(len(k.buf)):
		from = int(at.pos - k.pos)
	default:
		for b := k.batchAt(0); b.LastOffset() < offset; b = k.batchAt(from) {
			from += len(b)
		}
	}
	left := r.MaxBytes
	for r.N < ReadPieces && i < l.tail.len() {
		k = l.tail.at(i)
		to, end := len(k.buf), k.end
		if end > r.Limit || to-from > left {
			to, end = k.walk(from, r.Limit, left)
		}
		if to == from && r.Len == 0 && r.MinOne { // one batch, if it is below the limit
			if b := k.batchAt(from); b.LastOffset() < r.Limit {
				to, end = from+len(b), b.LastOffset()+1
			}
		}
		if to == from {
			break
		}
		if r.N == 0 && k.written >= to && l.core.pinned > l.core.tailMax/2 {
			// Readers that do not take their replies must not hold all memory.
			r.show(k.seg, k.pos+int64(from), cursorEnd{end, k.pos + int64(to)})
			l.cursors.move(&at, k.seg, end, k.pos+int64(to))
			return
		}
		k.retain()
		if k.readers++; k.readers == 1 {
			l.core.pinned += cap(k.buf)
		}
		r.Mem[r.N], r.chunks[r.N] = k.buf[from:to:to], k
		r.N++
		r.Len += to - from
		r.Next = end
		left -= to - from
		l.cursors.move(&at, k.seg, end, k.pos+int64(to))
		if to < len(k.buf) {
			break
		}
		i, from = i+1, 0
	}
}

// Release gives back what a read held: memory, or the segment's file. On the
// log's own core, once for each read; a read that showed nothing may be released too.
func (l *Log) Release(r *Read) {
	if l.core.pressed && r.N > 0 {
		l.core.returned = true
	}
	for i := range r.N {
		if k := r.chunks[i]; k.readers == 1 {
			l.core.pinned -= cap(k.buf)
		}
		r.chunks[i].readers--
		l.core.unretain(r.chunks[i])
		r.Mem[i], r.chunks[i] = nil, nil
	}
	r.N = 0
	if s := r.seg; s != nil {
		r.seg, r.File = nil, ring.NoFD
		l.unlease(s)
	}
	if l.closing { // a close, or the removal of a deleted log, may wait for this
		l.kickJobs()
		l.setDue()
	}
}

// unlease lets the file go; the last one to leave a removed segment closes it.
func (l *Log) unlease(s *segment) {
	s.leases--
	if s.leases < 0 {
		panic(fmt.Sprintf("BUG: log %s-%d: segment %d has %d leases", l.topic, l.partition, s.base, s.leases))
	}
	if s.leases == 0 && (s.removed || l.closing) {
		l.kickJobs()
		l.setDue()
	}
}

// cursors remember where reads ended, so that those who read on need no search.
type cursors struct {
	all  [8]cursor
	next int
}

// cursor: the batch at pos of the segment is the one that holds offset or, when
// nothing does, the first above it.
type cursor struct {
	seg    *segment
	offset int64
	pos    int64
	// ahead are the ends of the next ranges, found by the same search.
	ahead  [cursorsAhead]cursorEnd
	aheads int

	// Read ahead: see readAhead.
	life        uint64 // of this reader, among all that the cursor served
	window      int64  // bytes; 0: it has read once
	fetched     int64  // position up to which the file has been asked for
	fetchedNext int64  // the same in the next segment
	coldFrom    int64  // [coldFrom, coldTo) of the segment was not in memory before that, and was not let go since
	coldTo      int64
}

type cursorEnd struct{ offset, pos int64 }

// cursorsAhead is how many ranges one search finds for a consumer that reads on.
const cursorsAhead = 8

// of is the cursor at offset, or nil.
func (c *cursors) of(s *segment, offset int64) *cursor {
	for i := range c.all {
		if k := &c.all[i]; k.seg == s && k.offset == offset {
			return k
		}
	}
	return nil
}

// move takes *at, the cursor of one who reads on, to where the read ended; where it
// is nil, the one put longest ago is used.
func (c *cursors) move(at **cursor, s *segment, offset, pos int64) {
	if *at == nil {
		*at = &c.all[c.next%len(c.all)]
		c.next++
		**at = cursor{life: (*at).life + 1}
	}
	k := *at
	if k.seg != s {
		k.fetched, k.fetchedNext, k.coldFrom, k.coldTo = 0, 0, 0, 0
	}
	k.seg, k.offset, k.pos, k.aheads = s, offset, pos, 0
}

// cross is the cursor of one who has read all that comes before s, moved to its start; nil
// where there is none.
func (l *Log) cross(s *segment) *cursor {
	for i := range l.cursors.all {
		if k := &l.cursors.all[i]; k.seg != nil && k.offset == s.base && k.seg.base < s.base && k.pos == k.seg.size {
			if k.seg.open && !k.seg.removed {
				l.forget(k, k.coldTo)
			}
			k.seg, k.pos, k.aheads = s, 0, 0
			k.fetched, k.fetchedNext, k.coldFrom, k.coldTo = k.fetchedNext, 0, 0, 0
			return k
		}
	}
	return nil
}

// forget drops all of them.
func (c *cursors) forget() {
	for i := range c.all {
		c.all[i] = cursor{life: c.all[i].life + 1}
	}
}

// readFile finds a range of a segment's file.
func (l *Log) readFile(r *Read, offset int64) bool {
	s := l.segmentOf(offset)
	l.tame(s)
	limit := min(r.Limit, l.tail.start(l.logEnd))
	k := l.cursors.of(s, offset)
	if k == nil && offset == s.base {
		k = l.cross(s)
	}
	if k != nil && k.aheads > 0 {
		if e := k.ahead[0]; e.offset <= limit && e.pos-k.pos <= int64(r.MaxBytes) {
			r.show(s, k.pos, e)
			copy(k.ahead[:], k.ahead[1:k.aheads])
			k.offset, k.pos, k.aheads = e.offset, e.pos, k.aheads-1
			l.readAhead(k)
			l.forgetBehind(k)
			return true
		}
	}
	f := l.core.takeLookup()
	f.log, f.read, f.seg = l, r, s
	f.offset, f.limit, f.maxBytes, f.minOne = offset, limit, r.MaxBytes, r.MinOne
	f.from, f.ranges = -1, 1
	if k != nil { // it reads on: look ahead for it, behind what is read ahead
		l.readAhead(k)
		f.from, f.ranges = k.pos, cursorsAhead
		if k.window > 0 { // no further than that: a search in what is cold waits for each batch
			f.ranges = max(1, min(cursorsAhead, int(k.window/max(int64(r.MaxBytes), 1))))
		}
	}
	l.startLookup(f)
	return false
}

// show shows a range of a file, and leases it.
func (r *Read) show(s *segment, pos int64, e cursorEnd) {
	if e.pos == pos {
		return
	}
	s.lease()
	r.seg, r.File, r.Pos, r.Len, r.Next = s, s.fd, pos, int(e.pos-pos), e.offset
}

// Bytes is for tests and tools: a copy of what a read shows, read blocking from h.
func (r *Read) Bytes(h ring.Host) ([]byte, error) {
	if r.seg == nil {
		var b []byte
		for _, m := range r.Mem[:r.N] {
			b = append(b, m...)
		}
		return b, nil
	}
	b := make([]byte, r.Len)
	if _, err := h.ReadAt(r.File, b, r.Pos); err != nil {
		return nil, fmt.Errorf("%s: read at %d: %w", r.seg.path(suffixLog), r.Pos, err)
	}
	return b, nil
}

// baseOffsetMax is the largest base offset there can be: what is added to it does not overflow.
const baseOffsetMax = math.MaxInt64 - math.MaxInt32 - 1

// headerOf is a batch as far as its header goes, for walking files. Offsets are not under the CRC.
func headerOf(b []byte) (h record.Batch, size int, ok bool) {
	if len(b) < record.HeaderSize {
		return nil, 0, false
	}
	size, ok = record.PeekSize(b)
	h = record.Batch(b[:record.HeaderSize])
	return h, size, ok && h.Magic() == record.Magic && h.LastOffsetDelta() >= 0 && h.BaseOffset() >= 0 && h.BaseOffset() <= baseOffsetMax
}
