package log

import (
	"errors"
	"io/fs"
	"sort"
	"strings"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// TimeDone is told when a TimeQuery that went to a worker is done.
type TimeDone interface{ TimeDone(q *TimeQuery) }

// TimeQuery asks for the first record whose timestamp is at least Timestamp, or,
// with Max, for the record that has the largest.
type TimeQuery struct {
	Timestamp int64 // ms since 1970
	Max       bool
	Done      TimeDone

	// The result. Offset is -1 when there is no such record.
	Offset int64
	Found  int64 // its timestamp
	Epoch  int32 // its leader epoch
	Err    error

	at   int64 // nothing below is of interest
	find lookup
}

// FindTimestamp answers q: true, and the result is there; false, and q.Done is told
// later.
func (l *Log) FindTimestamp(q *TimeQuery) bool {
	q.Offset, q.Found, q.Epoch, q.Err, q.at = -1, record.NoTimestamp, -1, nil, l.logStart
	if l.closing || l.closed {
		q.Err = ErrClosed
		return true
	}
	if q.Max {
		q.Timestamp = record.NoTimestamp
		for _, s := range l.segments {
			q.Timestamp = max(q.Timestamp, s.maxTimestamp)
		}
		if q.Timestamp < 0 {
			return true
		}
	}
	return l.searchOn(q)
}

// searchOn searches in memory, or starts a search of the next segment that can have it.
func (l *Log) searchOn(q *TimeQuery) bool {
	for _, s := range l.segments {
		if s.end <= q.at || s.maxTimestamp < q.Timestamp {
			continue
		}
		if max(q.at, s.base) >= l.tail.start(l.logEnd) {
			break
		}
		q.find = lookup{op: q.find.op}
		q.find.log, q.find.time, q.find.seg = l, q, s
		l.startLookup(&q.find)
		return false
	}
	for i := range l.tail.len() {
		k := l.tail.at(i)
		for at := 0; at < len(k.buf); {
			b := k.batchAt(at)
			at += len(b)
			if found, err := q.look(b, l.core.decompressor); found || err != nil {
				q.Err = err
				return true
			}
		}
	}
	return true
}

// look searches one batch.
func (q *TimeQuery) look(b record.Batch, d *record.Decompressor) (bool, error) {
	if b.MaxTimestamp() < q.Timestamp || b.LastOffset() < q.at || b.Control() {
		return false, nil
	}
	var r record.Reader
	r.Reset(b, d)
	for r.Next() {
		if r.Timestamp >= q.Timestamp && r.Offset >= q.at {
			q.Offset, q.Found, q.Epoch = r.Offset, r.Timestamp, b.LeaderEpoch()
			return true, nil
		}
	}
	return false, r.Err()
}

// search is the worker's part: by the time index, then by the offset index, then
// from batch to batch.
func (f *lookup) search() error {
	q := f.time
	after, err := f.seekTime(q.Timestamp)
	if err != nil {
		return err
	}
	at, before, err := f.seek(max(after, q.at))
	if err != nil {
		return err
	}
	w := walker{host: f.host, fd: f.fd, size: f.size, at: at}
	d := record.NewDecompressor(record.DecompressedMaxDefault)
	f.offset = q.at
	for f.advance(&w) {
		if err := f.wrong(&w, before); err != nil {
			f.damage = w.pos
			return err
		}
		before = w.batch.LastOffset() + 1
		if w.batch.MaxTimestamp() < q.Timestamp || w.batch.LastOffset() < q.at {
			continue
		}
		b, _, err := w.load(nil)
		if err != nil {
			return err
		}
		if found, err := q.look(b, d); found || err != nil {
			return err
		}
	}
	f.damage = w.at
	return w.err
}

// holds says whether a time entry is of a batch that is in the segment, with that timestamp.
func (f *lookup) holds(e timeEntry) bool {
	at, _, err := f.seek(e.offset)
	if err != nil {
		return false
	}
	w := walker{host: f.host, fd: f.fd, size: f.size, at: at}
	for w.next() {
		if last := w.batch.LastOffset(); last >= e.offset {
			return last == e.offset && w.batch.MaxTimestamp() == e.timestamp
		}
	}
	return false
}

// seekTime is an offset such that no record below it has the timestamp or a later one.
func (f *lookup) seekTime(timestamp int64) (int64, error) {
	name := strings.TrimSuffix(f.index, suffixIndex) + suffixTime
	fd, err := f.host.Open(name, ring.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return f.base, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.host.Close(fd)
	n := f.times
	if n < 0 {
		size, err := f.host.Size(fd)
		if err != nil {
			return 0, err
		}
		n = size / timeEntrySize
	}
	b, err := readIndex(f.host, fd, n, timeEntrySize)
	if err != nil {
		return 0, err
	}
	n = int64(len(b) / timeEntrySize)
	i := sort.Search(int(n), func(i int) bool {
		return getTimeEntry(b[i*timeEntrySize:], f.base).timestamp >= timestamp
	})
	if i == 0 {
		return f.base, nil
	}
	// Up to this batch the maximum was smaller: if the entry is not damaged.
	e := getTimeEntry(b[(i-1)*timeEntrySize:], f.base)
	if !f.holds(e) {
		return f.base, nil
	}
	return e.offset, nil
}

// found goes on with what the worker brought.
func (q *TimeQuery) found(l *Log) {
	f := &q.find
	switch {
	case f.err != nil:
		q.Err = &ReadError{File: f.seg.path(suffixLog), Pos: f.damage, Cause: f.err}
	case q.Offset < 0:
		if l.closing || l.closed {
			q.Err = ErrClosed
			break
		}
		q.at = max(q.at, f.ended)
		if !l.searchOn(q) {
			return
		}
	}
	q.Done.TimeDone(q)
}
