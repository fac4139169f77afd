package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Row is one line of a comparison: a target, and what is asked of its topic.
type Row struct {
	Name   string
	Target Target
	Config map[string]string // topic settings of this row
	Policy string            // flush policy that a managed broker runs with; "" for others
}

// RepeatRule is how disturbed runs are treated.
type RepeatRule struct {
	Runs       int     `json:"runs"`                // wanted per row
	RepeatsMax int     `json:"repeatsPerRun"`       // a disturbed run is made again up to so often
	StealMax   float64 `json:"stealPercentAllowed"` // above it a run is disturbed; see SpeedMin, too
}

// Confinement is which CPUs the parts of a comparison keep to. Empty lists
// mean that nothing is confined.
type Confinement struct{ Broker, Generator []int }

// Confine shares the CPUs out: the first for the broker, the others for the
// generator. With one CPU nothing is confined.
func Confine() Confinement {
	cpus := allowedCPUs(0)
	if len(cpus) < 2 {
		return Confinement{}
	}
	return Confinement{Broker: cpus[:1], Generator: cpus[1:]}
}

// confineGenerator keeps this process to the generator's CPUs until restore is called.
func (c Confinement) confineGenerator() (restore func(), err error) {
	if len(c.Generator) == 0 {
		return func() {}, nil
	}
	before := allowedCPUs(0)
	if err := confine(os.Getpid(), c.Generator); err != nil {
		return nil, err
	}
	return func() { _ = confine(os.Getpid(), before) }, nil // only the rest of this process sees it
}

// slot is one run that a comparison wants: round by round, each row once, so
// that what changes on the machine meanwhile touches all rows alike.
type slot struct{ round, row int }

// interleave orders the runs of rows, each of which has a load. In the first round they stand as they are; in later ones rows beside each other with
// the same load stand in an order that is drawn, always the same, so that it is not always the same row that runs after another that has
// left much behind.
func interleave(loads []string, rounds int) []slot {
	var plan []slot
	for round := range rounds {
		random := rand.New(rand.NewPCG(uint64(round), 0))
		for from := 0; from < len(loads); {
			to := from + 1
			for to < len(loads) && loads[to] == loads[from] {
				to++
			}
			for i, drawn := range random.Perm(to - from) {
				if round == 0 {
					drawn = i
				}
				plan = append(plan, slot{round, from + drawn})
			}
			from = to
		}
	}
	return plan
}

// choose marks which of one slot's attempts counts: the first undisturbed one.
// All others are left out; with none undisturbed all are.
func choose(attempts []*Result) {
	found := false
	for _, r := range attempts {
		r.Left = found || r.Disturbed || r.Partial
		found = found || !r.Left
	}
}

// Summary is one row of a comparison: medians over the runs that count. What
// one of them does not give has no median and is nil.
type Summary struct {
	Row        string   `json:"row"`
	Partitions int      `json:"partitions"`
	Client     string   `json:"client"`
	Load       string   `json:"load,omitempty"` // in a durability matrix: what else was asked; see rowKey
	Class      Class    `json:"durabilityClass"`
	Runs       int      `json:"runs"`      // in the medians
	Disturbed  int      `json:"leftOut"`   // made, and not in the medians
	Marked     bool     `json:"disturbed"` // no run was undisturbed: the medians are of disturbed runs
	Verified   string   `json:"verified"`  // passed, FAILED or skipped
	Notes      []string `json:"notes,omitempty"`

	RecordsPerSecond float64  `json:"recordsPerSecond"`
	BytesPerSecond   float64  `json:"bytesPerSecond"`
	P50              *float64 `json:"p50Micros"`
	P90              *float64 `json:"p90Micros"`
	P99              *float64 `json:"p99Micros"`
	P999             *float64 `json:"p99.9Micros"`
	Max              float64  `json:"maxMicros"`
	PerBatch         float64  `json:"recordsPerBatch"`
	Steal            float64  `json:"stealPercent"` // the largest of the runs, not the median
	Flushes          *float64 `json:"diskFlushesPerSecond"`
	FlushesPerRecord *float64 `json:"diskFlushesPerRecord"`
	BytesPerFlush    *float64 `json:"diskBytesPerFlush"`
	BrokerCPU        *float64 `json:"brokerCPUSecondsPerGB"` // per 10^9 bytes of values; of bench catchup: of batches
	BrokerRSS        *float64 `json:"brokerResidentBytes"`
	Ready            float64  `json:"startToReadySeconds,omitempty"`
	DurableP99       *float64 `json:"appendToFlushedP99Micros,omitempty"` // of a Millrace that the harness started
	JournalP99       *float64 `json:"journalWriteP99Micros,omitempty"`

	Waits []WaitSummary `json:"waits,omitempty"`
}

// Summarize takes the medians of a row's runs, all with this many partitions.
func Summarize(row string, partitions int, runs []*Result) Summary {
	s := Summary{Row: row, Partitions: partitions, Verified: "passed"}
	var use []*Result
	for _, r := range runs {
		if !r.Left {
			use = append(use, r)
		}
		// A loss counts whether or not the run does.
		switch {
		case r.Verify.State == "FAILED":
			s.Verified = "FAILED"
		case r.Verify.State != "passed" && s.Verified == "passed":
			s.Verified = "skipped"
		}
		for _, n := range r.Notes {
			if !slices.Contains(s.Notes, n) {
				s.Notes = append(s.Notes, n)
			}
		}
	}
	s.Disturbed = len(runs) - len(use)
	if len(use) == 0 {
		use, s.Marked = runs, true
	}
	s.Runs = len(use)
	if len(use) == 0 {
		return s
	}
	s.Class, s.Client = use[0].Class, use[0].Target.ClientLib
	s.Waits = summarizeWaits(use)
	of := func(get func(*Result) *float64) *float64 { return medianOf(use, get) }
	must := func(get func(*Result) float64) float64 {
		return *medianOf(use, func(r *Result) *float64 { v := get(r); return &v })
	}
	s.RecordsPerSecond = must(func(r *Result) float64 { return r.RecordsPerSecond })
	s.BytesPerSecond = must(func(r *Result) float64 { return r.BytesPerSecond })
	s.P50 = of(func(r *Result) *float64 { return r.Latency.P50 })
	s.P90 = of(func(r *Result) *float64 { return r.Latency.P90 })
	s.P99 = of(func(r *Result) *float64 { return r.Latency.P99 })
	s.P999 = of(func(r *Result) *float64 { return r.Latency.P999 })
	s.Max = must(func(r *Result) float64 { return r.Latency.Max })
	s.PerBatch = must((*Result).perBatch)
	s.Ready = must(func(r *Result) float64 { return r.Target.Ready })
	s.Flushes = of((*Result).flushesPerSecond)
	s.FlushesPerRecord = of((*Result).flushesPerRecord)
	s.BytesPerFlush = of((*Result).bytesPerFlush)
	s.BrokerCPU = of((*Result).brokerCPUPerGB)
	s.BrokerRSS = of((*Result).brokerRSS)
	s.DurableP99 = of(func(r *Result) *float64 { return r.Trace.p99(func(t *Trace) StageTimes { return t.Durable }) })
	s.JournalP99 = of(func(r *Result) *float64 { return r.Trace.p99(func(t *Trace) StageTimes { return t.Journal }) })
	for _, r := range use {
		s.Steal = max(s.Steal, r.Use.Steal)
	}
	return s
}

// medianOf is the median of a figure, or nil where one of the runs lacks it.
func medianOf(runs []*Result, get func(*Result) *float64) *float64 {
	var values []float64
	for _, r := range runs {
		v := get(r)
		if v == nil {
			return nil
		}
		values = append(values, *v)
	}
	if len(values) == 0 {
		return nil
	}
	m := middle(values)
	return &m
}

// middle is the median of one value at least. It sorts them.
func middle(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func (r *Result) flushesPerSecond() *float64 {
	if r.Use.DiskFlushes == nil || r.Seconds == 0 {
		return nil
	}
	v := float64(*r.Use.DiskFlushes) / r.Seconds
	return &v
}

func (r *Result) flushesPerRecord() *float64 {
	if r.Use.DiskFlushes == nil || r.Acked == 0 {
		return nil
	}
	v := float64(*r.Use.DiskFlushes) / float64(r.Acked)
	return &v
}

func (r *Result) bytesPerFlush() *float64 {
	if r.Use.DiskFlushes == nil || *r.Use.DiskFlushes == 0 {
		return nil
	}
	v := float64(*r.Use.DiskBytes) / float64(*r.Use.DiskFlushes)
	return &v
}

func (r *Result) brokerCPUPerGB() *float64 {
	bytes := float64(r.Acked) * float64(r.Workload.Size)
	if r.CatchUp != nil {
		bytes = float64(r.CatchUp.Bytes)
	}
	if r.Use.BrokerCPU == nil || bytes == 0 {
		return nil
	}
	v := *r.Use.BrokerCPU / (bytes / 1e9)
	return &v
}

func (r *Result) brokerRSS() *float64 {
	if r.Use.BrokerRSS == nil {
		return nil
	}
	v := float64(*r.Use.BrokerRSS)
	return &v
}

// Compare makes every row's runs, interleaved, and returns the medians and all
// runs, those left out too. All have w's number of partitions. When interrupted it returns what there is with
// ctx's error. told hears of each finished run.
func Compare(ctx context.Context, rows []Row, w Workload, rule RepeatRule, c Confinement, o Options, told func(row string, round, attempt int, r *Result)) ([]Summary, []*Result, error) {
	restore, err := c.confineGenerator()
	if err != nil {
		return nil, nil, err
	}
	defer restore()
	perRow := make([][]*Result, len(rows))
	var all []*Result
	var failed error
	for _, s := range interleave(make([]string, len(rows)), rule.Runs) {
		attempts, err := attempt(ctx, rows[s.row], w, rule, c, o, func(n int, r *Result) {
			if r == nil && o.bar != nil {
				o.bar.begin("%s, %s, round %d of %d%s", rows[s.row].Name, partitionsOf(w.Partitions), s.round+1, rule.Runs, again(n))
			} else if r == nil {
				o.phase("%s, round %d of %d, attempt %d", rows[s.row].Name, s.round+1, rule.Runs, n)
			} else {
				told(rows[s.row].Name, s.round+1, n, r)
			}
		})
		if err != nil {
			failed = fmt.Errorf("row %s, round %d: %w", rows[s.row].Name, s.round+1, err)
		}
		o.bar.passed(runsCost(rows[s.row:s.row+1], w))
		perRow[s.row] = append(perRow[s.row], attempts...)
		all = append(all, attempts...)
		if failed = errors.Join(failed, ctx.Err()); failed != nil {
			break
		}
	}
	var table []Summary
	o.memory.settle(all)
	for i, row := range rows {
		table = append(table, Summarize(row.Name, w.Partitions, perRow[i]))
	}
	return table, all, failed
}

// again says which attempt it is, from the second one on.
func again(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(", attempt %d", n)
}

// attempt makes one slot's runs: the first that is not disturbed is the last, and counts. told hears of each attempt,
// from 1, before it (r is nil) and after. With an error there are the runs that were made before it.
func attempt(ctx context.Context, row Row, w Workload, rule RepeatRule, c Confinement, o Options, told func(n int, r *Result)) (attempts []*Result, err error) {
	defer func() { choose(attempts) }()
	for n := 1; n <= 1+rule.RepeatsMax; n++ {
		told(n, nil)
		r, err := runRow(ctx, row, w, c, o)
		if err != nil {
			return attempts, err
		}
		attempts = append(attempts, r)
		told(n, r)
		if !r.Disturbed || r.Partial {
			break
		}
	}
	return attempts, nil
}

// runRow makes one run of a row, and measures the speed of memory before and after it. What is dirty is written back first: a peer that
// stays keeps a topic's files for a while (Kafka for a minute), and their write-back would fall into the next row's run.
func runRow(ctx context.Context, row Row, w Workload, c Confinement, o Options) (*Result, error) {
	if o.memory != nil {
		o.phase("writing back what is dirty")
		unix.Sync()
	}
	s := MemorySpeed{Before: o.memory.speed(c)}
	res, err := startAndRun(ctx, row, w, c, o)
	if err != nil {
		return nil, err
	}
	s.After = o.memory.speed(c)
	o.memory.judge(res, s)
	return res, nil
}

// startAndRun starts a row's target, confines it if it is a process of this machine
// that the harness did not start, makes one run and puts everything back.
func startAndRun(ctx context.Context, row Row, w Workload, c Confinement, o Options) (res *Result, err error) {
	defer func() { err = errors.Join(err, row.Target.Stop()) }()
	if err := row.Target.Start(ctx); err != nil {
		return nil, err
	}
	info := row.Target.Info()
	confined := info.CPUs
	if len(c.Broker) > 0 && info.PID != 0 && info.CPUs == "" {
		before := allowedCPUs(info.PID)
		if err := confine(info.PID, c.Broker); err == nil {
			confined = cpuList(c.Broker) + " (moved there while running)"
			defer func() { err = errors.Join(err, confine(info.PID, before)) }()
		}
	}
	if len(info.Command) > 0 { // the harness started it: its whole directory goes
		o.Keep = true
	}
	run := o.run
	if run == nil {
		run = Run
	}
	if res, err = run(ctx, row.Target, w.with(row.Config), o); err != nil {
		return nil, err
	}
	res.Row, res.Target.CPUs = row.Name, confined
	if class, ok := policies[row.Policy]; ok && res.Settings["flush.policy"] == "" {
		res.Class = class
		res.note("the broker does not report flush.policy: the class is the one asked for")
	}
	if len(c.Broker) > 0 && confined == "" {
		res.note("the broker was not confined to a CPU: its process was not found on this machine or may not be moved")
	}
	return res, nil
}
