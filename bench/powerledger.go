package bench

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// PowerLedger is what was acknowledged, and when, over all lives of a broker: a time
// per record, per producer and partition. Safe for any goroutine.
type PowerLedger struct {
	run                   uint32
	producers, partitions int
	now                   func() time.Time

	mu    sync.Mutex
	start time.Time
	acked [][]int64       // by row, sequence: ns from start, 0 not acknowledged, gone: counted as lost
	acks  int64           // how many, ever
	known map[string]bool // findings that were counted after an earlier cut
	holes map[int32]int64 // by partition: the offsets at which nothing was, at the last comparison
}

// gone marks a record that an earlier comparison has counted as lost.
const gone = -1

// NewPowerLedger makes an empty ledger for the run with this number. now is its clock:
// time.Now, or a simulated one.
func NewPowerLedger(run uint32, producers, partitions int, now func() time.Time) *PowerLedger {
	return &PowerLedger{
		run: run, producers: producers, partitions: partitions, now: now, start: now(),
		acked: make([][]int64, producers*partitions), known: map[string]bool{}, holes: map[int32]int64{},
	}
}

// PowerValueMin is the least size of a record's value, bytes: it says which record it is.
const PowerValueMin = headerBytes

// Fill makes value the record with this sequence, from 0 for each producer and partition.
// Its body comes from random.
func (l *PowerLedger) Fill(value []byte, producer, partition int, sequence uint64, random *rand.Rand) {
	fill(value, 1, random)
	header{run: l.run, producer: uint32(producer), partition: uint32(partition), sequence: sequence}.put(value)
}

// Ack notes that the record with this value was acknowledged, now.
func (l *PowerLedger) Ack(value []byte) {
	h := peek(value)
	l.mu.Lock()
	defer l.mu.Unlock()
	row := &l.acked[int(h.producer)*l.partitions+int(h.partition)]
	for uint64(len(*row)) <= h.sequence {
		*row = append(*row, 0)
	}
	(*row)[h.sequence] = max(1, int64(l.now().Sub(l.start)))
	l.acks++
}

// Acknowledged is how many records ever were.
func (l *PowerLedger) Acknowledged() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

// Findings is what one reading back has found for the first time.
type Findings struct {
	Read           int64    `json:"read"`
	Lost           int64    `json:"lost"`           // acknowledged, not there
	Duplicated     int64    `json:"duplicated"`     // there more than once
	Reordered      int64    `json:"reordered"`      // there after a later one of its producer and partition
	Corrupt        int64    `json:"corrupt"`        // checksum or header wrong
	Holes          int64    `json:"holes"`          // offsets below the end at which nothing is read
	Unacknowledged int64    `json:"unacknowledged"` // there though no acknowledgement came: allowed
	LossWindow     float64  `json:"lossWindowMillis"`
	Examples       []string `json:"examples,omitempty"`
}

// Whole reports whether nothing is wrong.
func (f Findings) Whole() bool {
	return f.Lost+f.Duplicated+f.Reordered+f.Corrupt+f.Holes == 0
}

func (f *Findings) example(format string, args ...any) {
	if len(f.Examples) < examplesMax {
		f.Examples = append(f.Examples, fmt.Sprintf(format, args...))
	}
}

// Add counts what a later reading back has found to it.
func (f *Findings) Add(o Findings) {
	f.Read = o.Read // of the last
	f.Unacknowledged = o.Unacknowledged
	f.Lost += o.Lost
	f.Duplicated += o.Duplicated
	f.Reordered += o.Reordered
	f.Corrupt += o.Corrupt
	f.Holes += o.Holes
	f.LossWindow = max(f.LossWindow, o.LossWindow)
	f.Examples = append(f.Examples, o.Examples...)
	f.Examples = f.Examples[:min(len(f.Examples), examplesMax)]
}

// PowerComparison is one reading back.
type PowerComparison struct {
	// Missing, where set, is told of each record that is lost, and how old its acknowledgement was at the cut.
	Missing func(producer, partition int, sequence uint64, age time.Duration)

	ledger *PowerLedger
	seen   []bitset
	last   []uint64
	counts []int64 // records read of each partition
	found  Findings
}

// Compare begins a reading back.
func (l *PowerLedger) Compare() *PowerComparison {
	rows := len(l.acked)
	return &PowerComparison{ledger: l, seen: make([]bitset, rows), last: make([]uint64, rows), counts: make([]int64, l.partitions)}
}

// once reports whether this was not found before.
func (c *PowerComparison) once(format string, args ...any) bool {
	key := fmt.Sprintf(format, args...)
	if c.ledger.known[key] {
		return false
	}
	c.ledger.known[key] = true
	c.found.example("%s", key)
	return true
}

// Visit takes the next record of a partition, in the order of its offsets.
func (c *PowerComparison) Visit(partition int32, value []byte) {
	c.found.Read++
	c.counts[partition]++
	h, err := parse(value)
	if err != nil || h.run != c.ledger.run || int(h.producer) >= c.ledger.producers || h.partition != uint32(partition) {
		if c.once("partition %d: record %d is not one that was sent: %v", partition, c.counts[partition]-1, err) {
			c.found.Corrupt++
		}
		return
	}
	row := int(h.producer)*c.ledger.partitions + int(h.partition)
	switch {
	case c.seen[row].has(h.sequence):
		if c.once("partition %d: producer %d sequence %d is there twice", partition, h.producer, h.sequence) {
			c.found.Duplicated++
		}
	case h.sequence < c.last[row]:
		if c.once("partition %d: producer %d sequence %d came after %d", partition, h.producer, h.sequence, c.last[row]-1) {
			c.found.Reordered++
		}
	}
	c.seen[row].set(h.sequence)
	c.last[row] = max(c.last[row], h.sequence+1)
}

// Finish counts what is missing. ends are the partitions' end offsets, cut is when the power went.
func (c *PowerComparison) Finish(ends map[int32]int64, cut time.Time) Findings {
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	at, oldest := int64(cut.Sub(l.start)), int64(0)
	for row, acked := range l.acked {
		last := uint64(len(acked))
		for sequence := range max(last, c.last[row]) {
			there := c.seen[row].has(sequence)
			switch {
			case sequence >= last || acked[sequence] == 0:
				if there {
					c.found.Unacknowledged++
				}
			case acked[sequence] != gone && !there:
				c.found.Lost++
				c.found.example("partition %d: producer %d sequence %d was acknowledged %.1f ms before the cut and is not there",
					row%l.partitions, row/l.partitions, sequence, float64(at-acked[sequence])/1e6)
				if c.Missing != nil {
					c.Missing(row/l.partitions, row%l.partitions, sequence, time.Duration(at-acked[sequence]))
				}
				if oldest == 0 || acked[sequence] < oldest {
					oldest = acked[sequence]
				}
				acked[sequence] = gone
			}
		}
	}
	if oldest > 0 {
		c.found.LossWindow = max(0, float64(at-oldest)/1e6)
	}
	for partition, end := range ends {
		hole := max(0, end-c.counts[partition])
		if grown := hole - l.holes[partition]; grown > 0 { // one that stays was counted after an earlier cut
			c.found.Holes += grown
			c.found.example("partition %d: %d records read below offset %d", partition, c.counts[partition], end)
		}
		l.holes[partition] = hole
	}
	return c.found
}
