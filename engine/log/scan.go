package log

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// scanBlock is how much a scan reads at a time, bytes.
const scanBlock = 256 << 10

// indexBlock is how much of an index is read at first, bytes.
const indexBlock = 4 << 10

// scanner goes over batches in files and makes again what is derived from them:
// index entries, producers, epochs. Recovery and truncation use it, blocking.
type scanner struct {
	host ring.Host
	dir  string
	cfg  *Config
	now  int64 // wall ms

	producer *producers
	from     int64   // producer holds what is below
	epochs   *epochs // nil: epochs are not looked at
	limit    int64   // batches that end at or above are not taken
	trusted  int64   // index entries below may be relied on, as far as they go
	exact    bool    // nothing of the indexes can have been lost
	checkCRC bool    // read batches in whole
	checked  int64   // bytes read and checked
	ends     int64   // where the segment is to end; 0: not known
	last     bool    // nothing is known of what comes behind the segment
	gaps     int     // batches that do not begin where the one before ends
}

// damage is what a scan stops at.
type damage struct {
	pos  int64 // in the file
	next int64 // what comes before pos ends at this offset
	why  string
}

func (d *damage) Error() string { return d.why }

// segment scans one segment, from the last place that is certain to the end, and
// leaves in s what is derived. It returns a *damage where a bad batch is; s
// then describes what is before it.
func (c *scanner) segment(s *segment, fd ring.FD, size int64) error {
	s.index.maxOffsets, s.index.maxTimes = indexRoom(c.cfg.IndexBytes)
	start, err := c.trustIndexes(s, fd, size)
	if err != nil {
		return err
	}
	s.end, s.size, s.cold = s.base, start, start
	if start > 0 {
		if s.firstTimestamp, err = firstTimestamp(c.host, fd, size); err != nil {
			return err
		}
	}
	err = c.walk(s, fd, size)
	if bad := (*damage)(nil); start > 0 && errors.As(err, &bad) && bad.pos == start {
		// The very place to go on from is bad: the end of what is before it shows
		// only from the segment's start.
		*s = segment{log: s.log, base: s.base, end: s.base, fd: s.fd, indexFD: s.indexFD, timeFD: s.timeFD, open: s.open,
			firstTimestamp: record.NoTimestamp, maxTimestamp: record.NoTimestamp, maxTimestampAt: s.base, aborted: s.aborted, abortedOld: s.abortedOld,
			index: indexTail{rebuild: &indexFiles{}, lastTime: timeEntry{timestamp: record.NoTimestamp}}}
		s.index.maxOffsets, s.index.maxTimes = indexRoom(c.cfg.IndexBytes)
		return c.walk(s, fd, size)
	}
	return err
}

// walk takes in the batches from s.size on.
func (c *scanner) walk(s *segment, fd ring.FD, size int64) error {
	w := walker{host: c.host, fd: fd, size: size, at: s.size, whole: c.checkCRC}
	from := w.at
	for w.next() {
		b := w.batch
		gap := b.BaseOffset() > s.end && (w.pos > from || from == 0)
		switch {
		case b.BaseOffset() < s.end:
			return &damage{w.pos, s.end, fmt.Sprintf("offset %d after %d", b.BaseOffset(), s.end-1)}
		// What precedes an index entry is not known. Of the last batch nothing but a gap tells that its offset,
		// which the CRC does not cover, is wrong; where compaction has made gaps there are more of them.
		case gap && (w.overlaps(c.ends) || c.last && c.gaps == 0 && w.at == size):
			return &damage{w.pos, s.end, fmt.Sprintf("offset %d after %d, which is not so of what follows", b.BaseOffset(), s.end-1)}
		case c.checkCRC && !b.CheckCRC():
			return &damage{w.pos, s.end, "CRC-32C does not match"}
		case b.LastOffset()-s.base > math.MaxInt32:
			return &damage{w.pos, s.end, fmt.Sprintf("offset %d in the segment of %d", b.LastOffset(), s.base)}
		case b.LastOffset() >= c.limit:
			return nil
		}
		if gap {
			c.gaps++
		}
		c.checked += int64(w.length)
		if err := c.take(s, &w); err != nil {
			return err
		}
	}
	if errors.Is(w.err, errDamage) {
		return &damage{w.at, s.end, "no whole record batch"}
	}
	return w.err
}

// take takes in the batch that the walker is at.
func (c *scanner) take(s *segment, w *walker) error {
	b := w.batch
	if c.epochs != nil {
		c.epochs.see(b.LeaderEpoch(), b.BaseOffset())
	}
	if b.ProducerID() >= 0 && b.BaseOffset() >= c.from {
		aborted, ok, err := c.produced(w)
		if err != nil {
			return err
		}
		if ok && (len(s.aborted) == 0 || s.aborted[len(s.aborted)-1].LastOffset < aborted.LastOffset) {
			s.aborted = append(s.aborted, aborted)
		}
	}
	s.observe(b, w.length, w.pos, c.cfg.IndexIntervalBytes)
	return nil
}

// produced takes a batch into the producers' state.
func (c *scanner) produced(w *walker) (AbortedTxn, bool, error) {
	b := w.batch
	var marker record.Marker
	if b.Control() && b.Count() == 0 { // Kafka's compaction took the marker out
		return AbortedTxn{}, false, nil
	}
	if b.Control() {
		whole, _, err := w.load(nil)
		if err != nil {
			return AbortedTxn{}, false, err
		}
		if marker, err = record.ParseMarker(whole); err != nil {
			return AbortedTxn{}, false, &damage{w.pos, b.BaseOffset(), err.Error()}
		}
	}
	aborted, ok := c.producer.update(b, marker, min(c.now, max(b.MaxTimestamp(), 0)))
	return aborted, ok, nil
}

// producersOf scans a segment that is whole for the producers' sake only.
func (c *scanner) producersOf(o cutSegment) error {
	if o.end <= c.from {
		return nil
	}
	w := walker{host: c.host, fd: o.fd, size: o.size}
	for w.next() {
		if w.batch.ProducerID() < 0 || w.batch.BaseOffset() < c.from {
			continue
		}
		if _, _, err := c.produced(&w); err != nil {
			return err
		}
	}
	if errors.Is(w.err, errDamage) {
		return &damage{w.at, 0, "no whole record batch"}
	}
	return w.err
}

// trustIndexes reads a segment's indexes as far as they are to be trusted, and returns
// where to go on from. Entries are only ever added, in order, to a file of
// zeros: so what a crash lost shows as zeros, and what comes before the first
// entry out of order is right.
func (c *scanner) trustIndexes(s *segment, fd ring.FD, size int64) (start int64, err error) {
	x := &s.index
	x.rebuild = &indexFiles{}
	below := min(c.trusted, c.limit)
	offsets, err := readEntries(c.host, filepath.Join(c.dir, fileName(s.base, suffixIndex)), offsetEntrySize)
	if err != nil {
		return 0, err
	}
	times, err := readEntries(c.host, filepath.Join(c.dir, fileName(s.base, suffixTime)), timeEntrySize)
	if err != nil {
		return 0, err
	}
	lastTime := timeEntry{record.NoTimestamp, s.base}
	nTimes := 0
	for ; (nTimes+1)*timeEntrySize <= len(times); nTimes++ {
		e := getTimeEntry(times[nTimes*timeEntrySize:], s.base)
		if e.timestamp <= lastTime.timestamp || e.offset < lastTime.offset || e.offset >= below || e.timestamp == 0 && e.offset == s.base {
			break
		}
		lastTime = e
	}
	certain := min(below, c.from)
	if !c.exact {
		certain = min(certain, lastTime.offset)
	}
	last := offsetEntry{s.base - 1, -1}
	n := 0 // entries before the one that the scan starts with
	for i := 0; (i+1)*offsetEntrySize <= len(offsets); i++ {
		e := getOffsetEntry(offsets[i*offsetEntrySize:], s.base)
		if e.offset <= last.offset || e.pos <= max(last.pos, 0) || e.pos >= size || e.offset > certain || e.offset >= below {
			break
		}
		last, n = e, i
	}
	if last.pos < 0 || !isBatch(c.host, fd, size, last) {
		return 0, nil
	}
	for nTimes > 0 && getTimeEntry(times[(nTimes-1)*timeEntrySize:], s.base).offset > last.offset {
		nTimes--
	}
	x.rebuild.offsets, x.offsets = slices.Clone(offsets[:n*offsetEntrySize]), int32(n)
	x.rebuild.times, x.times = slices.Clone(times[:nTimes*timeEntrySize]), int32(nTimes)
	if nTimes > 0 {
		x.lastTime = getTimeEntry(times[(nTimes-1)*timeEntrySize:], s.base)
		s.maxTimestamp, s.maxTimestampAt = x.lastTime.timestamp, x.lastTime.offset
	}
	s.sinceIndex = c.cfg.IndexIntervalBytes + 1 // the batch there gets its entry back
	return last.pos, nil
}

// firstTimestamp is the maximum timestamp of a segment's first batch; -1: there is none.
func firstTimestamp(h ring.Host, fd ring.FD, size int64) (int64, error) {
	w := walker{host: h, fd: fd, size: size}
	if !w.next() {
		if errors.Is(w.err, errDamage) {
			return record.NoTimestamp, nil
		}
		return record.NoTimestamp, w.err
	}
	return w.batch.MaxTimestamp(), nil
}

// readWhole reads a file; none is empty.
func readWhole(h ring.Host, path string) ([]byte, error) {
	b, err := ring.ReadFile(h, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// readEntries reads an index file as far as its entries go: those behind one of zeros
// are not believed, and a file that is sized for growth is zeros nearly to its
// end. No file is empty.
func readEntries(h ring.Host, path string, entry int) ([]byte, error) {
	fd, err := h.Open(path, ring.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer h.Close(fd)
	var b []byte
	zeros := make([]byte, entry)
	for block := indexBlock; ; block *= 2 {
		at := len(b)
		b = append(b, make([]byte, block)...)
		n, err := h.ReadAt(fd, b[at:], int64(at))
		b = b[:at+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if last := len(b) / entry * entry; bytes.Equal(b[last-entry:last], zeros) {
			return b, nil
		}
	}
}

// writeIndexes writes the indexes that a scan has made, sizes and maps them for
// appends, and syncs.
func (o *opened) writeIndexes(h ring.Host, dir string, s *segment, room int32) error {
	files := s.index.rebuild
	s.index.rebuild = nil
	if err := o.openIndexes(h, dir, s.base, room, 0, 0); err != nil {
		return err
	}
	for _, f := range []struct {
		fd     ring.FD
		suffix string
		b      []byte
	}{{o.indexFD, suffixIndex, files.offsets}, {o.timeFD, suffixTime, files.times}} {
		name := filepath.Join(dir, fileName(s.base, f.suffix))
		if _, err := h.WriteAt(f.fd, f.b, 0); err != nil {
			return fmt.Errorf("%s: write: %w", name, err)
		}
		if err := h.Sync(f.fd); err != nil {
			return fmt.Errorf("%s: sync: %w", name, err)
		}
	}
	return nil
}

// loadSnapshot reads the newest producer snapshot at or below offset that is whole,
// and says up to where it is right. Without one the state is empty and right up to
// the log's first batch.
func loadSnapshot(h ring.Host, dir string, snapshots []int64, offset int64) (producers, int64, error) {
	for i, at := range slices.Backward(snapshots) {
		if at > offset {
			continue
		}
		b, err := ring.ReadFile(h, filepath.Join(dir, fileName(at, suffixSnapshot)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return producers{}, 0, err
		}
		ps, bad := decodeProducers(b)
		if err != nil || bad != nil {
			continue
		}
		ps.snapshots = slices.Clone(snapshots[:i+1])
		return ps, at, nil
	}
	return producers{}, 0, nil
}

// walker goes from batch to batch of a file: header by header, or, with whole, in
// whole.
type walker struct {
	host  ring.Host
	fd    ring.FD
	size  int64 // where to stop
	at    int64 // the next batch
	whole bool
	step  int // how much to read at a time, where not whole

	batch  record.Batch // the header at least; valid until the next call of next
	pos    int64        // where it is
	length int
	err    error // errDamage, or of a read

	block  []byte
	blocks int64 // position of block
}

var errDamage = errors.New("no record batch: damaged")

// next moves to the next batch; false at the end and on errors.
func (w *walker) next() bool {
	if w.err != nil || w.at >= w.size {
		return false
	}
	if !w.fill(record.HeaderSize) {
		return false
	}
	h, size, ok := headerOf(w.block[w.at-w.blocks:])
	if !ok || int64(size) > w.size-w.at {
		w.err = errDamage
		return false
	}
	if w.whole {
		if !w.fill(size) {
			return false
		}
		h = record.Batch(w.block[w.at-w.blocks:][:size:size])
		if len(h) < size {
			w.err = errDamage
			return false
		}
	}
	w.batch, w.pos, w.length = h, w.at, size
	w.at += int64(size)
	return true
}

// overlaps says whether what follows the batch that the walker is at begins below its end: the next
// batch, or at the end of the file, what comes behind it (0: not known).
func (w *walker) overlaps(end int64) bool {
	if w.at >= w.size {
		return end > 0 && w.batch.LastOffset() >= end
	}
	if off := w.at - w.blocks; off+record.HeaderSize <= int64(len(w.block)) {
		h, size, ok := headerOf(w.block[off:])
		return ok && int64(size) <= w.size-w.at && h.BaseOffset() <= w.batch.LastOffset()
	}
	behind := walker{host: w.host, fd: w.fd, size: w.size, at: w.at}
	return behind.next() && behind.batch.BaseOffset() <= w.batch.LastOffset()
}

// fill has the next n bytes in the block, or as many as the file has.
func (w *walker) fill(n int) bool {
	off := w.at - w.blocks
	if len(w.block) > 0 && off >= 0 && off+int64(n) <= int64(len(w.block)) {
		return true
	}
	want := max(w.step, walkBlock)
	switch {
	case w.whole:
		want = scanBlock
	case w.step <= walkBlock && w.length > walkBlock: // batches are larger than a block: only headers are of use
		want = n
	}
	want = int(min(int64(max(want, n)), w.size-w.at))
	if cap(w.block) < want {
		w.block = make([]byte, want)
	}
	got, err := w.host.ReadAt(w.fd, w.block[:want], w.at)
	if err != nil && err != io.EOF {
		w.err = err
		return false
	}
	w.block, w.blocks = w.block[:got], w.at
	if got < n { // the file is shorter than it was said to be
		w.err = errDamage
		return false
	}
	return true
}

// load reads the whole batch that the walker is at.
func (w *walker) load(dst []byte) (record.Batch, []byte, error) {
	if w.whole {
		return w.batch, dst, nil
	}
	if cap(dst) < w.length {
		dst = make([]byte, w.length)
	}
	b := dst[:w.length]
	if _, err := w.host.ReadAt(w.fd, b, w.pos); err != nil {
		return nil, dst, err
	}
	return record.Batch(b), dst, nil
}
