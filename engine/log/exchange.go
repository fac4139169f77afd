package log

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

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
	c.txns.kept = nil
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
	group := c.group()
	was := 0
	for i := range group {
		was += len(group[i].aborted)
	}
	if !c.changed && len(c.txns.kept) == was {
		c.discard()
		return nil
	}
	s := c.out
	if end, base := group[len(group)-1].end, max(s.end, s.base); base < end {
		// Kafka leaves segments that end before the next one begins; a start could not tell that from damage.
		at := len(c.buf)
		c.buf = c.builder.Empty(c.buf, base, end, c.epoch, s.maxTimestamp)
		s.observe(record.Batch(c.buf[at:]), len(c.buf)-at, s.size, c.cfg.IndexIntervalBytes)
	}
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.host.Sync(s.fd); err != nil {
		return &ring.SyncError{Err: fmt.Errorf("%s: sync: %w", c.path(suffixLog+suffixCleaned), err)}
	}
	for i := range group {
		s.created = max(s.created, group[i].created)
	}
	s.aborted = c.txns.kept
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
		if f.suffix == suffixTxn && was == 0 {
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

// group is the sources that the cleaned segment is made of.
func (c *cleaning) group() []source {
	i := c.end - 1
	for c.sources[i].base > c.out.base {
		i--
	}
	return c.sources[i:c.end]
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
	group := c.group()
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
			suffixes := c.suffixes(group)
			err := c.announce(suffixes)
			begun = !isNoSpace(err)
			if err != nil {
				return err
			}
			return c.swap(group, suffixes)
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

// suffixes are those of the index files that are exchanged.
func (c *cleaning) suffixes(group []source) []string {
	if slices.ContainsFunc(group, func(s source) bool { return len(s.aborted) > 0 }) { // see finish
		return segmentSuffixes[1:]
	}
	return slices.DeleteFunc(slices.Clone(segmentSuffixes[1:]), func(s string) bool { return s == suffixTxn })
}

// announce takes the exchange to its durable point: see the table in the package comment. Where the directory has no room
// for the names it changes nothing. On a worker.
func (c *cleaning) announce(suffixes []string) (err error) {
	h := c.host
	defer func() {
		if isNoSpace(err) {
			for _, suffix := range suffixes {
				removeFile(h, c.path(suffix+suffixSwap)) // what stays the next start removes
			}
		}
	}()
	for _, suffix := range suffixes {
		if err := h.Rename(c.path(suffix+suffixCleaned), c.path(suffix+suffixSwap)); err != nil {
			return err
		}
	}
	if err := syncDir(h, c.dir); err != nil {
		return err
	}
	if err := h.Rename(c.path(suffixLog+suffixCleaned), c.path(suffixLog+suffixSwap)); err != nil {
		return err
	}
	return syncDir(h, c.dir) // from here on a start finishes it
}

// swap does the rest of it. On a worker.
func (c *cleaning) swap(group []source, suffixes []string) error {
	h := c.host
	for i := range group[1:] {
		for _, suffix := range segmentSuffixes {
			if err := removeFile(h, filepath.Join(c.dir, fileName(group[i+1].base, suffix))); err != nil {
				return err
			}
		}
	}
	unwanted := "" // an empty .txnindex: there is to be none
	for _, suffix := range suffixes {
		var err error
		if suffix == suffixTxn && len(c.out.aborted) == 0 {
			unwanted = c.path(suffix + suffixSwap)
			err = removeFile(h, c.path(suffix))
		} else {
			err = h.Rename(c.path(suffix+suffixSwap), c.path(suffix))
		}
		if err != nil {
			return err
		}
	}
	if err := h.SyncDir(c.dir); err != nil {
		return err
	}
	if unwanted != "" {
		if err := h.Remove(unwanted); err != nil {
			return err
		}
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
