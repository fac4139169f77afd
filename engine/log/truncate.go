package log

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/ring"
)

// cut is a truncation on its way: what the worker needs, and what it found.
type cut struct {
	host ring.Host
	dir  string
	to   int64
	cfg  Config

	renewal
	keep      cutSegment // the segment that becomes the active one
	others    []cutSegment
	drop      []string // files that go, those of the last segment first
	epochs    epochs
	epochsNew []byte
	aborted   []AbortedTxn
	txnNew    bool
	snapshots []int64
	durable   []int64 // of these
	now       int64

	end      int64 // the new log end: to, or the start of the batch that to is in
	size     int64
	files    opened
	index    indexTail
	segment  segment // derived state of keep, as a scan leaves it
	producer producers
}

type cutSegment struct {
	fd        ring.FD
	base, end int64
	size      int64
}

// Truncate cuts the log so that it ends at offset `to` (or at the start of the batch
// that holds it). It waits for what is in flight; nothing is appended meanwhile
// (ErrPressure). When done is told without an error the cut is durable: batches,
// indexes, epochs, producers, snapshots. Below the log's start it is Restart.
func (l *Log) Truncate(to int64, done Done) {
	if l.closing {
		l.refuse(done)
		return
	}
	if to < l.logStart || to < l.segments[0].base {
		l.Restart(to, done)
		return
	}
	if to >= l.logEnd {
		l.enqueue(&job{name: "truncate", done: func(err error) { l.tell(done, err) }})
		return
	}
	l.startCut(to)
	c := &cut{host: l.host(), dir: l.path, to: to}
	l.syncWanted = max(l.syncWanted, to)
	l.enqueue(&job{name: "truncate",
		// All that stays is in the files by then. What a later cut takes away, or a deletion, need
		// not be there for this one.
		ready: func() bool { return l.quiet() && (l.deleting || l.synced >= min(to, l.cutTo, l.logEnd)) },
		start: func() {
			l.frozen = true
			c.to = min(c.to, l.written)
			c.planRenewal(l)
			l.planCut(c)
		},
		run: func() error {
			c.files.closeIndexes(c.host)
			if err := c.find(); err != nil {
				return err
			}
			// The recovery point first: what is above it may be torn, what is below may not. Nobody else
			// moves these two before done.
			p := &l.published
			p.RecoveryPoint.Store(min(p.RecoveryPoint.Load(), c.end))
			p.cleaned.Store(min(p.cleaned.Load(), c.end))
			if err := l.dir.lowerRecoveryPoint(l, c.end); err != nil {
				return err
			}
			if err := l.dir.lowerCleaned(); err != nil {
				return err
			}
			if err := c.renew(); err != nil {
				return err
			}
			return c.run()
		},
		done: func(err error) {
			if err != nil {
				l.fail(l.path, fmt.Errorf("truncate to %d: %w", to, err))
			} else {
				c.renewed(l)
				l.applyCut(c)
			}
			l.endCut()
			l.tell(done, err)
		}})
	l.kick() // the sync that it waits for
}

// renewal is a new incarnation for a log that is cut, where there is a journal: what that
// holds of the old one, and knows of its offsets, is void.
type renewal struct {
	from, to uint64
	wanted   bool
	at       string // the directory
	on       ring.Host
}

func (r *renewal) planRenewal(l *Log) {
	if l.core.journal != nil {
		*r = renewal{from: l.incarnation, to: l.core.io.Random(), wanted: true, at: l.path, on: l.host()}
	}
}

func (r *renewal) renew() error {
	if !r.wanted {
		return nil
	}
	return renew(r.on, r.at, r.from, r.to)
}

func (r *renewal) renewed(l *Log) {
	if r.wanted {
		l.renewed(r.to)
	}
}

// startCut holds up appends, and writes above the cut.
func (l *Log) startCut(to int64) {
	if !l.cutting {
		l.cutTo = to
	}
	l.stopCleaning()
	l.cutting = true
	l.unremoved = 0
	l.cuts++
	l.cutTo = min(l.cutTo, to)
}

func (l *Log) endCut() {
	l.frozen = false
	if l.cuts--; l.cuts > 0 {
		return
	}
	l.cutting = false
	l.unpark()
	l.owner.Advanced(l)
}

// unpark takes up the lookups that had to wait.
func (l *Log) unpark() {
	if l.cutting || l.swapping {
		return
	}
	waiting := l.parked
	l.parked = nil
	for _, p := range waiting {
		if q := p.f.time; q != nil {
			if l.searchOn(q) {
				q.Done.TimeDone(q)
			}
		} else if r := p.f.read; l.Read(r) {
			r.Done.ReadDone(r)
		}
	}
}

// quiet says that nothing of the log is in flight.
func (l *Log) quiet() bool {
	return !l.write.busy && !l.sync.busy && !l.back.busy && l.indexWrite.seg == nil && l.lookups == 0 && !l.entry.busy
}

// planCut fills what the worker needs.
func (l *Log) planCut(c *cut) {
	c.cfg, c.now = l.cfg, l.core.io.WallMillis()
	s := l.segmentOf(c.to)
	l.active().index.takeHeld(l.core.pool) // the worker makes them again
	for i := len(l.segments) - 1; l.segments[i] != s; i-- {
		for _, suffix := range segmentSuffixes {
			c.drop = append(c.drop, l.segments[i].path(suffix))
		}
	}
	for _, o := range l.segments {
		if o == s {
			break
		}
		c.others = append(c.others, cutSegment{o.fd, o.base, o.end, o.size})
	}
	size := s.size
	if l.tail.dirty < l.tail.len() {
		if k := l.tail.at(l.tail.dirty); k.seg == s {
			size = k.pos + int64(k.written)
		} else if k.seg.base < s.base {
			size = 0
		}
	}
	c.keep = cutSegment{s.fd, s.base, s.end, size}
	c.files = s.takeIndexes()
	c.epochs = epochs{list: slices.Clone(l.epochs.list)}
	for _, t := range s.aborted {
		if t.LastOffset < c.to {
			c.aborted = append(c.aborted, t)
		}
	}
	c.txnNew = len(c.aborted) != s.abortedOld
	for _, at := range l.producer.snapshots {
		if at > c.to {
			c.drop = append(c.drop, filepath.Join(c.dir, fileName(at, suffixSnapshot)))
		} else {
			c.snapshots = append(c.snapshots, at)
		}
	}
	c.durable = slices.Clone(l.producer.durable)
	l.published.RecoveryPoint.Store(min(l.published.RecoveryPoint.Load(), c.to))
	l.setCleaned(min(l.cleaned, c.to))
}

// find finds where the log will end, and what it has below. It changes nothing. On a worker.
func (c *cut) find() error {
	h := c.host
	var err error
	scan := &scanner{host: h, dir: c.dir, cfg: &c.cfg, producer: &c.producer, now: c.now, limit: c.to, trusted: c.to, exact: true}
	if c.producer, scan.from, err = loadSnapshot(h, c.dir, c.snapshots, c.to); err != nil {
		return err
	}
	for _, o := range c.others {
		if err := scan.producersOf(o); err != nil {
			return err
		}
	}
	s := &c.segment
	*s = *newSegment(nil, c.keep.base)
	if err := scan.segment(s, c.keep.fd, c.keep.size); err != nil {
		return err
	}
	c.end, c.size = s.end, s.size
	if had := len(c.epochs.list); had > 0 { // none begins where the log ends: its first batch may go
		if c.epochs.cutEnd(c.end); len(c.epochs.list) != had {
			c.epochsNew = c.epochs.encode()
		}
	}
	// Where compaction has made a gap the end may be below a snapshot that is not above the cut.
	for len(c.producer.snapshots) > 0 {
		last := len(c.producer.snapshots) - 1
		at := c.producer.snapshots[last]
		if at <= c.end {
			break
		}
		c.producer.snapshots = c.producer.snapshots[:last]
		c.drop = append(c.drop, filepath.Join(c.dir, fileName(at, suffixSnapshot)))
	}
	c.producer.durable = slices.DeleteFunc(c.durable, func(at int64) bool { return !slices.Contains(c.producer.snapshots, at) })
	return nil
}

// run makes the cut, on a worker. What a crash leaves of it lies above the recovery
// point, so recovery takes it for a torn tail or for the log as it was.
func (c *cut) run() error {
	h := c.host
	for _, name := range c.drop {
		if err := removeFile(h, name); err != nil {
			return err
		}
	}
	if err := h.SyncDir(c.dir); err != nil {
		return err
	}
	log := filepath.Join(c.dir, fileName(c.keep.base, suffixLog))
	if err := h.Truncate(c.keep.fd, c.size); err != nil {
		return fmt.Errorf("%s: truncate: %w", log, err)
	}
	if err := h.Sync(c.keep.fd); err != nil {
		return fmt.Errorf("%s: sync: %w", log, err)
	}
	if err := c.files.writeIndexes(h, c.dir, &c.segment, c.cfg.IndexBytes); err != nil {
		return err
	}
	if c.epochsNew != nil {
		if err := ring.WriteFileAtomic(h, filepath.Join(c.dir, epochsName), c.epochsNew); err != nil {
			return err
		}
	}
	if c.txnNew {
		name := strings.TrimSuffix(log, suffixLog) + suffixTxn
		var b []byte
		for _, t := range c.aborted {
			b = appendAborted(b, t)
		}
		if err := ring.WriteFileAtomic(h, name, b); err != nil {
			return err
		}
	}
	return h.SyncDir(c.dir)
}

// applyCut makes the log what the files are now.
func (l *Log) applyCut(c *cut) {
	for l.tail.len() > 0 && l.tail.at(l.tail.len()-1).base >= c.end {
		l.dropLast()
	}
	if n := l.tail.len(); n > 0 {
		k := l.tail.at(n - 1)
		if k.end > c.end {
			at, end := k.walk(0, c.end, len(k.buf))
			l.core.unwritten -= max(len(k.buf)-max(k.written, at), 0)
			k.buf, k.end = k.buf[:at], end
			k.written, k.journaled = min(k.written, at), min(k.journaled, at)
		}
		// Somebody may look at what was behind the cut: nothing is put there again.
		k.sealed = true
	}
	i := slices.IndexFunc(l.segments, func(s *segment) bool { return s.base == c.keep.base })
	s := l.segments[i]
	for _, gone := range l.segments[i+1:] {
		o := gone.takeIndexes()
		o.closeIndexes(l.host())
		l.doom(gone, l.core.io.Now(), nil)
	}
	l.segments = append([]*segment(nil), l.segments[:i+1]...)
	from := &c.segment
	s.end, s.size, s.sinceIndex, s.index = c.end, c.size, from.sinceIndex, from.index
	s.firstTimestamp, s.maxTimestamp, s.maxTimestampAt = from.firstTimestamp, from.maxTimestamp, from.maxTimestampAt
	s.aborted, s.abortedOld = c.aborted, len(c.aborted)
	s.rolled, s.finished = false, false
	s.opened(opened{s.fd, c.files.indexFD, c.files.timeFD, c.files.maps})
	l.indexBefore = s.index.lastTime
	c.producer.settling = l.producer.settling
	l.epochs, l.producer = c.epochs, c.producer
	l.moveEnd(c.end)
}

// moveEnd sets what is known of the log's end after a cut: all that is left is in
// the files, and the last of them is synced.
func (l *Log) moveEnd(end int64) {
	if l.synced >= l.active().base || l.active().base == l.segments[0].base {
		l.synced = end
	}
	l.logEnd, l.written = end, end
	l.synced = min(l.synced, end)
	l.flushed = max(min(l.flushed, end), l.synced)
	l.stable = min(max(l.stable, l.flushed), end)
	if l.highWatermark > end {
		l.highWatermark = end
	}
	l.producer.replicated(l.highWatermark)
	l.syncWanted, l.gap, l.journalGap = min(l.syncWanted, end), min(l.gap, end), min(l.journalGap, end)
	l.journalEnd = min(l.journalEnd, end)
	l.size = 0
	for _, s := range l.segments {
		l.size += s.size
	}
	l.bytesWritten = l.bytesIn
	if l.synced == end {
		l.bytesSynced = l.bytesIn
	}
	l.age = flushAge{}
	if l.synced < end {
		l.age.dirty = l.core.io.Now()
	}
	for i := range l.flushes {
		l.flushes[i].end = min(l.flushes[i].end, end)
	}
	l.cursors.forget()
	l.setCleaned(min(l.cleaned, end))
	l.published.RecoveryPoint.Store(min(l.published.RecoveryPoint.Load(), end))
	l.publish()
	l.completeFlushes()
}

// Restart removes everything and starts the log again at offset `at`: a follower
// that is out of its leader's range does that (Kafka's truncateFullyAndStartAt).
func (l *Log) Restart(at int64, done Done) {
	if l.closing {
		l.refuse(done)
		return
	}
	l.startCut(0)
	h, dir := l.host(), l.path
	var drop []string
	var files opened
	room := l.cfg.IndexBytes
	var r renewal
	l.enqueue(&job{name: "restart",
		ready: func() bool { return l.quiet() },
		start: func() {
			l.frozen = true
			r.planRenewal(l)
			for _, s := range slices.Backward(l.segments) {
				for _, suffix := range segmentSuffixes {
					drop = append(drop, s.path(suffix))
				}
			}
			for _, o := range l.producer.snapshots {
				drop = append(drop, filepath.Join(dir, fileName(o, suffixSnapshot)))
			}
			l.active().index.takeHeld(l.core.pool)
			l.published.RecoveryPoint.Store(min(l.segments[0].base, at))
			l.published.startWanted.Store(0)
			l.published.LogStart.Store(at)
			l.setCleaned(0)
		},
		run: func() error {
			// In this order: recovery starts a log again whose start is above its end.
			if err := l.dir.lowerRecoveryPoint(l, l.published.RecoveryPoint.Load()); err != nil {
				return err
			}
			if err := l.dir.lowerCleaned(); err != nil {
				return err
			}
			if err := l.dir.checkpointStarts(); err != nil {
				return err
			}
			if err := r.renew(); err != nil {
				return err
			}
			for _, name := range drop {
				if err := removeFile(h, name); err != nil {
					return err
				}
			}
			if err := h.SyncDir(dir); err != nil {
				return err
			}
			var none epochs
			if err := ring.WriteFileAtomic(h, filepath.Join(dir, epochsName), none.encode()); err != nil {
				return err
			}
			var err error
			files, err = createSegment(h, dir, at, room)
			return err
		},
		done: func(err error) {
			if err != nil {
				l.fail(dir, fmt.Errorf("restart at %d: %w", at, err))
			} else {
				r.renewed(l)
				l.applyRestart(at, files, room)
			}
			l.endCut()
			l.tell(done, err)
		}})
}

func (l *Log) applyRestart(at int64, files opened, room int32) {
	for l.tail.len() > 0 {
		l.dropLast()
	}
	for _, s := range l.segments {
		o := s.takeIndexes()
		o.closeIndexes(l.host())
		l.doom(s, l.core.io.Now(), nil)
	}
	s := newSegment(l, at)
	s.created = l.core.io.WallMillis()
	s.index.maxOffsets, s.index.maxTimes = indexRoom(room)
	s.opened(files)
	l.segments = []*segment{s}
	l.indexBefore = s.index.lastTime
	l.epochs, l.producer = epochs{}, producers{}
	l.logStart, l.highWatermark = at, at
	l.removing = 0
	l.synced, l.flushed, l.stable = at, at, at
	l.published.RecoveryPoint.Store(at)
	l.moveEnd(at)
}
