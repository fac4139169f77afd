package log

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

const (
	// cleanBuffer is how much of a cleaned segment is gathered before it is written, bytes.
	cleanBuffer = 256 << 10
	// sourceBytesMax bounds a cleaned segment, bytes: positions are 31 bits in the index.
	sourceBytesMax = math.MaxInt32
)

var (
	errCleanStopped = errors.New("compaction: the log is being changed")
	errCleanRoom    = errors.New("compaction: the keys of one batch do not fit in log.cleaner.dedupe.buffer.size")
)

// source is a segment that is read.
type source struct {
	seg *segment // for the loop's eyes
	cutSegment
	created  int64
	bytesEnd int64
	aborted  []AbortedTxn
}

// cleaning is one pass over a log: first the keys of the dirty section go into a map,
// then all segments from the log's start to the end of the mapped section are copied without
// the records that have a later one of their key. Piece by piece, each a job; what a
// piece works on is its own until the next is started by the loop.
//
// Segments are copied in groups that fit into one. Of each group the last batch stays, if
// only as a header: a segment ends where the next one starts, also on disk. So does each
// producer's last batch. Data of aborted transactions goes. The marker of a transaction stays
// until a cleaning has met nothing of it any more, then for delete.retention.ms: see transactions.
type cleaning struct {
	host  ring.Host
	log   *Log // for newSegment's sake; the worker does not look into it
	dir   string
	cfg   Config
	space *Space
	stop  atomic.Bool // the loop does not want it any more
	busy  bool        // a job of it is queued or runs

	sources  []source
	from, to int64 // the dirty section
	now      int64 // wall, ms
	last     map[int64]lastBatch
	txns     transactions
	keys     *offsetMap // made by the first piece
	keysMax  int64      // memory for them, bytes

	mapped int64 // keys of batches below are in the map
	copies bool  // the map is done
	i      int   // source being read
	end    int   // copying: of the group, exclusive
	room   int64 // beyond the disk's reserve, bytes, as it was last looked at
	walk   walker
	spent  int64 // bytes read and written in this piece

	reader  record.Reader
	inflate *record.Decompressor
	builder record.Builder
	keep    []bool

	out     *segment // the cleaned one; nil: none begun
	buf     []byte   // not written yet
	written int64
	changed bool // something went, or was marked
	ready   bool // it is written and synced, and takes the group's place next
	done    bool
	epoch   int32 // of the batch read last
}

// lastBatch is the last batch of a producer: where it ends, or -1 where all that is known of
// the producer is its epoch.
type lastBatch struct {
	offset int64
	epoch  int16
}

// planCleaning makes ready what a cleaning needs to know of the log.
func (l *Log) planCleaning(d dirt, wall int64) *cleaning {
	c := &cleaning{host: l.host(), log: l, dir: l.path, cfg: l.cfg, space: l.core.space.of, from: d.from, to: d.to, mapped: d.from, now: wall,
		last: map[int64]lastBatch{}, keysMax: l.core.cleaner.DedupeBytes}
	for _, s := range l.segments[:d.segments] {
		c.sources = append(c.sources, source{s, cutSegment{s.fd, s.base, s.end, s.size}, s.created, s.bytesEnd, s.aborted})
	}
	for _, s := range l.segments {
		c.txns.add(s.aborted)
	}
	for p := l.producer.oldest; p != nil; p = p.newer {
		b := lastBatch{-1, p.epoch}
		if p.count > 0 {
			b.offset = p.batches[p.count-1].lastOffset
		}
		c.last[p.id] = b
	}
	c.inflate = record.NewDecompressor(record.DecompressedMaxDefault)
	return c
}

// piece does about as many bytes' worth of the work. On a worker.
func (c *cleaning) piece(budget int64) error {
	if err := c.look(); err != nil {
		return err
	}
	if c.keys == nil {
		c.keys = newOffsetMap(c.to-c.from, c.keysMax)
	}
	for c.spent < budget && !c.ready && !c.done {
		if c.stop.Load() {
			return errCleanStopped
		}
		var err error
		if !c.copies {
			err = c.mapOn()
		} else {
			err = c.copyOn()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// look sees to it that the cleaned segment does not come out of the disk's reserve: one is begun where there is room for
// all of what it replaces, and given up where others have taken that meanwhile.
func (c *cleaning) look() (err error) {
	if c.room, err = c.space.room(); err != nil {
		return err
	}
	need := int64(0)
	if c.out == nil && c.i < len(c.sources) {
		need = spaceFor(c.sources[c.i].size)
	}
	if c.room < need {
		return fmt.Errorf("%d bytes are free beyond disk.reserve.bytes, and %d needed: %w", c.room, need, syscall.ENOSPC)
	}
	return nil
}

// spaceFor is how much of the disk a cleaned segment of so many bytes may take, with its indexes, bytes.
func spaceFor(size int64) int64 { return size + size/128 + 32<<10 }

// read moves to the next batch of source i; false: there is none left.
func (c *cleaning) read() (bool, error) {
	s := &c.sources[c.i]
	if c.walk.host == nil {
		c.walk = walker{host: c.host, fd: s.fd, size: s.size, whole: true}
	}
	w := &c.walk
	if !w.next() {
		if w.err != nil {
			return false, fmt.Errorf("%s: at %d: %w", fileName(s.base, suffixLog), w.at, w.err)
		}
		return false, nil
	}
	c.spent += int64(w.length)
	if b := w.batch; !b.CheckCRC() || b.BaseOffset() < s.base || b.LastOffset() >= s.end {
		return false, c.at(errDamage)
	}
	return true, nil
}

// at says at which batch something went wrong.
func (c *cleaning) at(err error) error {
	return fmt.Errorf("%s: at %d: %w", fileName(c.sources[c.i].base, suffixLog), c.walk.pos, err)
}

func (c *cleaning) next() {
	c.i++
	c.walk = walker{}
}

// mapOn takes the keys of the next batch into the map.
func (c *cleaning) mapOn() error {
	if c.i == len(c.sources) {
		c.mapped = c.to
		return c.mapEnds()
	}
	if c.sources[c.i].end <= c.from {
		c.next()
		return nil
	}
	ok, err := c.read()
	if err != nil {
		return err
	}
	if !ok {
		c.mapped = max(c.mapped, c.sources[c.i].end)
		c.next()
		return nil
	}
	b := c.walk.batch
	if b.LastOffset() < c.from {
		return nil
	}
	if !b.Control() && !c.txns.isAborted(b) {
		if !c.keys.room(b.Count()) { // the rest is another pass's
			if c.mapped <= c.from {
				return c.at(errCleanRoom)
			}
			return c.mapEnds()
		}
		c.reader.Reset(b, c.inflate)
		for c.reader.Next() {
			if c.reader.Key != nil {
				c.keys.put(c.reader.Key, c.reader.Offset)
			}
		}
		if err := c.reader.Err(); err != nil {
			return c.at(err)
		}
	}
	c.mapped = b.LastOffset() + 1
	return nil
}

// mapEnds turns to the copying of what begins below the mapped section's end.
func (c *cleaning) mapEnds() error {
	c.copies = true
	c.sources = slices.DeleteFunc(c.sources, func(s source) bool { return s.base >= c.mapped })
	c.i, c.end = 0, 0
	c.walk = walker{}
	return nil
}

// groupEnd is where the group that starts at source i ends: what fits into one segment, and on the disk.
func (c *cleaning) groupEnd(i int) int {
	first := &c.sources[i]
	size := first.size
	end := i + 1
	for ; end < len(c.sources); end++ {
		s := &c.sources[end]
		if size += s.size; size > int64(c.cfg.SegmentBytes) || spaceFor(size) > c.room || s.end-1-first.base > math.MaxInt32 {
			break
		}
	}
	return end
}

// isLast says whether no segment of the group has batches behind the one being read.
func (c *cleaning) isLast() bool {
	for _, s := range c.sources[c.i+1 : c.end] {
		if s.size > 0 {
			return false
		}
	}
	return true
}

// copyOn copies the next batch, or what is left of it.
func (c *cleaning) copyOn() error {
	if c.i == len(c.sources) {
		c.done = true
		return nil
	}
	if c.out == nil {
		if err := c.look(); err != nil {
			return err
		}
		c.end = c.groupEnd(c.i)
		if err := c.begin(); err != nil {
			return err
		}
	}
	ok, err := c.read()
	if err != nil {
		return err
	}
	if !ok {
		c.next()
		if c.i == c.end {
			return c.finish()
		}
		return nil
	}
	b := c.walk.batch
	c.epoch = b.LeaderEpoch()
	at := len(c.buf)
	if err := c.retain(b, c.walk.at >= c.walk.size && c.isLast()); err != nil {
		return err
	}
	if n := len(c.buf) - at; n > 0 {
		if c.out.size+int64(n) > sourceBytesMax {
			return errors.New("compaction: a segment has grown beyond what an index can point at")
		}
		c.out.observe(record.Batch(c.buf[at:]), n, c.out.size, c.cfg.IndexIntervalBytes)
	}
	if len(c.buf) >= cleanBuffer {
		return c.flush()
	}
	return nil
}

// retain adds to the buffer what stays of a batch. last: it is the group's last one.
func (c *cleaning) retain(b record.Batch, last bool) error {
	if b.Control() {
		return c.retainMarker(b, last)
	}
	c.txns.met(b)
	if b.BaseOffset() >= c.mapped {
		c.buf = append(c.buf, b...)
		return nil
	}
	kept, tombstones := 0, false
	horizon, marked := b.DeleteHorizon()
	c.reader.Reset(b, c.inflate)
	all := c.reader
	c.keep = c.keep[:0]
	aborted := c.txns.isAborted(b)
	for c.reader.Next() {
		r := &c.reader.Record
		keep := !aborted && r.Key != nil && r.Offset >= c.keys.last(r.Key) && (r.Value != nil || !marked || c.now < horizon)
		if keep {
			kept++
			tombstones = tombstones || r.Value == nil
		}
		c.keep = append(c.keep, keep)
	}
	if err := c.reader.Err(); err != nil {
		return c.at(err)
	}
	horizon = -1
	if tombstones && !marked {
		horizon = c.horizon()
	}
	switch {
	case kept == 0 && !c.stays(b, last):
		c.changed = true
	case kept == len(c.keep) && horizon < 0: // one without records, too
		c.buf = append(c.buf, b...)
	default:
		return c.rewrite(b, all, horizon)
	}
	return nil
}

// retainMarker is retain for a control batch.
func (c *cleaning) retainMarker(b record.Batch, last bool) error {
	c.reader.Reset(b, c.inflate)
	all := c.reader
	needed := c.txns.ends(b) || b.BaseOffset() >= c.mapped
	horizon, marked := b.DeleteHorizon()
	c.keep = append(c.keep[:0], false)
	switch {
	case needed:
	case b.Count() == 0: // it went before
		if !c.stays(b, last) {
			c.changed = true
			return nil
		}
	case !marked:
		c.keep[0] = true
		return c.rewrite(b, all, c.horizon())
	case c.now < horizon:
	case !c.stays(b, last):
		c.changed = true
		return nil
	default:
		return c.rewrite(b, all, -1)
	}
	c.buf = append(c.buf, b...)
	return nil
}

// horizon is until when, wall ms, what is marked now stays.
func (c *cleaning) horizon() int64 { return c.now + c.cfg.DeleteRetentionMs }

// rewrite adds what c.keep says of a batch.
func (c *cleaning) rewrite(b record.Batch, all record.Reader, horizon int64) error {
	var err error
	if c.buf, err = c.builder.Rewrite(c.buf, b, all, c.keep, horizon); err != nil {
		return c.at(err)
	}
	c.changed = true
	return nil
}

// stays says whether a batch stays although nothing is in it.
func (c *cleaning) stays(b record.Batch, last bool) bool {
	if last {
		return true
	}
	p, known := c.last[b.ProducerID()]
	if known && p.offset < 0 { // a marker is all that tells the producer's epoch
		return b.Control() && b.ProducerEpoch() == p.epoch
	}
	return known && p.offset == b.LastOffset()
}
