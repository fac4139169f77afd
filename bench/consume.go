package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// consume is "millrace bench consume": what a consumer that catches up does to those
// at the end of the log.
type consume struct {
	produce  // for its target and confinement
	rate     int64
	size     int
	parts    int
	backlog  float64 // GiB
	readers  int
	hot      bool
	duration time.Duration
	runs     int
	configs  map[string]string
}

// consumeResult is one phase.
type consumeResult struct {
	Readers   int     `json:"catchUpReaders"`
	Seconds   float64 `json:"seconds"` // measured
	Latency   Latency `json:"latency"`
	Lag       Latency `json:"sendLag"`
	Bytes     int64   `json:"catchUpBytes"`
	Passes    int     `json:"catchUpPasses"` // times that the backlog was read
	Steal     float64 `json:"stealPercent"`
	Disturbed bool    `json:"disturbed"`
}

func parseConsume(args []string, stderr io.Writer) (*consume, error) {
	c := &consume{configs: map[string]string{}}
	p := &c.produce
	f := flag.NewFlagSet("millrace bench consume", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&p.bootstrap, "bootstrap-server", "", "measure the broker at `host:port`; it must be on this machine, so that the backlog can be made cold")
	f.StringVar(&p.dir, "dir", "", "without --bootstrap-server: `directory` in which the broker's data directory is made (default: the system's temporary one)")
	f.StringVar(&p.dataDir, "data-dir", "", "with --bootstrap-server: the broker's log `directory` (default: ask the broker)")
	f.Var(&p.overrides, "override", "without --bootstrap-server: broker setting `key=value`; repeatable")
	f.StringVar(&p.confine, "confine", "auto", "keep the broker to one CPU and the clients to the others: `on, off` or auto (on)")
	f.Int64Var(&c.rate, "rate", 2000, "`records/s` to the tail")
	f.IntVar(&c.size, "size", 1024, "`bytes` of each of their values")
	f.IntVar(&c.parts, "partitions", 1, "of the tail's topic")
	f.Float64Var(&c.backlog, "backlog", 4, "`GiB` that there are to catch up")
	f.IntVar(&c.readers, "readers", 1, "catch-up readers at the same time")
	f.BoolVar(&c.hot, "hot", false, "leave the backlog in the page cache")
	f.DurationVar(&c.duration, "duration", 6*time.Second, "measured time of each phase; with catch-up readers: as many whole reads as begin in it")
	f.IntVar(&c.runs, "runs", 5, "of each phase, in turn")
	f.Var(pairs(c.configs), "topic-config", "setting of the tail's topic `key=value`; repeatable")
	f.StringVar(&p.out, "out", "", "write all phases to `FILE.json`")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	p.serve, p.stderr, p.workload.Duration = p.bootstrap == "", stderr, c.duration
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case c.rate < 1 || c.size < 8 || c.parts < 1 || c.runs < 1 || c.readers < 1 || c.backlog <= 0:
		return nil, errors.New("--rate, --partitions, --runs, --readers and --backlog are above 0, --size is 8 at least")
	case p.confine != "auto" && p.confine != "on" && p.confine != "off":
		return nil, fmt.Errorf("--confine %q is not on, off or auto", p.confine)
	}
	if p.confine == "auto" {
		p.confine = "on"
	}
	return c, nil
}

const (
	tailTopic    = "millrace-bench-tail"
	backlogTopic = "millrace-bench-backlog"
)

// Guesses at what bench consume takes besides its phases.
const (
	backlogCost = 5 * time.Second // to write a GiB
	phaseCost   = time.Second     // to let what was before come to rest; with readers half of a phase more, since they read to the end
)

func (c *consume) measure(ctx context.Context) (code int, err error) {
	c.bar = newProgress(c.stderr)
	defer c.bar.end()
	confinement := c.confinement()
	target, err := c.target("broker", confinement, clientFranz)
	if err != nil {
		return exitFailed, err
	}
	if err := target.Start(ctx); err != nil {
		return exitFailed, err
	}
	defer func() { err = errors.Join(err, target.Stop()) }()
	info := target.Info()
	if info.DataDir == "" && !c.hot {
		return exitFailed, errors.New("the broker's log directory is not known, so its files cannot be made cold: --data-dir, or --hot")
	}
	restore, err := c.confineAll(confinement, info.PID)
	if err != nil {
		return exitFailed, err
	}
	defer restore()
	collector, collect := collectRarely()
	defer collect()
	for topic, w := range map[string]Workload{
		backlogTopic: {Partitions: 1, Replication: -1, TopicConfig: map[string]string{}},
		tailTopic:    {Partitions: c.parts, Replication: -1, TopicConfig: c.configs},
	} {
		if err := target.Create(ctx, topic, w); err != nil {
			return exitFailed, err
		}
		defer func() {
			if !c.serve {
				err = errors.Join(err, target.Remove(context.WithoutCancel(ctx), topic))
			}
		}()
	}
	settings, err := target.Settings(ctx, tailTopic)
	if err != nil {
		return exitFailed, err
	}
	c.probeDisk(ctx)
	fill := time.Duration(c.backlog * float64(backlogCost))
	c.bar.expect(fill+time.Duration(c.runs)*(c.phaseTime(0)+c.phaseTime(c.readers)), false)
	c.bar.begin("writing %.1f GiB to catch up", c.backlog)
	end, err := fillBacklog(ctx, info.Address, backlogTopic, int64(c.backlog*(1<<30)), 128<<10, backlogValue)
	if err != nil {
		return exitFailed, err
	}
	c.bar.passed(fill)
	load, err := startTail(info.Address, tailTopic, c.rate, c.size, c.parts)
	if err != nil {
		return exitFailed, err
	}
	defer load.stop()
	results, err := c.phases(ctx, load, info, end)
	c.bar.end()
	if len(results) > 0 {
		c.print(results)
		if c.out != "" {
			f := consumeFile{Command: commandLine(c.args), Machine: ReadMachine(info.DataDir), Target: info, Settings: settings, Collector: collector, Phases: results, Partial: err != nil}
			f.Machine.Disk.Writes = c.writes
			err = errors.Join(err, f.Write(c.out))
		}
	}
	if err != nil {
		return exitFailed, err
	}
	return exitOK, nil
}

// confineAll keeps this process, and those that it starts, to the generator's CPUs, and a
// broker that runs already to its own.
func (c *consume) confineAll(to Confinement, broker int) (func(), error) {
	if len(to.Generator) == 0 {
		return func() {}, nil
	}
	before := allowedCPUs(0)
	if err := confine(os.Getpid(), to.Generator); err != nil {
		return nil, err
	}
	back := func() { _ = confine(os.Getpid(), before) } // we end soon
	if c.serve || broker == 0 {
		return back, nil
	}
	theirs := allowedCPUs(broker)
	if err := confine(broker, to.Broker); err != nil {
		back()
		return nil, err
	}
	return func() { back(); _ = confine(broker, theirs) }, nil
}

// phases takes turns: without catch-up readers, and with them.
func (c *consume) phases(ctx context.Context, load *tailLoad, info TargetInfo, end int64) ([]consumeResult, error) {
	var all []consumeResult
	for run := range c.runs {
		for _, readers := range []int{0, c.readers} {
			c.bar.begin("run %d of %d, %s", run+1, c.runs, map[bool]string{true: "alone", false: "beside readers that catch up"}[readers == 0])
			r, err := c.phase(ctx, load, info, end, readers)
			if err != nil {
				return all, err
			}
			all = append(all, r)
			c.bar.passed(c.phaseTime(readers))
			c.say("run %d, %s", run+1, r.line())
		}
	}
	return all, nil
}

// phaseTime guesses how long a phase takes.
func (c *consume) phaseTime(readers int) time.Duration {
	if readers > 0 {
		return phaseCost + c.duration*3/2
	}
	return phaseCost + c.duration
}

func (c *consume) phase(ctx context.Context, load *tailLoad, info TargetInfo, end int64, readers int) (r consumeResult, err error) {
	r.Readers = readers
	m := newMeter(info)
	binary, err := os.Executable()
	if err != nil {
		return r, err
	}
	var total, steal uint64
	for r.Seconds < c.duration.Seconds() {
		if readers > 0 && !c.hot {
			if err := evict(info.DataDir, backlogTopic); err != nil {
				return r, err
			}
		}
		select { // what evicting and the last pass left is over
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		from, err := m.read()
		if err != nil {
			return r, err
		}
		began := time.Now()
		load.begin()
		if readers == 0 {
			select {
			case <-ctx.Done():
				return r, ctx.Err()
			case <-time.After(c.duration):
			}
		} else if err := c.readAll(ctx, binary, info.Address, end, readers, &r); err != nil {
			return r, err
		}
		r.Seconds += time.Since(began).Seconds()
		to, err := m.read()
		if err != nil {
			return r, err
		}
		total, steal = total+to.cpu.total-from.cpu.total, steal+to.cpu.steal-from.cpu.steal
		if err := load.end(ctx); err != nil {
			return r, err
		}
	}
	if total > 0 {
		r.Steal = 100 * float64(steal) / float64(total)
	}
	r.Disturbed = r.Steal > StealMax
	counts, lag := load.take()
	if r.Latency, err = summarize(counts, 1, true); err != nil {
		return r, err
	}
	r.Lag, err = summarize(lag, 1, false)
	return r, err
}

// readAll has every reader read the backlog once.
func (c *consume) readAll(ctx context.Context, binary, address string, end int64, readers int, r *consumeResult) error {
	type outcome struct {
		bytes int64
		err   error
	}
	outcomes := make(chan outcome)
	for range readers {
		go func() {
			r, err := catchUp(ctx, binary, catchUpJob{Address: address, Topic: backlogTopic, End: end, Fetch: fetchMax, Yield: true})
			outcomes <- outcome{r.Bytes, err}
		}()
	}
	var failed error
	for range readers {
		o := <-outcomes
		r.Bytes += o.bytes
		failed = errors.Join(failed, o.err)
	}
	r.Passes++
	return failed
}

func (r *consumeResult) line() string {
	s := fmt.Sprintf("%d catch-up readers: p50 %s, p99 %s, max %s, %d records in %.1f s, steal %.1f %%, send lag p99 %s",
		r.Readers, micros(r.Latency.P50), micros(r.Latency.P99), micros(&r.Latency.Max), r.Latency.Count, r.Seconds, r.Steal, micros(r.Lag.P99))
	if r.Readers > 0 {
		s += fmt.Sprintf("; caught up %.1f GiB at %.0f MB/s", float64(r.Bytes)/(1<<30), float64(r.Bytes)/1e6/r.Seconds)
	}
	return s
}

// print shows the phases, ratios, and medians.
func (c *consume) print(all []consumeResult) {
	how := "cold"
	if c.hot {
		how = "in the page cache"
	}
	table, notes := consumeTable(all)
	fmt.Fprintf(c.stdout, "%d records/s of %d bytes to %s, consumed at their end; %d catch-up readers of %.1f GiB, %s\n\n%s",
		c.rate, c.size, partitionsOf(c.parts), c.readers, c.backlog, how, table.markdown())
	for _, n := range notes {
		fmt.Fprintf(c.stdout, "\n%s\n", n)
	}
}

// consumeTable is a line for each pair of phases, and the medians of the pairs that were not disturbed; where all were, of all.
func consumeTable(all []consumeResult) (t reportTable, notes []string) {
	t = reportTable{Caption: "The tail alone, and beside readers that catch up", Words: 1,
		Head: []string{"run", "p50 alone", "p50 beside", "p99 alone", "p99 beside", "p99 ratio", "catch-up MB/s", "steal % alone, beside"}}
	runs, disturbed := len(all)/2, 0
	for i := range runs {
		if all[2*i].Disturbed || all[2*i+1].Disturbed {
			disturbed++
		}
	}
	use := runs - disturbed
	if use == 0 {
		use = runs
	}
	var cols [6][]float64
	for i := range runs {
		a, b := &all[2*i], &all[2*i+1]
		speed, ratio := float64(b.Bytes)/1e6/b.Seconds, (*float64)(nil)
		if a.Latency.P99 != nil && b.Latency.P99 != nil {
			x := *b.Latency.P99 / *a.Latency.P99
			ratio = &x
		}
		line := plain(fmt.Sprint(i+1), micros(a.Latency.P50), micros(b.Latency.P50), micros(a.Latency.P99), micros(b.Latency.P99), number(ratio),
			fmt.Sprintf("%.0f", speed), fmt.Sprintf("%.1f, %.1f", a.Steal, b.Steal))
		line[7].Warn = a.Disturbed || b.Disturbed
		t.Lines = append(t.Lines, line)
		if use < runs && line[7].Warn {
			continue
		}
		for j, v := range []*float64{a.Latency.P50, b.Latency.P50, a.Latency.P99, b.Latency.P99, ratio, &speed} {
			if v != nil {
				cols[j] = append(cols[j], *v)
			}
		}
	}
	med := func(j int) *float64 {
		if len(cols[j]) < use || use == 0 {
			return nil
		}
		m := middle(cols[j])
		return &m
	}
	t.Lines = append(t.Lines, plain("median", micros(med(0)), micros(med(1)), micros(med(2)), micros(med(3)), number(med(4)), number(med(5)), ""))
	switch {
	case disturbed == 0:
	case use < runs:
		notes = append(notes, fmt.Sprintf("%d of %d runs are left out of the medians (steal over %.0f %%)", disturbed, runs, StealMax))
	default:
		notes = append(notes, fmt.Sprintf("all runs were disturbed (steal over %.0f %%): the medians are of disturbed runs", StealMax))
	}
	if a, b := med(2), med(3); a != nil && b != nil {
		notes = append(notes, fmt.Sprintf("p99 beside / p99 alone, of the medians: %.2f", *b / *a))
	}
	return t, notes
}

// consumeFile is what "bench consume" leaves.
type consumeFile struct {
	Command  string            `json:"command"`
	Machine  Machine           `json:"machine"`
	Target   TargetInfo        `json:"target"`
	Settings map[string]string `json:"settings,omitempty"` // of the tail's topic, as the broker reports them
	Phases   []consumeResult   `json:"phases"`             // in turns: alone, beside
	Partial  bool              `json:"cutShort,omitempty"` // ended before all phases were made

	Collector int `json:"generatorGOGC,omitempty"` // as Result's
}

// Write stores f as JSON, whole or not at all.
func (f consumeFile) Write(path string) error { return writeJSON(path, f) }
