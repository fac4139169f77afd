package log

import (
	"fmt"
	"path/filepath"

	"github.com/millrace/millrace/ring"
)

const (
	// spareName is a spare's. Recovery removes files that end so, and Kafka passes over them.
	spareName = "next" + suffixLog + ".tmp"
	// sparesMax bounds the spares of one core: each is an open file. Logs beyond make the next
	// segment's file when they roll.
	sparesMax = 64
	// spareMs is how long before a roll by age its file is made, ms.
	spareMs = 60_000
)

// spare is an empty file, made ahead of a roll, that becomes the next segment's .log: an inode takes
// longer to find than a name to change. It holds no space.
type spare struct {
	fd   ring.FD // NoFD: none
	busy bool    // a job makes it, or removes it
	not  int64   // it could not be made while the active segment was the one with this base; -1: it could
	seen int64   // the log's bytesIn when retention came by last
}

// spareDue says that the active segment is three quarters full, or will soon be too old.
func (l *Log) spareDue(timestamp, now int64) bool {
	s := l.active()
	if l.spare.busy || l.spare.fd != ring.NoFD || l.spare.not == s.base || l.core.spares == sparesMax {
		return false
	}
	if s.size > int64(l.cfg.SegmentBytes)/4*3 || s.index.offsets+s.index.heldOffsets > s.index.maxOffsets/4*3 {
		return true
	}
	age, bound := l.activeAge(timestamp, now)
	return s.size > 0 && age > bound-min(bound/4, spareMs)
}

// makeSpare has one made. That it cannot be is no error: the roll makes its file then.
func (l *Log) makeSpare() {
	h, path, base, fd := l.host(), filepath.Join(l.path, spareName), l.active().base, ring.NoFD
	l.spare.busy = true
	l.core.spares++
	l.enqueue(&job{name: "make a spare",
		run: func() (err error) {
			fd, err = h.Open(path, ring.CreateNew)
			return err
		},
		done: func(err error) {
			l.spare.busy = false
			if err != nil {
				l.spare.not = base
				l.core.spares--
				return
			}
			l.spare.fd, l.spare.seen = fd, l.bytesIn
		}})
}

// takeSpare takes it away from the log; NoFD: there is none.
func (l *Log) takeSpare() ring.FD {
	fd := l.spare.fd
	if fd != ring.NoFD {
		l.core.spares--
	}
	l.spare.fd = ring.NoFD
	return fd
}

// retainSpare gives it up where nothing has been appended since the last time: others may need theirs.
func (l *Log) retainSpare() {
	if l.spare.fd == ring.NoFD {
		return
	}
	if l.spare.seen != l.bytesIn {
		l.spare.seen = l.bytesIn
		return
	}
	h, dir, fd := l.host(), l.path, l.takeSpare()
	l.spare.busy = true
	l.enqueue(&job{name: "remove a spare", always: true,
		run:  func() error { removeSpare(h, fd, dir); return nil },
		done: func(error) { l.spare.busy = false }})
}

// removeSpare closes and removes it; fd may be NoFD. What stays is removed by the next start.
func removeSpare(h ring.Host, fd ring.FD, dir string) {
	if fd != ring.NoFD {
		h.Close(fd)
		h.Remove(filepath.Join(dir, spareName))
	}
}

// nameSpare gives the spare a segment's name. Where there is none, or its name cannot be changed, the
// file is made. The name is not durable. A failure leaves no spare, and it can be repeated without one.
func nameSpare(h ring.Host, fd ring.FD, dir string, base int64) (ring.FD, error) {
	path := filepath.Join(dir, fileName(base, suffixLog))
	if fd != ring.NoFD {
		if h.Rename(filepath.Join(dir, spareName), path) == nil {
			return fd, nil
		}
		removeSpare(h, fd, dir)
	}
	fd, err := h.Open(path, ring.Create)
	if err != nil {
		return ring.NoFD, err
	}
	if err := h.Truncate(fd, 0); err != nil {
		h.Close(fd)
		return ring.NoFD, fmt.Errorf("%s: truncate: %w", path, err)
	}
	return fd, nil
}
