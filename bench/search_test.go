package bench

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// Against anything that sustains a fixed rate, the search ends within its precision and takes few rates.
func TestSearchFindsTheKnee(t *testing.T) {
	for _, capacity := range []int64{1, 2, 7, 900, 1000, 1001, 48_123, 999_999, 5_000_000} {
		s := Search{From: 1000, To: 1_000_000, Growth: 1.5, Precision: 0.05}
		var low, high int64
		tried := 0
		for {
			rate, ended := s.next(low, high)
			if ended != "" {
				if capacity >= s.To && low != s.To {
					t.Errorf("capacity %d: ended at %d: %s", capacity, low, ended)
				}
				break
			}
			if tried++; tried > 40 || rate <= low || high > 0 && rate >= high {
				t.Fatalf("capacity %d: rate %d between %d and %d, the %dth", capacity, rate, low, high, tried)
			}
			if rate <= capacity {
				low = rate
			} else {
				high = rate
			}
		}
		if want := min(capacity, s.To); low > want || float64(low) < float64(want)/1.06-1 {
			t.Errorf("found %d of %d", low, want)
		}
	}
	if rate, ended := (Search{From: 10, To: 10, Growth: 2, Precision: 0.1}).next(0, 1); rate != 0 || ended != "no rate is sustained" {
		t.Errorf("%d, %q", rate, ended)
	}
}

// seconds are intervals with these medians, ms, after one of warm-up.
func medians(p50 ...float64) (all []Interval) {
	all = append(all, Interval{Second: 1, Warmup: true, Acked: 1, Max: 1e9})
	for i, ms := range p50 {
		us := 1e3 * ms
		all = append(all, Interval{Second: i + 2, Acked: 1, P50: &us})
	}
	return all
}

// withoutMedians takes the medians of those from this one on; each has a largest of 100 times its median.
func withoutMedians(all []Interval, from int) []Interval {
	for i := range all[1:] {
		in := &all[1+i]
		in.Max = 100 * *in.P50
		if i >= from {
			in.P50 = nil
		}
	}
	return all
}

func TestGrowth(t *testing.T) {
	for name, c := range map[string]struct {
		in    []Interval
		grows bool
	}{
		"flat":                        {medians(2, 2, 3, 2, 2, 3), false},
		"noise that is not a queue":   {medians(2, 2, 2, 5, 5, 5), false},
		"high and steady":             {medians(200, 210, 190, 205, 200, 230), false},
		"a queue that grows by 1 %":   {medians(2, 12, 22, 32, 42, 52), true},
		"one stall at the end":        {medians(2, 2, 2, 2, 2, 2, 2, 2, 900), false},
		"a stall that is over":        {medians(2, 2, 900, 2, 2, 2), false},
		"too short":                   {medians(2, 900), false},
		"no median at the end":        {withoutMedians(medians(2, 2, 2, 2, 2, 2), 4), false},
		"a queue without medians":     {withoutMedians(medians(2, 12, 22, 32, 42, 52), 0), true},
		"the end and what came after": {append(medians(2, 2, 2), Interval{Second: 13, Acked: 1, Max: 9e9}), false},
	} {
		if got := growth(c.in, 12*time.Second); got > growthMax != c.grows {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestUnsustained(t *testing.T) {
	good := func() *Result {
		return &Result{Workload: Workload{Rate: 1000, Duration: 9 * time.Second, Warmup: time.Second, Streams: Streams{Groups: 2}}, Seconds: 10, RecordsPerSecond: 1000,
			Consumed: &Consumption{RecordsPerSecond: 2000}, Intervals: medians(2, 2, 2, 2, 2, 2)}
	}
	for name, c := range map[string]struct {
		change func(*Result)
		want   string
	}{
		"sustained":                 {func(*Result) {}, ""},
		"99 %":                      {func(r *Result) { r.RecordsPerSecond = 990 }, ""},
		"98 %":                      {func(r *Result) { r.RecordsPerSecond = 980 }, "98.0 % of the rate was achieved"},
		"consumers are behind":      {func(r *Result) { r.Consumed.RecordsPerSecond = 1900 }, "consumers had 95.0 % of the rate"},
		"refused":                   {func(r *Result) { r.Failed, r.Error = 1, "no" }, "1 records failed: no"},
		"not sent":                  {func(r *Result) { r.Unsent, r.Hanging = 2, 1 }, "3 records were due"},
		"lost":                      {func(r *Result) { r.Verify.State = "FAILED" }, "read back"},
		"a delay that grows slowly": {func(r *Result) { r.Intervals = medians(2, 9, 16, 23, 30, 37) }, "the delay grew by 7 ms a second"},
	} {
		r := good()
		c.change(r)
		if got := unsustained(r); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A target that refuses is tried at lower rates, down to one.
func TestRatesOfATargetThatRefuses(t *testing.T) {
	t.Parallel()
	w := short1s()
	w.Warmup, w.Duration = 0, 50*time.Millisecond
	var told []int64
	curves, runs, err := Search{From: 400, To: 800, Growth: 20, Precision: 0.1, TimeMax: time.Hour}.Rates(t.Context(), []Row{{Name: "refuses", Target: &memory{refuses: 1}}}, w,
		RepeatRule{Runs: 1, StealMax: 100}, Confinement{}, Options{}, func(_ Curve, p Point) { told = append(told, p.Offered) })
	if err != nil {
		t.Fatal(err)
	}
	if c := curves[0]; !slices.Equal(told, []int64{400, 20, 1}) || c.Sustained != 0 || c.Failed != 1 || c.Ended != "no rate is sustained" || len(c.Points) != 3 || c.Points[0].Offered != 1 {
		t.Errorf("tried %v: %+v", told, c)
	}
	if len(runs) < 3 || exitOfCurves(File{Runs: runs, Curves: curves}) != exitFailed {
		t.Errorf("%d runs", len(runs))
	}
}

func TestRatesAreBounded(t *testing.T) {
	t.Parallel()
	w := short1s()
	w.Warmup, w.Duration = 0, 20*time.Millisecond
	s := Search{From: 1, To: 1 << 40, Growth: 1.01, Precision: 0.1, TimeMax: time.Nanosecond}
	rows := []Row{{Name: "good", Target: &memory{}}}
	curves, runs, err := s.Rates(t.Context(), rows, w, RepeatRule{Runs: 1}, Confinement{}, Options{}, func(Curve, Point) {})
	if err != nil || len(runs) != 0 || !strings.HasPrefix(curves[0].Ended, "time") {
		t.Errorf("%v, %d runs, %+v", err, len(runs), curves)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.TimeMax = time.Hour
	curves, runs, err = s.Rates(ctx, rows, w, RepeatRule{Runs: 1}, Confinement{}, Options{}, func(Curve, Point) { cancel() })
	if !errors.Is(err, context.Canceled) || len(runs) == 0 || len(curves[0].Points) != 1 || curves[0].Ended != "" {
		t.Errorf("%v, %d runs, %+v", err, len(runs), curves)
	}
}

// More than half of the runs that count must sustain a rate.
func TestPointIsByTheRunsThatCount(t *testing.T) {
	run := func(achieved float64, left bool) *Result {
		return &Result{Workload: Workload{Rate: 1000}, Seconds: 10, RecordsPerSecond: achieved, Left: left}
	}
	var c Curve
	runs := []*Result{run(1000, false), run(500, true), run(500, true), run(500, false), run(1000, false)}
	if p := c.add(1000, Summarize("r", 1, runs), runs); !p.Sustained || p.Why != "" || p.Runs != 3 || c.Sustained != 1000 || c.Failed != 0 {
		t.Errorf("%+v, %+v", p, c)
	}
	runs = []*Result{run(500, true)} // none is undisturbed: they count
	if p := c.add(2000, Summarize("r", 1, runs), runs); p.Sustained || !p.Disturbed || c.Failed != 2000 {
		t.Errorf("%+v, %+v", p, c)
	}
}

func TestParseCurve(t *testing.T) {
	c, err := parseCurve(strings.Fields("--from 500 --growth 2 --compare os,journal --partitions 1,8"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.search.From != 500 || c.workload.Duration != 10*time.Second || c.rule.Runs != 1 || len(c.partitions) != 2 || c.workload.Rate != 500 {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"--from 0", "--growth 1", "--precision 0", "--time-max 0s", "--to 10 --from 20", "--rate 5", "stray", "--serve --bootstrap-server x:1"} {
		if _, err := parseCurve(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
