package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/chart"
)

// resultFile is a result file of one of the bench's commands, with what it is called in a report: one pointer is set.
type resultFile struct {
	Name    string
	Produce *File // also of "bench durability"
	Consume *consumeFile
	Disk    *DiskFile
	Power   *PowerFile
}

// readResult reads a result file of any command, by what is in it.
func readResult(path string) (f resultFile, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return f, err // names the path
	}
	var is struct {
		Runs, Phases []json.RawMessage
		Rows         []struct{ Policy, Way string }
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return f, fmt.Errorf("%s: not a result file: %w", path, err)
	}
	var into any
	switch {
	case len(is.Runs) > 0:
		file, err := ReadFile(path)
		return resultFile{Produce: &file}, err
	case len(is.Phases) > 0:
		f.Consume = &consumeFile{}
		into = f.Consume
	case len(is.Rows) > 0 && is.Rows[0].Way != "":
		f.Disk = &DiskFile{}
		into = f.Disk
	case len(is.Rows) > 0 && is.Rows[0].Policy != "":
		f.Power = &PowerFile{}
		into = f.Power
	default:
		return f, fmt.Errorf("%s: not a result file of bench produce, durability, consume, disk or powerloss, or one without a run", path)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return f, fmt.Errorf("%s: not a result file: %w", path, err)
	}
	if f.Disk != nil && f.Disk.Format != resultFormat {
		return f, fmt.Errorf("%s: result format %d, this program reads %d", path, f.Disk.Format, resultFormat)
	}
	if f.Power != nil && slices.Contains(f.Power.Rows, nil) {
		return f, fmt.Errorf("%s: a row is null", path)
	}
	return f, nil
}

// partial reports whether the file was cut short.
func (f resultFile) partial() bool {
	switch {
	case f.Power != nil:
		return f.Power.Partial
	case f.Consume != nil:
		return f.Consume.Partial
	case f.Disk != nil:
		return f.Disk.Partial
	}
	return f.Produce != nil && (f.Produce.Partial || slices.ContainsFunc(f.Produce.Runs, func(r *Result) bool { return r.Partial }))
}

// environment is where and how the file was made; id begins the names of its charts.
func (f resultFile) environment(id string) (e reportEnvironment, err error) {
	e = reportEnvironment{Name: f.Name, Partial: f.partial()}
	switch {
	case f.Produce != nil:
		e = environment(named{f.Name, *f.Produce})
		e.Partial = f.partial()
	case f.Consume != nil:
		e.Command = f.Consume.Command
		e.Facts = []reportFact{{"broker", or(f.Consume.Target.Version, "of unknown version") + ", on CPU " + or(f.Consume.Target.CPUs, "any")}}
		e.Settings = append(e.Settings, allSettings("the tail's topic", f.Consume.Target.Command, f.Consume.Settings)...)
	case f.Disk != nil:
		e.Command = f.Disk.Command
		e.Facts = []reportFact{{"started (UTC)", f.Disk.Started.UTC().Format(time.DateTime)}}
	case f.Power != nil:
		e.Command = f.Power.Command
		e.Facts = []reportFact{{"seed", fmt.Sprint(f.Power.Seed)}}
		for _, r := range f.Power.Rows {
			e.Settings = append(e.Settings, allSettings(r.name(), nil, r.Settings)...)
		}
	}
	if f.Produce == nil {
		e.Facts = append(e.Facts, f.machine().facts()...)
	}
	e.Figures, err = writesFigure(id+"-writes", f.machine().Disk)
	return e, err
}

// produced are the files with runs that produce: the durability matrices, or the others.
func produced(files []resultFile, matrices bool) (all []named) {
	for _, f := range files {
		if f.Produce != nil && !f.Produce.catchUps() && f.Produce.Matrix == matrices {
			all = append(all, named{f.Name, *f.Produce})
		}
	}
	return all
}

// reportPart is what a page shows of anything but the runs of produce.
type reportPart struct {
	Heading string
	Text    []string
	Tables  []reportTable
	Notes   []string
	Figures []reportFigure
	Times   []reportFigure // folded
	More    []reportTable  // folded
	All     bool           // in Markdown too, though there are Tables
}

// parts are those of the files: the matrices first, with the power-loss ledgers beside their rows.
func parts(files []resultFile) (all []reportPart, err error) {
	m, err := matrixParts(files)
	if err != nil {
		return nil, err
	}
	all = append(all, m...)
	for i, f := range files {
		id, suffix := fmt.Sprintf("f%d", i), ""
		if len(files) > 1 {
			suffix = ", " + f.Name
		}
		if f.Produce != nil && len(f.Produce.Curves) > 0 {
			curves, err := curveParts(id, f.Produce)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			for _, p := range curves {
				p.Heading += suffix
				all = append(all, p)
			}
		}
		var p reportPart
		switch {
		case f.Produce != nil && f.Produce.catchUps():
			p = catchUpPart(f.Produce)
		case f.Consume != nil:
			p, err = consumePart(id, f.Consume)
		case f.Disk != nil:
			p, err = diskPart(id, f.Disk)
		case f.Power != nil:
			p, err = powerPart(id, f.Power)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		p.Heading += suffix
		all = append(all, p)
	}
	return all, nil
}

// consumePart shows what catching up does to the tail.
func consumePart(id string, f *consumeFile) (p reportPart, err error) {
	p.Heading = "Consumers that catch up"
	p.Text = []string{"Latency is end to end, from the time at which a record should have been sent to when the consumer at the log's end has it: alone, and beside readers of a backlog."}
	table, notes := consumeTable(f.Phases)
	p.Tables, p.Notes = []reportTable{table}, notes

	rows := []*reportRow{{Label: "alone", Style: 0}, {Label: "beside", Style: 1}}
	perRun := reportFigure{Caption: "p99 of each run", Note: "The table above has the same figures. A p99 needs 10,000 records; without them there is no point."}
	series := []chart.Series{{Style: 0, Marks: true}, {Style: 1, Marks: true}}
	var latencies [2][]Latency
	for i, phase := range f.Phases {
		which := i % 2
		if !phase.Disturbed {
			latencies[which] = append(latencies[which], phase.Latency)
		}
		if p99 := phase.Latency.P99; p99 != nil {
			series[which].Pieces = append(series[which].Pieces, []chart.Point{{X: float64(i/2 + 1), Y: max(1, *p99)}})
		}
	}
	for i, r := range rows {
		if err := r.mergeAll(latencies[i], 1); err != nil {
			return p, err
		}
	}
	curve, err := percentileFigure(id+"-curve", rows)
	if err != nil {
		return p, err
	}
	p.Figures = append(p.Figures, curve...)
	if hasPoints(series) {
		perRun.Keys = []reportKey{key(0, "alone"), key(1, "beside")}
		runs := (len(f.Phases) + 1) / 2
		err = perRun.draw(chart.Chart{ID: id + "-runs", Desc: "The table above has the same figures.", Series: series,
			X: chart.Axis{Label: "run", Ticks: chart.Counts(runs), Min: 0.5, Max: float64(runs) + 0.5}, Y: latencyAxis(series)})
		p.Figures = append(p.Figures, perRun)
	}
	return p, err
}

// percentileFigure is the latency by percentile of rows that have no durability class.
func percentileFigure(id string, rows []*reportRow) ([]reportFigure, error) {
	f := reportFigure{
		Caption: "Latency by percentile",
		Note:    fmt.Sprintf("Histograms of the undisturbed phases, merged. A line ends where fewer than %d samples lie above.", SamplesAbove),
		Table:   reportTable{Caption: "Percentiles of the merged phases", Words: 1, Head: []string{"phases", "p50", "p90", "p99", "p99.9", "max", "samples"}},
	}
	var series []chart.Series
	end := 0.0
	for _, r := range rows {
		l := r.Latency
		samples := float64(l.Samples)
		f.Table.Lines = append(f.Table.Lines, plain(r.Label, micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(&l.Max), number(&samples)))
		if points := r.curve(); points != nil {
			f.Keys = append(f.Keys, key(r.Style, r.Label))
			series = append(series, chart.Series{Style: r.Style, Pieces: [][]chart.Point{points}})
			end = max(end, points[len(points)-1].X)
		}
	}
	if series == nil {
		return nil, nil
	}
	err := f.draw(chart.Chart{ID: id, Desc: "The table below has the same figures.", Series: series,
		X: chart.Axis{Label: "percentile", Ticks: chart.NinesTicks(end), Max: end}, Y: latencyAxis(series)})
	return []reportFigure{f}, err
}

// diskTable is one line for each way, place, size and depth.
func diskTable(f *DiskFile) reportTable {
	t := reportTable{Caption: "Durable writes", Words: 4, Head: []string{"size", "depth", "place", "way", "p50", "p99", "max", "writes/s", "MB/s", "flushes a write", "CPU steal %"}}
	most := 0.0
	for _, r := range f.Rows {
		most = max(most, r.BytesPerSecond)
	}
	for _, r := range f.Rows {
		line := plain(binarySize(int64(r.Size)), fmt.Sprint(r.Depth), r.Place, r.Way)
		if r.Missing != "" {
			t.Lines = append(t.Lines, append(line, plain("not measured: "+r.Missing, "", "", "", "", "", "")...))
			continue
		}
		perSecond, mb := r.BytesPerSecond/float64(r.Size), r.BytesPerSecond/1e6
		line = append(line, plain(micros(r.Latency.P50), micros(r.Latency.P99), micros(&r.Latency.Max), number(&perSecond), number(&mb), number(r.FlushesPerWrite), fmt.Sprintf("%.1f", r.Use.Steal))...)
		if most > 0 {
			line[8].Bar = 100 * r.BytesPerSecond / most
		}
		line[10].Warn = r.Disturbed
		t.Lines = append(t.Lines, line)
	}
	return t
}

// diskPart shows what a durable write costs.
func diskPart(id string, f *DiskFile) (p reportPart, err error) {
	p.Heading = "The disk"
	p.Text = []string{fmt.Sprintf("Durable writes under %s; %s flushes/s on the device by others before anything was written. Flushes are the whole device's.", or(f.Machine.Disk.Directory, "a directory"), number(f.Others))}
	p.Notes, p.More = f.Verdicts, []reportTable{diskTable(f)}
	for i, place := range diskPlaces {
		figure, err := diskFigure(fmt.Sprintf("%s-place%d", id, i), f, place)
		if err != nil {
			return p, err
		}
		p.Figures = append(p.Figures, figure...)
	}
	return p, nil
}

// diskFigure is the median by size of each way to write to a place, one at a time.
func diskFigure(id string, f *DiskFile, place string) ([]reportFigure, error) {
	fig := reportFigure{Caption: "p50 by size, one write at a time, " + place, Note: "Write and sync together.",
		Table: reportTable{Caption: "Medians, one write at a time, " + place, Words: 2, Head: []string{"size", "way", "p50", "p99"}}}
	var series []chart.Series
	var sizes []int
	for style, way := range diskWays {
		var points []chart.Point
		for _, r := range f.Rows {
			if r.Way != way || r.Place != place || r.Depth != 1 || r.Latency.P50 == nil {
				continue
			}
			points = append(points, chart.Point{X: float64(r.Size), Y: max(1, *r.Latency.P50)})
			fig.Table.Lines = append(fig.Table.Lines, plain(binarySize(int64(r.Size)), way, micros(r.Latency.P50), micros(r.Latency.P99)))
			if !slices.Contains(sizes, r.Size) {
				sizes = append(sizes, r.Size)
			}
		}
		if points != nil {
			series = append(series, chart.Series{Style: style, Marks: true, Pieces: [][]chart.Point{points}})
			fig.Keys = append(fig.Keys, key(style, way))
		}
	}
	if len(sizes) < 2 {
		return nil, nil
	}
	slices.Sort(sizes)
	x := chart.Axis{Label: "bytes of a write", Log: true, Min: float64(sizes[0]), Max: float64(sizes[len(sizes)-1])}
	for _, s := range sizes {
		x.Ticks = append(x.Ticks, chart.Tick{Value: float64(s), Label: binarySize(int64(s))})
	}
	err := fig.draw(chart.Chart{ID: id, Desc: "The table below has the same figures.", Series: series, X: x, Y: latencyAxis(series)})
	return []reportFigure{fig}, err
}

// powerTable is the ledger: one line a row, what is lost first.
func powerTable(rows []*PowerRow) reportTable {
	t := reportTable{Caption: "Power-loss ledger", Words: 4, Head: []string{"row", "lost, of acknowledged", "loss window", "flushed before it is acknowledged", "cuts", "in recovery", "duplicated", "reordered", "corrupt", "torn bytes cut", "promise"}}
	for _, r := range rows {
		f, torn, promises, verdict := r.Findings, count(r.TornBytes), "no", "kept"
		if r.Foreign {
			torn = "-"
		}
		if r.Promises {
			promises = "yes"
		}
		switch {
		case r.Error != "":
			verdict = "ended early"
		case !r.OK():
			verdict = "BROKEN"
		case !r.Promises:
			verdict = "-"
		}
		lost, window := lossOf([]*PowerRow{r})
		line := append(plain(r.name()), lost, window)
		line = append(line, plain(promises, fmt.Sprint(r.Cuts), fmt.Sprint(r.InRecovery), fmt.Sprint(f.Duplicated), fmt.Sprint(f.Reordered), fmt.Sprint(f.Corrupt+f.Holes), torn, verdict)...)
		line[10].Warn = !r.OK()
		t.Lines = append(t.Lines, line)
	}
	return t
}

// powerPart shows a ledger.
func powerPart(id string, f *PowerFile) (p reportPart, err error) {
	p.Heading = "What is lost when the power goes"
	p.Text = []string{powerText(f.Rows)}
	p.Tables = []reportTable{powerTable(f.Rows)}
	for _, r := range f.Rows {
		for _, s := range r.remarks() {
			p.Notes = append(p.Notes, r.name()+": "+s)
		}
	}
	figure, err := windowFigure(id+"-window", f.Rows)
	p.Figures = figure
	return p, err
}

// powerText says where the power was cut.
func powerText(rows []*PowerRow) string {
	simulated := slices.ContainsFunc(rows, func(r *PowerRow) bool { return r.Points != "" })
	foreign := slices.ContainsFunc(rows, func(r *PowerRow) bool { return r.Foreign })
	where := "A real broker on a FUSE file system that forgets what was not synced; the power is cut under load, and some of the starts after it as well."
	if simulated {
		where = "The broker in the simulator, on a simulated disk; times are simulated."
	}
	if foreign {
		where += " A peer's disk keeps the name of a synced file, as ext4 does; ours keeps only names whose directory was synced."
	}
	if slices.ContainsFunc(rows, func(r *PowerRow) bool { return r.Foreign && !r.Promises }) {
		where += " Of a peer that does not flush before it acknowledges, what there was when the load began, its new topic too, was made durable first: it loses what a new topic loses besides."
	}
	return where + " Lost: acknowledged, and not there afterwards. The loss window runs from the oldest lost record's acknowledgement to the cut; what is not flushed before it is acknowledged can be lost from as far back as the load went on, so a longer load has a longer window."
}

const windowPoints = 200

// windowFigure is how far back each cut reached, the furthest first, of the rows that lost anything.
func windowFigure(id string, rows []*PowerRow) ([]reportFigure, error) {
	f := reportFigure{Caption: "Loss window of each cut, longest first", Note: "Only cuts after which something acknowledged was gone; rows that lost nothing have no line.",
		Table: reportTable{Caption: "Cuts by loss window", Words: 1, Head: []string{"row", "cuts with a loss", "of cuts", "longest window", "median window"}}}
	var series []chart.Series
	widest := 0
	for style, r := range rows {
		var windows []float64 // microseconds
		for _, c := range r.EachCut {
			if c.Findings.Lost > 0 {
				windows = append(windows, max(1, 1e3*c.Findings.LossWindow))
			}
		}
		if len(windows) == 0 {
			continue
		}
		slices.SortFunc(windows, func(a, b float64) int { return cmp.Compare(b, a) })
		longest := windows[0]
		var points []chart.Point
		for i := 0; i < len(windows); i += 1 + len(windows)/windowPoints {
			points = append(points, chart.Point{X: float64(i + 1), Y: windows[i]})
		}
		widest = max(widest, len(windows))
		med := middle(slices.Clone(windows))
		f.Table.Lines = append(f.Table.Lines, plain(r.name(), fmt.Sprint(len(windows)), fmt.Sprint(len(r.EachCut)), micros(&longest), micros(&med)))
		f.Keys = append(f.Keys, key(style, r.name()))
		series = append(series, chart.Series{Style: style, Marks: len(points) < 30, Pieces: [][]chart.Point{points}})
	}
	if series == nil {
		return nil, nil
	}
	y := latencyAxis(series)
	y.Label = "loss window"
	err := f.draw(chart.Chart{ID: id, Desc: "The table below has the longest and the median.", Series: series,
		X: chart.Axis{Label: "cuts with a loss", Ticks: chart.Counts(widest), Min: 0.5, Max: float64(widest) + 0.5}, Y: y})
	return []reportFigure{f}, err
}

// markdown is the table in Markdown: words to the left, figures to the right.
func (t reportTable) markdown() string {
	var b strings.Builder
	b.WriteString("|")
	for _, h := range t.Head {
		b.WriteString(" " + cellText(h) + " |")
	}
	b.WriteString("\n|")
	for i := range t.Head {
		if i < t.Words {
			b.WriteString("---|")
		} else {
			b.WriteString("--:|")
		}
	}
	b.WriteString("\n")
	for _, line := range t.Lines {
		b.WriteString("|")
		for _, c := range line {
			text := cellText(c.Text)
			if c.Strong {
				text = "**" + text + "**"
			}
			b.WriteString(" " + text + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cellText keeps what is in a cell from ending it.
func cellText(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}
