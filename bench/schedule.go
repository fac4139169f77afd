package bench

import (
	"math/bits"
	"time"
)

// Schedule is a fixed plan of sends: each hands over Batch records, evenly
// spaced so that Rate records are sent per second.
type Schedule struct {
	Rate  int64 // records/s, above 0
	Batch int
}

// At returns the intended time of send i, from the start. It does not drift:
// it is computed from i, not added up.
func (s Schedule) At(i int64) time.Duration {
	hi, lo := bits.Mul64(uint64(i)*uint64(s.Batch), uint64(time.Second))
	at, _ := bits.Div64(hi, lo, uint64(s.Rate))
	return time.Duration(at)
}

// Count returns how many sends are intended before end.
func (s Schedule) Count(end time.Duration) int64 {
	if end <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(end), uint64(s.Rate))
	n, _ := bits.Div64(hi, lo, uint64(time.Second)*uint64(s.Batch))
	for s.At(int64(n)) < end {
		n++
	}
	for n > 0 && s.At(int64(n-1)) >= end {
		n--
	}
	return int64(n)
}
