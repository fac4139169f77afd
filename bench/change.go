package bench

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
)

// Verdict is what a comparison of two result files says of one figure.
type Verdict string

// The verdicts. Beyond noise: the interval of the ratio does not hold 1.
const (
	Undecided   Verdict = "cannot decide"
	NoChange    Verdict = "no difference beyond noise"
	Better      Verdict = "better"
	SmallBetter Verdict = "better, within the threshold"
	Worse       Verdict = "WORSE"
	SmallWorse  Verdict = "worse, within the threshold"
)

// ChangeRunsMin is how many runs each side needs for a verdict. With three and three, one order of the six
// values in ten has all of one side first: that is not yet beyond a noise of 5 %. With four and four it is one in 35.
const ChangeRunsMin = 4

const (
	bootstrapDraws = 10_000
	bootstrapSeed  = 1 // the same files give the same intervals
	bootstrapTail  = 0.025
)

// figure is one of those that result files are compared by.
type figure struct {
	Name   string
	Higher bool // is better
	Of     func(*Result) *float64
	Print  func(*float64) string
}

var comparedFigures = []figure{
	{"records/s", true, func(r *Result) *float64 { return &r.RecordsPerSecond }, number},
	{"p50", false, func(r *Result) *float64 { return r.Latency.P50 }, micros},
	{"p99", false, func(r *Result) *float64 { return r.Latency.P99 }, micros},
	{"CPU s/GB", false, (*Result).brokerCPUPerGB, number},
}

// Change is one figure of one row in two result files.
type Change struct {
	Row        string
	Partitions int
	Load       string // in a durability matrix
	Figure     figure
	Old, New   *float64 // medians over the runs that count; nil where a run does not give the figure
	OldRuns    int      // that count
	NewRuns    int
	Ratio      float64 // new to old; 0 where there is none
	Low, High  float64 // of the ratio, 95 %; both 0 where there is none
	Verdict    Verdict
	Why        string // of Undecided
}

// rowKey names a row of a result file.
type rowKey struct {
	Row        string
	Partitions int
	Load       string // Workload.shape in a file with several (File.Matrix), else ""
}

func (k rowKey) String() string {
	s := k.Row + ", " + partitionsOf(k.Partitions)
	if k.Load != "" {
		s += ", " + k.Load
	}
	return s
}

// key is the row of f that a run of it belongs to.
func (f File) key(r *Result) rowKey {
	k := rowKey{Row: r.Row, Partitions: r.Workload.Partitions}
	if f.Matrix {
		k.Load = r.Workload.shape()
	}
	return k
}

// rowsOf are a file's rows in the order of their first runs, and the runs of each.
func rowsOf(f File) (keys []rowKey, runs map[rowKey][]*Result) {
	runs = map[rowKey][]*Result{}
	for _, r := range f.Runs {
		k := f.key(r)
		if runs[k] == nil {
			keys = append(keys, k)
		}
		runs[k] = append(runs[k], r)
	}
	return keys, runs
}

// counted are the runs that medians are taken of.
func counted(runs []*Result) (use []*Result) {
	for _, r := range runs {
		if !r.Left && !r.Partial {
			use = append(use, r)
		}
	}
	return use
}

// Changes compares the rows that both files have, with a threshold of 1 or more. It fails where they do not say the same
// thing: no row in both, another workload, another durability class.
func Changes(before, after File, threshold float64) ([]Change, error) {
	keys, was := rowsOf(before)
	others, is := rowsOf(after)
	var all []Change
	for _, k := range keys {
		if is[k] == nil {
			continue
		}
		if d := differences(was[k][0], is[k][0]); d != "" {
			return nil, fmt.Errorf("row %s: different workloads: %s", k, d)
		}
		for _, fig := range comparedFigures {
			c := Change{Row: k.Row, Partitions: k.Partitions, Load: k.Load, Figure: fig}
			c.judge(counted(was[k]), counted(is[k]), threshold)
			all = append(all, c)
		}
	}
	if all == nil {
		return nil, fmt.Errorf("no row is in both: the old file has %s; the new one has %s", listed(keys), listed(others))
	}
	return all, nil
}

func listed(keys []rowKey) string {
	var names []string
	for _, k := range keys {
		names = append(names, k.String())
	}
	return strings.Join(names, "; ")
}

// differences names what two runs were asked differently, or "". How long to wait at the end is no part of the load.
func differences(a, b *Result) string {
	var parts []string
	was, is := reflect.ValueOf(a.Workload), reflect.ValueOf(b.Workload)
	for i := range was.NumField() {
		f := was.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		x, y := fmt.Sprint(was.Field(i).Interface()), fmt.Sprint(is.Field(i).Interface())
		if x != y && f.Name != "DrainTimeout" {
			parts = append(parts, fmt.Sprintf("%s %s against %s", strings.TrimSuffix(name, "Nanos"), x, y))
		}
	}
	if a.Class != b.Class {
		parts = append(parts, fmt.Sprintf("durability class %s against %s", a.Class, b.Class))
	}
	return strings.Join(parts, ", ")
}

// judge fills c from the runs that count.
func (c *Change) judge(was, is []*Result, threshold float64) {
	c.Old, c.New, c.OldRuns, c.NewRuns = medianOf(was, c.Figure.Of), medianOf(is, c.Figure.Of), len(was), len(is)
	c.Verdict = Undecided
	switch {
	case len(was) == 0 || len(is) == 0:
		c.Why = "no run counts"
		return
	case c.Old == nil || c.New == nil:
		c.Why = "not given by every run"
		return
	case slices.Min(values(was, c.Figure.Of)) <= 0 || slices.Min(values(is, c.Figure.Of)) <= 0:
		c.Why = "a run has 0"
		return
	}
	c.Ratio = *c.New / *c.Old
	if len(was) < ChangeRunsMin || len(is) < ChangeRunsMin {
		c.Why = fmt.Sprintf("%d and %d runs count, %d each are needed", len(was), len(is), ChangeRunsMin)
		return
	}
	c.Low, c.High = bootstrap(values(was, c.Figure.Of), values(is, c.Figure.Of))
	c.Verdict = c.verdict(threshold)
}

func values(runs []*Result, of func(*Result) *float64) (all []float64) {
	for _, r := range runs {
		all = append(all, *of(r))
	}
	return all
}

// verdict is by the interval first, by the threshold then.
func (c *Change) verdict(threshold float64) Verdict {
	if c.Low <= 1 && c.High >= 1 {
		return NoChange
	}
	times := c.Ratio // how many times worse
	if c.Figure.Higher {
		times = 1 / c.Ratio
	}
	switch {
	case times > threshold:
		return Worse
	case times > 1:
		return SmallWorse
	case times < 1/threshold:
		return Better
	}
	return SmallBetter
}

// bootstrap is the 95 % interval of the ratio of two medians: both sides are drawn again from their own
// values, as many as there are, and the middle 95 % of the ratios are taken. It knows the spread of the runs and
// nothing else: a machine that was slower on the day of one file looks like a change.
func bootstrap(was, is []float64) (low, high float64) {
	random := rand.New(rand.NewPCG(bootstrapSeed, 0))
	ratios := make([]float64, bootstrapDraws)
	a, b := make([]float64, len(was)), make([]float64, len(is))
	for i := range ratios {
		ratios[i] = redrawn(random, is, b) / redrawn(random, was, a)
	}
	slices.Sort(ratios)
	cut := int(bootstrapTail * bootstrapDraws)
	return ratios[cut], ratios[bootstrapDraws-1-cut]
}

// redrawn is the median of as many values drawn from all, with repetition. It uses scratch, which is as long.
func redrawn(random *rand.Rand, all, scratch []float64) float64 {
	for i := range scratch {
		scratch[i] = all[random.IntN(len(all))]
	}
	return middle(scratch)
}
