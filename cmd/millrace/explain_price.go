package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/log"
)

const (
	secondsMin    = 2.0 // of all policies together
	warmup        = 300 * time.Millisecond
	saturatedMax  = time.Second      // it writes what the disk takes
	usableMin     = int64(8) << 30   // bytes that must be free for the saturated run
	drainTimeout  = 5 * time.Second  // a broker that cannot keep up is not waited for
	readBackMax   = int64(256) << 20 // bytes
	partitionsMax = 16
	recordBytes   = 1024
	saturateBatch = 16 // records a batch
)

// prices are what each policy costs, and how that was found.
type prices struct {
	Rate       int64    `json:"records_per_second"`
	Bytes      int      `json:"record_bytes"`
	Partitions int      `json:"partitions"`
	Acks       string   `json:"acks"`
	Rows       []price  `json:"policies"`
	Notes      []string `json:"notes,omitempty"`
}

// price is one policy's.
type price struct {
	Policy         string            `json:"policy"`
	Config         map[string]string `json:"config"`
	Own            bool              `json:"is_the_topics"`
	Takes          string            `json:"power_loss_takes"`
	Samples        int64             `json:"samples"`
	P50            *float64          `json:"p50_micros"` // null: too few samples
	P99            *float64          `json:"p99_micros"`
	BytesPerSecond *float64          `json:"saturated_bytes_per_second"` // null: not measured
	Steal          float64           `json:"steal_percent"`              // the larger of the two runs
	Others         *float64          `json:"others_cpus"`                // CPUs that other programs used, at the fixed rate; null: not known
	Disturbed      bool              `json:"disturbed"`                  // either is over bench's bound
}

// measurement makes the runs.
type measurement struct {
	bootstrap string
	look      *look
	seconds   float64
	rate      int64
	say       func(format string, args ...any)
}

// rows are what is to be measured: each policy of ours, with the topic's own bounds for
// interval; of Apache Kafka what it has in their place.
func (m *measurement) rows() []price {
	s := m.look.standing
	if s.Kafka {
		return m.kafkaRows()
	}
	var rows []price
	for _, policy := range []log.Policy{log.OS, log.Interval, log.Write, log.File, log.Journal} {
		row := price{Policy: policy.String(), Config: map[string]string{"flush.policy": policy.String()}, Own: policy == s.Policy, Takes: "nothing"}
		switch policy {
		case log.OS:
			row.Takes = bounds{}.String()
		case log.Interval:
			for _, key := range []string{"flush.ms", "flush.messages", "flush.bytes"} {
				if v, ok := m.look.set[key]; ok {
					row.Config[key] = v
				}
			}
			row.Takes = m.look.interval().String()
		}
		rows = append(rows, row)
	}
	return rows
}

// kafkaRows are no flush at all, what the topic has where that is something else, and each append forced.
func (m *measurement) kafkaRows() []price {
	s := m.look.standing
	never := fmt.Sprint(int64(log.Never))
	rows := []price{{Policy: "no flush", Config: map[string]string{"flush.messages": never, "flush.ms": never}, Own: !s.Sync && s.Bounds == bounds{}, Takes: bounds{}.String()}}
	if s.Bounds != (bounds{}) {
		row := price{Policy: "as it is", Config: map[string]string{}, Own: true, Takes: s.Bounds.String()}
		for _, key := range []string{"flush.ms", "flush.messages"} {
			if v, ok := m.look.set[key]; ok {
				row.Config[key] = v
			}
		}
		rows = append(rows, row)
	}
	return append(rows, price{Policy: "flush.messages=1", Config: map[string]string{"flush.messages": "1"}, Own: s.Sync, Takes: "nothing"})
}

// run measures one policy after the other. When interrupted it returns what there is. Each run
// removes its topic, also then.
func (m *measurement) run(ctx context.Context) (*prices, error) {
	p := &prices{Rate: m.rate, Bytes: recordBytes, Partitions: min(len(m.look.spots), partitionsMax), Acks: "all"}
	target := &bench.Kafka{Name: "broker", Address: m.bootstrap}
	if err := target.Start(ctx); err != nil {
		return nil, errors.Join(err, target.Stop())
	}
	defer target.Stop()
	rows := m.rows()
	m.say("measuring %d policies for %.0f s, on temporary topics (--measure=false leaves it out)", len(rows), m.seconds)
	saturate := m.look.usable < 0 || m.look.usable >= usableMin
	if !saturate {
		p.note("MB/s", "not measured: "+size(m.look.usable)+" are free on the broker's disk, and that writes as much as it takes")
	}
	slice := time.Duration(m.seconds / float64(len(rows)) * float64(time.Second))
	for _, row := range rows {
		if err := m.price(ctx, target, p, &row, slice, saturate); err != nil {
			return p, err
		}
		p.Rows = append(p.Rows, row)
	}
	return p, nil
}

// price measures one policy within slice: latency at the rate, then, where saturate says so, throughput.
func (m *measurement) price(ctx context.Context, t bench.Target, p *prices, row *price, slice time.Duration, saturate bool) error {
	full := min(saturatedMax, slice/4)
	w := bench.Workload{
		Rate: m.rate, Partitions: p.Partitions, Replication: m.look.standing.Replicas, Size: p.Bytes, Batch: 1, Acks: p.Acks, Idempotent: true,
		Producers: 1, Compression: "none", RandomBytes: 1, Warmup: min(warmup, slice/8), DrainTimeout: drainTimeout, TopicConfig: maps.Clone(row.Config),
	}
	w.TopicConfig["file.delete.delay.ms"] = "0"
	w.Duration = slice - w.Warmup
	if saturate {
		w.Duration -= w.Warmup + full
	}
	r, err := m.once(ctx, t, w, row)
	if err != nil {
		return err
	}
	row.Samples = r.Latency.Samples
	if r.Acked > 0 { // else there are only waits that did not end
		row.P50, row.P99 = r.Latency.P50, r.Latency.P99
	}
	for _, note := range r.Notes {
		p.note(row.Policy, note)
	}
	if !saturate {
		return nil
	}
	w.Rate, w.Batch, w.Duration = 0, saturateBatch, full
	if r, err = m.once(ctx, t, w, row); err == nil && r.Acked > 0 {
		row.BytesPerSecond = &r.BytesPerSecond
	}
	return err
}

// note says of a row what its reader must know; what was said of others before is said of all together.
func (p *prices) note(row, text string) {
	for i, before := range p.Notes {
		if rows, ok := strings.CutSuffix(before, ": "+text); ok {
			p.Notes[i] = rows + ", " + row + ": " + text
			return
		}
	}
	p.Notes = append(p.Notes, row+": "+text)
}

// once makes one run. The saturated one is not read back: that would take longer than the run.
func (m *measurement) once(ctx context.Context, t bench.Target, w bench.Workload, row *price) (*bench.Result, error) {
	r, err := bench.Run(ctx, t, w, bench.Options{Verify: w.Rate > 0, VerifyMax: readBackMax})
	switch {
	case err != nil:
		return nil, fmt.Errorf("measure %s: %w", row.Policy, err)
	case r.Partial:
		return nil, context.Canceled
	case r.Verify.State == "FAILED":
		return nil, fmt.Errorf("measure %s: what was acknowledged could not be read back: %v", row.Policy, r.Verify.Examples)
	}
	row.Steal = max(row.Steal, r.Use.Steal)
	if o := r.Use.OthersCPU; o != nil && r.Seconds > 0 && w.Rate > 0 { // in the saturated run it is the kernel that writes back
		others := *o / r.Seconds
		row.Others = &others
	}
	row.Disturbed = row.Steal > bench.StealMax || row.Others != nil && *row.Others > bench.OthersMax
	return r, nil
}
