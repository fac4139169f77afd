package log

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// retainEvery is how often a log looks for what it need not keep, ns (Kafka's
// log.retention.check.interval.ms).
const retainEvery = 300e9

// doomed is a segment whose files have been renamed and go later.
type doomed struct {
	seg   *segment
	at    int64 // ring's clock
	names []string
}

// segmentSuffixes are a segment's files.
var segmentSuffixes = []string{suffixLog, suffixIndex, suffixTime, suffixTxn}

// Retain applies retention now, as the log does by itself every five minutes.
func (l *Log) Retain() { l.retain(l.core.io.WallMillis()) }

// retain forgets expired producers and removes segments that are older than
// retention.ms, or beyond retention.bytes: from the front, and only what is below
// the high watermark.
func (l *Log) retain(wall int64) {
	if l.closing || l.cutting || l.starting {
		return
	}
	l.retainSpare()
	if l.fence != nil {
		return
	}
	if l.producer.expire(wall - l.cfg.ProducerExpirationMs) {
		l.retainAt = l.core.io.Now() + expireAgain
	}
	if base := l.unremoved; base > 0 {
		l.unremoved = 0
		l.removeSegments(base)
	}
	n, left := 0, l.size
	for n < len(l.segments) {
		s := l.segments[n]
		// On a full disk only what no job works on: see enqueueRelief.
		if s.size == 0 || s.end > l.highWatermark || s.end > l.written || l.noSpace && !s.finished || !l.expired(s, wall, left) {
			break
		}
		left -= s.size
		n++
	}
	if n == len(l.segments) { // the active one too: something must stay
		if !l.canRoll() || l.noSpace {
			n--
		} else {
			l.roll(wall)
		}
	}
	if n > 0 {
		l.removeSegments(l.segments[n].base)
	}
}

// expired says whether a segment may go; size is the log's from this segment on.
func (l *Log) expired(s *segment, wall, size int64) bool {
	c := &l.cfg
	if c.RetentionBytes >= 0 && c.RetentionBytes != Never && size-s.size >= c.RetentionBytes {
		return true
	}
	newest := s.maxTimestamp
	if newest < 0 {
		newest = s.created
	}
	return c.RetentionMs >= 0 && c.RetentionMs != Never && wall-newest > c.RetentionMs
}

// removeSegments removes the segments below base, which is a segment's: the files
// are renamed, and once that is durable the log starts at base.
func (l *Log) removeSegments(base int64) {
	if l.removing >= base {
		return
	}
	l.removing = base
	h, dir := l.host(), l.path
	var paths []string
	var segments []*segment
	gone := 0 // of these, that have no .log any more
	l.enqueueRelief(&job{name: "remove segments",
		start: func() {
			for i, s := range l.segments {
				// By where it ends: since this was asked for, compaction may have put it together
				// with what lies behind base.
				if s == l.active() || l.segments[i+1].base > base {
					break
				}
				segments = append(segments, s)
				for _, suffix := range segmentSuffixes {
					paths = append(paths, s.path(suffix))
				}
			}
		},
		run: func() error {
			for i, p := range paths {
				if err := h.Rename(p, p+suffixDeleted); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				gone = i/len(segmentSuffixes) + 1 // the .log is the first
				// One segment after the other: a crash leaves no hole.
				if (i+1)%len(segmentSuffixes) == 0 {
					if err := syncDir(h, dir); err != nil {
						return err
					}
				}
			}
			return nil
		},
		done: func(err error) {
			if isNoSpace(err) && l.fence == nil {
				// The directory had no room for the other name. What has one is removed; after a cut base means nothing.
				l.removing = 0
				if !l.cutting {
					l.unremoved = max(l.unremoved, base)
				}
				l.retainAt = l.core.io.Now() + spaceRetry
				segments, err = segments[:gone], nil
			}
			if err != nil {
				l.fail(dir, fmt.Errorf("remove segments below %d: %w", base, err))
				return
			}
			if len(segments) == 0 {
				return
			}
			at := l.core.io.Now() + l.cfg.FileDeleteDelayMs*1e6
			for i, s := range segments {
				n := len(segmentSuffixes)
				names := make([]string, n)
				for j, p := range paths[i*n : (i+1)*n] {
					names[j] = p + suffixDeleted
				}
				l.doom(s, at, names)
				l.size -= s.size
			}
			l.segments = append([]*segment(nil), l.segments[len(segments):]...)
			// A tail that reached below is a suffix of the log all the same.
			l.moveLogStart(max(l.logStart, l.segments[0].base))
			l.owner.Advanced(l)
		}})
}

func (l *Log) doom(s *segment, at int64, names []string) {
	s.removed = true
	l.doomed = append(l.doomed, doomed{s, at, names})
	l.setDue()
}

// moveLogStart makes a durable log start the log's start.
func (l *Log) moveLogStart(to int64) {
	l.logStart = to
	l.highWatermark = max(l.highWatermark, to)
	if l.epochs.cutStart(to) {
		l.metaDirty(l.logEnd)
	}
	l.publish()
}

// AdvanceLogStart makes `to` the log's start, as DeleteRecords asks; whole segments
// below it are removed. `to` is at most the high watermark. It is durable before it
// takes effect, and in effect when done is told.
func (l *Log) AdvanceLogStart(to int64, done Done) {
	if to > l.highWatermark {
		l.enqueue(&job{name: "advance log start", always: true, done: func(error) { l.tell(done, ErrOutOfRange) }})
		return
	}
	beyond := false
	l.enqueue(&job{name: "advance log start",
		start: func() {
			if beyond = to > l.highWatermark; !beyond { // else the log was cut in between
				l.published.startWanted.Store(max(to, l.logStart))
			}
		},
		run: func() error {
			if beyond {
				return ErrOutOfRange
			}
			return l.dir.checkpointStarts()
		},
		done: func(err error) {
			switch {
			case beyond:
			case err != nil:
				l.published.startWanted.Store(l.logStart)
				if l.fence == nil && !isNoSpace(err) {
					l.fail(l.dir.path, err)
				}
			case to > l.logStart:
				l.moveLogStart(to)
				if s := l.segmentOf(to); s != l.segments[0] {
					l.removeSegments(s.base)
				}
				l.owner.Advanced(l)
			}
			l.tell(done, err)
		}})
}

// removeDoomed closes and unlinks what has been renamed for long enough and is not
// being read.
func (l *Log) removeDoomed(now int64) {
	var fds []ring.FD
	var names []string
	kept := l.doomed[:0]
	for _, d := range l.doomed {
		if d.at > now || d.seg.leases > 0 {
			kept = append(kept, d)
			continue
		}
		fds = append(fds, d.seg.fd)
		d.seg.fd = ring.NoFD
		names = append(names, d.names...)
	}
	clear(l.doomed[len(kept):])
	l.doomed = kept
	if len(fds) == 0 {
		return
	}
	h := l.host()
	l.enqueueRelief(&job{name: "unlink segments", always: true,
		run: func() error {
			for _, fd := range fds {
				if fd != ring.NoFD {
					h.Close(fd)
				}
			}
			for _, name := range names {
				h.Remove(name) // what stays is removed by the next start
			}
			return nil
		}})
}

// isNoSpace says that the disk was full, and that nothing is in doubt by it: a sync that
// failed so leaves doubt.
func isNoSpace(err error) bool {
	var sync *ring.SyncError
	return errors.Is(err, syscall.ENOSPC) && !errors.As(err, &sync)
}
