package bench

import (
	"slices"
	"testing"
)

func TestInterleave(t *testing.T) {
	loads := []string{"a", "a", "a", "a", "a", "b", "c", "c", "c", "c"}
	const rounds = 50
	plan, after := interleave(loads, rounds), map[[2]int]bool{}
	for round := range rounds {
		var rows []int
		for i, s := range plan[round*len(loads):][:len(loads)] {
			if s.round != round || loads[s.row] != loads[i] {
				t.Fatalf("place %d of round %d: %v", i, round, s)
			}
			rows = append(rows, s.row)
			if i > 0 {
				after[[2]int{rows[i-1], s.row}] = true
			}
		}
		if round == 0 && !slices.IsSorted(rows) {
			t.Errorf("the first round: %v", rows)
		}
		slices.Sort(rows)
		if len(slices.Compact(rows)) != len(loads) {
			t.Errorf("round %d: %v", round, rows)
		}
	}
	if want := 5*4 + 5 + 4 + 4*3; len(after) != want { // each row after each other one of its load, and at the borders
		t.Errorf("%d orders of two rows, not %d", len(after), want)
	}
	if !slices.Equal(plan, interleave(loads, rounds)) {
		t.Error("another time, another order")
	}
}

// ran is a run with this throughput, p99 and steal.
func ran(perSecond float64, p99 *float64, steal float64) *Result {
	return &Result{RecordsPerSecond: perSecond, Latency: Latency{P99: p99}, Use: Use{Steal: steal}, Disturbed: steal > StealMax,
		Acked: 1, Verify: Verification{State: "passed"}}
}

func us(v float64) *float64 { return &v }

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		steal []float64
		left  []bool
	}{
		{[]float64{1}, []bool{false}},
		{[]float64{9, 1}, []bool{true, false}},
		{[]float64{9, 9, 9}, []bool{true, true, true}},
		{nil, nil},
	} {
		var attempts []*Result
		for _, s := range c.steal {
			attempts = append(attempts, ran(1, nil, s))
		}
		choose(attempts)
		for i, r := range attempts {
			if r.Left != c.left[i] {
				t.Errorf("steal %v: attempt %d left out %v", c.steal, i, r.Left)
			}
		}
	}
}

func TestSummarizeTakesMediansOfUndisturbedRuns(t *testing.T) {
	runs := []*Result{ran(100, us(10), 0), ran(900, us(900), 50), ran(300, us(30), 2), ran(200, us(20), 1)}
	choose(runs[:1])
	choose(runs[1:3]) // the second attempt counts
	choose(runs[3:])
	s := Summarize("row", 4, runs)
	if s.RecordsPerSecond != 200 || *s.P99 != 20 || s.Runs != 3 || s.Disturbed != 1 || s.Marked || s.Steal != 2 {
		t.Errorf("%+v", s)
	}
}

func TestSummarizeEvenNumber(t *testing.T) {
	s := Summarize("row", 4, []*Result{ran(100, us(10), 0), ran(200, us(40), 0)})
	if s.RecordsPerSecond != 150 || *s.P99 != 25 {
		t.Errorf("%+v", s)
	}
}

func TestSummarizeNoMedianWithoutAll(t *testing.T) {
	s := Summarize("row", 4, []*Result{ran(100, us(10), 0), ran(200, nil, 0), ran(300, us(30), 0)})
	if s.P99 != nil || s.RecordsPerSecond != 200 {
		t.Errorf("p99 %v of runs of which one may not print it", s.P99)
	}
}

func TestSummarizeAllDisturbedIsMarked(t *testing.T) {
	runs := []*Result{ran(100, us(10), 10), ran(200, us(20), 20)}
	choose(runs)
	s := Summarize("row", 4, runs)
	if !s.Marked || s.Runs != 2 || s.RecordsPerSecond != 150 {
		t.Errorf("%+v", s)
	}
}

func TestSummarizeLossOutweighs(t *testing.T) {
	bad := ran(900, us(900), 50)
	bad.Left, bad.Verify.State = true, "FAILED" // left out of the medians, not of the verdict
	s := Summarize("row", 4, []*Result{ran(100, us(10), 0), bad})
	if s.Verified != "FAILED" {
		t.Errorf("read back %q", s.Verified)
	}
	if exitOf([]*Result{ran(1, nil, 0), bad}) != exitFailed {
		t.Error("a loss exits 0")
	}
}

func TestJudge(t *testing.T) {
	zero, some := int64(0), int64(5)
	r := ran(100, us(10), 0)
	r.Class, r.Use.DiskFlushes = Flushed, &zero
	r.judge()
	if len(r.Notes) != 1 {
		t.Errorf("a broker that claims to flush and does not: %q", r.Notes)
	}
	r = ran(100, us(10), 0)
	r.Class, r.Use.DiskFlushes = Flushed, &some
	r.judge()
	if len(r.Notes) != 0 {
		t.Errorf("notes %q", r.Notes)
	}
	r = ran(100, us(10), StealMax+0.1)
	r.judge()
	if !r.Disturbed {
		t.Errorf("steal over the bound: disturbed %v, notes %q", r.Disturbed, r.Notes)
	}
}

func TestJudgeOfAShortWarmup(t *testing.T) {
	for perSecond, notes := range map[float64]int{1000: 0, 1040: 0, 1300: 1} {
		r := ran(perSecond, nil, 0)
		r.Workload = Workload{Rate: 1000, Batch: 1}
		r.judge()
		if len(r.Notes) != notes {
			t.Errorf("%v records/s of 1000 due: notes %q", perSecond, r.Notes)
		}
	}
}

func TestJudgeWantsAFlushForEachThatWaitedAlone(t *testing.T) {
	for _, c := range []struct {
		flushes int64
		p50     float64 // us; sends are 1000 us apart
		notes   int
	}{
		{1, 100, 1}, {4000, 100, 1}, {4600, 100, 0}, {10, 999_000, 0}, {3, 999_000, 1},
	} {
		r := ran(1000, us(2e6), 0)
		r.Class, r.Use.DiskFlushes = Flushed, &c.flushes
		r.Workload, r.Latency.Count, r.Latency.P50 = Workload{Rate: 1000, Batch: 1}, 10_000, us(c.p50)
		r.judge()
		if len(r.Notes) != c.notes {
			t.Errorf("%+v, at least %d: notes %q", c, r.flushesMin(), r.Notes)
		}
	}
}

func TestClassOf(t *testing.T) {
	for _, c := range []struct {
		settings map[string]string
		want     Class
	}{
		{map[string]string{"flush.policy": "journal"}, Flushed},
		{map[string]string{"flush.policy": "interval", "flush.messages": "9223372036854775807"}, Window},
		{map[string]string{"flush.policy": "os", "flush.messages": "1"}, Cached},
		{map[string]string{"flush.messages": "1"}, Flushed},
		{map[string]string{"flush.messages": "9223372036854775807"}, Cached},
		{map[string]string{"sync_always": "true", "storage": "file"}, Flushed},
		{map[string]string{"sync_always": "true", "storage": "file", "persist_mode": "default"}, Flushed},
		{map[string]string{"sync_always": "true", "storage": "file", "persist_mode": "async"}, Cached},
		{map[string]string{"sync_always": "false", "sync_interval": "10s", "storage": "file"}, Cached},
		{nil, Cached},
	} {
		if got := classOf(c.settings); got != c.want {
			t.Errorf("%v is %s, want %s", c.settings, got, c.want)
		}
	}
}

func TestParsePeer(t *testing.T) {
	name, address, config, err := parsePeer("kafka-sync=127.0.0.1:9092,127.0.0.1:9093+flush.messages=1+flush.ms=0")
	if err != nil || name != "kafka-sync" || address != "127.0.0.1:9092,127.0.0.1:9093" || len(config) != 2 || config["flush.messages"] != "1" {
		t.Errorf("%q %q %v %v", name, address, config, err)
	}
	for _, bad := range []string{"", "kafka", "kafka=", "=x:1", "kafka=x:1+flush"} {
		if _, _, _, err := parsePeer(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
