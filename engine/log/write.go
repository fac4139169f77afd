package log

import (
	"errors"
	"fmt"
	"hash/crc32"
	"syscall"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

const (
	// writeMax is how much one write takes from the tail, bytes, unless one
	// chunk is larger.
	writeMax = 8 << 20
	// writeBehindBytes and writeBehindNanos are how much a log under Journal gathers before it
	// writes to its segment, and for how long: nobody waits for it.
	writeBehindBytes = 64 << 10
	writeBehindNanos = 10e6
	// writeBackBytes is how much is written before its write-back is started; lazyBackBytes the same
	// under OS, where the next sync is that of the roll.
	writeBackBytes = 256 << 10
	lazyBackBytes  = 1 << 20
	// spaceRetry is how often a full disk is tried again, ns.
	spaceRetry = 1e9
)

// writeOp takes batches from the tail to a segment's file. One is in flight for
// each log: when it completes, the next covers all that was appended since. Under
// Write it takes one batch, and a sync follows it in the ring.
type writeOp struct {
	ring.Op
	log   *Log
	seg   *segment
	end   int64 // written once all bytes are in the file
	left  int   // bytes until then
	busy  bool
	began int64 // the first of its writes, ring's clock

	bufs   [ring.IOVMax][]byte
	chunks [ring.IOVMax]*chunk
	n      int // chunks

	forced   chained
	chained  bool // a sync follows
	canceled bool // and was cancelled because the write was short or the disk full
	ragged   bool // the disk was full: the file may end inside a batch
}

// kickWrite writes what is in the tail and not in the file.
func (l *Log) kickWrite() {
	w := &l.write
	if w.busy || l.fence != nil || l.noSpace || l.deleting && !l.entry.busy || l.closed || l.tail.dirty >= l.tail.len() {
		return
	}
	for l.tail.dirty < l.tail.len() && l.tail.at(l.tail.dirty).written == len(l.tail.at(l.tail.dirty).buf) {
		l.tail.dirty++
	}
	if l.tail.dirty == l.tail.len() {
		return
	}
	first := l.tail.at(l.tail.dirty)
	if l.cfg.Policy == Journal && !l.writeDue(first) {
		return
	}
	if !first.seg.open || l.cutting && l.written >= l.cutTo {
		return
	}
	w.seg = first.seg
	w.chained = l.cfg.Policy == Write
	if w.chained {
		// The chained sync makes the file durable; what comes before the file must be.
		if l.sync.busy || l.synced < w.seg.base {
			l.syncWanted = max(l.syncWanted, w.seg.base)
			return
		}
		at := first.written
		if w.ragged {
			at = first.batchStart(at)
		}
		b := first.batchAt(at)
		w.end, w.left = b.LastOffset()+1, at+len(b)-first.written
	} else {
		w.left = 0
		for i := l.tail.dirty; i < l.tail.len() && i-l.tail.dirty < ring.IOVMax; i++ {
			k := l.tail.at(i)
			if k.seg != w.seg || w.left > 0 && w.left+len(k.buf)-k.written > writeMax {
				break
			}
			w.left += len(k.buf) - k.written
			w.end = k.end
		}
	}
	w.ragged = false
	w.began = l.core.io.Stamp()
	if l.age.writing == 0 { // else it is tried again
		l.age.writing = l.age.pending
	}
	l.age.pending = 0
	if w.end < l.logEnd && l.age.pending == 0 {
		l.age.pending = l.age.writing // what stays behind is not older than this
	}
	w.submit()
}

// writeDue says whether what has gathered from chunk k on is to be written, under Journal.
func (l *Log) writeDue(k *chunk) bool {
	c := l.core
	return l.bytesIn-l.bytesWritten >= writeBehindBytes || k.seg.index.heldOffsets == indexHeld || l.syncWanted > l.written || k.seg != l.active() ||
		c.pressed || c.unwritten > c.tailMax/2 || l.closing || l.cutting ||
		l.age.pending == 0 || c.io.Now()-l.age.pending >= writeBehindNanos
}

// rangeOp starts the write-back of what has been written to a segment, so that the sync that comes
// one day, because the journal, a bound or a roll asks for it, finds little to do. Under Write
// and File syncs follow each other as it is.
type rangeOp struct {
	ring.Op
	log  *Log
	seg  *segment
	from int64 // of seg, in bytes: what lies below has been started
	busy bool
}

// turn is where among a piece's bytes this log's write-backs begin, so that logs that grow alike take turns: all of them at
// once is megabytes before which a synchronous write waits. Neighbouring partitions are far apart (the golden ratio).
func (l *Log) turn(piece int64) int64 { return int64(l.turnOf) * piece >> 32 }

func turnOf(topic string, partition int32) uint32 {
	return crc32.ChecksumIEEE([]byte(topic)) + uint32(partition)*0x9e3779b9
}

// backAfter is where the write-back after the one up to to begins.
func (l *Log) backAfter(to, piece int64) int64 { return to + piece - (to+l.turn(piece))%piece }

// kickRange starts it once for each writeBackBytes, where the log's turn is.
func (l *Log) kickRange(s *segment, to int64) {
	r := &l.back
	if r.busy || l.cfg.Policy == Write || l.cfg.Policy == File || l.fence != nil {
		return
	}
	piece := int64(writeBackBytes)
	if l.cfg.Policy == OS {
		piece = lazyBackBytes
	}
	to -= to % 4096
	if r.seg != s || to < r.from { // another segment, or it was cut; what is on disk already costs nothing
		r.seg, r.from = s, 0
	}
	if to < l.backAfter(r.from, piece) {
		return
	}
	s.lease()
	r.busy = true
	r.Op = ring.Op{Code: ring.SyncRange, FD: s.fd, Off: r.from, Len: to - r.from, Done: r}
	r.from = to
	l.core.stats.Ranges++
	l.core.io.Submit(&r.Op)
}

// Complete has nothing to say: a failed write-back is for the sync to report.
func (r *rangeOp) Complete(*ring.Op) {
	r.busy = false
	r.log.unlease(r.seg)
	r.log.step()
}

// submit writes the next w.left bytes of the tail.
func (w *writeOp) submit() {
	l := w.log
	for l.tail.at(l.tail.dirty).written == len(l.tail.at(l.tail.dirty).buf) {
		l.tail.dirty++
	}
	w.n = 0
	left := w.left
	for i := l.tail.dirty; left > 0; i++ {
		k := l.tail.at(i)
		b := k.buf[k.written:]
		if len(b) > left {
			b = b[:left]
		}
		k.retain()
		w.chunks[w.n], w.bufs[w.n] = k, b
		w.n++
		left -= len(b)
	}
	first := w.chunks[0]
	w.Op = ring.Op{Code: ring.Write, Flags: l.core.inline, FD: w.seg.fd, Off: first.pos + int64(first.written), Bufs: w.bufs[:w.n], Done: w}
	if w.chained {
		w.forced.Op = ring.Op{Code: ring.Sync, FD: w.seg.fd, Done: &w.forced}
		w.Next = &w.forced.Op
		l.core.stats.Syncs++
	}
	w.busy = true
	l.core.stats.Writes++
	l.core.io.Submit(&w.Op)
}

// Complete moves written.
func (w *writeOp) Complete(op *ring.Op) {
	l := w.log
	n := max(int(op.Result), 0)
	w.left -= n
	l.core.unwritten -= n
	l.bytesWritten += int64(n)
	for i, k := range w.chunks[:w.n] {
		take := min(n, len(w.bufs[i]))
		k.written += take
		n -= take
		w.chunks[i], w.bufs[i] = nil, nil
		l.core.unretain(k)
	}
	whole := w.left == 0
	err := op.Error()
	switch {
	case errors.Is(err, syscall.ENOSPC):
		// A buffered write that fails so has put nothing into the page cache
		// (what it could put there it reports as a short write), so the bytes
		// are still in the tail only and can be tried again: nothing that was
		// written is in doubt. A sync that fails so is another matter: it fences.
		l.full()
	case err != nil:
		l.fail(w.seg.path(suffixLog), fmt.Errorf("write: %w", err))
	case op.Result == 0:
		l.fail(w.seg.path(suffixLog), errShort)
	case whole:
		if !l.cfg.Policy.Synchronous() {
			l.flight = flight{w.began, l.core.io.Now()}
		}
		l.advanceWritten(w.end)
		l.kickRange(w.seg, op.Off+int64(op.Result))
	}
	if w.chained && !whole { // the sync comes back cancelled
		w.canceled = true
		return
	}
	if w.chained {
		return // until the sync is there
	}
	w.next(whole)
}

// next goes on after a write has completed, and the sync that followed it.
func (w *writeOp) next(whole bool) {
	l := w.log
	w.busy = false
	if !whole && l.fence == nil && !l.noSpace {
		w.submit()
		return
	}
	if whole {
		l.owner.Advanced(l)
	}
	l.step()
}

// chained is the sync that follows a write under Write.
type chained struct {
	ring.Op
	log  *Log
	held bool // as syncOp's
}

// Complete moves synced, or leaves that to settleSyncs.
func (c *chained) Complete(op *ring.Op) {
	w := &c.log.write
	if w.canceled {
		w.canceled = false
		w.next(false)
		return
	}
	err := op.Error()
	if c.held = err == nil && w.seg.unnamed && c.log.fence == nil; !c.held {
		c.finish(err)
	}
}

func (c *chained) finish(err error) {
	l := c.log
	w := &l.write
	if err != nil {
		l.failSync(w.seg.path(suffixLog), err)
		w.busy = false
		l.step()
		return
	}
	l.age.dirty = 0
	l.bytesSynced = l.bytesWritten
	if l.fence == nil {
		l.flight = flight{w.began, l.core.io.Now()}
		l.advanceSynced(w.end)
	}
	w.next(true)
}

// advanceWritten: everything below end is in the page cache at least.
func (l *Log) advanceWritten(end int64) {
	if end <= l.written || end > l.logEnd {
		panic(fmt.Sprintf("BUG: log %s-%d: written %d -> %d with log end %d", l.topic, l.partition, l.written, end, l.logEnd))
	}
	l.written = end
	if l.age.dirty == 0 {
		l.age.dirty = l.age.writing
	}
	l.age.writing = 0
	l.published.Written.Store(end)
	l.advanceStable()
	l.wantSync()
}

// full enters the state of a full disk: nothing is appended until a write works.
func (l *Log) full() {
	l.write.ragged = true
	if l.closing { // nobody waits for better times
		l.noSpace = true
		return
	}
	l.noSpace = true
	l.retryAt = l.core.io.Now() + spaceRetry
}

// tryAgain leaves it; what waited in the tail is written first, in order.
func (l *Log) tryAgain() {
	l.noSpace = false
	l.kick()
}

// batchStart is where the batch starts that byte at is in.
func (k *chunk) batchStart(at int) int {
	start := 0
	for {
		next := start + len(k.batchAt(start))
		if next > at {
			return start
		}
		start = next
	}
}

// walk is the position after whole batches of k.buf[from:], up to limit and at most max bytes.
func (k *chunk) walk(from int, limit int64, max int) (to int, end int64) {
	to = from
	for to < len(k.buf) {
		size, ok := record.PeekSize(k.buf[to:])
		if !ok || size > len(k.buf)-to {
			panic(fmt.Sprintf("BUG: log: no batch at byte %d of the chunk at offset %d", to, k.base))
		}
		last := record.Batch(k.buf[to : to+size]).LastOffset()
		if last >= limit || to-from+size > max {
			break
		}
		to += size
		end = last + 1
	}
	return to, end
}
