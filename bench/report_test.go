package bench

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench/chart"
)

func readNamed(t *testing.T, paths ...string) (files []named) {
	t.Helper()
	for i, name := range shortNames(paths) {
		f, err := ReadFile(paths[i])
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, named{name, f})
	}
	return files
}

func pageOf(t *testing.T, files ...named) string {
	t.Helper()
	var all []resultFile
	for _, f := range files {
		all = append(all, resultFile{Name: f.Name, Produce: &f.File})
	}
	b, err := reportAll(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// checkPage holds a page to XML's rules, unique ids, and to referring to nothing but itself.
func checkPage(t *testing.T, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Entity = xml.HTMLEntity
	ids := map[string]bool{}
	var style bool
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			style = token.Name.Local == "style"
			checkElement(t, token, ids)
		case xml.CharData:
			if bad := regexp.MustCompile(`url\(|@import`).Find(token); style && bad != nil {
				t.Errorf("%s in the style sheet", bad)
			}
		}
	}
	if bad := regexp.MustCompile(`https?:`).FindString(page); bad != "" {
		t.Errorf("%s in the page", bad)
	}
}

func checkElement(t *testing.T, e xml.StartElement, ids map[string]bool) {
	t.Helper()
	switch e.Name.Local {
	case "script", "link", "img", "image", "iframe", "object", "embed", "base", "a", "use":
		t.Errorf("<%s> in the page", e.Name.Local)
	}
	for _, a := range e.Attr {
		switch a.Name.Local {
		case "src", "srcset", "href", "action", "data":
			t.Errorf("<%s %s=%q>", e.Name.Local, a.Name.Local, a.Value)
		case "id":
			if ids[a.Value] {
				t.Errorf("id %q is there twice", a.Value)
			}
			ids[a.Value] = true
		case "style":
			if strings.Contains(a.Value, "ZgotmplZ") || strings.Contains(a.Value, "url(") {
				t.Errorf("style %q", a.Value)
			}
		}
	}
}

func TestReportIsOnePage(t *testing.T) {
	for _, paths := range [][]string{{oneFile}, {oldFile}, {sweepFile}, {oldFile, newFile, sweepFile, oneFile}} {
		page := pageOf(t, readNamed(t, paths...)...)
		checkPage(t, page)
		for _, want := range []string{"prefers-color-scheme: dark", "viewport", "Repeat with", "<figcaption>Latency by percentile", "<figcaption>Latency each second", "acknowledged means", "CPU steal %"} {
			if !strings.Contains(page, want) {
				t.Errorf("%v: no %q in the page", paths, want)
			}
		}
		if strings.Contains(page, "Cut short") {
			t.Errorf("%v: whole, and said to be cut short", paths)
		}
	}
}

func TestReportOfASweepHasPartitions(t *testing.T) {
	page := pageOf(t, readNamed(t, sweepFile)...)
	if !strings.Contains(page, "<figcaption>p99 by number of partitions") {
		t.Error("no p99 by number of partitions")
	}
	if strings.Contains(pageOf(t, readNamed(t, oldFile)...), "<figcaption>p99 by number of partitions") {
		t.Error("p99 against one number of partitions")
	}
}

// Each line of each table that has a row also has what an acknowledgement means there.
func TestReportClassStandsBesideEachRow(t *testing.T) {
	p := readNamed(t, sweepFile)
	groups, err := groupRows(p)
	if err != nil {
		t.Fatal(err)
	}
	s, err := section("x", groups[0])
	if err != nil {
		t.Fatal(err)
	}
	tables := []reportTable{s.Rows, s.Runs, environment(p[0]).Rows}
	for _, f := range append(s.Curves, s.Sweep...) {
		tables = append(tables, f.Table)
	}
	for _, table := range tables {
		for _, line := range table.Lines {
			want := string(Flushed)
			if strings.Contains(line[0].Text, "os") {
				want = string(Cached)
			}
			if line[1].Text != want || len(line) != len(table.Head) {
				t.Errorf("%s: %q has %q, want %q", table.Caption, line[0].Text, line[1].Text, want)
			}
		}
	}
	if len(s.Stages) != 4 || !strings.Contains(s.Stages[0].Caption, string(Flushed)) {
		t.Errorf("stages: %+v", s.Stages)
	}
}

func TestReportMergesHistograms(t *testing.T) {
	files := readNamed(t, oldFile)
	groups, err := groupRows(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range groups[0] {
		count, highest := int64(0), 0.0
		for _, run := range r.Used {
			count, highest = count+run.Latency.Count, max(highest, run.Latency.Max)
		}
		if r.Latency.Count != count || r.Latency.Max != highest {
			t.Errorf("%s: %d samples up to %v, want %d up to %v", r.name(), r.Latency.Count, r.Latency.Max, count, highest)
		}
		points := r.curve()
		last := points[len(points)-1]
		if above := float64(r.Latency.Samples) * math.Pow(10, -last.X); math.Abs(above-SamplesAbove) > 0.01 {
			t.Errorf("%s: the line ends with %v samples above", r.name(), above)
		}
		for i := range len(points) - 1 {
			if points[i].Y > points[i+1].Y || points[i].X >= points[i+1].X {
				t.Errorf("%s: %v before %v", r.name(), points[i], points[i+1])
			}
		}
	}
}

func TestReportFewSamplesHaveNoLine(t *testing.T) {
	r := reportRow{Merged: newHistogram(), Latency: Latency{Samples: 2*SamplesAbove - 1}}
	if points := r.curve(); points != nil {
		t.Errorf("%v", points)
	}
}

func TestReportMarksDisturbedRuns(t *testing.T) {
	files := readNamed(t, oldFile)
	r := files[0].File.Runs[0]
	r.Use.Steal, r.Disturbed, r.Left = 7.5, true, true
	page := pageOf(t, files...)
	checkPage(t, page)
	for _, want := range []string{`<td class=" warn">7.5</td>`, "disturbed, left out", "4 of 5", "var(--shade)"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
}

// A name or an error of a broker is text, never markup.
func TestReportEscapes(t *testing.T) {
	files := readNamed(t, oneFile)
	r := files[0].File.Runs[0]
	r.Row, r.Notes, r.Target.Version = `<script src="x">`, []string{"</style><img src=x>"}, "&"
	files[0].Name, files[0].File.Command = "</title><b>", `millrace bench '</pre><script>'`
	checkPage(t, pageOf(t, files...))
}

func TestMainReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.html")
	var out bytes.Buffer
	if code := Main([]string{"report", oldFile, "--out", path, newFile}, nil, &out, &out); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &out)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, string(page))
	for _, args := range [][]string{{}, {"testdata/none.json"}, {oldFile, "--nothing"}, {"report_test.go"}} {
		if code := Main(append([]string{"report", "--out", filepath.Join(t.TempDir(), "none.html")}, args...), nil, &out, &out); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}

// What an interrupted comparison leaves is whole as a file, and says that runs are missing.
func TestProduceReportCutShort(t *testing.T) {
	f := readNamed(t, sweepFile)[0].File
	f.Runs[1].Partial, f.Runs[1].Left = true, true
	dir := t.TempDir()
	p := produce{args: []string{"produce"}, stdout: io.Discard, stderr: io.Discard, out: filepath.Join(dir, "r.json"), page: filepath.Join(dir, "r.html")}
	if _, err := p.report(f.Table, f.Runs[:2], context.Canceled); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	read := readNamed(t, p.out)
	page, err := os.ReadFile(p.page)
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, string(page))
	if !read[0].File.Partial || len(read[0].File.Runs) != 2 || !strings.Contains(string(page), "Cut short") || !strings.Contains(string(page), "cut short, left out") {
		t.Error("not marked as cut short")
	}
	before := string(page)
	if _, err := p.report(nil, nil, context.Canceled); err == nil {
		t.Error("no error")
	}
	if page, err := os.ReadFile(p.page); err != nil || string(page) != before {
		t.Errorf("an interrupt before the first run took the last page: %v", err)
	}
}

// --report is refused before anything is measured where it would take the place of something: of Markdown that the bench did not make, and,
// where --out does not name them, of results.
func TestProduceReportReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("README.md", "# Mine\n")
	put("tables.md", madeBy+"| row |\n")
	put("old.json", "{}")
	put("old.html", "<!DOCTYPE html>")
	put("named.json", "{}")
	put("empty.json", "")
	for args, want := range map[string]string{
		"--report DIR/README.html":                        "README.md",
		"--report DIR/tables.html":                        "",
		"--report DIR/old.html":                           "--out " + filepath.Join(dir, "old.json"),
		"--report DIR/named.html --out DIR/named.json":    "",
		"--report DIR/empty.html":                         "",
		"--report DIR/old.html --out DIR/other.json":      "",
		"--report " + os.DevNull:                          "",
		"--report DIR/README.html --out DIR/results.json": "README.md",
	} {
		given := strings.Fields(strings.ReplaceAll(args, "DIR", dir))
		_, produce := parseProduce(given, io.Discard)
		_, curve := parseCurve(given, io.Discard)
		for _, err := range []error{produce, curve} {
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", args, err, want)
			}
		}
	}
}

func TestStageTimesPlus(t *testing.T) {
	a := StageTimes{Name: "log", Count: 3, Sum: 30, Buckets: [][2]uint64{{8, 1}, {16, 2}}}
	b := StageTimes{Name: "log", Count: 2, Sum: 50, Buckets: [][2]uint64{{16, 1}, {64, 1}}}
	got := a.plus(b)
	if got.Count != 5 || got.Sum != 80 || len(got.Buckets) != 3 || got.Buckets[1] != [2]uint64{16, 3} || got.Buckets[2] != [2]uint64{64, 1} {
		t.Errorf("%+v", got)
	}
}

func TestCurveOfOneRow(t *testing.T) {
	h := newHistogram()
	for i := range 1000 {
		if err := h.RecordValue(int64(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	r := reportRow{Merged: h, Latency: Latency{Samples: 1000}}
	points := r.curve()
	if last := points[len(points)-1]; math.Abs(last.X-chart.Nines(.9)) > 1e-9 || math.Abs(last.Y-900) > 2 {
		t.Errorf("%+v, want 900 at p90", last)
	}
}

// searchedFile is what bench curve leaves: two rows at three rates, of which the last was not sustained, and the first has no p99.
func searchedFile(t *testing.T) File {
	t.Helper()
	us := func(v float64) *float64 { return &v }
	f := File{Format: resultFormat, Command: "millrace bench curve --compare os,journal"}
	for _, row := range []string{"os", "journal"} {
		c := Curve{Row: row, Partitions: 4, Sustained: 6000, Failed: 8000, Ended: "within 5 %", Points: []Point{
			{Offered: 4000, Achieved: 4000, P50: us(200), Max: 9000, Runs: 1, Sustained: true},
			{Offered: 6000, Achieved: 6000, P50: us(250), P99: us(2000), Max: 9000, Runs: 1, Sustained: true},
			{Offered: 8000, Achieved: 7000, P50: us(90_000), P99: us(400_000), Max: 900_000, Runs: 1, Disturbed: true, Why: "87.5 % of the rate was achieved"},
		}}
		f.Curves = append(f.Curves, c)
		for _, p := range c.Points {
			r := &Result{Row: fmt.Sprintf("%s at %d/s", row, p.Offered), Class: Cached, Settings: map[string]string{"flush.policy": row}, Loop: "open loop", Seconds: 2, Acked: 2 * p.Offered, RecordsPerSecond: p.Achieved,
				Workload: Workload{Partitions: 4, Batch: 1, Rate: p.Offered}, Latency: latencyOf(t, 20_000), Verify: Verification{State: "passed"}}
			for second := range 2 {
				r.Intervals = append(r.Intervals, Interval{Second: second + 1, Acked: p.Offered, P50: p.P50, Max: p.Max,
					CPU: &SecondCPU{Steal: 0.01, Client: 0.3, Broker: us(0.5), Others: us(0.1)}})
			}
			f.Runs = append(f.Runs, r)
		}
	}
	return f
}

func TestReportOfACurve(t *testing.T) {
	f := searchedFile(t)
	page := pageOf(t, named{"curve.json", f})
	checkPage(t, page)
	for _, want := range []string{"Throughput against latency, 4 partitions", "<figcaption>Latency against offered load", "largest sustained", "not sustained",
		"no: 87.5 % of the rate was achieved; disturbed", "<figcaption>CPU each second, os at 4000/s", "All settings of journal, 4 partitions"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	// By rate, folded.
	var at []int
	for _, rate := range []string{"4,000", "6,000", "8,000"} {
		at = append(at, strings.Index(page, "<summary class=\"rate\">Runs at "+rate+" records/s</summary>"))
	}
	if at[0] < 0 || !slices.IsSorted(at) {
		t.Errorf("the rates stand at %v", at)
	}
	if strings.Contains(page, "All settings of journal at") {
		t.Error("settings of each rate")
	}
}

func TestLoadFigureHasALineARow(t *testing.T) {
	figures, err := loadFigure("x", searchedFile(t).Curves)
	if err != nil {
		t.Fatal(err)
	}
	svg := string(figures[0].SVG)
	for style := range 2 {
		if color := fmt.Sprintf("stroke:var(--s%d)", style); !strings.Contains(svg, color) {
			t.Errorf("no line of row %d", style)
		}
	}
	if got := strings.Count(svg, "stroke-dasharray:"); got != 2 {
		t.Errorf("%d dashed lines, want that of p50 for each row", got)
	}
	none := []Curve{{Row: "os", Partitions: 1, Points: []Point{{Offered: 5}}}}
	if figures, err := loadFigure("x", none); err != nil || figures != nil {
		t.Errorf("without a percentile: %v, %v", figures, err)
	}
}

func TestMarkdownOfACurve(t *testing.T) {
	f := searchedFile(t)
	text, err := markdownAll([]resultFile{{Name: "curve.json", Produce: &f}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| os | cached | **6,000** | 250 µs | 2.00 ms | - | 8,000 | 3 |", "Each rate, journal:", "| 4,000 | 4,000 | 200 µs | - |", "Targets: os is", "; journal is", f.Command} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "at 4000/s") {
		t.Errorf("rates as rows in\n%s", text)
	}
}
