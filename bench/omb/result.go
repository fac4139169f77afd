package omb

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// TestResult is a result file in the benchmark's shape, with the names of its TestResult.java. Latencies are in
// milliseconds, delays in microseconds. A percentile that has too few samples above it is null.
type TestResult struct {
	Workload          string `json:"workload"`
	Driver            string `json:"driver"`
	MessageSize       int    `json:"messageSize"`
	Topics            int    `json:"topics"`
	Partitions        int    `json:"partitions"` // of each topic
	ProducersPerTopic int    `json:"producersPerTopic"`
	ConsumersPerTopic int    `json:"consumersPerTopic"` // of each subscription, as the benchmark has it

	PublishRate      []float64 `json:"publishRate"`
	PublishErrorRate []float64 `json:"publishErrorRate"`
	ConsumeRate      []float64 `json:"consumeRate"`
	Backlog          []int64   `json:"backlog"`

	Publish      Series `json:"-"` // publishLatency*
	PublishDelay Series `json:"-"` // publishDelayLatency*
	EndToEnd     Series `json:"-"` // endToEndLatency*
}

// Series is one kind of latency: a histogram of microseconds for each interval, and one of all.
type Series struct {
	Each  []*hdrhistogram.Histogram
	Total *hdrhistogram.Histogram
}

// SamplesAbove is how many samples a percentile needs above it; package bench has the reason.
const SamplesAbove = 100

var columns = []struct {
	name  string
	above float64 // share of the samples that lies above
}{{"50pct", .5}, {"75pct", .25}, {"95pct", .05}, {"99pct", .01}, {"999pct", .001}, {"9999pct", .0001}}

// at is a percentile in units of unit microseconds, or nil.
func at(h *hdrhistogram.Histogram, above, unit float64) *float64 {
	if float64(h.TotalCount())*above < SamplesAbove*(1-1e-9) {
		return nil
	}
	v := float64(h.ValueAtPercentile(100*(1-above))) / unit
	return &v
}

// MarshalJSON spreads each series over the benchmark's fields.
func (r TestResult) MarshalJSON() ([]byte, error) {
	type head TestResult // without this method
	b, err := json.Marshal(head(r))
	if err != nil {
		return nil, err
	}
	out := strings.TrimSuffix(string(b), "}")
	add := func(name string, value any) {
		v, e := json.Marshal(value)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", name, e)
		}
		out += fmt.Sprintf(",%q:%s", name, v)
	}
	for _, s := range []struct {
		name   string
		series Series
		unit   float64 // microseconds
	}{{"publishLatency", r.Publish, 1e3}, {"publishDelayLatency", r.PublishDelay, 1}, {"endToEndLatency", r.EndToEnd, 1e3}} {
		s.series.each(s.name, s.unit, add)
		s.series.total("aggregated"+upper(s.name), s.unit, add)
	}
	return []byte(out + "}"), err
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (s Series) each(name string, unit float64, add func(string, any)) {
	list := func(of func(h *hdrhistogram.Histogram) any) []any {
		all := []any{}
		for _, h := range s.Each {
			all = append(all, of(h))
		}
		return all
	}
	add(name+"Avg", list(func(h *hdrhistogram.Histogram) any { return mean(h) / unit }))
	for _, c := range columns {
		add(name+c.name, list(func(h *hdrhistogram.Histogram) any { return at(h, c.above, unit) }))
	}
	add(name+"Max", list(func(h *hdrhistogram.Histogram) any { return float64(h.Max()) / unit }))
}

func (s Series) total(name string, unit float64, add func(string, any)) {
	add(name+"Avg", mean(s.Total)/unit)
	for _, c := range columns {
		add(name+c.name, at(s.Total, c.above, unit))
	}
	add(name+"Max", float64(s.Total.Max())/unit)
	add(name+"Quantiles", quantilesOf(s.Total, unit))
}

func mean(h *hdrhistogram.Histogram) float64 {
	if h.TotalCount() == 0 {
		return 0
	}
	return h.Mean()
}

// quantiles are percentiles with values, in order.
type quantiles []struct{ percentile, value float64 }

// quantilesOf goes as far as the samples allow, and then to the largest.
func quantilesOf(h *hdrhistogram.Histogram, unit float64) (all quantiles) {
	if h.TotalCount() == 0 {
		return nil
	}
	for _, b := range h.CumulativeDistributionWithTicks(100) {
		if above := (100 - b.Quantile) / 100; b.Quantile == 100 || float64(h.TotalCount())*above >= SamplesAbove {
			all = append(all, struct{ percentile, value float64 }{b.Quantile, float64(b.ValueAt) / unit})
		}
	}
	return all
}

// MarshalJSON writes an object with a name for each percentile, as Java prints a double.
func (q quantiles) MarshalJSON() ([]byte, error) {
	b, last := []byte{'{'}, ""
	for _, x := range q {
		name := strconv.FormatFloat(x.percentile, 'f', -1, 64)
		if !strings.Contains(name, ".") {
			name += ".0"
		}
		if name == last {
			continue
		}
		if last != "" {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(append(strconv.AppendQuote(b, name), ':'), x.value, 'f', -1, 64)
		last = name
	}
	return append(b, '}'), nil
}
