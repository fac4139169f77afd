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
	acked                 []bitset // producer-major
}

// NewLedger makes an empty ledger for the run with this number.
func NewLedger(run uint32, producers, partitions int) *Ledger {
	return &Ledger{run: run, producers: producers, partitions: partitions, acked: make([]bitset, producers*partitions)}
}

// Ack notes that a record was acknowledged.
func (l *Ledger) Ack(producer, partition uint32, sequence uint64) {
	l.acked[int(producer)*l.partitions+int(partition)].set(sequence)
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
	last   []uint64 // per row: highest sequence read + 1
	found  Verification
}

// NewVerifier starts a comparison with l, which must not change any more.
func NewVerifier(l *Ledger) *Verifier {
	return &Verifier{ledger: l, seen: make([]bitset, len(l.acked)), last: make([]uint64, len(l.acked))}
}

// Visit takes the next record of a partition, in the order of its offsets.
func (v *Verifier) Visit(partition int32, value []byte) {
	v.found.Read++
	h, err := parse(value)
	switch {
	case err != nil:
		v.found.Corrupt++
		v.found.example("partition %d: record %d read: %v", partition, v.found.Read, err)
		return
	case h.run != v.ledger.run || int(h.producer) >= v.ledger.producers || h.partition != uint32(partition):
		v.found.Foreign++
		v.found.example("partition %d: a record of run %08x, producer %d, partition %d", partition, h.run, h.producer, h.partition)
		return
	}
	row := int(h.producer)*v.ledger.partitions + int(h.partition)
	switch {
	case v.seen[row].has(h.sequence):
		v.found.Duplicate++
		v.found.example("partition %d: producer %d sequence %d is there twice", partition, h.producer, h.sequence)
	case h.sequence < v.last[row]:
		v.found.Reordered++
		v.found.example("partition %d: producer %d sequence %d came after %d", partition, h.producer, h.sequence, v.last[row]-1)
	}
	if !v.seen[row].has(h.sequence) && !v.ledger.acked[row].has(h.sequence) {
		v.found.Unacknowledged++
	}
	v.seen[row].set(h.sequence)
	v.last[row] = max(v.last[row], h.sequence+1)
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
				v.found.example("partition %d: producer %d sequence %d was acknowledged and is not there",
					row%v.ledger.partitions, row/v.ledger.partitions, word*64+bits.TrailingZeros64(missing))
			}
		}
	}
	v.found.State = "passed"
	if !v.found.Passed() {
		v.found.State = "FAILED"
	}
	return v.found
}
