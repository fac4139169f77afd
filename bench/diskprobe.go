package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/chart"
)

// probeMax is the longest that the disk is looked at before runs.
const probeMax = 3 * time.Second

// probeWrites measures what a durable write costs in a directory, so that a result says on what disk it was made: write and fdatasync
// over space that was written before, one at a time, 4 KiB to 1 MiB. It takes about d. "bench disk" measures more, for longer.
func probeWrites(ctx context.Context, dir string, d time.Duration) (all []DiskRow, err error) {
	p, err := newProbe(dir, meter{disk: device(dir)}, d.Seconds())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var rows []*diskRow
	left := 0.0
	for _, r := range diskPlan() {
		if r.way == WayBuffered && r.place == PlaceOverwrite && r.depth == 1 {
			r.weight = 1
			if r.size == 1<<20 { // the slowest: its median needs as many samples
				r.weight = 2
			}
			rows = append(rows, r)
			left += r.weight
		}
	}
	end := time.Now().Add(d)
	for _, r := range rows {
		if err := p.prepare(r); err != nil {
			return nil, fmt.Errorf("%s: prepare: %w", r, err)
		}
		share := time.Duration(float64(time.Until(end)) * r.weight / left)
		left -= r.weight
		if err := p.slice(ctx, r, time.Now().Add(share)); err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
		row, err := r.result()
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, ctx.Err()
}

// probeDisk is probeWrites where data directories are made, for results that are kept. Without it a result counts all the same.
func (p *produce) probeDisk(ctx context.Context) {
	if p.out == "" && p.page == "" || !p.serve && len(p.managed) == 0 {
		return
	}
	var err error
	if p.writes, err = probeWrites(ctx, p.parent(), min(probeMax, p.workload.length()/2)); err != nil && ctx.Err() == nil {
		p.say("what a durable write costs here is not known: %v", err)
	}
}

// writesLine is what a durable write costs, by size; "" where that was not measured.
func (d Disk) writesLine() string {
	var parts []string
	for _, r := range d.Writes {
		if r.Missing == "" {
			parts = append(parts, fmt.Sprintf("%s %s / %s", binarySize(int64(r.Size)), micros(r.Latency.P50), micros(r.Latency.P99)))
		}
	}
	if parts == nil {
		return ""
	}
	return "The disk's own durable writes (" + WayBuffered + ", one at a time, before the runs), p50 / p99: " + strings.Join(parts, ", ") + "."
}

// writesFigure is what a durable write cost before the runs, by size.
func writesFigure(id string, d Disk) ([]reportFigure, error) {
	f := reportFigure{Caption: "The disk's own durable writes",
		Note:  "Write and fdatasync together, one at a time over space that was written before, measured for a moment before the first run. Flushes are the whole device's. “bench disk” measures more.",
		Table: reportTable{Caption: "Durable writes, " + WayBuffered, Words: 1, Head: []string{"size", "p50", "p90", "p99", "max", "writes/s", "flushes a write", "CPU steal %"}}}
	names := []string{"p50", "p90", "p99"}
	series := make([]chart.Series, len(names))
	x := chart.Axis{Label: "bytes of a write", Log: true}
	for i := range series {
		series[i] = chart.Series{Style: i, Marks: true, Pieces: [][]chart.Point{nil}}
	}
	for _, r := range d.Writes {
		if r.Missing != "" {
			continue
		}
		l, size, perSecond := r.Latency, float64(r.Size), r.BytesPerSecond/float64(r.Size)
		line := plain(binarySize(int64(r.Size)), micros(l.P50), micros(l.P90), micros(l.P99), micros(&l.Max), number(&perSecond), number(r.FlushesPerWrite), fmt.Sprintf("%.1f", r.Use.Steal))
		line[7].Warn = r.Disturbed
		f.Table.Lines = append(f.Table.Lines, line)
		x.Ticks = append(x.Ticks, chart.Tick{Value: size, Label: binarySize(int64(r.Size))})
		for i, v := range []*float64{l.P50, l.P90, l.P99} {
			if v != nil {
				series[i].Pieces[0] = append(series[i].Pieces[0], chart.Point{X: size, Y: max(1, *v)})
			}
		}
	}
	if len(f.Table.Lines) == 0 {
		return nil, nil
	}
	if len(x.Ticks) < 2 || !hasPoints(series) {
		f.Note = fmt.Sprintf("Too few samples for a line: a p50 needs %d. ", 2*SamplesAbove) + f.Note
		return []reportFigure{f}, nil
	}
	for i, name := range names {
		if hasPoints(series[i : i+1]) {
			f.Keys = append(f.Keys, key(i, name))
		}
	}
	x.Min, x.Max = x.Ticks[0].Value, x.Ticks[len(x.Ticks)-1].Value
	err := f.draw(chart.Chart{ID: id, Desc: "The table below has the same figures.", Series: series, X: x, Y: latencyAxis(series)})
	return []reportFigure{f}, err
}
