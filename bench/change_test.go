package bench

import (
	"bytes"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fileOf is a result file of one row with these p99s and a fixed throughput.
func fileOf(p99 ...float64) File {
	f := File{Format: resultFormat}
	for _, v := range p99 {
		r := ran(1000, us(v), 0)
		r.Row, r.Workload, r.Loop, r.Class = "journal", Workload{Partitions: 1, Batch: 1, Rate: 1000}, "open loop", Flushed
		f.Runs = append(f.Runs, r)
	}
	return f
}

// changeOf is what is said of one figure of the only row.
func changeOf(t *testing.T, before, after File, figure string) Change {
	t.Helper()
	all, err := Changes(before, after, 1.1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Figure.Name == figure {
			return c
		}
	}
	t.Fatalf("no %s in %v", figure, all)
	return Change{}
}

func TestChangesVerdicts(t *testing.T) {
	old := fileOf(100, 102, 98, 101, 99)
	for _, c := range []struct {
		name string
		new  File
		want Verdict
	}{
		{"the same", old, NoChange},
		{"much slower", fileOf(150, 152, 148, 151, 149), Worse},
		{"a little slower", fileOf(107, 108, 106, 107, 108), SmallWorse},
		{"much faster", fileOf(50, 52, 48, 51, 49), Better},
		{"a little faster", fileOf(95, 94, 96, 95, 95), SmallBetter},
		{"slower by chance", fileOf(300, 90, 95, 400, 130), NoChange},
		{"three runs", fileOf(150, 152, 148), Undecided},
		{"no runs", fileOf(), Undecided},
	} {
		if c.name == "no runs" {
			c.new = fileOf(150)
			c.new.Runs[0].Left = true
		}
		if got := changeOf(t, old, c.new, "p99"); got.Verdict != c.want {
			t.Errorf("%s: %q, want %q: %+v", c.name, got.Verdict, c.want, got)
		}
	}
	if got := changeOf(t, old, old, "p50"); got.Verdict != Undecided || got.Why == "" {
		t.Errorf("a p50 that no run gives: %+v", got)
	}
}

func TestChangesLowerThroughputIsWorse(t *testing.T) {
	old, new := fileOf(1, 1, 1, 1), fileOf(1, 1, 1, 1)
	for _, r := range new.Runs {
		r.RecordsPerSecond = 500
	}
	if c := changeOf(t, old, new, "records/s"); c.Verdict != Worse || c.Ratio != 0.5 || c.Low != 0.5 || c.High != 0.5 {
		t.Errorf("%+v", c)
	}
}

func TestChangesRunsLeftOutDoNotCount(t *testing.T) {
	old, new := fileOf(100, 101, 99, 100), fileOf(100, 101, 99, 100, 9000)
	new.Runs[4].Left = true
	if c := changeOf(t, old, new, "p99"); c.NewRuns != 4 || c.Verdict != NoChange {
		t.Errorf("%+v", c)
	}
}

func TestChangesRefuses(t *testing.T) {
	old := fileOf(1, 1, 1, 1)
	for name, change := range map[string]func(*Result){
		"recordsPerSecond 1000 against 2000":       func(r *Result) { r.Workload.Rate = 2000 },
		"recordBytes 0 against 100":                func(r *Result) { r.Workload.Size = 100 },
		"topicConfig":                              func(r *Result) { r.Workload.TopicConfig = map[string]string{"flush.ms": "1"} },
		"durability class flushed against cached":  func(r *Result) { r.Class = Cached },
		"no row is in both: the old file has jour": func(r *Result) { r.Row = "os" },
		"16 partitions":                            func(r *Result) { r.Workload.Partitions = 16 },
	} {
		new := fileOf(1, 1, 1, 1)
		for _, r := range new.Runs {
			change(r)
		}
		if _, err := Changes(old, new, 1.1); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q is not in %v", name, err)
		}
	}
	new := fileOf(1, 1, 1, 1)
	new.Runs[0].Workload.DrainTimeout = 1
	if _, err := Changes(old, new, 1.1); err != nil {
		t.Errorf("how long to wait is no load: %v", err)
	}
}

// Two files of the same distribution, again and again: how often a difference is seen where there is none.
func TestBootstrapSeldomSeesWhatIsNotThere(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	for _, runs := range []int{ChangeRunsMin, 5, 10} {
		const pairs = 200
		wrong := 0
		draw := func() (all []float64) {
			for range runs {
				all = append(all, math.Exp(0.3*random.NormFloat64()))
			}
			return all
		}
		for range pairs {
			if low, high := bootstrap(draw(), draw()); low > 1 || high < 1 {
				wrong++
			}
		}
		t.Logf("%d runs: %d of %d", runs, wrong, pairs)
		if wrong > pairs/10 {
			t.Errorf("%d runs a side: %d of %d pairs differ", runs, wrong, pairs)
		}
	}
}

func TestBootstrapIsRepeatable(t *testing.T) {
	old, new := []float64{1, 2, 3, 4, 5}, []float64{2, 3, 4, 5, 6}
	a, b := bootstrap(old, new)
	c, d := bootstrap(old, new)
	if a != c || b != d || a > 1 || b < 1 {
		t.Errorf("%v to %v, then %v to %v", a, b, c, d)
	}
}

// golden compares text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("not as in %s:\n%s\nwant:\n%s", path, got, want)
	}
}

// slower is a copy of a result file in which one row's p99 is times as high.
func slower(t *testing.T, from, row string, times float64) string {
	t.Helper()
	f, err := ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Runs {
		if p99 := r.Latency.P99; p99 != nil && r.Row == row {
			*p99 *= times
		}
	}
	path := filepath.Join(t.TempDir(), "slower.json")
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	oldFile   = "testdata/old.json"    // two rows, five runs each
	newFile   = "testdata/new.json"    // the same once more
	sweepFile = "testdata/sweep.json"  // two rows, two numbers of partitions, one run each
	oneFile   = "testdata/single.json" // one run, without --compare
)

func TestMainCompare(t *testing.T) {
	worse := slower(t, oldFile, "journal", 100)
	for _, c := range []struct {
		args string
		code int
		say  string // somewhere in it
	}{
		{oldFile + " " + newFile + " --threshold 100", exitOK, "figure"},
		{oldFile + " " + oldFile, exitOK, "0 of 8 figures got worse"},
		{oldFile + " " + worse, exitFailed, "1 of 8 figures got worse"},
		{"--threshold 200 " + oldFile + " " + worse, exitOK, "worse, within the threshold"},
		{worse + " " + oldFile, exitOK, "better"},
		{oldFile + " " + sweepFile, exitUsage, "cannot be compared"},
		{oneFile + " " + oneFile, exitOK, "cannot decide: 1 and 1 runs count, 4 each are needed"},
		{oldFile, exitUsage, "1 files"},
		{oldFile + " " + newFile + " --threshold 0.5", exitUsage, "below 1"},
		{oldFile + " testdata/none.json", exitUsage, "testdata/none.json"},
		{oldFile + " change_test.go", exitUsage, "change_test.go: not a result file"},
		{"-h", exitOK, "usage"},
	} {
		var out bytes.Buffer
		if code := Main(append([]string{"compare"}, strings.Fields(c.args)...), nil, &out, &out); code != c.code || !strings.Contains(out.String(), c.say) {
			t.Errorf("compare %s: exit code %d, want %d, and %q in:\n%s", c.args, code, c.code, c.say, &out)
		}
	}
}

// Two files whose generators had other collectors are compared, and it is said.
func TestMainCompareNamesTheCollectors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rare.json")
	f, err := ReadFile(oldFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Runs {
		r.Collector = generatorGC
	}
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	for other, want := range map[string]bool{oldFile: true, path: false} {
		var out bytes.Buffer
		if code := Main([]string{"compare", other, path}, nil, &out, &out); code != exitOK || strings.Contains(out.String(), "its collector at GOGC not recorded against 1000\n") != want {
			t.Errorf("%s: exit code %d:\n%s", other, code, &out)
		}
	}
}

func TestMainCompareGolden(t *testing.T) {
	var out bytes.Buffer
	if code, err := compareFiles([]string{oldFile, newFile}, 1.1, &out); err != nil || code == exitUsage {
		t.Fatal(code, err)
	}
	golden(t, "compare.txt", out.String())
}
