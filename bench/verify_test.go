package bench

import (
	"strings"
	"testing"
)

// value is a sealed record of run 7.
func value(producer, partition uint32, sequence uint64) []byte {
	v := make([]byte, 100)
	header{run: 7, producer: producer, partition: partition, sequence: sequence}.put(v)
	return v
}

// acked is a ledger in which 2 producers had 100 records acknowledged in each
// of 3 partitions.
func acked() *Ledger {
	l := NewLedger(7, 2, 3)
	for producer := range uint32(2) {
		for partition := range uint32(3) {
			for sequence := range uint64(100) {
				l.Ack(producer, partition, sequence)
			}
		}
	}
	return l
}

// readAll visits what a faultless broker gives back, changed by fault: given
// the records of partition 1 it returns what the broker gives instead.
func readAll(fault func(records [][]byte) [][]byte) Verification {
	v := NewVerifier(acked())
	for partition := range uint32(3) {
		var records [][]byte
		for sequence := range uint64(100) { // producers interleaved
			records = append(records, value(0, partition, sequence), value(1, partition, sequence))
		}
		if partition == 1 {
			records = fault(records)
		}
		for _, r := range records {
			v.Visit(int32(partition), r)
		}
	}
	return v.Finish()
}

func TestVerifier(t *testing.T) {
	for _, c := range []struct {
		name    string
		fault   func([][]byte) [][]byte
		want    Verification
		example string
	}{
		{"nothing wrong", func(r [][]byte) [][]byte { return r }, Verification{Read: 600}, ""},
		{"two lost", func(r [][]byte) [][]byte { return append(r[:40:40], r[42:]...) },
			Verification{Read: 598, Lost: 2}, "partition 1: producer 0 sequence 20 was acknowledged and is not there"},
		{"a partition lost", func([][]byte) [][]byte { return nil }, Verification{Read: 400, Lost: 200}, "was acknowledged and is not there"},
		{"one twice at once", func(r [][]byte) [][]byte { return append(append(r[:11:11], r[10]), r[11:]...) },
			Verification{Read: 601, Duplicate: 1}, "producer 0 sequence 5 is there twice"},
		{"a batch again at the end", func(r [][]byte) [][]byte { return append(r, r[20:30]...) },
			Verification{Read: 610, Duplicate: 10}, "sequence 10 is there twice"},
		{"two of one producer exchanged", func(r [][]byte) [][]byte { r[10], r[12] = r[12], r[10]; return r },
			Verification{Read: 600, Reordered: 1}, "producer 0 sequence 5 came after 6"},
		{"two of different producers exchanged", func(r [][]byte) [][]byte { r[10], r[11] = r[11], r[10]; return r },
			Verification{Read: 600}, ""},
		{"a bit turned", func(r [][]byte) [][]byte { r[10][60] ^= 4; return r },
			Verification{Read: 600, Corrupt: 1, Lost: 1}, "checksum"},
		{"cut short", func(r [][]byte) [][]byte { r[10] = r[10][:20]; return r },
			Verification{Read: 600, Corrupt: 1, Lost: 1}, "20 bytes"},
		{"in the wrong partition", func(r [][]byte) [][]byte { return append(r, value(0, 2, 5)) },
			Verification{Read: 601, Foreign: 1}, "of run 00000007, producer 0, partition 2"},
		{"there without acknowledgement", func(r [][]byte) [][]byte { return append(r, value(0, 1, 100)) },
			Verification{Read: 601, Unacknowledged: 1}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := readAll(c.fault)
			examples := got.Examples
			c.want.Acknowledged = 600
			c.want.State = "passed"
			if !c.want.Passed() {
				c.want.State = "FAILED"
			}
			got.Examples = nil
			if got.State != c.want.State || got.Read != c.want.Read || got.Lost != c.want.Lost || got.Duplicate != c.want.Duplicate ||
				got.Reordered != c.want.Reordered || got.Corrupt != c.want.Corrupt || got.Foreign != c.want.Foreign ||
				got.Unacknowledged != c.want.Unacknowledged || got.Acknowledged != c.want.Acknowledged {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if all := strings.Join(examples, "\n"); !strings.Contains(all, c.example) || len(examples) > examplesMax {
				t.Errorf("examples:\n%s\nwant one with %q", all, c.example)
			}
		})
	}
}

func TestVerifierForeignRun(t *testing.T) {
	v := NewVerifier(NewLedger(8, 2, 3))
	v.Visit(1, value(0, 1, 0))
	if got := v.Finish(); got.Foreign != 1 || got.Passed() {
		t.Errorf("a record of another run: %+v", got)
	}
}
