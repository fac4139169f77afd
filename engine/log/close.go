package log

import (
	"fmt"
	"path/filepath"

	"github.com/millrace/millrace/ring"
)

// Close closes the log cleanly: everything is written and synced, indexes are
// trimmed and end with the entry for the maximum timestamp, a producer snapshot is
// taken. It waits until every read has been released. A fenced log, or one on a full
// disk, is closed too; the error then says that it is not clean, and what was not
// written is gone: nothing of it had been acknowledged, or it is in the journal.
func (l *Log) Close(done Done) {
	if l.closing {
		l.refuse(done)
		return
	}
	l.closing = true
	l.listCleanable()
	l.syncWanted = l.logEnd
	h, dir := l.host(), l.path
	o := noFiles()
	var base int64
	var e indexEnd
	var meta []file
	var snapshot []byte
	var old []int64
	var end int64
	spare := ring.NoFD
	l.enqueue(&job{name: "close", always: true,
		ready: func() bool {
			return l.quiet() && l.released() && (l.fence != nil || l.noSpace || l.synced == l.logEnd)
		},
		start: func() {
			s := l.active()
			spare = l.takeSpare()
			base, o, e = s.base, s.takeIndexes(), s.endIndex(l.core.pool)
			if l.metaFrom >= 0 {
				meta = l.metaFiles()
			}
			snapshot, old, end = l.producer.encode(), l.keepSnapshot(l.logEnd), l.logEnd
		},
		run: func() error {
			defer o.closeIndexes(h)
			removeSpare(h, spare, dir)
			if l.fence != nil || l.noSpace || o.indexFD == ring.NoFD {
				return nil
			}
			if err := e.write(h, &o, dir, base); err != nil {
				return err
			}
			if err := writeFiles(h, meta); err != nil {
				return err
			}
			return writeSnapshot(h, dir, end, snapshot, old)
		},
		done: func(err error) {
			if err == nil && l.noSpace {
				err = ErrNoSpace
			}
			if err == nil {
				err = l.Err()
			}
			l.shut(err)
			l.tell(done, err)
		}})
	l.kick()
}

// released says that nobody reads from any of the log's files or memory.
func (l *Log) released() bool {
	for _, s := range l.segments {
		if s.leases > 0 {
			return false
		}
	}
	for i := range l.doomed {
		if l.doomed[i].seg.leases > 0 {
			return false
		}
	}
	for i := range l.tail.len() {
		if l.tail.at(i).refs > 0 {
			return false
		}
	}
	return true
}

// shut ends the log: files and memory are given back.
func (l *Log) shut(err error) {
	l.closed, l.ended = true, true
	if err == nil {
		for _, s := range l.segments {
			s.finished = true
		}
		l.metaFrom = -1
		l.publishRecoveryPoint()
		l.published.closed.Store(true)
	} else {
		l.dir.mu.Lock()
		l.dir.unclean = append(l.dir.unclean, fmt.Sprintf("%s-%d: %v", l.topic, l.partition, err))
		l.dir.mu.Unlock()
	}
	l.closeFiles()
	for l.tail.len() > 0 {
		l.dropLast()
	}
	switch {
	case l.core.journal == nil:
	case err == nil: // all of it is in the files
		l.core.journal.Detach(&l.stake)
	default:
		l.core.journal.Fence(&l.stake)
	}
	l.failFlushes()
	l.snapshotTaken()
	l.core.due.set(l, ring.Forever)
}

// closeFiles closes what is open. Nobody uses it.
func (l *Log) closeFiles() {
	h := l.host()
	all := l.segments
	for _, d := range l.doomed {
		all = append(all, d.seg)
	}
	l.doomed = nil
	for _, s := range all {
		o := s.takeIndexes()
		o.fd, s.fd = s.fd, ring.NoFD
		o.close(h)
		s.open = false
	}
}

// closeUnattached closes a log that no core ever had. Blocking.
func (l *Log) closeUnattached() error {
	h, s := l.host(), l.active()
	o, e := s.takeIndexes(), s.endIndex(nil)
	err := e.write(h, &o, l.path, s.base)
	if err == nil {
		err = writeSnapshot(h, l.path, l.logEnd, l.producer.encode(), l.keepSnapshot(l.logEnd))
	}
	o.closeIndexes(h)
	l.closed, l.closing = true, true
	l.closeFiles()
	return err
}

// Delete removes the partition. When done is told without an error the directory
// has its new name, <topic>-<partition>.<uuid>-delete, durably; it is removed
// file.delete.delay.ms later, once every read has been released. The log answers
// ErrClosed from the call on.
func (l *Log) Delete(done Done) {
	if l.closing {
		l.refuse(done)
		return
	}
	l.closing, l.deleting = true, true
	l.listCleanable()
	h, from := l.host(), l.path
	to := filepath.Join(l.dir.path, deletedName(l.topic, l.partition, uuid(h)))
	l.enqueue(&job{name: "delete", always: true,
		ready: l.quiet,
		run: func() error {
			l.dir.forget(l)
			if err := h.Rename(from, to); err != nil {
				return err
			}
			return h.SyncDir(l.dir.path)
		},
		done: func(err error) {
			if err != nil {
				l.fail(from, fmt.Errorf("delete: %w", err))
			} else {
				l.path, l.ended = to, true
				if l.core.journal != nil { // no directory has this incarnation any more
					l.core.journal.Detach(&l.stake)
				}
				l.removeAt = l.core.io.Now() + l.cfg.FileDeleteDelayMs*1e6
			}
			l.failFlushes()
			l.tell(done, err)
		}})
	l.kick()
}

// removeDeleted removes the directory of a deleted log when its time has come.
func (l *Log) removeDeleted(now int64) {
	if l.removeAt == 0 || l.removeAt > now || !l.released() {
		return
	}
	l.removeAt = 0
	d, path, spare := l.dir, l.path, l.takeSpare()
	l.active().index.takeHeld(l.core.pool)
	l.enqueue(&job{name: "remove directory", always: true,
		run: func() error {
			l.closeFiles()
			removeSpare(l.host(), spare, path)
			return d.removeDir(path) // what stays is removed by the next start
		},
		done: func(error) {
			for l.tail.len() > 0 {
				l.dropLast()
			}
			l.closed = true
			l.snapshotTaken()
			l.core.due.set(l, ring.Forever)
		}})
}
