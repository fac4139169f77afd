package bench

import (
	"fmt"
	"math/bits"
)

// bitset grows as bits are set.
type bitset []uint64

func (b *bitset) set(i uint64) {
	for uint64(len(*b)) <= i/64 {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

func (b bitset) has(i uint64) bool { return i/64 < uint64(len(b)) && b[i/64]&(1<<(i%64)) != 0 }

// Ledger is what was acknowledged: a bit per record, per producer and
// partition. It has one owner at a time: a producer's own rows are written
// by that producer's acknowledgements only.
type Ledger struct {
	run                   uint32
	producers, partitions int
	topics                int      // above 0: the client chose the partitions; see NewStreamsLedger
	acked                 []bitset // producer-major
}

// NewLedger makes an empty ledger for the run with this number.
func NewLedger(run uint32, producers, partitions int) *Ledger {
	return &Ledger{run: run, producers: producers, partitions: partitions, acked: make([]bitset, producers*partitions)}
}

// NewStreamsLedger makes one for a run with Streams: a bit per record, per producer. Producer i sends to topic i modulo topics.
func NewStreamsLedger(run uint32, producers, partitions, topics int) *Ledger {
	return &Ledger{run: run, producers: producers, partitions: partitions, topics: topics, acked: make([]bitset, producers)}
}

// row is where a record is counted.
func (l *Ledger) row(producer, partition uint32) int {
	if l.topics > 0 {
		return int(producer)
	}
	return int(producer)*l.partitions + int(partition)
}

// name says whose row it is.
func (l *Ledger) name(row int) string {
	if l.topics > 0 {
		return fmt.Sprintf("topic %d: producer %d", row%l.topics, row)
	}
	return fmt.Sprintf("partition %d: producer %d", row%l.partitions, row/l.partitions)
}

// belongs reports whether a record with this header may be in this partition.
func (l *Ledger) belongs(h header, topic int, partition int32) bool {
	switch {
	case h.run != l.run || int(h.producer) >= l.producers:
		return false
	case l.topics > 0:
		return int(h.producer)%l.topics == topic && int(partition) < l.partitions
	}
	return h.partition == uint32(partition)
}

// Ack notes that a record was acknowledged.
func (l *Ledger) Ack(producer, partition uint32, sequence uint64) {
	l.acked[l.row(producer, partition)].set(sequence)
}

// Verification is what reading back found. Zero in Lost, Duplicate, Reordered,
// Corrupt and Foreign is a pass.
type Verification struct {
	State          string   `json:"state"` // "passed", "FAILED" or "skipped: why"
	Acknowledged   int64    `json:"acknowledged"`
	Read           int64    `json:"read"`
	Lost           int64    `json:"lost"`           // acknowledged, not there
	Duplicate      int64    `json:"duplicate"`      // there more than once
	Reordered      int64    `json:"reordered"`      // there after a later one of its producer and partition
	Corrupt        int64    `json:"corrupt"`        // checksum or header wrong
	Foreign        int64    `json:"foreign"`        // of another run, or in the wrong partition
	Unacknowledged int64    `json:"unacknowledged"` // there though no acknowledgement came: allowed
	Examples       []string `json:"examples,omitempty"`
}

const examplesMax = 10

// Passed reports whether every acknowledged record was there, once, in order.
func (v Verification) Passed() bool {
	return v.Lost+v.Duplicate+v.Reordered+v.Corrupt+v.Foreign == 0
}

func (v *Verification) example(format string, args ...any) {
	if len(v.Examples) < examplesMax {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

// Verifier compares what is read back with a ledger.
type Verifier struct {
	ledger *Ledger
	seen   []bitset
	last   []uint64 // per producer and partition: highest sequence read + 1
	found  Verification
}

// NewVerifier starts a comparison with l, which must not change any more.
func NewVerifier(l *Ledger) *Verifier {
	return &Verifier{ledger: l, seen: make([]bitset, len(l.acked)), last: make([]uint64, l.producers*l.partitions)}
}

// Visit takes the next record of a partition of the only topic, in the order of its offsets.
func (v *Verifier) Visit(partition int32, value []byte) { v.VisitTopic(0, partition, value) }

// VisitTopic takes the next record of a topic's partition.
func (v *Verifier) VisitTopic(topic int, partition int32, value []byte) {
	v.found.Read++
	h, err := parse(value)
	switch {
	case err != nil:
		v.found.Corrupt++
		v.found.example("partition %d: record %d read: %v", partition, v.found.Read, err)
		return
	case !v.ledger.belongs(h, topic, partition):
		v.found.Foreign++
		if v.ledger.topics > 0 {
			v.found.example("topic %d, partition %d: a record of run %08x, producer %d", topic, partition, h.run, h.producer)
			return
		}
		v.found.example("partition %d: a record of run %08x, producer %d, partition %d", partition, h.run, h.producer, h.partition)
		return
	}
	row, order := v.ledger.row(h.producer, h.partition), int(h.producer)*v.ledger.partitions+int(partition)
	switch {
	case v.seen[row].has(h.sequence):
		v.found.Duplicate++
		v.found.example("partition %d: producer %d sequence %d is there twice", partition, h.producer, h.sequence)
	case h.sequence < v.last[order]:
		v.found.Reordered++
		v.found.example("partition %d: producer %d sequence %d came after %d", partition, h.producer, h.sequence, v.last[order]-1)
	}
	if !v.seen[row].has(h.sequence) && !v.ledger.acked[row].has(h.sequence) {
		v.found.Unacknowledged++
	}
	v.seen[row].set(h.sequence)
	v.last[order] = max(v.last[order], h.sequence+1)
}

// Finish counts what is missing and gives the verdict.
func (v *Verifier) Finish() Verification {
	for row, acked := range v.ledger.acked {
		for word, want := range acked {
			v.found.Acknowledged += int64(bits.OnesCount64(want))
			missing := want
			if word < len(v.seen[row]) {
				missing &^= v.seen[row][word]
			}
			for ; missing != 0; missing &= missing - 1 {
				v.found.Lost++
				v.found.example("%s sequence %d was acknowledged and is not there", v.ledger.name(row), word*64+bits.TrailingZeros64(missing))
			}
		}
	}
	v.found.State = "passed"
	if !v.found.Passed() {
		v.found.State = "FAILED"
	}
	return v.found
}
