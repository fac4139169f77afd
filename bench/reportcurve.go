package bench

import (
	"fmt"
	"html/template"
	"math"
	"strings"

	"github.com/millrace/millrace/bench/chart"
)

// searched reports whether all runs are those of a search for the largest rate, as bench curve makes it: no two rates of a row
// are to be compared with each other. A workload whose rate was looked for has curves and a table.
func (f File) searched() bool { return len(f.Curves) > 0 && len(f.Table) == 0 }

// searchedRow is the row of a search's run, whose name has the rate besides.
func (r *Result) searchedRow() string {
	return strings.TrimSuffix(r.Row, fmt.Sprintf(" at %d/s", r.Workload.Rate))
}

// firstOfRows are the first runs of each row of a search, by the row's name: what is said of the broker is the same at every rate.
func (f File) firstOfRows() (all []*Result) {
	seen := map[string]bool{}
	for _, r := range f.Runs {
		first := *r
		if first.Row = r.searchedRow(); !seen[first.Row] {
			seen[first.Row] = true
			all = append(all, &first)
		}
	}
	return all
}

// searchedRuns are the runs of searches.
func searchedRuns(files []resultFile) map[*Result]bool {
	all := map[*Result]bool{}
	for _, f := range files {
		if f.Produce == nil || !f.Produce.searched() {
			continue
		}
		for _, r := range f.Produce.Runs {
			all[r] = true
		}
	}
	return all
}

// curveParts are latency against load and the largest sustained rate, a part for each file that has such curves.
func curveParts(id string, f *File) (all []reportPart, err error) {
	for i, partitions := range partitionsIn(f.Curves) {
		var curves []Curve
		for _, c := range f.Curves {
			if c.Partitions == partitions && len(c.Points) > 0 {
				curves = append(curves, c)
			}
		}
		if len(curves) == 0 { // cut short before a rate was tried
			continue
		}
		p := reportPart{Heading: "Throughput against latency, " + partitionsOf(partitions),
			Text:   []string{sustainedMeans},
			Tables: []reportTable{sustainedTable(curves, f)}, All: true}
		figure, err := loadFigure(fmt.Sprintf("%s-load%d", id, i), curves)
		if err != nil {
			return nil, err
		}
		p.Figures = figure
		for _, c := range curves {
			p.More = append(p.More, pointsTable(c))
		}
		all = append(all, p)
	}
	return all, nil
}

var sustainedMeans = fmt.Sprintf("A rate is sustained when all of it was sent and acknowledged, %.0f %% of it within the measured time, and the delay, "+
	"from the time at which a record should have been sent, did not grow.", 100*achievedMin)

// partitionsIn are the numbers of partitions, in the order of the curves.
func partitionsIn(curves []Curve) (all []int) {
	seen := map[int]bool{}
	for _, c := range curves {
		if !seen[c.Partitions] {
			seen[c.Partitions] = true
			all = append(all, c.Partitions)
		}
	}
	return all
}

// at is the point with this rate, or nil.
func (c Curve) at(rate int64) *Point {
	for i := range c.Points {
		if c.Points[i].Offered == rate {
			return &c.Points[i]
		}
	}
	return nil
}

// class is what an acknowledgement meant in a curve's runs; "" where they are not in the file.
func (f *File) class(c Curve) Class {
	for _, r := range f.Runs {
		if r.Workload.Partitions == c.Partitions && r.searchedRow() == c.Row {
			return r.Class
		}
	}
	return ""
}

// sustainedTable is one line a row: the largest rate that it sustained, and its latency there.
func sustainedTable(curves []Curve, f *File) reportTable {
	t := reportTable{Caption: "The largest rate that was sustained", Words: 2,
		Head: []string{"row", "acknowledged means", "sustained records/s", "p50 there", "p99 there", "p99.9 there", "lowest not sustained", "rates tried", "steal %, highest", "others' CPUs, highest", "the search ended"}}
	most := 0.0
	for _, c := range curves {
		most = max(most, float64(c.Sustained))
	}
	for style, c := range curves {
		sustained, failed := float64(c.Sustained), float64(c.Failed)
		steal, others := 0.0, 0.0
		for _, p := range c.Points {
			steal, others = max(steal, p.Steal), max(others, p.Others)
		}
		line := plain(c.Row, or(string(f.class(c)), "-"), "none", "-", "-", "-", "none", fmt.Sprint(len(c.Points)), fmt.Sprintf("%.1f", steal), fmt.Sprintf("%.1f", others), or(c.Ended, "cut short"))
		line[0].Key = template.HTML(chart.Key(style))
		if p := c.at(c.Sustained); p != nil {
			line[2] = reportCell{Text: number(&sustained), Strong: true, Bar: 100 * sustained / most}
			line[3].Text, line[4].Text, line[5].Text = micros(p.P50), micros(p.P99), micros(p.P999)
		}
		if c.Failed > 0 {
			line[6].Text = number(&failed)
		}
		line[8].Warn, line[9].Warn, line[10].Warn = steal > StealMax, others > OthersMax, c.Ended == ""
		t.Lines = append(t.Lines, line)
	}
	return t
}

// pointsTable is one line a rate.
func pointsTable(c Curve) reportTable {
	t := reportTable{Caption: "Each rate, " + c.Row,
		Head: []string{"offered/s", "acknowledged/s", "p50", "p99", "p99.9", "max", "steal %", "others' CPUs", "runs", "sustained"}}
	for _, p := range c.Points {
		offered, verdict := float64(p.Offered), "yes"
		if !p.Sustained {
			verdict = "no: " + p.Why
		}
		if p.Disturbed {
			verdict += "; disturbed"
		}
		line := plain(number(&offered), number(&p.Achieved), micros(p.P50), micros(p.P99), micros(p.P999), micros(&p.Max), fmt.Sprintf("%.1f", p.Steal), fmt.Sprintf("%.1f", p.Others), fmt.Sprint(p.Runs), verdict)
		line[6].Warn, line[7].Warn, line[9].Warn = p.Steal > StealMax, p.Others > OthersMax, !p.Sustained || p.Disturbed
		t.Lines = append(t.Lines, line)
	}
	return t
}

// rateLabel prints a round number of records a second.
func rateLabel(v float64) string {
	switch {
	case v < 1e3:
		return fmt.Sprintf("%.4g", v)
	case v < 1e6:
		return fmt.Sprintf("%.4gk", v/1e3)
	}
	return fmt.Sprintf("%.4gM", v/1e6)
}

// loadFigure is p99 and, dashed, p50 against the offered rate, a line a row. What was not sustained has a cross, the largest rate that was a ring.
func loadFigure(id string, curves []Curve) ([]reportFigure, error) {
	f := reportFigure{Caption: "Latency against offered load",
		Note: fmt.Sprintf("Medians of the runs of each rate. Solid: p99, which needs %d samples; dashed: p50. Beyond the largest sustained rate latency is that of a queue that grows, and depends on how long the run was.", 100*SamplesAbove)}
	var series []chart.Series
	lowest, highest, crossed, ringed := math.Inf(1), 0.0, false, false
	for style, c := range curves {
		drawn := false
		for _, line := range []struct {
			style int
			of    func(Point) *float64
		}{{style, func(p Point) *float64 { return p.P99 }}, {style + chart.Colors, func(p Point) *float64 { return p.P50 }}} {
			s := chart.Series{Style: line.style, Marks: true, Pieces: [][]chart.Point{nil}}
			for _, p := range c.Points {
				v := line.of(p)
				if v == nil { // too few samples: a gap
					s.Pieces = append(s.Pieces, nil)
					continue
				}
				at := chart.Point{X: float64(p.Offered), Y: max(1, *v)}
				last := len(s.Pieces) - 1
				s.Pieces[last] = append(s.Pieces[last], at)
				if !p.Sustained {
					s.Crosses, crossed = append(s.Crosses, at), true
				}
				if p.Offered == c.Sustained {
					s.Rings, ringed = append(s.Rings, at), true
				}
				lowest, highest, drawn = min(lowest, at.X), max(highest, at.X), true
			}
			series = append(series, s)
		}
		if drawn {
			f.Keys = append(f.Keys, key(style, c.Row))
		}
	}
	if !hasPoints(series) {
		return nil, nil
	}
	if ringed {
		f.Keys = append(f.Keys, reportKey{chart.KeyRing, "largest sustained"})
	}
	if crossed {
		f.Keys = append(f.Keys, reportKey{chart.KeyCross, "not sustained"})
	}
	x := chart.Axis{Label: "records/s offered", Log: true}
	x.Ticks, x.Min, x.Max = chart.Logs(lowest, highest, rateLabel)
	x.Min, x.Max = max(x.Min, lowest/1.2), min(x.Max, highest*1.2)
	err := f.draw(chart.Chart{ID: id, Desc: "The tables of this part have the same figures.", Series: series, X: x, Y: latencyAxis(series)})
	return []reportFigure{f}, err
}
