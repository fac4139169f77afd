package bench

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// SamplesAbove is how many samples must lie above a percentile for it to be
// printed. With fewer, a p99.9 is a handful of accidents. Records that were
// handed over together share their fate and count as one sample here.
const SamplesAbove = 100

// Histograms are in microseconds, up to an hour, to three digits.
const latencyMax = int64(time.Hour / time.Microsecond)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, latencyMax, 3) }

// newCoarseHistogram keeps two digits: one second of one producer needs no more.
func newCoarseHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, latencyMax, 2) }

// record adds n samples of d. What is out of range counts as the bound:
// nothing is dropped. d is rounded up to whole microseconds.
func record(h *hdrhistogram.Histogram, d time.Duration, n int64) {
	us := int64((d + time.Microsecond - 1) / time.Microsecond)
	us = min(max(us, 0), latencyMax)
	if err := h.RecordValues(us, n); err != nil {
		panic(fmt.Sprintf("BUG: histogram refused %d us, %d times: %v", us, n, err))
	}
}

// quantiles that are reported, by how many samples in a thousand lie above.
var quantiles = []struct {
	Name  string
	Above int64
}{{"p50", 500}, {"p90", 100}, {"p99", 10}, {"p99.9", 1}}

// Latency is a distribution in microseconds. A percentile that may not be
// printed is nil.
type Latency struct {
	Count     int64    `json:"count"`   // records
	Samples   int64    `json:"samples"` // records that were handed over together count as one
	Min       float64  `json:"minMicros"`
	Mean      float64  `json:"meanMicros"`
	P50       *float64 `json:"p50Micros"`
	P90       *float64 `json:"p90Micros"`
	P99       *float64 `json:"p99Micros"`
	P999      *float64 `json:"p99.9Micros"`
	Max       float64  `json:"maxMicros"`
	Histogram string   `json:"hdrHistogram,omitempty"` // HdrHistogram V2, compressed, base64, microseconds
}

// summarize reads the percentiles that h may give, of records handed over batch
// at a time. raw also encodes it.
func summarize(h *hdrhistogram.Histogram, batch int, raw bool) (Latency, error) {
	l := Latency{Count: h.TotalCount(), Samples: h.TotalCount() / int64(batch)}
	if l.Count > 0 {
		l.Min, l.Mean, l.Max = float64(h.Min()), h.Mean(), float64(h.Max())
	}
	for i, p := range []**float64{&l.P50, &l.P90, &l.P99, &l.P999} {
		if above := quantiles[i].Above; l.Samples*above/1000 >= SamplesAbove {
			v := float64(h.ValueAtPercentile(float64(1000-above) / 10))
			*p = &v
		}
	}
	if raw && l.Count > 0 {
		b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
		if err != nil {
			return l, fmt.Errorf("encode histogram: %w", err)
		}
		l.Histogram = string(b)
	}
	return l, nil
}

// percentiles returns the four values in the order of quantiles.
func (l Latency) percentiles() [4]*float64 { return [4]*float64{l.P50, l.P90, l.P99, l.P999} }

// refused says why percentiles are missing, or "".
func (l Latency) refused() string {
	for i, p := range l.percentiles() {
		if p == nil {
			q := quantiles[i]
			return fmt.Sprintf("%s and above are not printed: %d samples must lie above a percentile, of %d samples %d lie above %s",
				q.Name, SamplesAbove, l.Samples, l.Samples*q.Above/1000, q.Name)
		}
	}
	return ""
}
