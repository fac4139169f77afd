// Package metrics counts and times what a core does. There is one [Shard] per core,
// which only its core writes, with plain adds; a scrape asks each core for a copy and
// merges the copies.
package metrics

import (
	"math"
	"math/bits"
)

// Histogram counts durations in buckets that are at most an eighth wider than
// the last: 8 to each doubling of ns.
type Histogram struct {
	Buckets [bucketCount]uint64
	Count   uint64
	Sum     uint64 // ns
}

const (
	subBits     = 3
	bucketCount = 44 << subBits // up to 2^44 ns: 4.8 hours
)

// Record counts one duration, ns.
func (h *Histogram) Record(ns int64) {
	n := uint64(max(ns, 0))
	h.Buckets[bucket(n)]++
	h.Count++
	h.Sum += n
}

func bucket(n uint64) int {
	if n < 1<<subBits {
		return int(n)
	}
	shift := bits.Len64(n) - 1 - subBits
	return min((shift+1)<<subBits+int(n>>shift)&(1<<subBits-1), bucketCount-1)
}

// Bound is the upper bound (exclusive) of a bucket, ns.
func Bound(i int) uint64 {
	if i == bucketCount-1 {
		return math.MaxUint64
	}
	i++
	if i < 1<<subBits {
		return uint64(i)
	}
	shift := i>>subBits - 1
	return uint64(1<<subBits+i&(1<<subBits-1)) << shift
}

// Merge adds what another counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.Buckets {
		h.Buckets[i] += n
	}
	h.Count += o.Count
	h.Sum += o.Sum
}

// Quantile is the upper bound of the bucket in which the q-quantile lies, ns; 0 when nothing was counted.
func (h *Histogram) Quantile(q float64) uint64 {
	if h.Count == 0 {
		return 0
	}
	want := uint64(math.Ceil(q * float64(h.Count)))
	seen := uint64(0)
	for i, n := range h.Buckets {
		if seen += n; seen >= max(want, 1) {
			return Bound(i)
		}
	}
	return Bound(bucketCount - 1)
}

// APIMax is one more than the largest API key that is counted.
const APIMax = 128

// Shard is what one core counts.
type Shard struct {
	Requests       [APIMax]uint64 // by API key
	ProduceBatches uint64
	ProduceBytes   uint64
	ProduceErrors  uint64 // partitions answered with an error
	ProduceTime    Histogram
	FetchBytes     uint64
	FetchMemory    uint64 // bytes that came from the memory tail
	FetchFile      uint64 // bytes that came from segments
	FetchErrors    uint64
	FetchTime      Histogram // with the wait for more
	Flight         Flight
}

// Merge adds what another core counted.
func (s *Shard) Merge(o *Shard) {
	for i, n := range o.Requests {
		s.Requests[i] += n
	}
	s.ProduceBatches += o.ProduceBatches
	s.ProduceBytes += o.ProduceBytes
	s.ProduceErrors += o.ProduceErrors
	s.ProduceTime.Merge(&o.ProduceTime)
	s.FetchBytes += o.FetchBytes
	s.FetchMemory += o.FetchMemory
	s.FetchFile += o.FetchFile
	s.FetchErrors += o.FetchErrors
	s.FetchTime.Merge(&o.FetchTime)
	s.Flight.Merge(&o.Flight)
}
