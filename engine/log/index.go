package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// Kafka's index files: entries of fixed size, big endian, appended in order.
const (
	offsetEntrySize = 8  // int32 relative offset (a batch's last), int32 position of that batch
	timeEntrySize   = 12 // int64 timestamp, int32 relative offset
	txnEntrySize    = 34 // int16 version 0, int64 producer, first, last, last stable

	// indexHeld is how many entries of each kind are kept in memory before they
	// are written: as many as a block of 1 KiB has room for.
	indexHeld      = 51
	indexHeldBytes = indexHeld * (offsetEntrySize + timeEntrySize)
)

type offsetEntry struct {
	offset int64
	pos    int64
}

type timeEntry struct {
	timestamp int64
	offset    int64
}

func putOffsetEntry(dst []byte, base int64, e offsetEntry) {
	binary.BigEndian.PutUint32(dst, uint32(e.offset-base))
	binary.BigEndian.PutUint32(dst[4:], uint32(e.pos))
}

func getOffsetEntry(src []byte, base int64) offsetEntry {
	return offsetEntry{base + int64(binary.BigEndian.Uint32(src)), int64(binary.BigEndian.Uint32(src[4:]))}
}

func putTimeEntry(dst []byte, base int64, e timeEntry) {
	binary.BigEndian.PutUint64(dst, uint64(e.timestamp))
	binary.BigEndian.PutUint32(dst[8:], uint32(e.offset-base))
}

func getTimeEntry(src []byte, base int64) timeEntry {
	return timeEntry{int64(binary.BigEndian.Uint64(src)), base + int64(binary.BigEndian.Uint32(src[8:]))}
}

func appendAborted(dst []byte, t AbortedTxn) []byte {
	dst = binary.BigEndian.AppendUint16(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.ProducerID))
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.FirstOffset))
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.LastOffset))
	return binary.BigEndian.AppendUint64(dst, uint64(t.LastStable))
}

func parseAborted(b []byte) ([]AbortedTxn, error) {
	if len(b)%txnEntrySize != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of entries", len(b))
	}
	var all []AbortedTxn
	for ; len(b) > 0; b = b[txnEntrySize:] {
		if v := binary.BigEndian.Uint16(b); v != 0 {
			return nil, fmt.Errorf("entry %d: version %d", len(all), v)
		}
		all = append(all, AbortedTxn{
			ProducerID:  int64(binary.BigEndian.Uint64(b[2:])),
			FirstOffset: int64(binary.BigEndian.Uint64(b[10:])),
			LastOffset:  int64(binary.BigEndian.Uint64(b[18:])),
			LastStable:  int64(binary.BigEndian.Uint64(b[26:])),
		})
	}
	return all, nil
}

// indexTail is the end of a segment's two indexes: entries that are not in the files
// yet. An entry that finds no room in memory is left out, since an index is
// sparse anyway: so an index is short at times and never wrong.
type indexTail struct {
	offsets, times         int32     // entries in the files
	lastTime               timeEntry // the last one added
	maxOffsets, maxTimes   int32     // what the files have room for
	block                  []byte    // from the core's pool: indexHeld offset entries, then as many time entries
	heldOffsets, heldTimes int32     // entries in block
	rebuild                *indexFiles
}

// indexFiles are whole indexes in memory, for recovery and for jobs. Heap.
type indexFiles struct {
	offsets, times []byte
}

// full is Kafka's isFull: the segment must be rolled. Room for the last time entry is kept.
func (x *indexTail) full() bool {
	return x.offsets+x.heldOffsets >= x.maxOffsets || x.times+x.heldTimes >= x.maxTimes-1
}

// add puts in the entries for the batch that ends at offset last and starts at
// pos; it says no when there is no room.
func (x *indexTail) add(s *segment, last, pos int64) bool {
	if x.full() {
		return false
	}
	if x.rebuild != nil {
		var e [timeEntrySize]byte
		putOffsetEntry(e[:], s.base, offsetEntry{last, pos})
		x.rebuild.offsets = append(x.rebuild.offsets, e[:offsetEntrySize]...)
		x.offsets++
		if s.maxTimestamp > x.lastTime.timestamp {
			x.lastTime = timeEntry{s.maxTimestamp, s.maxTimestampAt}
			putTimeEntry(e[:], s.base, x.lastTime)
			x.rebuild.times = append(x.rebuild.times, e[:]...)
			x.times++
		}
		return true
	}
	if x.heldOffsets == indexHeld {
		return false
	}
	if x.block == nil {
		if x.block = s.log.core.pool.Get(indexHeldBytes); x.block == nil {
			return false
		}
	}
	putOffsetEntry(x.block[x.heldOffsets*offsetEntrySize:], s.base, offsetEntry{last, pos})
	x.heldOffsets++
	if s.maxTimestamp > x.lastTime.timestamp {
		x.lastTime = timeEntry{s.maxTimestamp, s.maxTimestampAt}
		putTimeEntry(x.block[indexHeld*offsetEntrySize+x.heldTimes*timeEntrySize:], s.base, x.lastTime)
		x.heldTimes++
	}
	return true
}

// held is a copy of the entries in memory; the block goes back.
func (x *indexTail) takeHeld(pool *ring.Pool) indexFiles {
	if x.block == nil {
		return indexFiles{}
	}
	f := indexFiles{
		offsets: append([]byte(nil), x.block[:x.heldOffsets*offsetEntrySize]...),
		times:   append([]byte(nil), x.block[indexHeld*offsetEntrySize:][:x.heldTimes*timeEntrySize]...),
	}
	pool.Put(x.block)
	x.block, x.heldOffsets, x.heldTimes = nil, 0, 0
	return f
}

// indexOp writes the entries held in memory to the two files of the active
// segment. One is in flight for each log.
type indexOp struct {
	log    *Log
	ops    [2]ring.Op // .index, .timeindex
	counts [2]int32   // entries in each
	seg    *segment   // nil: idle
	block  []byte
	before timeEntry // lastTime before the block
	left   int
}

// kickIndex writes the active segment's index entries once their block is full. Index after
// data: whoever looks at the files of a running broker finds the index short, never wrong.
func (l *Log) kickIndex() {
	s, w := l.active(), &l.indexWrite
	x := &s.index
	if x.heldOffsets < indexHeld || w.seg != nil || s.indexFD == ring.NoFD || l.fence != nil || l.deleting {
		return
	}
	if getOffsetEntry(x.block[(indexHeld-1)*offsetEntrySize:], s.base).offset >= l.written {
		return
	}
	w.seg, w.block, w.counts = s, x.block, [2]int32{x.heldOffsets, x.heldTimes}
	w.before = l.indexBefore
	l.indexBefore = x.lastTime
	x.block, x.heldOffsets, x.heldTimes = nil, 0, 0
	w.submit(0, s.indexFD, int64(x.offsets)*offsetEntrySize, w.block[:w.counts[0]*offsetEntrySize])
	if w.counts[1] > 0 {
		w.submit(1, s.timeFD, int64(x.times)*timeEntrySize, w.block[indexHeld*offsetEntrySize:][:w.counts[1]*timeEntrySize])
	}
}

func (w *indexOp) submit(i int, fd ring.FD, off int64, b []byte) {
	w.left++
	w.ops[i] = ring.Op{Code: ring.Write, Flags: w.log.core.inline, FD: fd, Off: off, Buf: b, Done: w}
	w.log.core.io.Submit(&w.ops[i])
}

// Complete ends one of the two writes.
func (w *indexOp) Complete(op *ring.Op) {
	l, s, i := w.log, w.seg, 0
	name := s.path(suffixIndex)
	if op == &w.ops[1] {
		i, name = 1, s.path(suffixTime)
	}
	w.left--
	switch err := op.Error(); {
	case errors.Is(err, syscall.ENOSPC):
		// The place in the file stays free for the entries that come next: the
		// index lacks these, and is right.
		w.counts[i] = 0
		if i == 1 && s.index.heldTimes == 0 {
			s.index.lastTime = w.before
		}
	case err != nil:
		l.fail(name, fmt.Errorf("write: %w", err))
	case op.Result == 0:
		l.fail(name, errShort)
	case int(op.Result) < len(op.Buf):
		w.submit(i, op.FD, op.Off+int64(op.Result), op.Buf[op.Result:])
		return
	}
	if w.left > 0 {
		return
	}
	s.index.offsets += w.counts[0]
	s.index.times += w.counts[1]
	l.core.pool.Put(w.block)
	w.seg, w.block = nil, nil
	l.step()
}

// readIndex reads the first n entries of an index file.
func readIndex(h ring.Host, fd ring.FD, n int64, entry int) ([]byte, error) {
	b := make([]byte, n*int64(entry))
	got, err := h.ReadAt(fd, b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:got/entry*entry], nil
}
