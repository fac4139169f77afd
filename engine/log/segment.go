package log

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// Suffixes of a partition's files (Kafka's LogFileUtils).
const (
	suffixLog      = ".log"
	suffixIndex    = ".index"
	suffixTime     = ".timeindex"
	suffixTxn      = ".txnindex"
	suffixSnapshot = ".snapshot"
	suffixDeleted  = ".deleted"
	suffixCleaned  = ".cleaned"
	suffixAside    = ".aside"
	suffixSwap     = ".swap"
)

// fileName is a segment's or a snapshot's: 20 digits and the suffix.
func fileName(offset int64, suffix string) string { return fmt.Sprintf("%020d%s", offset, suffix) }

// parseFileName is fileName backwards.
func parseFileName(name, suffix string) (offset int64, ok bool) {
	digits, found := strings.CutSuffix(name, suffix)
	if !found || len(digits) != 20 {
		return 0, false
	}
	offset, err := strconv.ParseInt(digits, 10, 64)
	return offset, err == nil && offset >= 0
}

// segment is one .log file and what belongs to it. The log's goroutine owns it; a
// job on a worker gets what it needs by value.
type segment struct {
	log  *Log
	base int64 // offset in its name; every offset in it is at or above
	end  int64 // the next offset after its last batch
	size int64 // bytes, unwritten ones included

	fd              ring.FD // .log
	indexFD, timeFD ring.FD // of the active segment only
	maps            [2][]byte

	open     bool  // its .log is there and open
	unnamed  bool  // the name of its .log may not be durable: what is synced of it does not count
	rolled   bool  // nothing more goes in
	finished bool  // rolled, and its indexes are trimmed and synced
	bytesEnd int64 // rolled: the log's bytesIn at its end
	removed  bool  // out of the log; fd is closed when leases is 0
	leases   int32
	tamed    bool // the kernel reads nothing ahead in it: see tame

	// Batches below cold were in the file at the start and not checked by it. They are when they are
	// first read: see lookup. checked is a range of which that has been done.
	cold    int64
	checked span

	sinceIndex int32 // bytes since the last index entry
	index      indexTail

	firstTimestamp int64 // of the first batch (its maximum); -1: none yet
	asked          bool  // it has been looked for in the file
	created        int64 // wall ms: the age of a segment without timestamps
	maxTimestamp   int64 // -1: none
	maxTimestampAt int64 // last offset of the batch that has it

	aborted    []AbortedTxn // what the .txnindex holds
	abortedOld int          // how many of them are in the file
}

func newSegment(l *Log, base int64) *segment {
	return &segment{log: l, base: base, index: indexTail{lastTime: timeEntry{timestamp: record.NoTimestamp}},
		end: base, fd: ring.NoFD, indexFD: ring.NoFD, timeFD: ring.NoFD,
		firstTimestamp: record.NoTimestamp, maxTimestamp: record.NoTimestamp, maxTimestampAt: base}
}

func (s *segment) path(suffix string) string {
	return filepath.Join(s.log.path, fileName(s.base, suffix))
}

// observe keeps what is derived from the batches of a segment: called once for
// each batch, in order, when it is appended and when it is scanned. at is its
// position. The rule for entries is Kafka's LogSegment.append. The timestamp of a batch
// that compaction has emptied is its producer's, not a record's.
func (s *segment) observe(b record.Batch, size int, at int64, interval int32) {
	last := b.LastOffset()
	if ts := b.MaxTimestamp(); ts > s.maxTimestamp && b.Count() > 0 {
		s.maxTimestamp, s.maxTimestampAt = ts, last
	}
	if s.firstTimestamp < 0 {
		s.firstTimestamp = b.MaxTimestamp()
	}
	if s.sinceIndex > interval && s.index.add(s, last, at) {
		s.sinceIndex = 0
	}
	s.sinceIndex += int32(size)
	s.end = last + 1
	s.size = at + int64(size)
}

// lease keeps the file open while somebody reads from it.
func (s *segment) lease() { s.leases++ }

// AbortedTxn is one entry of a .txnindex.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
	LastOffset  int64 // of the abort marker
	LastStable  int64 // the last stable offset once the marker was in
}
