package bench

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/millrace/millrace/bench/chart"
)

//go:embed report.html
var reportHTML string

// Parsed when it is needed: other commands start without it.
var reportTemplate = sync.OnceValue(func() *template.Template { return template.Must(template.New("report").Parse(reportHTML)) })

// named is a result file with what it is called in a report.
type named struct {
	Name string
	File File
}

// reportPage is what the template shows.
type reportPage struct {
	Title        string
	Partial      bool
	Loads        bool // there are runs under load: what is said of them applies
	Files        []resultFile
	Parts        []reportPart
	Sections     []reportSection
	Environments []reportEnvironment
}

// reportSection is all rows that were asked for the same load, whatever their settings and numbers of partitions.
type reportSection struct {
	Heading, Text string
	Folded        bool // a rate of a search: its curve says more
	Rows          reportTable
	Curves        []reportFigure
	Sweep         []reportFigure // one, or none
	Times         []reportFigure
	Stages        []reportTable
	Runs          reportTable
	Notes         []string
}

// reportFigure is a chart with its key and the same in figures.
type reportFigure struct {
	Caption, Note string
	Keys          []reportKey
	SVG           template.HTML
	Table         reportTable
}

type reportKey struct {
	Line template.HTML
	Name string
}

// reportTable is a table; the first Words columns are words, the others figures.
type reportTable struct {
	Caption string
	Words   int
	Head    []string
	Lines   [][]reportCell
}

type reportCell struct {
	Text   string
	Bar    float64       // percent of the widest; 0: none
	Key    template.HTML // before the text
	Warn   bool
	Strong bool // larger than its neighbours
}

func plain(texts ...string) (cells []reportCell) {
	for _, t := range texts {
		cells = append(cells, reportCell{Text: t})
	}
	return cells
}

// reportRow is one row of one file with one number of partitions.
type reportRow struct {
	Label      string // with the file's name where there are several
	Partitions int
	Style      int
	Runs       []*Result // all
	Used       []*Result // that count; all where none does
	Summary    Summary
	Merged     *hdrhistogram.Histogram // of Used; nil where there are no samples
	Latency    Latency                 // of Merged
}

func (r *reportRow) name() string { return rowKey{Row: r.Label, Partitions: r.Partitions}.String() }

// reportAll writes files as one page that refers to nothing outside of itself.
func reportAll(files []resultFile) ([]byte, error) {
	p := reportPage{Title: "Millrace bench", Files: files}
	var err error
	for i, f := range files {
		p.Partial = p.Partial || f.partial()
		p.Loads = p.Loads || f.Produce != nil && !f.Produce.catchUps()
		e, err := f.environment(fmt.Sprintf("e%d", i))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		p.Environments = append(p.Environments, e)
	}
	if p.Parts, err = parts(files); err != nil {
		return nil, err
	}
	groups, err := groupRows(produced(files, false))
	if err != nil {
		return nil, err
	}
	searched := searchedRuns(files)
	// Those of searches come last, by rate.
	order := func(rows []*reportRow) int64 {
		if r := rows[0].Runs[0]; searched[r] {
			return r.Workload.Rate
		}
		return 0
	}
	slices.SortStableFunc(groups, func(a, b []*reportRow) int { return cmp.Compare(order(a), order(b)) })
	for i, rows := range groups {
		s, err := section(fmt.Sprintf("g%d", i), rows)
		if err != nil {
			return nil, err
		}
		s.Folded = order(rows) > 0
		p.Sections = append(p.Sections, s)
	}
	var b bytes.Buffer
	if err := reportTemplate().Execute(&b, p); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), nil
}

// writePage stores files as a page, and beside it as Markdown, each whole or not at all. It replaces what is there: see checkTables.
func writePage(path string, files []resultFile) error {
	b, err := reportAll(files)
	if err != nil {
		return err
	}
	text, err := markdownAll(files)
	if err != nil {
		return err
	}
	return errors.Join(replace(path, b), replace(beside(path, ".md"), []byte(madeBy+text)))
}

// madeBy begins the Markdown beside a page.
const madeBy = "<!-- made by millrace bench -->\n"

// checkTables fails where the Markdown beside a page would take the place of a file that is not such a one. Whoever names a page asks before
// anything is measured.
func checkTables(page string) error {
	path := beside(page, ".md")
	before, err := os.ReadFile(path)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case len(before) > 0 && !strings.HasPrefix(string(before), madeBy):
		return fmt.Errorf("%s is there, and was not made by millrace bench: it is left as it is; call the page something else", path)
	}
	return nil
}

// beside is what a page's companion with another extension is called. Of a page that is a device, as /dev/stdout is, there is none.
func beside(page, extension string) string {
	if st, err := os.Lstat(page); err == nil && !st.Mode().IsRegular() {
		return os.DevNull
	}
	return strings.TrimSuffix(page, filepath.Ext(page)) + extension
}

// groupRows gathers rows by the load that was asked for; within it by the number of partitions.
func groupRows(files []named) (groups [][]*reportRow, err error) {
	index := map[string]int{}
	for _, f := range files {
		keys, runs := rowsOf(f.File)
		for _, k := range keys {
			row := &reportRow{Label: k.Row, Partitions: k.Partitions, Runs: runs[k]}
			if len(files) > 1 {
				row.Label = f.Name + ": " + k.Row
			}
			if err := row.merge(); err != nil {
				return nil, fmt.Errorf("%s: row %s: %w", f.Name, k, err)
			}
			w := row.Runs[0].Workload
			w.Partitions, w.InFlight, w.TopicConfig, w.DrainTimeout = 0, 0, nil, 0
			load := fmt.Sprintf("%+v", w)
			i, known := index[load]
			if !known {
				i, index[load] = len(groups), len(groups)
				groups = append(groups, nil)
			}
			groups[i] = append(groups[i], row)
		}
	}
	for _, rows := range groups {
		styles := map[string]int{}
		for _, r := range rows {
			if _, ok := styles[r.Label]; !ok {
				styles[r.Label] = len(styles)
			}
			r.Style = styles[r.Label]
		}
		slices.SortStableFunc(rows, func(a, b *reportRow) int { return cmp.Compare(a.Partitions, b.Partitions) })
	}
	return groups, nil
}

// merge adds up the histograms of the runs that count.
func (r *reportRow) merge() error {
	r.Summary = Summarize(r.Label, r.Partitions, r.Runs)
	if r.Used = counted(r.Runs); len(r.Used) == 0 {
		r.Used = r.Runs
	}
	var all []Latency
	for _, run := range r.Used {
		all = append(all, run.Latency)
	}
	return r.mergeAll(all, r.Runs[0].Workload.Batch)
}

// mergeAll adds up histograms of records that were handed over batch at a time.
func (r *reportRow) mergeAll(all []Latency, batch int) (err error) {
	for _, l := range all {
		if l.Histogram == "" {
			continue
		}
		h, err := hdrhistogram.Decode([]byte(l.Histogram))
		if err != nil {
			return fmt.Errorf("histogram: %w", err)
		}
		if r.Merged == nil {
			r.Merged = newHistogram()
		}
		if dropped := r.Merged.Merge(h); dropped > 0 {
			return fmt.Errorf("histogram: %d samples are out of range", dropped)
		}
	}
	if r.Merged != nil {
		r.Latency, err = summarize(r.Merged, batch, false)
	}
	return err
}

// section makes all of one load; id begins the names of its charts.
func section(id string, rows []*reportRow) (s reportSection, err error) {
	w := rows[0].Runs[0].Workload
	rate := float64(w.Rate)
	s.Heading = number(&rate) + " records/s"
	if w.Rate == 0 {
		s.Heading = "As fast as it is acknowledged"
	}
	s.Text = fmt.Sprintf("%s. %d producers, %d-byte records, %d a batch, acks %s, compression %s; %v measured after %v of warm-up.",
		upper(rows[0].Runs[0].Loop), w.Producers, w.Size, w.Batch, w.Acks, w.Compression, w.Duration, w.Warmup)
	for _, r := range rows {
		for _, text := range memoryTexts(r.Runs) {
			s.Notes = append(s.Notes, r.name()+": "+text)
		}
	}
	s.Rows, s.Runs = rowsTable(rows), runsTable(rows)
	if s.Curves, err = curves(id, rows); err != nil {
		return s, err
	}
	if s.Sweep, err = sweepFigure(id, rows); err != nil {
		return s, err
	}
	for i, r := range rows {
		times, err := timeFigure(fmt.Sprintf("%s-time%d", id, i), r)
		if err != nil {
			return s, err
		}
		load, err := cpuFigure(fmt.Sprintf("%s-cpu%d", id, i), r)
		if err != nil {
			return s, err
		}
		s.Times = append(s.Times, slices.Concat(times, load)...)
		s.Stages = append(s.Stages, stagesTable(r)...)
		s.Stages = append(s.Stages, waitsTable(r)...)
		for _, n := range r.Summary.Notes {
			s.Notes = append(s.Notes, r.name()+": "+n)
		}
	}
	return s, nil
}

// rowsTable is one line a row, of medians.
func rowsTable(rows []*reportRow) reportTable {
	t := reportTable{Caption: "Rows: medians of the runs that count", Words: 2,
		Head: []string{"row", "acknowledged means", "records/s", "MB/s", "p50", "p99", "p99.9", "max", "broker CPU s/GB", "flushes a record", "resident MiB", "steal %, highest", "runs", "read back"}}
	most := 0.0
	for _, r := range rows {
		most = max(most, r.Summary.RecordsPerSecond)
	}
	for _, r := range rows {
		s := r.Summary
		mb := s.BytesPerSecond / 1e6
		line := plain(r.name(), string(s.Class), number(&s.RecordsPerSecond), number(&mb), micros(s.P50), micros(s.P99), micros(s.P999), micros(&s.Max),
			number(s.BrokerCPU), share(s.FlushesPerRecord), mebibytes(s.BrokerRSS), fmt.Sprintf("%.1f", s.Steal), fmt.Sprintf("%d of %d", s.Runs, len(r.Runs)), s.Verified)
		line[0].Key = template.HTML(chart.Key(r.Style))
		if most > 0 {
			line[2].Bar = 100 * s.RecordsPerSecond / most
		}
		if s.Marked {
			line[12].Text, line[12].Warn = line[12].Text+", none undisturbed and whole", true
		}
		line[13].Warn = s.Verified == "FAILED"
		t.Lines = append(t.Lines, line)
	}
	return t
}

// runsTable is one line a run, those left out too.
func runsTable(rows []*reportRow) reportTable {
	t := reportTable{Caption: "Runs", Words: 2,
		Head: []string{"row", "acknowledged means", "started (UTC)", "records/s", "p50", "p99", "max", "CPU steal %", "others' CPUs", "memory GB/s", "read back", "marks"}}
	for _, r := range rows {
		for _, run := range r.Runs {
			line := plain(r.name(), string(run.Class), run.Started.UTC().Format(time.DateTime), number(&run.RecordsPerSecond), micros(run.Latency.P50), micros(run.Latency.P99),
				micros(&run.Latency.Max), fmt.Sprintf("%.1f", run.Use.Steal), cpus(run.othersCPUs()), run.Memory.cell(), run.Verify.State, or(strings.Join(marks(run), ", "), "-"))
			line[0].Key = template.HTML(chart.Key(r.Style))
			line[7].Warn, line[8].Warn, line[10].Warn, line[11].Warn = run.Use.Steal > StealMax, run.disturbedByOthers(), run.Verify.State == "FAILED", len(marks(run)) > 0
			t.Lines = append(t.Lines, line)
		}
	}
	return t
}

// marks are why a run may not count.
func marks(r *Result) (all []string) {
	if r.Disturbed {
		all = append(all, "disturbed")
	}
	if r.Partial {
		all = append(all, "cut short")
	}
	if r.Left {
		all = append(all, "left out")
	}
	return all
}

// shortNames gives files names: the last part of the path, or the path where two would be the same.
func shortNames(paths []string) []string {
	short := make([]string, len(paths))
	for i, p := range paths {
		short[i] = filepath.Base(p)
	}
	for i := range short {
		if n := slices.Index(short, short[i]); n != i {
			return paths
		}
	}
	return short
}
