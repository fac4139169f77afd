package log

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// A restart scans each log from its last producer snapshot on. Between rolls one is taken after
// snapshotMax bytes, or after snapshotMin where the logs of the core have more than snapshotAll
// bytes to scan in all.
const (
	snapshotMin = 1 << 20
	snapshotMax = 64 << 20
	snapshotAll = 256 << 20
)

// snapshotsKept is how many producer snapshots a log keeps at least.
const snapshotsKept = 2

// rollDue is Kafka's LogSegment.shouldRoll.
func (l *Log) rollDue(n int, last, timestamp, now int64) bool {
	s := l.active()
	if s.size == 0 {
		return false
	}
	if s.size+int64(n) > int64(l.cfg.SegmentBytes) || last-s.base > math.MaxInt32 || s.index.full() {
		return true
	}
	age, bound := l.activeAge(timestamp, now)
	return age > bound
}

// activeAge is how old the active segment would be with a batch of that timestamp, and how old it
// may become, ms.
func (l *Log) activeAge(timestamp, now int64) (age, bound int64) {
	s := l.active()
	since, until := s.created, now
	if s.firstTimestamp >= 0 && timestamp >= 0 {
		since, until = s.firstTimestamp, timestamp
	}
	bound = l.cfg.SegmentMs
	if l.cfg.Compacted { // what is in the active segment cannot be compacted
		bound = min(bound, l.cfg.MaxCompactionLagMs)
	}
	return until - since, bound
}

// roll ends the active segment. The next one's .log gets its name from a worker; until
// then appends go to the tail.
func (l *Log) roll(now int64) {
	old := l.active()
	old.rolled, old.bytesEnd = true, l.bytesIn
	s := newSegment(l, l.logEnd)
	s.created, s.unnamed = now, true
	s.index.maxOffsets, s.index.maxTimes = indexRoom(l.cfg.IndexBytes)
	l.segments = append(l.segments, s)
	l.indexBefore = timeEntry{timestamp: record.NoTimestamp}
	l.syncWanted = max(l.syncWanted, l.logEnd)
	l.enqueueOpen(s)
	l.enqueueFinish(old, l.logEnd, l.producer.encode())
	l.snapshotTaken()
	l.published.Segments.Store(int64(len(l.segments)))
}

// indexRoom is how many entries the files of an active segment have room for.
func indexRoom(bytes int32) (offsets, times int32) {
	return bytes / offsetEntrySize, bytes / timeEntrySize
}

// opened is what a worker made for an active segment.
type opened struct {
	fd, indexFD, timeFD ring.FD
	maps                [2][]byte
}

// enqueueOpen has the files of a new active segment made, in three steps. Writes wait for the first
// one only, which hardly takes time where there is a spare. What is synced counts after the second.
func (l *Log) enqueueOpen(s *segment) {
	h, dir, base, room := l.host(), l.path, s.base, l.cfg.IndexBytes
	fd, o := ring.NoFD, noFiles()
	failed := func(err error) { l.fail(s.path(suffixLog), fmt.Errorf("create segment: %w", err)) }
	l.enqueue(&job{name: "open segment", retry: true,
		start: func() {
			l.core.stats.Rolls++
			if fd = l.takeSpare(); fd != ring.NoFD {
				l.core.stats.Spares++
			}
		},
		run: func() (err error) {
			fd, err = nameSpare(h, fd, dir, base)
			return err
		},
		done: func(err error) {
			if err != nil {
				failed(err)
				return
			}
			s.fd, s.open = fd, true
		}})
	l.enqueue(&job{name: "sync names",
		run: func() error { return syncDir(h, dir) },
		done: func(err error) {
			if err != nil {
				failed(err)
			} else {
				s.unnamed = false
			}
			l.settleSyncs()
		}})
	l.enqueue(&job{name: "make indexes", retry: true,
		run: func() error {
			err := o.openIndexes(h, dir, base, room, 0, 0)
			if err != nil {
				o.closeIndexes(h)
			}
			return err
		},
		done: func(err error) {
			if err != nil {
				failed(err)
				return
			}
			s.indexFD, s.timeFD, s.maps = o.indexFD, o.timeFD, o.maps
		}})
}

func (s *segment) opened(o opened) {
	s.fd, s.indexFD, s.timeFD, s.maps = o.fd, o.indexFD, o.timeFD, o.maps
	s.open = true
}

func noFiles() opened { return opened{fd: ring.NoFD, indexFD: ring.NoFD, timeFD: ring.NoFD} }

// createSegment makes and opens the files of an empty active segment. Their names
// are durable when it returns; repeating it is harmless.
func createSegment(h ring.Host, dir string, base int64, room int32) (opened, error) {
	o, err := makeSegment(h, dir, base, room)
	if err == nil {
		err = syncDir(h, dir)
	}
	if err != nil {
		o.close(h)
	}
	return o, err
}

// makeSegment is createSegment, but the names are not durable.
func makeSegment(h ring.Host, dir string, base int64, room int32) (o opened, err error) {
	o = noFiles()
	defer func() {
		if err != nil {
			o.close(h)
		}
	}()
	if o.fd, err = h.Open(filepath.Join(dir, fileName(base, suffixLog)), ring.Create); err != nil {
		return o, err
	}
	if err = h.Truncate(o.fd, 0); err != nil {
		return o, err
	}
	return o, o.openIndexes(h, dir, base, room, 0, 0)
}

// openIndexes opens the two indexes of an active segment, cuts them after so many
// entries, sizes them for growth and maps them, as Kafka does. The mappings are
// for its tools' eyes: nothing here looks through them.
func (o *opened) openIndexes(h ring.Host, dir string, base int64, room int32, offsets, times int64) (err error) {
	maxOffsets, maxTimes := indexRoom(room)
	for i, f := range []struct {
		fd             *ring.FD
		suffix         string
		used, capacity int64
	}{
		{&o.indexFD, suffixIndex, offsets * offsetEntrySize, int64(maxOffsets) * offsetEntrySize},
		{&o.timeFD, suffixTime, times * timeEntrySize, int64(maxTimes) * timeEntrySize},
	} {
		name := filepath.Join(dir, fileName(base, f.suffix))
		if *f.fd, err = h.Open(name, ring.Create); err != nil {
			return err
		}
		if err = h.Truncate(*f.fd, f.used); err != nil {
			return fmt.Errorf("%s: truncate: %w", name, err)
		}
		if err = h.Truncate(*f.fd, max(f.capacity, f.used)); err != nil {
			return fmt.Errorf("%s: truncate: %w", name, err)
		}
		if f.capacity == 0 { // finished: it will not grow
			continue
		}
		if o.maps[i], err = h.Map(*f.fd, max(f.capacity, f.used)); err != nil {
			return fmt.Errorf("%s: map: %w", name, err)
		}
	}
	return nil
}

// close gives everything back. Errors do not matter: nothing unsynced is trusted.
func (o *opened) close(h ring.Host) {
	o.closeIndexes(h)
	if o.fd != ring.NoFD {
		h.Close(o.fd)
		o.fd = ring.NoFD
	}
}

func (o *opened) unmap(h ring.Host) {
	for i, b := range o.maps {
		if b != nil {
			h.Unmap(b)
			o.maps[i] = nil
		}
	}
}

func (o *opened) closeIndexes(h ring.Host) {
	o.unmap(h)
	for _, fd := range []*ring.FD{&o.indexFD, &o.timeFD} {
		if *fd != ring.NoFD {
			h.Close(*fd)
			*fd = ring.NoFD
		}
	}
}

// takeIndexes takes the active segment's index files away from it.
func (s *segment) takeIndexes() opened {
	o := opened{fd: ring.NoFD, indexFD: s.indexFD, timeFD: s.timeFD, maps: s.maps}
	s.indexFD, s.timeFD, s.maps = ring.NoFD, ring.NoFD, [2][]byte{}
	return o
}

// indexEnd is what a segment's indexes still lack when it ends.
type indexEnd struct {
	held           indexFiles
	offsets, times int64 // entries in the files
}

// endIndex takes the last entries: those in memory, and the one for the maximum
// timestamp, so that the segment's maximum is always in its index.
func (s *segment) endIndex(pool *ring.Pool) indexEnd {
	x := &s.index
	e := indexEnd{held: x.takeHeld(pool), offsets: int64(x.offsets), times: int64(x.times)}
	if s.maxTimestamp > x.lastTime.timestamp {
		var b [timeEntrySize]byte
		x.lastTime = timeEntry{s.maxTimestamp, s.maxTimestampAt}
		putTimeEntry(b[:], s.base, x.lastTime)
		e.held.times = append(e.held.times, b[:]...)
	}
	x.offsets += int32(len(e.held.offsets) / offsetEntrySize)
	x.times += int32(len(e.held.times) / timeEntrySize)
	return e
}

// write puts them into the files, cuts what is behind, and syncs. It can be
// repeated; on success it closes the files.
func (e *indexEnd) write(h ring.Host, o *opened, dir string, base int64) error {
	o.unmap(h)
	for _, f := range []struct {
		fd     ring.FD
		suffix string
		held   []byte
		at     int64
	}{
		{o.indexFD, suffixIndex, e.held.offsets, e.offsets * offsetEntrySize},
		{o.timeFD, suffixTime, e.held.times, e.times * timeEntrySize},
	} {
		name := filepath.Join(dir, fileName(base, f.suffix))
		if _, err := h.WriteAt(f.fd, f.held, f.at); err != nil {
			return fmt.Errorf("%s: write: %w", name, err)
		}
		if err := h.Truncate(f.fd, f.at+int64(len(f.held))); err != nil {
			return fmt.Errorf("%s: truncate: %w", name, err)
		}
		if err := h.Sync(f.fd); err != nil {
			return &ring.SyncError{Err: fmt.Errorf("%s: sync: %w", name, err)}
		}
	}
	o.closeIndexes(h)
	return nil
}

// enqueueFinish completes the indexes of a rolled segment and then writes the producer
// snapshot of its end. Recovery takes that for the sign that the indexes are on disk;
// so one that was taken there before the roll goes first.
func (l *Log) enqueueFinish(s *segment, end int64, snapshot []byte) {
	h, dir, base := l.host(), l.path, s.base
	o := noFiles()
	var e indexEnd
	var old []int64
	early, begun := false, false
	l.enqueue(&job{name: "finish segment", retry: true,
		ready: func() bool { return l.indexWrite.seg != s },
		start: func() {
			begun = true
			o, e = s.takeIndexes(), s.endIndex(l.core.pool)
			early = slices.Contains(l.producer.snapshots, end)
			old = l.keepSnapshot(end)
		},
		run: func() error {
			if early {
				if err := removeFile(h, filepath.Join(dir, fileName(end, suffixSnapshot))); err != nil {
					return err
				}
				if err := syncDir(h, dir); err != nil {
					return err
				}
			}
			if o.indexFD != ring.NoFD {
				if err := e.write(h, &o, dir, base); err != nil {
					return err
				}
			}
			return writeSnapshot(h, dir, end, snapshot, old)
		},
		done: func(err error) {
			if begun {
				s.indexFD, s.timeFD, s.maps = o.indexFD, o.timeFD, o.maps
			}
			if err != nil {
				l.fail(filepath.Join(dir, fileName(base, suffixIndex)), err)
				return
			}
			s.finished = true
			l.producer.durable = append(l.producer.durable, end)
			l.publishRecoveryPoint()
		}})
}

func (l *Log) keepSnapshot(at int64) (old []int64) {
	return l.producer.keepSnapshot(at, l.published.checkpointed.Load())
}

// kickSnapshot takes a producer snapshot between rolls when there is much to scan
// since the last one, and the last one is of use by now.
func (l *Log) kickSnapshot() {
	if n := l.bytesIn - l.snapshotAt; n < snapshotMin || n < snapshotMax && l.core.unscanned < snapshotAll || l.refusal() != nil {
		return
	}
	if all := l.producer.snapshots; len(all) > 0 && all[len(all)-1] > l.published.checkpointed.Load() {
		return
	}
	if slices.Contains(l.producer.durable, l.logEnd) { // a hint must not take the place of one that survives power loss
		return
	}
	l.snapshotTaken()
	h, dir, end, snapshot := l.host(), l.path, l.logEnd, l.producer.encode()
	var old []int64
	l.enqueue(&job{name: "producer snapshot", retry: true,
		start: func() { old = l.keepSnapshot(end) },
		run:   func() error { return writeHint(h, dir, end, snapshot, old) },
		done: func(err error) {
			if err != nil {
				l.fail(filepath.Join(dir, fileName(end, suffixSnapshot)), err)
			}
		}})
}

// snapshotTaken counts what a restart has to scan from here on.
func (l *Log) snapshotTaken() {
	l.core.unscanned -= l.bytesIn - l.snapshotAt
	l.snapshotAt = l.bytesIn
}

// writeSnapshot writes a producer snapshot, durably, and removes old ones.
func writeSnapshot(h ring.Host, dir string, at int64, snapshot []byte, old []int64) error {
	if err := removeSnapshots(h, dir, old); err != nil {
		return err
	}
	return ring.WriteFileAtomic(h, filepath.Join(dir, fileName(at, suffixSnapshot)), snapshot)
}

// writeHint writes one that a power loss may take away, or leave in part, and then an older one
// serves: it saves a scan after the process was killed, and has no sync to wait for.
func writeHint(h ring.Host, dir string, at int64, snapshot []byte, old []int64) error {
	if err := removeSnapshots(h, dir, old); err != nil {
		return err
	}
	path := filepath.Join(dir, fileName(at, suffixSnapshot))
	tmp := path + ".tmp"
	fd, err := h.Open(tmp, ring.Create)
	if err != nil {
		return err
	}
	err = h.Truncate(fd, 0)
	if err == nil {
		_, err = h.WriteAt(fd, snapshot, 0)
	}
	if err = errors.Join(err, h.Close(fd)); err != nil {
		return fmt.Errorf("%s: %w", tmp, err)
	}
	return h.Rename(tmp, path)
}

func removeSnapshots(h ring.Host, dir string, old []int64) error {
	for _, offset := range old {
		if err := removeFile(h, filepath.Join(dir, fileName(offset, suffixSnapshot))); err != nil {
			return err
		}
	}
	return nil
}

// syncDir is Host.SyncDir for jobs that are tried again on a full disk: a sync that
// failed is not.
func syncDir(h ring.Host, dir string) error {
	if err := h.SyncDir(dir); err != nil {
		return &ring.SyncError{Err: err}
	}
	return nil
}

// removeFile removes a file that may be gone already.
func removeFile(h ring.Host, path string) error {
	if err := h.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
