package log

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// LogReport says what recovery did to one log.
type LogReport struct {
	Topic         string
	Partition     int32
	Clean         bool  // closed cleanly: nothing was scanned
	RecoveryPoint int64 // as the checkpoint had it
	LogStart      int64
	LogEnd        int64
	Checked       int64    // bytes read and checked
	Cut           int64    // bytes cut off behind the last whole batch
	CutAt         string   // file and position; empty when nothing was cut
	Rebuilt       int      // segments whose indexes were made again
	Mended        []string // files that were damaged, or after a clean close not as they had been left, and were made again
	Replayed      int      // batches from the journal
	Rewritten     int64    // bytes written again: see failedSyncName
	Aside         string   // the file with what the journal has, and the damaged log could not take
	Nanos         int64
	Damage        error // why the log came up fenced; nil: it did not
}

func (r *LogReport) String() string {
	s := fmt.Sprintf("%s-%d: offsets %d to %d", r.Topic, r.Partition, r.LogStart, r.LogEnd)
	if len(r.Mended) > 0 {
		s += ", made again: " + strings.Join(r.Mended, ", ")
	}
	if r.Clean {
		s += ", closed cleanly"
		if r.Damage != nil {
			s += fmt.Sprintf(", DAMAGED and fenced: %v", r.Damage)
		}
		return s
	}
	s += fmt.Sprintf(", recovery point %d: %d bytes checked, %d indexes made again", r.RecoveryPoint, r.Checked, r.Rebuilt)
	if r.Replayed > 0 {
		s += fmt.Sprintf(", %d batches from the journal", r.Replayed)
	}
	if r.Rewritten > 0 {
		s += fmt.Sprintf(", %d bytes written again", r.Rewritten)
	}
	if r.Aside != "" {
		s += ", entries of the journal kept in " + r.Aside
	}
	if r.CutAt != "" {
		s += fmt.Sprintf(", torn or damaged: %d bytes cut at %s", r.Cut, r.CutAt)
	}
	if r.Damage != nil {
		s += fmt.Sprintf(", DAMAGED and fenced: %v", r.Damage)
	}
	return s + fmt.Sprintf(", %.1f ms", float64(r.Nanos)/1e6)
}

// recovery is one log on its way up: scanned, then replayed into, then finished.
type recovery struct {
	log        *Log
	host       ring.Host
	clean      bool
	trust      int64 // the recovery point; MaxInt64 after a clean close
	rewrites   bool  // a sync has failed before this start
	known      bool  // the checkpoint has the recovery point
	highMark   int64 // from the checkpoints
	startAt    int64
	cleanedAt  int64
	now        int64
	report     LogReport
	scan       scanner
	dirty      map[*segment]bool // to be synced
	epochsIn   []byte            // as the file has them
	badEpochs  bool              // the file is damaged
	badAborted []string          // transaction indexes that are damaged
	snapshots  []int64           // the files there are
	keeps      string            // a file with what an earlier start could not replay
	aside      ring.FD           // where the journal's entries of a fenced log are kept
	asidePath  string
	asideSize  int64
	asideEnd   int64 // the next offset after what is in it
}

// syncNames makes durable what recovery is about to see: a process that was killed may have
// made, renamed or removed files without the sync that was to follow.
func (r *recovery) syncNames() error { return r.host.SyncDir(r.log.path) }

// recoverLog scans one partition's directory. The log it leaves is not ready for
// appends before finish.
func recoverLog(r *recovery) error {
	l := r.log
	if err := r.readDir(); err != nil {
		return err
	}
	if err := r.scanSegments(l); err != nil || l.fence != nil || r.keeps == "" {
		return err
	}
	r.lost(fmt.Errorf("%s has records that were acknowledged and could not be put behind those before them: the partition stays as it is until that file is removed", r.keeps))
	return nil
}

// readDir cleans the directory up and finds out what is in it.
func (r *recovery) readDir() error {
	l, h := r.log, r.host
	entries, err := h.ReadDir(l.path)
	if err != nil {
		return err
	}
	var bases, swaps, swappedTxns []int64
	changed, incarnated := false, false
	remove := func(name string) error {
		changed = true
		return h.Remove(filepath.Join(l.path, name))
	}
	for _, e := range entries {
		switch name := e.Name; {
		case e.Dir:
		case strings.HasSuffix(name, suffixDeleted), strings.HasSuffix(name, suffixCleaned), strings.HasSuffix(name, ".tmp"):
			err = remove(name)
		case strings.HasSuffix(name, suffixLog+suffixSwap):
			if base, ok := parseFileName(name, suffixLog+suffixSwap); ok {
				swaps = append(swaps, base)
			}
		case strings.HasSuffix(name, suffixTxn+suffixSwap): // it goes with its .log, or not at all
			if base, ok := parseFileName(name, suffixTxn+suffixSwap); ok {
				swappedTxns = append(swappedTxns, base)
			}
		case strings.HasSuffix(name, suffixSwap): // an index: it is made again
			err = remove(name)
		default:
			if base, ok := parseFileName(name, suffixLog); ok {
				bases = append(bases, base)
			} else if at, ok := parseFileName(name, suffixSnapshot); ok {
				l.producer.snapshots = append(l.producer.snapshots, at)
			} else if strings.HasSuffix(name, suffixAside) {
				r.keeps = filepath.Join(l.path, name)
			} else if n, ok := parseIncarnation(name); ok {
				l.incarnation, incarnated = n, true
			}
		}
		if err != nil {
			return err
		}
	}
	for _, base := range swaps {
		if bases, err = r.finishSwap(base, bases, slices.Contains(swappedTxns, base)); err != nil {
			return err
		}
		changed = true
	}
	for _, base := range swappedTxns {
		if !slices.Contains(swaps, base) {
			if err := remove(fileName(base, suffixTxn+suffixSwap)); err != nil {
				return err
			}
		}
	}
	slices.Sort(bases)
	slices.Sort(l.producer.snapshots)
	// Indexes without a log are what a removal left.
	for _, e := range entries {
		for _, suffix := range []string{suffixIndex, suffixTime, suffixTxn} {
			if base, ok := parseFileName(e.Name, suffix); ok {
				if _, found := slices.BinarySearch(bases, base); !found {
					if err := remove(e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
						return err
					}
				}
			}
		}
	}
	if !incarnated { // Kafka made the directory
		l.incarnation, changed = h.Random(), true
		if err := makeEmpty(h, filepath.Join(l.path, incarnationName(l.incarnation))); err != nil {
			return err
		}
	}
	if changed {
		if err := h.SyncDir(l.path); err != nil {
			return err
		}
	}
	if l.topicID, l.nameless, err = readMetadata(h, l.path); err != nil {
		return err
	}
	b, err := readWhole(h, filepath.Join(l.path, epochsName))
	if err != nil {
		return err
	}
	r.epochsIn = b
	// One begins empty, and is never written without an entry.
	if len(b) > 0 {
		if l.epochs, err = decodeEpochs(b); err != nil {
			r.badEpochs, l.epochs = true, epochs{}
		}
	}
	for _, base := range bases {
		l.segments = append(l.segments, newSegment(l, base))
	}
	return nil
}

// finishSwap puts the result of a compaction in the place of what it replaces. txn says
// that a .txnindex comes with it; else the one that is there is the right one.
func (r *recovery) finishSwap(base int64, bases []int64, txn bool) ([]int64, error) {
	l, h := r.log, r.host
	from := filepath.Join(l.path, fileName(base, suffixLog+suffixSwap))
	fd, err := h.Open(from, ring.ReadOnly)
	if err != nil {
		return bases, err
	}
	size, err := h.Size(fd)
	end := base
	if err == nil {
		w := walker{host: h, fd: fd, size: size, whole: true}
		whole := true
		for whole && w.next() {
			whole = w.batch.CheckCRC() && w.batch.BaseOffset() >= end
			end = w.batch.LastOffset() + 1
		}
		// By its end goes what is removed, and offsets are not under the CRC. A segment ends where the next one begins, where
		// there is a next one.
		odd := slices.ContainsFunc(bases, func(b int64) bool { return b > base }) && !slices.Contains(bases, end)
		if err = w.err; err == nil && (!whole || end == base || odd) {
			err = errDamage
		}
	}
	h.Close(fd)
	if errors.Is(err, errDamage) {
		r.lost(fmt.Errorf("%s: what compaction made of the segments that it replaces is damaged", from))
		return bases, nil
	}
	if err != nil {
		return bases, fmt.Errorf("%s: %w", from, err)
	}
	kept := []int64{base}
	for _, b := range bases {
		if b < base || b >= end && b != base {
			kept = append(kept, b)
			continue
		}
		for _, suffix := range segmentSuffixes {
			if b == base && (suffix == suffixLog || suffix == suffixTxn) {
				continue
			}
			if err := removeFile(h, filepath.Join(l.path, fileName(b, suffix))); err != nil {
				return bases, err
			}
		}
	}
	// One that is to be empty says that there is none any more.
	empty := false
	if txn {
		e, err := h.Stat(filepath.Join(l.path, fileName(base, suffixTxn+suffixSwap)))
		if err != nil {
			return bases, err
		}
		empty = e.Size == 0
	}
	switch {
	case empty:
		if err := removeFile(h, filepath.Join(l.path, fileName(base, suffixTxn))); err != nil {
			return bases, err
		}
	case txn:
		if err := h.Rename(filepath.Join(l.path, fileName(base, suffixTxn+suffixSwap)), filepath.Join(l.path, fileName(base, suffixTxn))); err != nil {
			return bases, err
		}
	}
	// What it replaces must not come back beside it.
	if err := h.SyncDir(l.path); err != nil {
		return bases, err
	}
	if empty {
		if err := h.Remove(filepath.Join(l.path, fileName(base, suffixTxn+suffixSwap))); err != nil {
			return bases, err
		}
	}
	return kept, h.Rename(from, filepath.Join(l.path, fileName(base, suffixLog)))
}

// scanSegments opens every segment and scans those that need it.
func (r *recovery) scanSegments(l *Log) error {
	h := r.host
	r.dirty = map[*segment]bool{}
	if len(l.segments) == 0 {
		l.segments = []*segment{newSegment(l, r.startAt)}
		if err := r.create(l.segments[0]); err != nil {
			return err
		}
	}
	sizes := make([]int64, len(l.segments))
	for i, s := range l.segments {
		var err error
		if s.fd, err = h.Open(s.path(suffixLog), ring.ReadWrite); err != nil {
			return err
		}
		s.open = true
		if sizes[i], err = h.Size(s.fd); err != nil {
			return fmt.Errorf("%s: %w", s.path(suffixLog), err)
		}
	}
	first := l.segments[0].base
	r.report.LogStart = max(r.startAt, first)
	var err error
	r.scan = scanner{host: h, dir: l.path, cfg: &l.cfg, now: r.now, limit: math.MaxInt64, trusted: r.trust,
		exact: r.clean, epochs: &l.epochs, checkCRC: true}
	// A snapshot above the recovery point may be of batches that are lost. (After a
	// clean close the point is above everything.)
	r.snapshots = l.producer.snapshots
	if l.producer, r.scan.from, err = loadSnapshot(h, l.path, r.snapshots, r.trust); err != nil {
		return err
	}
	for _, s := range l.segments {
		if err := r.aborted(s); err != nil {
			return err
		}
	}
	if len(r.badAborted) > 0 { // all are made again: a transaction may begin in another segment
		r.report.Mended = append(r.report.Mended, r.badAborted...)
		l.producer, r.scan.from, r.scan.trusted = producers{}, 0, 0
		for _, s := range l.segments {
			s.aborted, s.abortedOld = nil, 1
		}
	}
	if n := len(r.snapshots); len(r.badAborted) == 0 && r.clean && n > 0 && r.scan.from != r.snapshots[n-1] {
		r.report.Mended = append(r.report.Mended, fileName(r.snapshots[n-1], suffixSnapshot))
	}
	r.scan.producer = &l.producer
	for i, s := range l.segments {
		last := i == len(l.segments)-1
		end := int64(math.MaxInt64)
		if !last {
			end = l.segments[i+1].base
		}
		whole, err := r.wholeIndexes(s, sizes[i])
		if err != nil {
			return err
		}
		if !last && end <= min(r.trust, r.scan.from) && whole {
			s.end, s.size, s.rolled, s.finished, s.cold = end, sizes[i], true, true, sizes[i]
			continue
		}
		s.maxTimestamp, s.maxTimestampAt = record.NoTimestamp, s.base
		r.scan.ends, r.scan.last = end, last && !r.clean
		if last {
			r.scan.ends = 0
			if r.clean {
				r.scan.ends = r.report.RecoveryPoint
			}
		}
		err = r.scan.segment(s, s.fd, sizes[i])
		var bad *damage
		switch {
		case errors.As(err, &bad):
		case err != nil:
			return fmt.Errorf("%s: %w", s.path(suffixLog), err)
		case !last && s.end != end && end > r.trust:
			// The file ends early: its size was lost, and what follows is behind a hole.
			bad = &damage{s.size, s.end, fmt.Sprintf("ends at offset %d, but the next segment starts at %d", s.end, end)}
		case last && r.trust != math.MaxInt64 && s.end < r.trust:
			bad = &damage{s.size, s.end, fmt.Sprintf("ends at offset %d, below the recovery point %d", s.end, r.trust)}
		case last && r.clean && r.known && s.end < r.report.RecoveryPoint:
			bad = &damage{s.size, s.end, fmt.Sprintf("ends at offset %d, and a clean stop left it at %d", s.end, r.report.RecoveryPoint)}
		}
		if !r.clean {
			r.report.Rebuilt++
		}
		if bad == nil {
			if !last {
				s.end, s.rolled = end, true
			}
			// What is below the recovery point is on disk. The size of the last segment may not
			// be: a truncation lowers the point to where it cuts, and then may be killed before its sync.
			r.dirty[s] = s.end > r.trust || last && !r.clean
			continue
		}
		if bad.next < r.trust {
			r.damaged(i, bad, sizes[i])
			return nil
		}
		return r.cutTail(i, bad, sizes)
	}
	return nil
}

// create makes the first segment of a directory that has none.
func (r *recovery) create(s *segment) error {
	o, err := createSegment(r.host, r.log.path, s.base, r.log.cfg.IndexBytes)
	o.close(r.host)
	return err
}

// noteMended notes the indexes of a segment that are not what a clean close left. Of
// the active one it may have left one entry more: the one for the maximum timestamp.
func (r *recovery) noteMended(s *segment) error {
	if s.index.rebuild == nil {
		return nil
	}
	for _, f := range []struct {
		suffix string
		entry  int
		b      []byte
	}{
		{suffixIndex, offsetEntrySize, s.index.rebuild.offsets},
		{suffixTime, timeEntrySize, s.index.rebuild.times},
	} {
		is, err := readEntries(r.host, s.path(f.suffix), f.entry)
		if err != nil {
			return err
		}
		_, missing := r.host.Stat(s.path(f.suffix))
		if missing != nil || !bytes.HasPrefix(is, f.b) || len(is) > len(f.b)+f.entry {
			r.report.Mended = append(r.report.Mended, fileName(s.base, f.suffix))
		}
	}
	return nil
}

// wholeIndexes says whether a segment's indexes look finished: whole entries, and
// not the zeros that a file sized for growth ends with. It takes the maximum
// timestamp from there.
func (r *recovery) wholeIndexes(s *segment, size int64) (bool, error) {
	last, n, err := r.lastEntry(s.path(suffixIndex), offsetEntrySize)
	if err != nil || n < 0 || n > 0 && getOffsetEntry(last, s.base).pos == 0 {
		return false, err
	}
	last, n, err = r.lastEntry(s.path(suffixTime), timeEntrySize)
	if err != nil || n < 0 || n == 0 && size > 0 {
		return false, err
	}
	if n > 0 {
		e := getTimeEntry(last, s.base)
		if e == (timeEntry{0, s.base}) && n > 1 {
			return false, nil
		}
		// Retention goes by this one: the batch must say the same.
		f := lookup{host: r.host, fd: s.fd, index: s.path(suffixIndex), base: s.base, size: size, entries: -1}
		if !f.holds(e) {
			return false, nil
		}
		s.maxTimestamp, s.maxTimestampAt = e.timestamp, e.offset
	}
	return true, nil
}

// lastEntry is the last of the n entries of an index file; n is -1 where there is no
// file, or no whole number of entries.
func (r *recovery) lastEntry(path string, entry int64) (last []byte, n int64, err error) {
	fd, err := r.host.Open(path, ring.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, -1, nil
	}
	if err != nil {
		return nil, -1, err
	}
	defer r.host.Close(fd)
	size, err := r.host.Size(fd)
	if err != nil || size%entry != 0 {
		return nil, -1, err
	}
	if size == 0 {
		return nil, 0, nil
	}
	last = make([]byte, entry)
	if _, err := r.host.ReadAt(fd, last, size-entry); err != nil {
		return nil, -1, fmt.Errorf("%s: %w", path, err)
	}
	return last, size / entry, nil
}

// aborted reads a segment's .txnindex, up to the recovery point. It has no CRC: an entry is believed
// when the batches that it means are there. One that was cut between two entries does not show.
func (r *recovery) aborted(s *segment) error {
	b, err := ring.ReadFile(r.host, s.path(suffixTxn))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all, bad := parseAborted(b)
	for _, t := range all {
		if bad == nil && err == nil {
			bad, err = r.abortIs(t)
		}
	}
	s.abortedOld = max(len(all), 1)
	s.aborted = slices.DeleteFunc(all, func(t AbortedTxn) bool { return t.LastOffset >= r.trust })
	if bad != nil || len(b) == 0 {
		r.badAborted = append(r.badAborted, fileName(s.base, suffixTxn))
	}
	return err
}

// abortIs says why an aborted transaction is none, or nil.
func (r *recovery) abortIs(t AbortedTxn) (bad, err error) {
	if t.FirstOffset > t.LastOffset {
		return fmt.Errorf("offsets %d to %d", t.FirstOffset, t.LastOffset), nil
	}
	for _, offset := range []int64{t.FirstOffset, t.LastOffset} {
		if offset < r.log.segments[0].base {
			continue
		}
		w, err := r.batchAt(offset)
		if err != nil {
			return nil, err
		}
		if w == nil {
			return fmt.Errorf("offset %d", offset), nil
		}
		b := w.batch
		if offset == t.FirstOffset && b.BaseOffset() > offset { // compaction took what was there
			continue
		}
		if b.ProducerID() != t.ProducerID || b.BaseOffset() != offset || !b.Transactional() || b.Control() != (offset == t.LastOffset) {
			return fmt.Errorf("offset %d", offset), nil
		}
	}
	return nil, nil
}

// damaged leaves everything as it is: what is damaged had been flushed. The log can
// be read up to there, and is fenced.
func (r *recovery) damaged(i int, bad *damage, size int64) {
	l := r.log
	s := l.segments[i]
	r.report.Damage = fmt.Errorf("at %d of %d bytes, offset %d, below the recovery point %d: %s", bad.pos, size, bad.next, r.trust, bad.why)
	if r.trust == math.MaxInt64 {
		r.report.Damage = fmt.Errorf("at %d of %d bytes, offset %d, after a clean close: %s", bad.pos, size, bad.next, bad.why)
	}
	l.fence, l.damaged = &ErrFenced{File: s.path(suffixLog), Cause: r.report.Damage}, true
	for _, o := range l.segments { // what was made again is not written: lookups walk
		if o.index.rebuild != nil {
			o.index = indexTail{}
		}
	}
	for _, behind := range l.segments[i+1:] {
		r.host.Close(behind.fd)
	}
	l.segments = l.segments[:i+1]
}

// cutTail cuts a torn tail: the rest of this segment and all later ones.
func (r *recovery) cutTail(i int, bad *damage, sizes []int64) error {
	l, h := r.log, r.host
	s := l.segments[i]
	r.report.CutAt = fmt.Sprintf("%s at %d (%s)", s.path(suffixLog), bad.pos, bad.why)
	r.report.Cut = sizes[i] - bad.pos
	// The last one first, and durably: a second crash finds no hole that was not there.
	for j := len(l.segments) - 1; j > i; j-- {
		behind := l.segments[j]
		r.report.Cut += sizes[j]
		h.Close(behind.fd)
		behind.fd = ring.NoFD
		for _, suffix := range segmentSuffixes {
			if err := removeFile(h, behind.path(suffix)); err != nil {
				return err
			}
		}
	}
	l.segments = l.segments[:i+1]
	if err := h.Truncate(s.fd, bad.pos); err != nil {
		return fmt.Errorf("%s: truncate: %w", s.path(suffixLog), err)
	}
	r.dirty[s] = true
	return h.SyncDir(l.path)
}

// apply takes in one entry of a journal: the batches that the files lack.
func (r *recovery) apply(e *journal.Entry) error {
	l := r.log
	s := l.active()
	switch {
	case l.fence != nil:
		return r.setAside(e)
	case e.End <= s.end: // the files have it
		return nil
	case e.Damage != nil:
		r.lost(e.Damage)
		return r.setAside(e)
	case s.end < e.Prev:
		where := ""
		if r.report.CutAt != "" {
			where = ", where they were cut: " + r.report.CutAt
		}
		r.lost(fmt.Errorf("the files end at offset %d%s, and the journal goes on behind %d", s.end, where, e.Prev))
		return r.setAside(e)
	}
	for b := bytes.Join(e.Bufs, nil); len(b) > 0; {
		batch, rest, err := record.Next(b)
		if err != nil || !batch.CheckCRC() {
			return fmt.Errorf("BUG: %s-%d: journal entry at offset %d holds a bad batch", l.topic, l.partition, e.Base)
		}
		b = rest
		if batch.BaseOffset() < s.end {
			continue
		}
		if s.size > 0 && (s.size+int64(len(batch)) > int64(l.cfg.SegmentBytes) || batch.LastOffset()-s.base > math.MaxInt32 || s.index.full()) {
			if s, err = r.roll(); err != nil {
				return err
			}
		}
		if _, err := r.host.WriteAt(s.fd, batch, s.size); err != nil {
			return fmt.Errorf("%s: write: %w", s.path(suffixLog), err)
		}
		w := walker{whole: true, batch: batch, pos: s.size, length: len(batch)}
		if err := r.scan.take(s, &w); err != nil {
			return err
		}
		r.dirty[s] = true
		r.report.Replayed++
	}
	return nil
}

// roll ends the active segment and makes another, as the log would have.
func (r *recovery) roll() (*segment, error) {
	l, h := r.log, r.host
	old := l.active()
	old.rolled = true
	s := newSegment(l, old.end)
	if err := r.create(s); err != nil {
		return nil, err
	}
	var err error
	if s.fd, err = h.Open(s.path(suffixLog), ring.ReadWrite); err != nil {
		return nil, err
	}
	s.open = true
	s.maxTimestamp, s.maxTimestampAt = record.NoTimestamp, s.base
	s.index.rebuild = &indexFiles{}
	s.index.maxOffsets, s.index.maxTimes = indexRoom(l.cfg.IndexBytes)
	l.segments = append(l.segments, s)
	return s, nil
}

// lost fences a log of which something that had been acknowledged cannot be had. What is
// there stays as it is, and can be read.
func (r *recovery) lost(cause error) {
	r.report.Damage = cause
	r.log.fence, r.log.damaged = &ErrFenced{File: r.log.path, Cause: cause}, true
}

// setAside keeps what the journal has of a log that it cannot be replayed into, in a file of
// whole batches beside the segments: the journal forgets it. While the file is there, even with
// nothing in it since its batches were damaged, the log stays fenced.
func (r *recovery) setAside(e *journal.Entry) error {
	if e.End <= r.log.active().end || e.End <= r.asideEnd {
		return nil
	}
	if r.aside == ring.NoFD {
		r.asidePath = filepath.Join(r.log.path, fileName(e.Base, suffixLog+suffixAside))
		var err error
		if r.aside, err = r.host.Open(r.asidePath, ring.Create); err != nil {
			return err
		}
		// A start that was killed may have made it. The journal has all of it still: a log that
		// was fenced at an earlier start has nothing there.
		if err = r.host.Truncate(r.aside, 0); err != nil {
			return fmt.Errorf("%s: truncate: %w", r.asidePath, err)
		}
	}
	r.asideEnd = e.End
	b := bytes.Join(e.Bufs, nil)
	if _, err := r.host.WriteAt(r.aside, b, r.asideSize); err != nil {
		return fmt.Errorf("%s: write: %w", r.asidePath, err)
	}
	r.asideSize += int64(len(b))
	return nil
}

// closeAside makes it durable.
func (r *recovery) closeAside() error {
	if r.aside == ring.NoFD {
		return nil
	}
	err := r.host.Sync(r.aside)
	r.host.Close(r.aside)
	r.aside, r.report.Aside = ring.NoFD, r.asidePath
	if err != nil {
		return fmt.Errorf("%s: sync: %w", r.asidePath, err)
	}
	return r.host.SyncDir(r.log.path)
}

// finish makes the log ready: derived files follow the batches, everything is synced,
// and the last segment takes appends.
func (r *recovery) finish() error {
	l := r.log
	if err := r.closeAside(); err != nil {
		return err
	}
	if r.rewrites {
		if err := r.rewriteAll(); err != nil {
			return err
		}
	}
	if l.fence == nil && l.active().end < r.startAt {
		if err := r.restart(); err != nil {
			return err
		}
	}
	s := l.active()
	end := s.end
	for _, s := range l.segments {
		l.size += s.size
	}
	l.logStart = min(max(r.startAt, l.segments[0].base), end)
	l.logEnd, l.written, l.synced, l.flushed, l.stable = end, end, end, end, end
	l.highWatermark = min(max(r.highMark, l.logStart), end)
	l.producer.replicated(l.highWatermark)
	if r.cleanedAt <= end { // else it is of another log
		l.setCleaned(r.cleanedAt)
	}
	r.report.LogStart, r.report.LogEnd, r.report.Checked = l.logStart, l.logEnd, r.scan.checked
	if l.fence != nil {
		// What a journal gave it before the damage: the journal forgets it.
		for _, s := range l.segments {
			if err := r.sync(s); err != nil {
				return err
			}
		}
		l.publish()
		// As it was on disk, also after a clean close: a lower one would make the next start
		// take the damage for a torn tail, and cut it.
		l.published.RecoveryPoint.Store(r.report.RecoveryPoint)
		return nil
	}
	if err := r.checkEpochs(end); err != nil {
		return err
	}
	if err := r.dropBeyond(end); err != nil {
		return err
	}
	for _, s := range l.segments {
		if err := r.finishSegment(s); err != nil {
			return err
		}
	}
	s.rolled, s.finished = false, false
	if s.created == 0 {
		s.created = r.now
	}
	l.indexBefore = s.index.lastTime
	l.snapshotAt = -r.report.Checked
	l.publish()
	return nil
}

// restart starts a log again whose start is above its end: a Restart that a crash
// broke off, or a tail lost to one after its records had been deleted.
func (r *recovery) restart() error {
	l, h := r.log, r.host
	for _, s := range slices.Backward(l.segments) {
		h.Close(s.fd)
		s.fd = ring.NoFD
		delete(r.dirty, s)
		for _, suffix := range segmentSuffixes {
			if err := removeFile(h, s.path(suffix)); err != nil {
				return err
			}
		}
	}
	for _, at := range r.snapshots {
		if err := removeFile(h, filepath.Join(l.path, fileName(at, suffixSnapshot))); err != nil {
			return err
		}
	}
	r.snapshots = nil
	if err := h.SyncDir(l.path); err != nil {
		return err
	}
	s := newSegment(l, r.startAt)
	if err := r.create(s); err != nil {
		return err
	}
	var err error
	if s.fd, err = h.Open(s.path(suffixLog), ring.ReadWrite); err != nil {
		return err
	}
	s.open = true
	s.index.rebuild = &indexFiles{}
	s.index.maxOffsets, s.index.maxTimes = indexRoom(l.cfg.IndexBytes)
	l.segments = []*segment{s}
	l.producer = producers{}
	l.epochs = epochs{}
	return nil
}

// dropBeyond removes snapshots and epochs that are above the end.
func (r *recovery) dropBeyond(end int64) error {
	l, h := r.log, r.host
	var kept []int64
	dropped := false
	for _, at := range r.snapshots {
		if at <= end {
			kept = append(kept, at)
			continue
		}
		dropped = true
		if err := removeFile(h, filepath.Join(l.path, fileName(at, suffixSnapshot))); err != nil {
			return err
		}
	}
	l.producer.snapshots = kept
	if slices.Contains(kept, r.scan.from) {
		if !r.clean { // it may be one that was written without a sync
			if err := syncFile(h, filepath.Join(l.path, fileName(r.scan.from, suffixSnapshot))); err != nil {
				return err
			}
		}
		l.producer.durable = []int64{r.scan.from}
	}
	if dropped {
		if err := h.SyncDir(l.path); err != nil {
			return err
		}
	}
	l.epochs.cutEnd(end + 1)
	l.epochs.cutStart(l.logStart)
	if b := l.epochs.encode(); string(b) != string(r.epochsIn) && len(l.epochs.list)+len(r.epochsIn) > 0 {
		return ring.WriteFileAtomic(h, filepath.Join(l.path, epochsName), b)
	}
	return nil
}

// syncFile makes durable what a process that was killed has left of a file.
func syncFile(h ring.Host, path string) error {
	fd, err := h.Open(path, ring.ReadWrite)
	if err != nil {
		return err
	}
	defer h.Close(fd)
	if err := h.Sync(fd); err != nil {
		return fmt.Errorf("%s: sync: %w", path, err)
	}
	return nil
}

// sync makes a segment's batches durable, where they may not be. A start that fails by it is tried
// again by somebody, who must not believe the page cache then.
func (r *recovery) sync(s *segment) error {
	if !r.dirty[s] {
		return nil
	}
	if err := r.host.Sync(s.fd); err != nil {
		err = fmt.Errorf("%s: sync: %w", s.path(suffixLog), err)
		r.log.dir.noteFailedSync(err.Error())
		return err
	}
	return nil
}

// finishSegment makes a segment's files durable and, unless it is the last, final.
func (r *recovery) finishSegment(s *segment) error {
	l, h := r.log, r.host
	if err := r.sync(s); err != nil {
		return err
	}
	if len(s.aborted) > 0 || s.abortedOld > 0 {
		var b []byte
		for _, t := range s.aborted {
			b = appendAborted(b, t)
		}
		is, err := readWhole(h, s.path(suffixTxn))
		switch {
		case err != nil:
		case len(b) == 0:
			err = removeFile(h, s.path(suffixTxn))
		case !bytes.Equal(is, b):
			err = ring.WriteFileAtomic(h, s.path(suffixTxn), b)
		}
		if err != nil {
			return err
		}
		s.abortedOld = len(s.aborted)
	}
	if s == l.active() || s.index.rebuild != nil {
		o := noFiles()
		if s != l.active() && s.maxTimestamp > s.index.lastTime.timestamp {
			var e [timeEntrySize]byte
			putTimeEntry(e[:], s.base, timeEntry{s.maxTimestamp, s.maxTimestampAt})
			s.index.rebuild.times = append(s.index.rebuild.times, e[:]...)
		}
		room := l.cfg.IndexBytes
		if s != l.active() {
			room = 0
		}
		if r.clean {
			if err := r.noteMended(s); err != nil {
				return err
			}
		}
		if err := o.writeIndexes(h, l.path, s, room); err != nil {
			o.closeIndexes(h)
			return err
		}
		if s != l.active() {
			o.closeIndexes(h)
			s.finished = true
			return nil
		}
		s.indexFD, s.timeFD, s.maps = o.indexFD, o.timeFD, o.maps
	}
	return nil
}
