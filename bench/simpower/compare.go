package simpower

import (
	"time"

	"github.com/millrace/millrace/bench"
)

// flushSlack is what a sync that began in time may take, in a world whose disks now and then
// take eight times their longest.
const flushSlack = 150 * time.Millisecond

// readBack compares what is there with what was acknowledged.
func (h *history) readBack() error {
	compared := h.ledger.Compare()
	bound := h.watch(compared)
	ends := map[int32]int64{}
	h.visitor.ask(h.visitor.read(compared, ends))
	if err := h.until("everything is read back", drainMax, h.visitor.idle); err != nil {
		return err
	}
	h.take(compared.Finish(ends, time.Unix(0, h.cutAt)))
	h.row.BeyondBound += bound.beyond
	return nil
}

// take adds the findings of a cut to the row, and where they are from to the first of them.
func (h *history) take(f bench.Findings) {
	for i, e := range f.Examples {
		f.Examples[i] = h.where() + ": " + e
	}
	f.Examples = append(h.cut.Findings.Examples, f.Examples...)
	h.cut.Findings, h.dark = f, false
	h.row.Findings.Add(f)
	h.row.EachCut = append(h.row.EachCut, h.cut)
}

// bound adds up what a cut took, partition by partition, and counts what interval's bound does not allow.
type bound struct {
	records, bytes []int64 // by partition
	beyond         int64
}

// watch has the bound told of every record that is missing.
func (h *history) watch(compared *bench.PowerComparison) *bound {
	b := &bound{records: make([]int64, h.Partitions), bytes: make([]int64, h.Partitions)}
	if h.policy != "interval" {
		return b
	}
	compared.Missing = func(producer, partition int, sequence uint64, age time.Duration) {
		b.records[partition]++
		b.bytes[partition] += int64(h.sizes[recordKey{producer, partition, sequence}])
		switch {
		case b.records[partition] > h.flushMessages, b.bytes[partition] > h.flushBytes, age > time.Duration(h.flushMs)*time.Millisecond+flushSlack:
			b.beyond++
			h.find("partition %d: record %d of producer %d, %v old: %d records and %d bytes are lost by now; the bound is %d ms, %d records, %d bytes",
				partition, sequence, producer, age, b.records[partition], b.bytes[partition], h.flushMs, h.flushMessages, h.flushBytes)
		}
	}
	return b
}
