package bench

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/millrace/millrace/bench/lean"
)

// Waiting is a Client that knows where its acknowledged records waited. waited is told before Done; Watch is called once, before
// anything is sent.
type Waiting interface {
	Client
	Watch(waited func(value []byte, w lean.Waits))
}

// Waits is where acknowledged records waited, from the call of Send on. The parts of one record add up to its latency but for the
// time before that, which is the schedule's lag.
type Waits struct {
	Buffer   Latency `json:"bufferFull"`  // until the client took it
	Metadata Latency `json:"metadata"`    // for a leader of its partition
	Fill     Latency `json:"batch"`       // in the accumulator, for its batch to fill or linger, or for the client to get to it
	Slot     Latency `json:"freeRequest"` // there too, because as many requests as the client allows were in flight
	Write    Latency `json:"write"`       // from the making of its request until it was written to the socket
	Flight   Latency `json:"inFlight"`    // from there until the client told of its acknowledgement
}

// waitNames are the parts as they are printed.
var waitNames = [...]string{"buffer full", "metadata", "batch", "free request", "write", "in flight"}

func (w *Waits) parts() [len(waitNames)]*Latency {
	return [...]*Latency{&w.Buffer, &w.Metadata, &w.Fill, &w.Slot, &w.Write, &w.Flight}
}

// waitTimes gathers them, over all producers of a run.
type waitTimes struct {
	mu    sync.Mutex
	parts [len(waitNames)]*hdrhistogram.Histogram
}

func newWaitTimes() *waitTimes {
	t := &waitTimes{}
	for i := range t.parts {
		t.parts[i] = newHistogram()
	}
	return t
}

// waited counts an acknowledged record. The warm-up's do not count.
func (p *producer) waited(value []byte, w lean.Waits) {
	if peek(value).intended < p.run.w.Warmup {
		return
	}
	t := p.run.waits
	t.mu.Lock()
	for i, d := range [...]time.Duration{w.Buffer, w.Metadata, w.Fill, w.Slot, w.Write, w.Flight} {
		record(t.parts[i], d, 1)
	}
	t.mu.Unlock()
}

// summarize is nil where the client told nothing.
func (t *waitTimes) summarize(batch int) (*Waits, error) {
	if t.parts[0].TotalCount() == 0 {
		return nil, nil
	}
	var w Waits
	for i, l := range w.parts() {
		var err error
		if *l, err = summarize(t.parts[i], batch, true); err != nil {
			return nil, err
		}
	}
	return &w, nil
}

// WaitSummary is one part of a row: medians over its runs.
type WaitSummary struct {
	Name string   `json:"name"`
	P50  *float64 `json:"p50Micros"`
	P99  *float64 `json:"p99Micros"`
}

// summarizeWaits is empty where not every run has them.
func summarizeWaits(runs []*Result) (all []WaitSummary) {
	for _, r := range runs {
		if r.Waits == nil {
			return nil
		}
	}
	for i, name := range waitNames {
		all = append(all, WaitSummary{name,
			medianOf(runs, func(r *Result) *float64 { return r.Waits.parts()[i].P50 }),
			medianOf(runs, func(r *Result) *float64 { return r.Waits.parts()[i].P99 })})
	}
	return all
}

// waitsLine prints them for reading: p50 / p99 of each.
func waitsLine(all []WaitSummary) string {
	var parts []string
	for _, w := range all {
		parts = append(parts, fmt.Sprintf("%s %s / %s", w.Name, micros(w.P50), micros(w.P99)))
	}
	return strings.Join(parts, ", ")
}

// waited is where the records of each row waited in its client.
func waited(table []Summary, sweep bool) string {
	var b strings.Builder
	for _, s := range table {
		if len(s.Waits) == 0 {
			continue
		}
		name := s.Row
		if sweep {
			name += fmt.Sprintf(", %d partitions", s.Partitions)
		}
		fmt.Fprintf(&b, "- %s, %s: records waited p50 / p99: %s\n", name, s.Client, waitsLine(s.Waits))
	}
	return b.String()
}

// waitsTable is where a row's records waited in their client, over all runs that count.
func waitsTable(r *reportRow) []reportTable {
	if len(r.Summary.Waits) == 0 {
		return nil
	}
	t := reportTable{Caption: "Waits in the client, " + r.name() + " (" + r.Summary.Client + ")", Words: 1, Head: []string{"wait", "p50", "p99"}}
	longest := 0.0
	for _, w := range r.Summary.Waits {
		if w.P99 != nil {
			longest = max(longest, *w.P99)
		}
	}
	for _, w := range r.Summary.Waits {
		line := plain(w.Name, micros(w.P50), micros(w.P99))
		if w.P99 != nil && longest > 0 {
			line[2].Bar = 100 * *w.P99 / longest
		}
		t.Lines = append(t.Lines, line)
	}
	return []reportTable{t}
}
