package bench

import (
	"fmt"
	"html/template"
	"math"
	"slices"

	"github.com/millrace/millrace/bench/chart"
)

// tickLabel prints a round number of microseconds.
func tickLabel(us float64) string {
	switch {
	case us < 1e3:
		return fmt.Sprintf("%.4g µs", us)
	case us < 1e6:
		return fmt.Sprintf("%.4g ms", us/1e3)
	}
	return fmt.Sprintf("%.4g s", us/1e6)
}

// latencyAxis is one that holds all points.
func latencyAxis(all []chart.Series) chart.Axis {
	lowest, highest := math.Inf(1), 0.0
	for _, s := range all {
		for _, piece := range s.Pieces {
			for _, p := range piece {
				lowest, highest = min(lowest, p.Y), max(highest, p.Y)
			}
		}
	}
	a := chart.Axis{Label: "latency", Log: true}
	a.Ticks, a.Min, a.Max = chart.Logs(lowest, highest, tickLabel)
	return a
}

func key(style int, name string) reportKey {
	return reportKey{Line: template.HTML(chart.Key(style)), Name: name}
}

// draw makes the figure's chart.
func (f *reportFigure) draw(c chart.Chart) error {
	c.Title = f.Caption
	svg, err := c.SVG()
	f.SVG = template.HTML(svg) // chart escapes what it is given
	return err
}

const curvePoints = 120

// curve is the latency at every percentile that the samples allow: SamplesAbove of them must lie above it.
func (r *reportRow) curve() (points []chart.Point) {
	if r.Merged == nil || r.Latency.Samples < 2*SamplesAbove {
		return nil
	}
	end := chart.Nines(1 - float64(SamplesAbove)/float64(r.Latency.Samples))
	for i := range curvePoints + 1 {
		at := end * float64(i) / curvePoints
		us := r.Merged.ValueAtPercentile(100 * (1 - math.Pow(10, -at)))
		points = append(points, chart.Point{X: at, Y: math.Max(1, float64(us))}) // below 1 µs there is nothing on the axis
	}
	return points
}

// curves are the percentiles, a figure for each number of partitions.
func curves(id string, rows []*reportRow) (all []reportFigure, err error) {
	for first := 0; first < len(rows); {
		last := first
		for last < len(rows) && rows[last].Partitions == rows[first].Partitions {
			last++
		}
		f, err := curveFigure(fmt.Sprintf("%s-curve%d", id, first), rows[first:last])
		if err != nil {
			return nil, err
		}
		all, first = append(all, f...), last
	}
	return all, nil
}

func curveFigure(id string, rows []*reportRow) ([]reportFigure, error) {
	f := reportFigure{
		Caption: fmt.Sprintf("Latency by percentile, %s", partitionsOf(rows[0].Partitions)),
		Note:    fmt.Sprintf("Raw histograms of a row's runs, merged. A line ends where fewer than %d samples lie above; the table of rows has medians of runs, so it may differ.", SamplesAbove),
		Table:   reportTable{Caption: "Percentiles of the merged runs", Words: 2, Head: []string{"row", "acknowledged means", "p50", "p90", "p99", "p99.9", "max", "samples"}},
	}
	var series []chart.Series
	end := 0.0
	for _, r := range rows {
		l := r.Latency
		samples := float64(l.Samples)
		f.Table.Lines = append(f.Table.Lines, plain(r.Label, string(r.Summary.Class), micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(&l.Max), number(&samples)))
		if points := r.curve(); points != nil {
			f.Keys = append(f.Keys, key(r.Style, r.Label+" ("+string(r.Summary.Class)+")"))
			series = append(series, chart.Series{Style: r.Style, Pieces: [][]chart.Point{points}})
			end = max(end, points[len(points)-1].X)
		}
	}
	if series == nil {
		f.Note = fmt.Sprintf("Too few samples for a line: a p50 needs %d.", 2*SamplesAbove)
		return []reportFigure{f}, nil
	}
	err := f.draw(chart.Chart{
		ID: id, Desc: "The table below has the same figures.", Series: series,
		X: chart.Axis{Label: "percentile", Ticks: chart.NinesTicks(end), Max: end}, Y: latencyAxis(series),
	})
	return []reportFigure{f}, err
}

// sweepFigure is p99 against partitions, where there are several numbers of them.
func sweepFigure(id string, rows []*reportRow) ([]reportFigure, error) {
	f := reportFigure{
		Caption: "p99 by number of partitions",
		Note:    "Medians of the runs that count; the table also has the lowest and highest run.",
		Table:   reportTable{Caption: "p99 by number of partitions", Words: 2, Head: []string{"row", "acknowledged means", "partitions", "p99", "lowest", "highest"}},
	}
	var series []chart.Series
	var at []int
	for _, r := range rows {
		if !slices.Contains(at, r.Partitions) {
			at = append(at, r.Partitions)
		}
		lowest, highest := extremes(r.Used, func(run *Result) *float64 { return run.Latency.P99 })
		f.Table.Lines = append(f.Table.Lines, plain(r.Label, string(r.Summary.Class), fmt.Sprint(r.Partitions), micros(r.Summary.P99), micros(lowest), micros(highest)))
		i := slices.IndexFunc(series, func(s chart.Series) bool { return s.Style == r.Style })
		if i < 0 {
			i = len(series)
			series = append(series, chart.Series{Style: r.Style, Marks: true, Pieces: [][]chart.Point{nil}})
			f.Keys = append(f.Keys, key(r.Style, r.Label+" ("+string(r.Summary.Class)+")"))
		}
		if p99 := r.Summary.P99; p99 != nil {
			pieces := series[i].Pieces
			pieces[len(pieces)-1] = append(pieces[len(pieces)-1], chart.Point{X: float64(r.Partitions), Y: max(1, *p99)})
		}
	}
	if len(at) < 2 {
		return nil, nil
	}
	if !slices.ContainsFunc(series, func(s chart.Series) bool { return len(s.Pieces[0]) > 0 }) {
		f.Note, f.Keys = "No run has enough samples for a p99.", nil
		return []reportFigure{f}, nil
	}
	x := chart.Axis{Label: "partitions", Log: true, Min: float64(at[0]), Max: float64(at[len(at)-1])}
	for _, n := range at {
		x.Ticks = append(x.Ticks, chart.Tick{Value: float64(n), Label: fmt.Sprint(n)})
	}
	err := f.draw(chart.Chart{ID: id + "-sweep", Desc: "The table below has the same figures.", Series: series, X: x, Y: latencyAxis(series)})
	return []reportFigure{f}, err
}

// extremes are the lowest and the highest of a figure; nil where a run lacks it.
func extremes(runs []*Result, of func(*Result) *float64) (lowest, highest *float64) {
	for _, r := range runs {
		v := of(r)
		if v == nil {
			return nil, nil
		}
		if lowest == nil || *v < *lowest {
			lowest = v
		}
		if highest == nil || *v > *highest {
			highest = v
		}
	}
	return lowest, highest
}

// timeFigure is a row's latency second by second, its runs one after another.
func timeFigure(id string, r *reportRow) ([]reportFigure, error) {
	f := reportFigure{
		Caption: "Latency each second, " + r.name() + " (" + string(r.Summary.Class) + ")",
		Table:   reportTable{Caption: "Each second of each run", Words: 1, Head: []string{"run", "second", "acknowledged", "p50", "p99", "max"}},
	}
	series := make([]chart.Series, 3)
	for i := range series {
		series[i].Style = i
	}
	var bands []chart.Band
	now := 0.0
	for n, run := range r.Runs {
		from := now
		for i := range series {
			series[i].Pieces = append(series[i].Pieces, nil) // a run's line does not go on in the next
		}
		for _, in := range run.Intervals {
			if in.Warmup {
				continue
			}
			now++
			acked := float64(in.Acked)
			f.Table.Lines = append(f.Table.Lines, plain(fmt.Sprint(n+1), fmt.Sprint(in.Second), number(&acked), micros(in.P50), micros(in.P99), micros(&in.Max)))
			for i, v := range []*float64{in.P50, in.P99, &in.Max} {
				pieces := series[i].Pieces
				if v == nil || *v <= 0 {
					series[i].Pieces = append(pieces, nil)
				} else {
					pieces[len(pieces)-1] = append(pieces[len(pieces)-1], chart.Point{X: now, Y: *v})
				}
			}
		}
		if (run.Left || run.Disturbed || run.Partial) && now > from {
			bands = append(bands, chart.Band{From: from + 0.5, To: now + 0.5})
		}
	}
	if now == 0 || !hasPoints(series) {
		return nil, nil
	}
	f.Note = fmt.Sprintf("A second needs %d samples for a p50 and %d for a p99; one without an acknowledgement is a gap.", 2*SamplesAbove, 100*SamplesAbove)
	if len(r.Runs) > 1 {
		f.Note = fmt.Sprintf("%d runs, one after another; shaded: disturbed, left out or cut short. ", len(r.Runs)) + f.Note
	}
	for i, name := range []string{"p50", "p99", "max"} {
		if hasPoints(series[i : i+1]) {
			f.Keys = append(f.Keys, key(i, name))
		}
	}
	err := f.draw(chart.Chart{
		ID: id, Desc: "The table below has the same figures.", Series: series, Bands: bands,
		X: chart.Axis{Label: "measured seconds", Ticks: chart.Counts(int(now)), Min: 0.5, Max: now + 0.5}, Y: latencyAxis(series),
	})
	return []reportFigure{f}, err
}

// cpuFigure is who used the CPUs second by second, a row's runs one after another; none where no run says so.
func cpuFigure(id string, r *reportRow) ([]reportFigure, error) {
	f := reportFigure{
		Caption: "CPU each second, " + r.name(),
		Table:   reportTable{Caption: "CPUs in use, each second of each run", Words: 1, Head: []string{"run", "second", "broker", "client", "others", "steal"}},
	}
	names := []string{"broker", "client", "others", "steal"}
	series := make([]chart.Series, len(names))
	for i := range series {
		series[i].Style = i
	}
	var bands []chart.Band
	now, most := 0.0, 1.0
	for n, run := range r.Runs {
		from := now
		for i := range series {
			series[i].Pieces = append(series[i].Pieces, nil)
		}
		for _, in := range run.Intervals {
			if in.Warmup {
				continue
			}
			now++
			c := in.CPU
			if c == nil { // the acknowledgements after the end, or a file of an older version
				continue
			}
			line := plain(fmt.Sprint(n+1), fmt.Sprint(in.Second))
			for i, v := range []*float64{c.Broker, &c.Client, c.Others, &c.Steal} {
				line = append(line, reportCell{Text: cpus(v)})
				if v != nil {
					pieces := series[i].Pieces
					pieces[len(pieces)-1] = append(pieces[len(pieces)-1], chart.Point{X: now, Y: *v})
					most = max(most, *v)
				}
			}
			f.Table.Lines = append(f.Table.Lines, line)
		}
		if (run.Left || run.Disturbed || run.Partial) && now > from {
			bands = append(bands, chart.Band{From: from + 0.5, To: now + 0.5})
		}
	}
	if !hasPoints(series) {
		return nil, nil
	}
	f.Note = fmt.Sprintf("CPUs in use. Steal is what the hypervisor took; a run in which it took over %.0f %% of all CPUs' time is disturbed. Others are other programs, and the kernel's work for all; over %.1f CPUs a note says so.", StealMax, OthersMax)
	for i, name := range names {
		if hasPoints(series[i : i+1]) {
			f.Keys = append(f.Keys, key(i, name))
		}
	}
	err := f.draw(chart.Chart{
		ID: id, Desc: "The table below has the same figures.", Series: series, Bands: bands,
		X: chart.Axis{Label: "measured seconds", Ticks: chart.Counts(int(now)), Min: 0.5, Max: now + 0.5},
		Y: chart.Axis{Label: "CPUs", Max: most * 1.05},
	})
	return []reportFigure{f}, err
}

// cpus prints CPU seconds a second, or "-".
func cpus(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", *v)
}

func hasPoints(all []chart.Series) bool {
	for _, s := range all {
		for _, piece := range s.Pieces {
			if len(piece) > 0 {
				return true
			}
		}
	}
	return false
}
