package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSection(t *testing.T) {
	one, err := Section([]byte("# Title\n\nText.\n"), "a", "first\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "# Title\n\nText.\n\n<!-- millrace bench: a -->\nfirst\n<!-- end of millrace bench: a -->\n"
	if string(one) != want {
		t.Errorf("appended:\n%s", one)
	}
	two, err := Section(append(one, "After.\n"...), "b", "other")
	if err != nil {
		t.Fatal(err)
	}
	three, err := Section(two, "a", "second")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(three); strings.Contains(got, "first") || !strings.Contains(got, "-->\nsecond\n<!--") || !strings.Contains(got, "After.\n") || !strings.Contains(got, "other") {
		t.Errorf("replaced:\n%s", got)
	}
	again, err := Section(three, "a", "second")
	if err != nil || !bytes.Equal(again, three) {
		t.Errorf("the same text again changed the document: %v\n%s", err, again)
	}
}

func TestSectionRefusesBrokenMarkers(t *testing.T) {
	begin, end := "<!-- millrace bench: a -->\n", "<!-- end of millrace bench: a -->\n"
	for _, bad := range []string{begin, end, end + begin, begin + end + begin + end} {
		if out, err := Section([]byte(bad), "a", "x"); err == nil {
			t.Errorf("%q became %q", bad, out)
		}
	}
}

func TestUpdateSectionMakesAndKeepsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "BENCHMARKS.md")
	for _, text := range []string{"one", "two"} {
		if err := UpdateSection(path, "a", text); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(b), "# Benchmarks\n") || strings.Contains(string(b), "one") || !strings.Contains(string(b), "two") {
		t.Errorf("%v\n%s", err, b)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files left", len(entries))
	}
}

func TestMarkdown(t *testing.T) {
	w := Workload{Rate: 1000, Partitions: 4, Producers: 1, Size: 1024, Batch: 1, Acks: "all", Compression: "none", Warmup: time.Second, Duration: time.Second}
	run := func(row string, perSecond, p99 float64) *Result {
		r := ran(perSecond, us(p99), 0)
		r.Row, r.Workload, r.Loop, r.Class = row, w, w.Loop(), policies[row]
		return r
	}
	runs := []*Result{run("write", 100, 8000), run("os", 400, 2000)}
	flushes := int64(1)
	runs[0].Use.DiskFlushes, runs[0].Use.DiskBytes, runs[0].Acked, runs[0].Target.Ready = &flushes, &flushes, 200, 1.5
	table := []Summary{Summarize("write", 4, runs[:1]), Summarize("os", 4, runs[1:]), Summarize("kafka", 4, nil)}
	text := Markdown(table, runs, File{Command: "millrace bench produce --compare write,os", Rule: RepeatRule{Runs: 1}})
	for _, want := range []string{
		"| write | flushed | 100 | 0.25× | - | 8.00 ms | 4.00× |",
		"| os | cached | 400 | 1.00× |",
		"| kafka | no run finished |",
		"Repeat with:\n\n    millrace bench produce --compare write,os\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	columns := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		if n := strings.Count(line, "|"); columns != 0 && n != columns {
			t.Errorf("%d columns, not %d: %s", n-1, columns-1, line)
		} else {
			columns = n
		}
	}
	if !strings.Contains(text, "| start to ready |") || !strings.Contains(text, "| 0.005 | 1.00 | - | - | 1.5 s |") {
		t.Errorf("no flushes a record or no start to ready:\n%s", text)
	}
	if got := Markdown(nil, nil, File{}); got != "No run was finished.\n" {
		t.Errorf("nothing: %q", got)
	}
}

func TestMarkdownOfASweepHasABlockForEachCount(t *testing.T) {
	var runs []*Result
	var table []Summary
	for _, c := range []struct {
		row        string
		partitions int
		perSecond  float64
	}{{"os", 1, 400}, {"kafka", 1, 100}, {"os", 16, 200}, {"kafka", 16, 300}} {
		r := ran(c.perSecond, us(1000), 0)
		r.Row, r.Workload, r.Loop, r.Notes = c.row, Workload{Rate: 1, Partitions: c.partitions}, "open loop", []string{"a note"}
		runs = append(runs, r)
		table = append(table, Summarize(c.row, c.partitions, []*Result{r}))
	}
	text := Markdown(table, runs, File{Rule: RepeatRule{Runs: 1}})
	for _, want := range []string{
		"1, 16 partitions", "| partitions | row |", "|--:|---|---|", "| 1 | kafka |  | 100 | 0.25× |", "| 16 | kafka |  | 300 | 1.50× |",
		"- kafka, 1 partition: a note\n", "- kafka, 16 partitions: a note\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{1: "1 µs", 999: "999 µs", 1234: "1.23 ms", 45_600: "45.6 ms", 456_000: "456 ms", 12_000_000: "12.0 s"} {
		if got := micros(&v); got != want {
			t.Errorf("%v us is %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{1.5: "1.50", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := number(&v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	if micros(nil) != "-" || number(nil) != "-" {
		t.Error("what is not there is printed")
	}
}
