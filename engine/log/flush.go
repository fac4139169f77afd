package log

import (
	"github.com/millrace/millrace/ring"
)

// syncOp makes a segment's file durable. One is in flight for each log, beside
// the write; it covers the writes that had completed when it was submitted.
type syncOp struct {
	ring.Op
	log   *Log
	seg   *segment
	end   int64 // synced once it completes
	bytes int64 // bytesSynced then
	began int64 // ring's clock
	busy  bool
	held  bool // it is done, and waits for the name of the file to be durable
}

// flushAge says since when something waits, by how far it has got: ring's clock, ns,
// 0 where nothing does.
type flushAge struct {
	pending int64 // appended; its write is not submitted
	writing int64 // in the write in flight
	dirty   int64 // written; no sync is submitted
	syncing int64 // in the sync in flight
}

// oldest is since when the oldest record that is not on disk has waited, or 0.
func (a *flushAge) oldest() int64 {
	for _, at := range [...]int64{a.syncing, a.dirty, a.writing, a.pending} {
		if at != 0 {
			return at
		}
	}
	return 0
}

// flight is the write or sync that moved stable last: when it was submitted and done, ring's clock.
type flight struct{ submitted, done int64 }

// LastFlight says when the write or sync that moved Stable last was submitted, and when it was
// done, on the ring's clock, ns. For an Owner in Advanced.
func (l *Log) LastFlight() (submitted, done int64) { return l.flight.submitted, l.flight.done }

// Stamp is the ring's clock, read now, ns.
func (l *Log) Stamp() int64 { return l.core.io.Stamp() }

type flushWait struct {
	end  int64
	done Done
}

// Flush has everything appended so far written and synced, then tells done.
func (l *Log) Flush(done Done) {
	end := l.logEnd
	l.flushes = append(l.flushes, flushWait{end, done})
	if l.fence != nil || l.ended || l.synced >= end {
		l.enqueue(&job{name: "flush", always: true, done: func(error) { l.completeFlushes(); l.failFlushes() }})
		return
	}
	l.syncWanted = max(l.syncWanted, end)
	l.kick()
}

// completeFlushes answers those that asked for a flush that is done by now.
func (l *Log) completeFlushes() {
	for len(l.flushes) > 0 && l.flushes[0].end <= l.synced {
		f := l.flushes[0]
		l.flushes = l.flushes[1:]
		if f.done != nil {
			f.done.LogDone(l, nil)
		}
	}
}

// failFlushes answers the others once the log is fenced or closed.
func (l *Log) failFlushes() {
	err := l.Err()
	if err == nil && l.ended {
		err = ErrClosed
	}
	if err == nil {
		return
	}
	waiting := l.flushes
	l.flushes = nil
	for _, f := range waiting {
		if f.done != nil {
			f.done.LogDone(l, err)
		}
	}
}

// tooFarAhead says that with one more batch the page cache would be further ahead
// of the disk than OS and Interval allow. A batch that is larger than the bound by
// itself goes in when nothing else waits, and counts once it is on disk.
func (l *Log) tooFarAhead(bytes int, count int64) bool {
	c := &l.cfg
	if c.Policy.Synchronous() || c.FlushMessages == Never && c.FlushBytes == Never && c.FlushMs == Never {
		return false
	}
	if l.logEnd == l.synced {
		return false // see oversize
	}
	if l.logEnd-l.synced+count > c.FlushMessages || l.bytesIn-l.bytesSynced+int64(bytes) > c.FlushBytes {
		return true
	}
	since := l.age.oldest()
	return c.FlushMs != Never && since != 0 && l.core.io.Now()-since > c.FlushMs*1e6
}

// oversize says that a batch is by itself further ahead of the disk than is allowed.
func (l *Log) oversize(bytes, count int64) bool {
	return !l.cfg.Policy.Synchronous() && (count > l.cfg.FlushMessages || bytes > l.cfg.FlushBytes)
}

// wantSync decides, after a write, whether the policy wants it on disk.
func (l *Log) wantSync() {
	c := &l.cfg
	switch {
	case c.Policy == File:
		l.syncWanted = max(l.syncWanted, l.written)
	case c.Policy.Synchronous():
	case l.gap > l.flushed:
		l.syncWanted = max(l.syncWanted, l.gap)
	case c.FlushMessages != Never && l.written-l.synced >= (c.FlushMessages+1)/2,
		c.FlushBytes != Never && l.bytesWritten-l.bytesSynced >= (c.FlushBytes+1)/2:
		// At half of the bound: the other half comes in while the sync runs.
		l.syncWanted = max(l.syncWanted, l.written)
	}
}

// kickSync syncs the first file that is not on disk up to what is wanted. Files are
// synced in their order, each one whole before the next: synced is a prefix.
func (l *Log) kickSync() {
	y := &l.sync
	if y.busy || l.fence != nil || l.deleting && !l.entry.busy || l.closed || l.frozen || l.syncWanted <= l.synced || l.written <= l.synced || l.write.busy && l.write.chained {
		return
	}
	s := l.segmentOf(l.synced)
	end := l.written
	bytes := l.bytesWritten
	if s.rolled && s.end <= end {
		end, bytes = s.end, s.bytesEnd
	}
	*y = syncOp{log: l, seg: s, end: end, bytes: bytes, busy: true, began: l.core.io.Stamp()}
	l.age.syncing, l.age.dirty = l.age.dirty, 0
	s.lease()
	y.Op = ring.Op{Code: ring.Sync, FD: s.fd, Done: y}
	l.core.stats.Syncs++
	l.core.io.Submit(&y.Op)
}

// Complete moves synced, or leaves that to settleSyncs.
func (y *syncOp) Complete(op *ring.Op) {
	err := op.Error()
	if y.held = err == nil && y.seg.unnamed && y.log.fence == nil; !y.held {
		y.finish(err)
	}
}

// settleSyncs ends the syncs that were done before the name of their file was durable.
func (l *Log) settleSyncs() {
	if l.sync.held {
		l.sync.held = false
		l.sync.finish(nil)
	}
	if f := &l.write.forced; f.held {
		f.held = false
		f.finish(nil)
	}
}

func (y *syncOp) finish(err error) {
	l := y.log
	y.busy = false
	l.unlease(y.seg)
	if err != nil {
		l.failSync(y.seg.path(suffixLog), err)
		l.step()
		return
	}
	if y.end < l.written && l.age.dirty == 0 {
		l.age.dirty = l.age.syncing // a later file still waits
	}
	l.age.syncing = 0
	if l.fence == nil {
		l.bytesSynced = max(l.bytesSynced, y.bytes)
		l.flight = flight{y.began, l.core.io.Now()}
		l.advanceSynced(y.end)
		l.owner.Advanced(l)
	}
	l.step()
}

// segmentOf is the segment that the record at offset is in or would be appended to.
func (l *Log) segmentOf(offset int64) *segment {
	i := len(l.segments) - 1
	for i > 0 && l.segments[i].base > offset {
		i--
	}
	return l.segments[i]
}

// WriteBack is the journal's wish for room: the segments are written and synced up to
// offset.
func (l *Log) WriteBack(offset int64) {
	if offset = min(offset, l.logEnd); l.synced >= offset { // it is there already
		l.core.journal.Cut(&l.stake, l.synced)
		return
	}
	l.syncWanted = max(l.syncWanted, offset)
	l.kick()
}

// setDue works out the next deadline.
func (l *Log) setDue() {
	if l.core == nil {
		return
	}
	due := int64(ring.Forever)
	if !l.closed {
		due = l.retainAt
		if l.noSpace {
			due = min(due, l.retryAt)
		}
		if since := l.age.oldest(); l.cfg.FlushMs != Never && !l.cfg.Policy.Synchronous() && since != 0 && l.fence == nil && l.syncWanted < l.logEnd {
			due = min(due, since+l.cfg.FlushMs*1e6/2)
		}
		if l.cfg.Policy == Journal && l.age.pending != 0 {
			due = min(due, l.behindAt)
		}
		for i := range l.doomed {
			if l.doomed[i].seg.leases == 0 {
				due = min(due, l.doomed[i].at)
			}
		}
		if l.removeAt != 0 && l.released() {
			due = min(due, l.removeAt)
		}
	}
	l.core.due.set(l, due)
}

// expire does what has fallen due.
func (l *Log) expire(now int64) {
	if l.noSpace && l.retryAt <= now {
		l.tryAgain()
	}
	if since := l.age.oldest(); l.cfg.FlushMs != Never && !l.cfg.Policy.Synchronous() && since != 0 && since+l.cfg.FlushMs*1e6/2 <= now && l.syncWanted < l.logEnd {
		// At half of the bound, so that the sync is through before all of it.
		l.syncWanted = l.logEnd
		l.kick()
	}
	if l.behindAt <= now {
		l.behindAt = now + writeBehindNanos // where something is in its way: again
		l.kickWrite()
	}
	if l.retainAt <= now {
		l.retainAt = now + retainEvery
		l.retain(l.core.io.WallMillis())
	}
	l.removeDoomed(now)
	l.removeDeleted(now)
	l.setDue()
}
