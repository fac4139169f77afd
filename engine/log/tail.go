package log

import (
	"fmt"

	"github.com/millrace/millrace/engine/record"
)

const (
	chunkMin   = 4 << 10
	chunkMax   = 256 << 10
	chunkBusy  = 1e8 // ns: a chunk that filled in less is followed by a larger one
	chunkQuiet = 1e10
	// evictLook is how many chunks are looked at, oldest first, for one that can go.
	evictLook = 64
)

// chunk is a piece of a log's tail: contiguous batches of one segment, off heap.
type chunk struct {
	log       *Log
	seg       *segment
	buf       []byte // what is used; its capacity is what there is
	written   int    // bytes of buf that are in the file
	journaled int    // bytes of buf that are in the journal, or that need not be
	pos       int64  // where buf[0] is in the segment's file
	base      int64  // offset of the first batch
	end       int64  // the next offset after the last batch
	born      int64  // ring's clock, ns
	refs      int32  // reads, and ops in flight
	readers   int32  // reads alone
	sealed    bool   // nothing more goes in
	dropped   bool   // out of its log's tail; freed when refs is 0
	forsaken  bool   // its log is fenced: what is not written never will be

	older, newer *chunk // in the core's list
}

// tail is the newest batches of a log, all of those that are not written and as
// many of the others as the core has room for. It is a suffix of the log.
type tail struct {
	chunks []*chunk // [head:] are in the tail
	head   int
	dirty  int // the first chunk, counted from head, with unwritten bytes
	fresh  int // the first chunk, counted from head, with bytes that are not journaled
}

func (t *tail) len() int        { return len(t.chunks) - t.head }
func (t *tail) at(i int) *chunk { return t.chunks[t.head+i] }

// start is the first offset in the tail; end where the tail is empty.
func (t *tail) start(end int64) int64 {
	if t.len() == 0 {
		return end
	}
	return t.at(0).base
}

// undone is the base of the first chunk that a write or the journal still needs; end where
// there is none.
func (t *tail) undone(end int64) int64 {
	for i := range t.len() {
		if k := t.at(i); !k.done() {
			return k.base
		}
	}
	return end
}

// find is the chunk that holds offset, which is at or above start and below the end.
func (t *tail) find(offset int64) int {
	lo, hi := 0, t.len()
	for lo < hi {
		mid := (lo + hi) / 2
		if t.at(mid).end <= offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (t *tail) push(k *chunk) {
	if t.head > 0 && len(t.chunks) == cap(t.chunks) {
		n := copy(t.chunks, t.chunks[t.head:])
		clear(t.chunks[n:])
		t.chunks = t.chunks[:n]
		t.head = 0
	}
	t.chunks = append(t.chunks, k)
}

func (t *tail) popFirst() {
	t.chunks[t.head] = nil
	t.head++
	t.dirty = max(t.dirty-1, 0)
	t.fresh = max(t.fresh-1, 0)
	if t.len() == 0 {
		t.chunks, t.head = t.chunks[:0], 0
	}
}

func (t *tail) popLast() {
	n := len(t.chunks) - 1
	t.chunks[n] = nil
	t.chunks = t.chunks[:n]
	t.dirty, t.fresh = min(t.dirty, t.len()), min(t.fresh, t.len())
}

// room is a chunk of l's active segment with n bytes free, or nil when the core's
// bound or its pool is reached. Client appends leave an eighth of the bound to
// coordinators and replication.
func (l *Log) room(n int, how Origin) *chunk {
	c := l.core
	bound := c.tailMax
	if how == Client {
		bound -= bound / 8
	}
	if c.unwritten+n > bound && c.unwritten > 0 {
		return nil
	}
	seg := l.active()
	size := chunkMin
	if l.tail.len() > 0 {
		k := l.tail.at(l.tail.len() - 1)
		if k.seg == seg && !k.sealed && cap(k.buf)-len(k.buf) >= n {
			return k
		}
		age := c.io.Now() - k.born
		switch size = cap(k.buf); {
		case age < chunkBusy:
			size *= 2
		case age > chunkQuiet:
			size = chunkMin
		}
	}
	size = max(min(size, chunkMax, c.tailMax/16), min(chunkMin, c.tailMax/16), n)
	buf := c.get(size, bound)
	if buf == nil && size > n {
		buf = c.get(n, bound)
	}
	if buf == nil {
		return nil
	}
	k := c.spare
	if k == nil {
		k = new(chunk)
	} else {
		c.spare = k.newer
	}
	*k = chunk{log: l, seg: seg, buf: buf[:0], pos: seg.size, base: l.logEnd, end: l.logEnd, born: c.io.Now()}
	c.link(k)
	l.tail.push(k)
	return k
}

// get takes a block from the pool within the bound, at the cost of old chunks.
func (c *Core) get(n, bound int) []byte {
	for c.held > 0 && c.held+n > bound && c.evict() {
	}
	if c.held > 0 && c.held+n > bound {
		return nil
	}
	for {
		if buf := c.pool.Get(n); buf != nil {
			c.held += cap(buf)
			return buf
		}
		if !c.evict() {
			return nil
		}
	}
}

// evict frees a chunk that is written, journaled and not being read, about the oldest. A
// log's tail stays a suffix of it: only its first chunk can go.
func (c *Core) evict() bool {
	for range evictLook {
		k := c.oldest
		if k == nil {
			return false
		}
		l := k.log
		if k.refs == 0 && !k.dropped && l.tail.at(0) == k && k.done() {
			l.tail.popFirst()
			c.stats.Evictions++
			c.free(k)
			return true
		}
		// It cannot go now: it is not looked at again before all the others.
		c.unlink(k)
		c.link(k)
	}
	return false
}

// link makes k the newest chunk of the core.
func (c *Core) link(k *chunk) {
	k.older, k.newer = c.newest, nil
	if c.newest != nil {
		c.newest.newer = k
	} else {
		c.oldest = k
	}
	c.newest = k
}

func (c *Core) unlink(k *chunk) {
	if k.older != nil {
		k.older.newer = k.newer
	} else {
		c.oldest = k.newer
	}
	if k.newer != nil {
		k.newer.older = k.older
	} else {
		c.newest = k.older
	}
}

// done says that memory is not the only place where the chunk is.
func (k *chunk) done() bool {
	return k.written == len(k.buf) && (k.journaled == len(k.buf) || k.log.cfg.Policy != Journal)
}

// dropLast takes the log's last chunk out of its tail.
func (l *Log) dropLast() {
	k := l.tail.at(l.tail.len() - 1)
	l.tail.popLast()
	if !k.forsaken {
		l.core.unwritten -= len(k.buf) - k.written
	}
	k.written = len(k.buf)
	k.dropped = true
	if k.refs == 0 {
		l.core.free(k)
	}
}

// dropFirst takes the log's first chunk, which is done, out of its tail.
func (l *Log) dropFirst() {
	k := l.tail.at(0)
	if !k.done() {
		panic(fmt.Sprintf("BUG: log %s-%d: dropped at offset %d what is not written, or not journaled", l.topic, l.partition, k.base))
	}
	l.tail.popFirst()
	k.dropped = true
	if k.refs == 0 {
		l.core.free(k)
	}
}

// forsake gives back, once nothing of a fenced log is in flight, the memory that can
// be given back: what may not be read. The rest does not count as unwritten any more.
func (l *Log) forsake() {
	if l.fence == nil || l.write.busy || l.entry.busy {
		return
	}
	for keep := max(l.stable, l.written); l.tail.len() > 0 && l.tail.at(l.tail.len()-1).base >= keep; {
		l.dropLast()
	}
	for i := l.tail.len() - 1; i >= 0 && !l.tail.at(i).forsaken; i-- {
		k := l.tail.at(i)
		l.core.unwritten -= len(k.buf) - k.written
		k.forsaken = true
	}
}

// free gives a chunk's memory back. It is in no tail any more.
func (c *Core) free(k *chunk) {
	c.unlink(k)
	c.held -= cap(k.buf)
	c.pool.Put(k.buf[:1])
	*k = chunk{newer: c.spare}
	c.spare = k
}

// retain and unretain keep a chunk's memory while somebody looks at it.
func (k *chunk) retain() { k.refs++ }

func (c *Core) unretain(k *chunk) {
	k.refs--
	if k.refs < 0 {
		panic(fmt.Sprintf("BUG: log: chunk at offset %d released %d times too often", k.base, -k.refs))
	}
	if k.refs == 0 && k.dropped {
		c.free(k)
	}
}

// batchAt is the batch of the chunk that starts at byte at. Chunks hold whole batches.
func (k *chunk) batchAt(at int) record.Batch {
	size, ok := record.PeekSize(k.buf[at:])
	if !ok || size > len(k.buf)-at {
		panic(fmt.Sprintf("BUG: log: no batch at byte %d of %d of the chunk at offset %d", at, len(k.buf), k.base))
	}
	return record.Batch(k.buf[at : at+size : at+size])
}
