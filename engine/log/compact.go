package log

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// CleanerConfig is what compaction may take on one core.
type CleanerConfig struct {
	Enabled        bool  // log.cleaner.enable
	DedupeBytes    int64 // memory for the keys of one cleaning, bytes
	BytesPerSecond int64 // read and written; 0 or Never: no bound
	BackoffMs      int64 // how often a log is looked at
}

const (
	// cleanPiece is how much one job of a cleaning reads and writes, about, bytes: a roll
	// waits no longer than for that.
	cleanPiece = 1 << 20
	// cleanBuffer is how much of a cleaned segment is gathered before it is written, bytes.
	cleanBuffer = 256 << 10
	// cleanAgain is when a cleaning that failed is tried again, ns.
	cleanAgain = 60e9
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
// producer's last batch. Markers of transactions stay always; data of aborted ones goes.
type cleaning struct {
	host ring.Host
	log  *Log // for newSegment's sake; the worker does not look into it
	dir  string
	cfg  Config
	stop atomic.Bool // the loop does not want it any more
	busy bool        // a job of it is queued or runs

	sources  []source
	from, to int64           // the dirty section
	now      int64           // wall, ms
	last     map[int64]int64 // a producer's last batch: the last offset of it
	aborted  map[int64][]AbortedTxn
	keys     *offsetMap

	mapped int64 // keys of batches below are in the map
	copies bool  // the map is done
	i      int   // source being read
	end    int   // copying: of the group, exclusive
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
}

// setCleaned moves the first dirty offset.
func (l *Log) setCleaned(to int64) {
	l.cleaned = to
	l.published.cleaned.Store(to)
}

// cleanLater sets the next look at the log.
func (l *Log) cleanLater() {
	l.cleanAt = ring.Forever
	if l.cfg.Compacted && l.core.cleaner.Enabled {
		l.cleanAt = l.core.io.Now() + max(l.core.cleaner.BackoffMs, 1)*1e6
	}
}

// clean begins a cleaning where one is due, or goes on with it. From deadlines only.
func (l *Log) clean(now int64) {
	l.cleanAt = ring.Forever
	if c := l.cleaning; c != nil {
		if !c.busy {
			l.enqueuePiece(c)
		}
		return
	}
	l.cleanLater()
	if !l.cfg.Compacted || l.core.cleaning != nil || l.refusal() != nil {
		return
	}
	if c := l.planCleaning(l.core.io.WallMillis()); c != nil {
		l.cleaning, l.core.cleaning = c, l
		l.cleanAt = ring.Forever
		l.enqueuePiece(c)
	}
}

// planCleaning decides whether the log is dirty enough.
func (l *Log) planCleaning(wall int64) *cleaning {
	bound := min(l.synced, l.highWatermark, l.LastStable(), l.published.checkpointed.Load(), l.published.RecoveryPoint.Load())
	n := 0
	for _, s := range l.segments[:len(l.segments)-1] {
		newest := s.maxTimestamp
		if newest < 0 {
			newest = s.created
		}
		if !s.finished || s.end > bound || len(s.aborted) != s.abortedOld ||
			l.cfg.MinCompactionLagMs > 0 && newest > wall-l.cfg.MinCompactionLagMs {
			break
		}
		n++
	}
	if n == 0 {
		return nil
	}
	from := max(l.cleaned, l.segments[0].base)
	to := l.segments[n-1].end
	var clean, dirty int64
	late := false
	for _, s := range l.segments[:n] {
		if s.end <= from {
			clean += s.size
			continue
		}
		dirty += s.size
		// Of a segment from before the start the first timestamp is not known: it counts as late.
		late = late || l.cfg.MaxCompactionLagMs != Never && s.firstTimestamp < wall-l.cfg.MaxCompactionLagMs
	}
	if dirty == 0 || !late && float64(dirty) < l.cfg.MinDirtyRatio*float64(clean+dirty) {
		return nil
	}
	c := &cleaning{host: l.host(), log: l, dir: l.path, cfg: l.cfg, from: from, to: to, mapped: from, now: wall,
		last: map[int64]int64{}, aborted: map[int64][]AbortedTxn{}}
	for _, s := range l.segments[:n] {
		c.sources = append(c.sources, source{s, cutSegment{s.fd, s.base, s.end, s.size}, s.created, s.bytesEnd, s.aborted})
	}
	for _, s := range l.segments {
		for _, t := range s.aborted {
			c.aborted[t.ProducerID] = append(c.aborted[t.ProducerID], t)
		}
	}
	for p := l.producer.oldest; p != nil; p = p.newer {
		if p.count > 0 {
			c.last[p.id] = p.batches[p.count-1].lastOffset
		}
	}
	c.keys = newOffsetMap(to-from, l.core.cleaner.DedupeBytes)
	c.inflate = record.NewDecompressor(record.DecompressedMaxDefault)
	return c
}

// stopCleaning breaks a cleaning off. What it has exchanged stays; the rest is as it was.
func (l *Log) stopCleaning() {
	c := l.cleaning
	if c == nil || c.stop.Swap(true) {
		return
	}
	if !c.busy {
		l.endCleaning(c, true)
	}
}

// endCleaning ends a cleaning, and removes what it had begun. Before whatever is queued: the
// directory may not be there afterwards.
func (l *Log) endCleaning(c *cleaning, discard bool) {
	l.cleaning = nil
	l.core.cleaning = nil
	l.cleanLater()
	if !discard || c.out == nil {
		return
	}
	j := &job{name: "discard cleaned segment", always: true, run: func() error {
		c.discard()
		return nil
	}}
	at := 0
	if l.jobOp.busy {
		at = 1
	}
	l.jobs = slices.Insert(l.jobs, at, j)
	l.kickJobs()
}

// enqueuePiece has the next piece done.
func (l *Log) enqueuePiece(c *cleaning) {
	c.busy = true
	if c.ready {
		l.enqueueSwap(c)
		return
	}
	budget := max(min(int64(cleanPiece), l.core.cleaner.BytesPerSecond/8), 16<<10)
	l.enqueue(&job{name: "compact",
		run: func() error { return c.piece(budget) },
		done: func(err error) {
			c.busy = false
			l.cleaningGoesOn(c, err)
		}})
}

// cleaningGoesOn decides what follows a piece.
func (l *Log) cleaningGoesOn(c *cleaning, err error) {
	switch {
	case l.cleaning != c: // it has failed the log
	case err != nil || c.stop.Load() || !l.holds(c):
		l.endCleaning(c, true)
		if err != nil && !errors.Is(err, errCleanStopped) {
			l.core.stats.CleaningsFailed++
			if l.cleanAt != ring.Forever {
				l.cleanAt = l.core.io.Now() + cleanAgain
			}
		}
	case c.done:
		l.setCleaned(c.mapped)
		l.core.stats.Cleanings++
		l.endCleaning(c, false)
	default:
		// The budget: nothing more before what has been read and written is paid for.
		l.cleanAt = l.core.io.Now() + int64(float64(c.spent)/float64(l.core.cleaner.BytesPerSecond)*1e9)
		c.spent = 0
	}
	l.setDue()
}

// holds says whether the segment that is read next is in the log still. (enqueueSwap looks at
// a whole group.)
func (l *Log) holds(c *cleaning) bool {
	if l.cutting || l.closing {
		return false
	}
	return c.ready || c.i >= len(c.sources) || slices.Contains(l.segments, c.sources[c.i].seg)
}

// piece does about as many bytes' worth of the work. On a worker.
func (c *cleaning) piece(budget int64) error {
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
		return false, fmt.Errorf("%s: at %d: %w", fileName(s.base, suffixLog), w.pos, errDamage)
	}
	return true, nil
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
	if !b.Control() && !c.isAborted(b) {
		if !c.keys.room(b.Count()) { // the rest is another pass's
			if c.mapped <= c.from {
				return errCleanRoom
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
			return err
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

// isAborted says whether a batch is an aborted transaction's data.
func (c *cleaning) isAborted(b record.Batch) bool {
	if !b.Transactional() || b.Control() {
		return false
	}
	for _, t := range c.aborted[b.ProducerID()] {
		if t.FirstOffset <= b.BaseOffset() && b.LastOffset() <= t.LastOffset {
			return true
		}
	}
	return false
}

// group is where the group that starts at source i ends: what fits into one segment.
func (c *cleaning) group(i int) int {
	first := &c.sources[i]
	size := first.size
	end := i + 1
	for ; end < len(c.sources); end++ {
		s := &c.sources[end]
		if size += s.size; size > int64(c.cfg.SegmentBytes) || s.end-1-first.base > math.MaxInt32 {
			break
		}
	}
	return end
}

// copyOn copies the next batch, or what is left of it.
func (c *cleaning) copyOn() error {
	if c.i == len(c.sources) {
		c.done = true
		return nil
	}
	if c.out == nil {
		c.end = c.group(c.i)
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
	at := len(c.buf)
	if err := c.retain(b, c.i == c.end-1 && c.walk.at >= c.walk.size); err != nil {
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

// retain adds to the buffer what stays of a batch.
func (c *cleaning) retain(b record.Batch, last bool) error {
	if b.Control() || b.BaseOffset() >= c.mapped {
		c.buf = append(c.buf, b...)
		return nil
	}
	kept, tombstones := 0, false
	horizon, marked := b.DeleteHorizon()
	c.reader.Reset(b, c.inflate)
	all := c.reader
	c.keep = c.keep[:0]
	aborted := c.isAborted(b)
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
		return err
	}
	horizon = -1
	if tombstones && !marked {
		horizon = c.now + c.cfg.DeleteRetentionMs
	}
	switch {
	case kept == len(c.keep) && horizon < 0: // an empty one, too: it may go, or be the last one
		if kept > 0 || c.stays(b, last) {
			c.buf = append(c.buf, b...)
			return nil
		}
	case kept > 0 || c.stays(b, last):
		var err error
		c.buf, err = c.builder.Rewrite(c.buf, b, all, c.keep, horizon)
		c.changed = true
		return err
	}
	c.changed = true
	return nil
}

// stays says whether a batch stays although nothing is in it.
func (c *cleaning) stays(b record.Batch, last bool) bool {
	if last {
		return true
	}
	at, known := c.last[b.ProducerID()]
	return b.ProducerID() >= 0 && known && at == b.LastOffset()
}

func (c *cleaning) path(suffix string) string {
	return filepath.Join(c.dir, fileName(c.out.base, suffix))
}

// begin begins the cleaned segment of the group.
func (c *cleaning) begin() error {
	first := &c.sources[c.i]
	s := newSegment(c.log, first.base)
	s.index.rebuild = &indexFiles{}
	s.index.maxOffsets, s.index.maxTimes = indexRoom(c.cfg.IndexBytes)
	c.out, c.buf, c.written, c.changed = s, c.buf[:0], 0, c.end-c.i > 1
	name := c.path(suffixLog + suffixCleaned)
	var err error
	if s.fd, err = c.host.Open(name, ring.Create); err != nil {
		return err
	}
	if err = c.host.Truncate(s.fd, 0); err != nil {
		return fmt.Errorf("%s: truncate: %w", name, err)
	}
	return nil
}

// flush writes what has gathered.
func (c *cleaning) flush() error {
	if _, err := c.host.WriteAt(c.out.fd, c.buf, c.written); err != nil {
		return fmt.Errorf("%s: write: %w", c.path(suffixLog+suffixCleaned), err)
	}
	c.written += int64(len(c.buf))
	c.spent += int64(len(c.buf))
	c.buf = c.buf[:0]
	return nil
}

// finish completes the cleaned segment: all of it is on disk then, but for the names.
func (c *cleaning) finish() error {
	if !c.changed {
		c.discard()
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	s := c.out
	if err := c.host.Sync(s.fd); err != nil {
		return &ring.SyncError{Err: fmt.Errorf("%s: sync: %w", c.path(suffixLog+suffixCleaned), err)}
	}
	group := c.sources[c.groupStart():c.end]
	for i := range group {
		s.aborted = append(s.aborted, group[i].aborted...)
		s.created = max(s.created, group[i].created)
	}
	s.abortedOld = len(s.aborted)
	s.end, s.bytesEnd = group[len(group)-1].end, group[len(group)-1].bytesEnd
	x := s.index.rebuild
	s.index.rebuild = nil
	if s.maxTimestamp > s.index.lastTime.timestamp {
		var e [timeEntrySize]byte
		s.index.lastTime = timeEntry{s.maxTimestamp, s.maxTimestampAt}
		putTimeEntry(e[:], s.base, s.index.lastTime)
		x.times = append(x.times, e[:]...)
		s.index.times++
	}
	var txns []byte
	for _, t := range s.aborted {
		txns = appendAborted(txns, t)
	}
	for _, f := range []struct {
		suffix string
		b      []byte
	}{{suffixIndex, x.offsets}, {suffixTime, x.times}, {suffixTxn, txns}} {
		if f.suffix == suffixTxn && len(txns) == 0 { // then none of the group has any
			continue
		}
		if err := writeSynced(c.host, c.path(f.suffix+suffixCleaned), f.b); err != nil {
			return err
		}
	}
	s.open, s.rolled, s.finished = true, true, true
	c.ready = true
	return nil
}

// groupStart is the first source of the group that ends at c.end.
func (c *cleaning) groupStart() int {
	i := c.end - 1
	for c.sources[i].base > c.out.base {
		i--
	}
	return i
}

// writeSynced writes a new file, and syncs it.
func writeSynced(h ring.Host, name string, b []byte) error {
	fd, err := h.Open(name, ring.Create)
	if err != nil {
		return err
	}
	defer h.Close(fd)
	if err := h.Truncate(fd, 0); err != nil {
		return fmt.Errorf("%s: truncate: %w", name, err)
	}
	if _, err := h.WriteAt(fd, b, 0); err != nil {
		return fmt.Errorf("%s: write: %w", name, err)
	}
	if err := h.Sync(fd); err != nil {
		return &ring.SyncError{Err: fmt.Errorf("%s: sync: %w", name, err)}
	}
	return nil
}

// discard removes the cleaned segment. What cannot be removed the next start removes.
func (c *cleaning) discard() {
	if c.out == nil {
		return
	}
	if c.out.fd != ring.NoFD {
		c.host.Close(c.out.fd)
		c.out.fd = ring.NoFD
	}
	for _, suffix := range segmentSuffixes {
		removeFile(c.host, c.path(suffix+suffixCleaned))
	}
	c.out, c.ready = nil, false
}

// enqueueSwap puts the cleaned segment in the place of its group. No lookup may run meanwhile: it
// would use one's index on the other's batches.
func (l *Log) enqueueSwap(c *cleaning) {
	group := c.sources[c.groupStart():c.end]
	whole := false
	begun := false
	l.enqueue(&job{name: "exchange compacted segments",
		ready: func() bool {
			l.swapping = true
			return l.lookups == 0
		},
		start: func() {
			i := slices.Index(l.segments, group[0].seg)
			whole = i >= 0 && !c.stop.Load() && i+len(group) < len(l.segments)
			for j := range group {
				whole = whole && l.segments[i+j] == group[j].seg
			}
		},
		run: func() error {
			if !whole { // retention has taken some of it
				return errCleanStopped
			}
			begun = true
			return c.swap(group)
		},
		done: func(err error) {
			c.busy, l.swapping = false, false
			switch {
			case err == nil:
				l.exchange(c.out, group)
				c.out, c.ready = nil, false
			case begun:
				l.fail(l.path, fmt.Errorf("exchange compacted segment %d: %w", c.out.base, err))
			}
			l.cleaningGoesOn(c, err)
			l.unpark()
		}})
}

// swap does it on disk: see the table in the package comment. On a worker.
func (c *cleaning) swap(group []source) error {
	h := c.host
	suffixes := segmentSuffixes[1:]
	if len(c.out.aborted) == 0 {
		suffixes = slices.DeleteFunc(slices.Clone(suffixes), func(s string) bool { return s == suffixTxn })
	}
	for _, suffix := range suffixes {
		if err := h.Rename(c.path(suffix+suffixCleaned), c.path(suffix+suffixSwap)); err != nil {
			return err
		}
	}
	if err := h.SyncDir(c.dir); err != nil {
		return err
	}
	if err := h.Rename(c.path(suffixLog+suffixCleaned), c.path(suffixLog+suffixSwap)); err != nil {
		return err
	}
	if err := h.SyncDir(c.dir); err != nil { // from here on a start finishes it
		return err
	}
	for i := range group[1:] {
		for _, suffix := range segmentSuffixes {
			if err := removeFile(h, filepath.Join(c.dir, fileName(group[i+1].base, suffix))); err != nil {
				return err
			}
		}
	}
	for _, suffix := range suffixes {
		if err := h.Rename(c.path(suffix+suffixSwap), c.path(suffix)); err != nil {
			return err
		}
	}
	if err := h.SyncDir(c.dir); err != nil {
		return err
	}
	if err := h.Rename(c.path(suffixLog+suffixSwap), c.path(suffixLog)); err != nil {
		return err
	}
	return h.SyncDir(c.dir)
}

// exchange does it in memory. Who reads from the old files goes on with them: they have no names any
// more, and are closed when the last one has left.
func (l *Log) exchange(s *segment, group []source) {
	i := slices.Index(l.segments, group[0].seg)
	// What the tail has of them would be read beside the new files, and lead to the old ones.
	for l.tail.len() > 0 && l.tail.at(0).base < s.end {
		l.dropFirst()
	}
	l.cursors.forget()
	old := l.size
	for _, g := range group {
		l.size -= g.seg.size
		l.doom(g.seg, l.core.io.Now(), nil)
	}
	l.size += s.size
	l.core.stats.CleanedBytes += uint64(max(old-l.size, 0))
	l.segments = slices.Concat(l.segments[:i], []*segment{s}, l.segments[i+len(group):])
	l.published.Size.Store(l.size)
	l.published.Segments.Store(int64(len(l.segments)))
}
