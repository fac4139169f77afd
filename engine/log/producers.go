package log

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/millrace/millrace/engine/record"
)

// batchesKept is how many of a producer's last batches are known as duplicates.
const batchesKept = 5

const (
	// expireMax bounds how many producers one deadline expires.
	expireMax = 1024
	// expireAgain is when the next of them have their turn, where there are more, ns.
	expireAgain = 100e6
)

// sequence is one batch of a producer.
type sequence struct {
	first, last int32
	lastOffset  int64
	delta       int32 // lastOffset less the batch's base offset
	timestamp   int64
}

func (q *sequence) baseOffset() int64 { return q.lastOffset - int64(q.delta) }

// producer is what a log knows of one producer id.
type producer struct {
	id               int64
	epoch            int16
	coordinatorEpoch int32
	count            int                   // of batches
	batches          [batchesKept]sequence // oldest first
	timestamp        int64                 // of the last batch or marker
	seen             int64                 // wall ms of the last append
	txnStart         int64                 // first offset of the open transaction; -1: none

	older, newer       *producer // all, by last append
	txnOlder, txnNewer *producer // those with an open transaction, by its start
}

// completed is a transaction that has ended in the log, but whose marker may not be
// below the high watermark. last is above 0.
type completed struct{ first, last int64 }

// producers is the idempotent and transactional state of a log (Kafka's
// ProducerStateManager). It is derived from the batches; snapshots save a scan.
type producers struct {
	byID             map[int64]*producer
	oldest, newest   *producer
	txnFirst, txnEnd *producer
	unreplicated     []completed
	settling         [2]completed // all that have ended, in two generations: see unsettled
	snapshots        []int64      // offsets of the snapshot files, ascending
	durable          []int64      // of these, those that are known to survive power loss, ascending
}

var (
	errProducerEpoch = &record.Error{Code: codeInvalidProducer, Index: -1, Msg: "log: the producer's epoch is older than one seen before"}
	errSequence      = &record.Error{Code: codeOutOfOrderSequence, Index: -1, Msg: "log: sequence number out of order"}
	errTxnState      = &record.Error{Code: codeInvalidTxnState, Index: -1, Msg: "log: a transaction is open, and the batch is not part of one"}
	errCoordinator   = &record.Error{Code: codeCoordinatorFenced, Index: -1, Msg: "log: marker of an older coordinator epoch"}
)

// check says whether a batch may be appended, or that it was before.
func (ps *producers) check(b record.Batch, marker record.Marker, how Origin) (*sequence, error) {
	p := ps.byID[b.ProducerID()]
	if p == nil {
		return nil, nil
	}
	if how == Client && p.epoch == b.ProducerEpoch() {
		first, last := b.BaseSequence(), b.LastSequence()
		for i := range p.batches[:p.count] {
			if q := &p.batches[i]; q.first == first && q.last == last {
				return q, nil
			}
		}
	}
	switch {
	case b.ProducerEpoch() < p.epoch:
		return nil, errProducerEpoch
	case b.Control():
		if marker.CoordinatorEpoch < p.coordinatorEpoch {
			return nil, errCoordinator
		}
		return nil, nil
	case how != Client:
		return nil, nil
	case b.ProducerEpoch() != p.epoch:
		if b.BaseSequence() != 0 {
			return nil, errSequence
		}
	default:
		want := int32(0)
		if p.count > 0 && p.batches[p.count-1].last >= 0 {
			want = record.AddSequence(p.batches[p.count-1].last, 1)
		}
		if b.BaseSequence() != want {
			return nil, errSequence
		}
	}
	if p.txnStart >= 0 && !b.Transactional() {
		return nil, errTxnState
	}
	return nil, nil
}

// update takes in a batch that has been appended or scanned. When it ends a
// transaction by abort, that is returned, for the .txnindex.
func (ps *producers) update(b record.Batch, marker record.Marker, now int64) (AbortedTxn, bool) {
	p := ps.byID[b.ProducerID()]
	if p == nil {
		p = &producer{id: b.ProducerID(), epoch: b.ProducerEpoch(), coordinatorEpoch: -1, txnStart: -1}
		ps.insert(p)
	} else if p != ps.newest {
		ps.unlink(p)
		ps.link(p)
	}
	p.seen = now
	p.timestamp = b.MaxTimestamp()
	if p.epoch != b.ProducerEpoch() {
		p.epoch, p.count = b.ProducerEpoch(), 0
	}
	if b.Control() {
		return ps.end(p, b, marker)
	}
	if p.count == batchesKept {
		copy(p.batches[:], p.batches[1:])
		p.count--
	}
	p.batches[p.count] = sequence{b.BaseSequence(), b.LastSequence(), b.LastOffset(), b.LastOffsetDelta(), b.MaxTimestamp()}
	p.count++
	if b.Transactional() && p.txnStart < 0 {
		p.txnStart = b.BaseOffset()
		ps.openTxn(p)
	}
	return AbortedTxn{}, false
}

// end takes in a marker.
func (ps *producers) end(p *producer, b record.Batch, marker record.Marker) (AbortedTxn, bool) {
	if marker.Type != record.Abort && marker.Type != record.Commit {
		return AbortedTxn{}, false
	}
	p.coordinatorEpoch = marker.CoordinatorEpoch
	if p.txnStart < 0 {
		return AbortedTxn{}, false
	}
	done := completed{p.txnStart, b.BaseOffset()}
	ps.closeTxn(p)
	p.txnStart = -1
	ps.unreplicated = append(ps.unreplicated, done)
	if g := &ps.settling[1]; g.last == 0 {
		*g = done
	} else {
		g.first, g.last = min(g.first, done.first), done.last
	}
	if marker.Type == record.Commit {
		return AbortedTxn{}, false
	}
	stable := done.last + 1
	if ps.txnFirst != nil {
		stable = ps.txnFirst.txnStart
	}
	return AbortedTxn{ProducerID: p.id, FirstOffset: done.first, LastOffset: done.last, LastStable: stable}, true
}

// replicated forgets transactions whose marker is below the high watermark.
func (ps *producers) replicated(highWatermark int64) {
	n := 0
	for n < len(ps.unreplicated) && ps.unreplicated[n].last < highWatermark {
		n++
	}
	if n > 0 {
		ps.unreplicated = ps.unreplicated[:copy(ps.unreplicated, ps.unreplicated[n:])]
	}
}

// firstUnstable is the first offset of a transaction that is open or not replicated.
func (ps *producers) firstUnstable() int64 {
	first := int64(math.MaxInt64)
	if ps.txnFirst != nil {
		first = ps.txnFirst.txnStart
	}
	for i := range ps.unreplicated {
		first = min(first, ps.unreplicated[i].first)
	}
	return first
}

// unsettled is the first offset of the transactions whose end a power loss may take; what is
// below flushed it may not. It knows two generations of them by where they begin and end, so
// it may answer with less until flushed has passed both.
func (ps *producers) unsettled(flushed int64) int64 {
	first := int64(math.MaxInt64)
	for range ps.settling {
		if ps.settling[0].last < flushed {
			ps.settling[0], ps.settling[1] = ps.settling[1], completed{}
		}
	}
	for _, g := range ps.settling {
		if g.last != 0 {
			first = min(first, g.first)
		}
	}
	return first
}

// expire forgets producers that were last heard of before the wall clock's before, ms.
// It says whether there are more of them.
func (ps *producers) expire(before int64) (more bool) {
	gone := 0
	for p := ps.oldest; p != nil && p.seen < before; {
		next := p.newer
		if p.txnStart < 0 {
			if gone == expireMax {
				return true
			}
			gone++
			ps.unlink(p)
			delete(ps.byID, p.id)
		}
		p = next
	}
	return false
}

func (ps *producers) insert(p *producer) {
	if ps.byID == nil {
		ps.byID = make(map[int64]*producer)
	}
	ps.byID[p.id] = p
	ps.link(p)
}

func (ps *producers) link(p *producer) {
	p.older, p.newer = ps.newest, nil
	if ps.newest != nil {
		ps.newest.newer = p
	} else {
		ps.oldest = p
	}
	ps.newest = p
}

func (ps *producers) unlink(p *producer) {
	if p.older != nil {
		p.older.newer = p.newer
	} else {
		ps.oldest = p.newer
	}
	if p.newer != nil {
		p.newer.older = p.older
	} else {
		ps.newest = p.older
	}
}

func (ps *producers) openTxn(p *producer) {
	p.txnOlder, p.txnNewer = ps.txnEnd, nil
	if ps.txnEnd != nil {
		ps.txnEnd.txnNewer = p
	} else {
		ps.txnFirst = p
	}
	ps.txnEnd = p
}

func (ps *producers) closeTxn(p *producer) {
	if p.txnOlder != nil {
		p.txnOlder.txnNewer = p.txnNewer
	} else {
		ps.txnFirst = p.txnNewer
	}
	if p.txnNewer != nil {
		p.txnNewer.txnOlder = p.txnOlder
	} else {
		ps.txnEnd = p.txnOlder
	}
	p.txnOlder, p.txnNewer = nil, nil
}

// keepSnapshot notes the snapshot at offset, which is about to be written, and returns those that are now too many. What stays:
// the newest; one that is not above the recovery point; and the newest durable one that is not, with those above it.
func (ps *producers) keepSnapshot(at, recoveryPoint int64) (old []int64) {
	this := func(o int64) bool { return o == at }
	ps.snapshots = append(slices.DeleteFunc(ps.snapshots, this), at)
	ps.durable = slices.DeleteFunc(ps.durable, this)
	slices.Sort(ps.snapshots)
	n := len(ps.snapshots) - snapshotsKept
	for n > 0 && ps.snapshots[n] > recoveryPoint {
		n--
	}
	for len(ps.durable) > 1 && ps.durable[1] <= recoveryPoint {
		ps.durable = slices.Delete(ps.durable, 0, 1)
	}
	var kept []int64
	for i, o := range ps.snapshots {
		if i >= n || slices.Contains(ps.durable, o) {
			kept = append(kept, o)
		} else {
			old = append(old, o)
		}
	}
	ps.snapshots = kept
	return old
}

const (
	snapshotHeader = 2 + 4 + 4
	snapshotEntry  = 46
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode is the state as a .snapshot file (Kafka's ProducerSnapshot v1), in the
// order of the producers' last appends.
func (ps *producers) encode() []byte {
	b := make([]byte, snapshotHeader, snapshotHeader+len(ps.byID)*snapshotEntry)
	binary.BigEndian.PutUint16(b, 1)
	n := 0
	for p := ps.oldest; p != nil; p = p.newer {
		last := sequence{first: -1, last: -1, lastOffset: -1}
		if p.count > 0 {
			last = p.batches[p.count-1]
		}
		b = binary.BigEndian.AppendUint64(b, uint64(p.id))
		b = binary.BigEndian.AppendUint16(b, uint16(p.epoch))
		b = binary.BigEndian.AppendUint32(b, uint32(last.last))
		b = binary.BigEndian.AppendUint64(b, uint64(last.lastOffset))
		b = binary.BigEndian.AppendUint32(b, uint32(last.delta))
		b = binary.BigEndian.AppendUint64(b, uint64(p.timestamp))
		b = binary.BigEndian.AppendUint32(b, uint32(p.coordinatorEpoch))
		b = binary.BigEndian.AppendUint64(b, uint64(p.txnStart))
		n++
	}
	binary.BigEndian.PutUint32(b[6:], uint32(n))
	binary.BigEndian.PutUint32(b[2:], crc32.Checksum(b[6:], castagnoli))
	return b
}

var errSnapshot = errors.New("not a producer snapshot of version 1, or its CRC does not match")

// decodeProducers reads a .snapshot file.
func decodeProducers(b []byte) (producers, error) {
	var ps producers
	if len(b) < snapshotHeader || binary.BigEndian.Uint16(b) != 1 || crc32.Checksum(b[6:], castagnoli) != binary.BigEndian.Uint32(b[2:]) {
		return ps, errSnapshot
	}
	n := int64(int32(binary.BigEndian.Uint32(b[6:])))
	b = b[snapshotHeader:]
	if n*snapshotEntry != int64(len(b)) {
		return ps, fmt.Errorf("%d producers in %d bytes", n, len(b))
	}
	var open []*producer
	all := make([]*producer, 0, n)
	for ; len(b) > 0; b = b[snapshotEntry:] {
		p := &producer{
			id:               int64(binary.BigEndian.Uint64(b)),
			epoch:            int16(binary.BigEndian.Uint16(b[8:])),
			timestamp:        int64(binary.BigEndian.Uint64(b[26:])),
			coordinatorEpoch: int32(binary.BigEndian.Uint32(b[34:])),
			txnStart:         int64(binary.BigEndian.Uint64(b[38:])),
		}
		p.seen = p.timestamp
		last, delta := int32(binary.BigEndian.Uint32(b[10:])), int32(binary.BigEndian.Uint32(b[22:]))
		if offset := int64(binary.BigEndian.Uint64(b[14:])); offset >= 0 {
			first := last
			if last >= 0 {
				first = int32((int64(last) - int64(delta)) & math.MaxInt32)
			}
			p.batches[0] = sequence{first, last, offset, delta, p.timestamp}
			p.count = 1
		}
		if p.txnStart >= 0 {
			open = append(open, p)
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(a, b *producer) int { return cmp.Compare(a.seen, b.seen) })
	for _, p := range all {
		if ps.byID[p.id] != nil {
			return producers{}, fmt.Errorf("producer %d twice", p.id)
		}
		ps.insert(p)
	}
	slices.SortStableFunc(open, func(a, b *producer) int { return cmp.Compare(a.txnStart, b.txnStart) })
	for _, p := range open {
		ps.openTxn(p)
	}
	return ps, nil
}
