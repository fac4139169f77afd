package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/millrace/millrace/bench/omb"
)

// workloads is one parsed command line of "millrace bench workload".
type workloads struct {
	produce
	files          []omb.Workload
	driver         omb.Driver
	client         *javaClient
	search         Search
	probe          time.Duration
	backlogTimeout time.Duration
	warmup         time.Duration // replaces what the files say, as duration does; below 0: it does not
	duration       time.Duration
}

func parseWorkloads(args []string, stderr io.Writer) (*workloads, error) {
	c := &workloads{produce: *newProduce()}
	c.rule.Runs = 1
	f := flag.NewFlagSet("millrace bench workload", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "usage: millrace bench workload FILE.yaml... [--driver DRIVER.yaml] [flags]")
		f.PrintDefaults()
	}
	driver := f.String("driver", "", "Kafka driver `FILE.yaml` of the OpenMessaging Benchmark; without a target flag its bootstrap.servers is measured")
	c.targetFlags(f)
	c.search.flags(f, 10_000)
	f.DurationVar(&c.probe, "probe", 10*time.Second, "with producerRate 0: measured time of each rate that is tried, after a third of it as warm-up")
	f.DurationVar(&c.backlogTimeout, "backlog-timeout", time.Hour, "how long building a backlog may take, and again draining it")
	f.DurationVar(&c.duration, "duration", -1, "instead of testDurationMinutes")
	f.DurationVar(&c.warmup, "warmup", -1, "instead of warmupDurationMinutes")
	f.StringVar(&c.out, "out", "", "write result files, ours and in the benchmark's shape, to `DIR`, which is made")
	paths, err := parseMixed(f, args)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, errors.New("no workload file named")
	}
	for _, path := range paths {
		w, err := omb.ReadWorkload(path)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(c.files, func(o omb.Workload) bool { return o.Base() == w.Base() }) {
			return nil, fmt.Errorf("two workload files are called %s: their results would be too", w.Base())
		}
		c.files = append(c.files, w)
	}
	c.driver = omb.Driver{Replication: -1}
	if *driver != "" {
		if c.driver, err = omb.ReadDriver(*driver); err != nil {
			return nil, err
		}
	}
	if c.client, err = newJavaClient(c.driver); err != nil {
		return nil, err
	}
	if err := errors.Join(c.resolve(), c.search.validate()); err != nil {
		return nil, err
	}
	if c.bootstrap == "" && !c.serve && !c.comparing() {
		c.bootstrap = c.driver.Bootstrap()
	}
	return c, c.check()
}

func (c *workloads) check() error {
	if c.probe <= 0 {
		return fmt.Errorf("--probe %v", c.probe)
	}
	if slices.Contains(c.clients, clientLean) {
		return fmt.Errorf("--client %s: workloads are for %s", clientLean, clientFranz)
	}
	config := map[string]string{}
	for _, p := range c.driver.Topic {
		config[p.Key] = p.Value
	}
	for key, value := range c.workload.TopicConfig { // the flags count
		config[key] = value
	}
	c.workload.TopicConfig = config
	if c.workload.Replication == -1 {
		c.workload.Replication = c.driver.Replication
	}
	for i := range c.files {
		w, err := c.workloadOf(&c.files[i])
		if err != nil {
			return err
		}
		if err := c.takes(w); err != nil {
			return err
		}
	}
	return c.checkTargets()
}

// workloadOf is what a file asks, as a Workload that is valid. A rate of 0 is the search's first.
func (c *workloads) workloadOf(f *omb.Workload) (Workload, error) {
	w := c.workload
	w.Partitions, w.Size, w.Batch, w.Rate = f.Partitions, f.Size, 1, int64(f.Rate)
	w.Producers = f.Topics * f.Producers
	w.Acks, w.Idempotent, w.Compression = c.client.acks, c.client.idempotent, c.client.compression
	w.Warmup, w.Duration = omb.Minutes(f.WarmupMinutes), omb.Minutes(f.TestMinutes)
	if c.warmup >= 0 {
		w.Warmup = c.warmup
	}
	if c.duration >= 0 {
		w.Duration = c.duration
	}
	if w.Duration == 0 {
		return w, f.Errorf("testDurationMinutes", "0 goes on for ever: --duration says how long")
	}
	w.Streams = Streams{Topics: f.Topics, Groups: f.Subscriptions, Consumers: f.Consumers, Every: time.Duration(f.LogEveryMillis) * time.Millisecond,
		Keys: map[string]string{omb.NoKey: "", omb.KeyRoundRobin: KeysRoundRobin, omb.RandomNano: KeysRandom}[f.KeyDistribute]}
	if f.Randomized {
		w.RandomBytes, w.Streams.Pool = f.RandomRatio, f.RandomPool
	} else {
		var err error
		if w.Streams.body, err = f.Payload(); err != nil {
			return w, err
		}
		w.Streams.Payload = f.PayloadFile
	}
	if f.BacklogGB > 0 {
		w.Streams.Backlog, w.Streams.DrainRatio, w.Streams.BacklogTimeout = int64(f.BacklogGB*(1<<30)), f.DrainRatio, c.backlogTimeout
	}
	if w.Rate == 0 {
		w.Rate = c.search.From
	}
	if err := w.Validate(); err != nil {
		return w, fmt.Errorf("%s: %w", f.Path, err)
	}
	return w, nil
}

func (c *workloads) measure(ctx context.Context) (int, error) {
	c.progress()
	defer c.bar.end()
	for _, w := range c.client.warnings {
		c.say("%s: %s", c.driver.Path, w)
	}
	if !c.comparing() {
		c.say("measuring %s", or(c.bootstrap, "a broker that is started here"))
	}
	if c.out != "" {
		if err := os.MkdirAll(c.out, 0o755); err != nil {
			return exitFailed, err
		}
	}
	confinement := c.confinement()
	rows, err := c.allRows(ctx, confinement)
	if err != nil {
		return exitFailed, err
	}
	c.probeDisk(ctx)
	code := exitOK
	for i := range c.files {
		one, err := c.one(ctx, &c.files[i], rows, confinement)
		code = max(code, one)
		if err != nil {
			return code, err
		}
	}
	return code, nil
}

// one makes the runs of one file and writes their results.
func (c *workloads) one(ctx context.Context, file *omb.Workload, rows []Row, confinement Confinement) (int, error) {
	w, err := c.workloadOf(file)
	if err != nil {
		return exitFailed, err
	}
	for _, row := range rows {
		k := kafkaOf(row.Target)
		if k == nil {
			return exitFailed, fmt.Errorf("row %s: workloads are for the Kafka protocol", row.Name)
		}
		k.ProducerOptions, k.ProducerInFlight, k.ConsumerOptions = c.client.options(w), c.client.requests, c.client.consumer
	}
	c.say("%s: %s", file.Path, file.Name)
	var f File
	rates := make([]int64, len(rows))
	for i := range rates {
		rates[i] = w.Rate
	}
	if file.Rate == 0 {
		probe := w
		probe.Duration, probe.Warmup = c.probe, c.probe/3
		var runs []*Result
		f.Curves, runs, err = c.search.Rates(ctx, rows, probe, RepeatRule{Runs: 1, RepeatsMax: c.rule.RepeatsMax, StealMax: c.rule.StealMax}, confinement, c.quiet(), c.point)
		f.Search = c.search
		c.bar.end()
		printCurves(c.stdout, f.Curves)
		if err != nil { // what there is of the search
			f.Runs = runs
		}
		for i, curve := range f.Curves {
			if rates[i] = curve.Sustained; rates[i] == 0 && err == nil {
				err = fmt.Errorf("row %s: %s", curve.Row, curve.verdict())
			}
		}
		for _, r := range runs {
			if r.Verify.State == "FAILED" && err == nil {
				err = fmt.Errorf("row %s: not all that was acknowledged was read back", r.Row)
			}
		}
	}
	c.bar.expect(time.Duration(c.rule.Runs)*runsCost(rows, w), file != &c.files[len(c.files)-1])
	for _, part := range c.parts(rows, file.Rate == 0) {
		if err != nil {
			break
		}
		w.Rate = rates[part.first]
		table, runs, failed := Compare(ctx, part.rows, w, c.rule, confinement, c.options, c.told)
		err = failed
		for _, r := range runs {
			if why := unsustained(r); file.Rate == 0 && why != "" {
				r.note("%d records/s were sustained for %v, and were not over the whole time: %s", w.Rate, c.probe, why)
			}
		}
		f.Table, f.Runs = append(f.Table, table...), append(f.Runs, runs...)
	}
	c.bar.end()
	done := c.file(f.Runs)
	done.Curves, done.Search, done.Table, done.Rule, done.Partial = f.Curves, f.Search, f.Table, c.rule, err != nil
	for _, r := range f.Runs {
		PrintResult(c.stdout, r)
	}
	if c.comparing() && file.Rate > 0 && len(f.Runs) > 0 { // else the rows have rates of their own
		fmt.Fprintln(c.stdout, Markdown(f.Table, f.Runs, done))
	}
	if err := errors.Join(err, c.write(file, done)); err != nil {
		return exitFailed, err
	}
	return exitOf(f.Runs), nil
}

// part is rows that are measured at one rate, interleaved.
type part struct {
	first int
	rows  []Row
}

func (c *workloads) parts(rows []Row, apart bool) (all []part) {
	if !apart {
		return []part{{0, rows}}
	}
	for i := range rows {
		all = append(all, part{i, rows[i : i+1]})
	}
	return all
}

// quiet are the options without a line for each phase.
func (p *produce) quiet() Options {
	o := p.options
	o.Phase = func(phase string) { p.bar.step(phase, false) }
	return o
}

// kafkaOf is the part of a target that speaks the Kafka protocol, or nil.
func kafkaOf(t Target) *Kafka {
	switch t := t.(type) {
	case *Kafka:
		return t
	case *Serve:
		return &t.Kafka
	case *Managed:
		return &t.Kafka
	case *NullBroker:
		return &t.Kafka
	}
	return nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// write stores our result file, and one in the benchmark's shape for each run.
func (c *workloads) write(file *omb.Workload, f File) error {
	if c.out == "" || len(f.Runs) == 0 {
		return nil
	}
	failed := f.Write(filepath.Join(c.out, file.Base()+".json"))
	count := map[string]int{}
	for _, r := range f.Runs {
		driver := c.driver.Name
		switch {
		case driver == "":
			driver = r.Row
		case c.comparing():
			driver += " " + r.Row
		}
		name := file.Base() + "-" + notInNames.ReplaceAllString(driver, "-")
		if count[name]++; count[name] > 1 {
			name += fmt.Sprintf("-%d", count[name])
		}
		b, err := json.MarshalIndent(testResult(file, driver, r), "", "  ")
		if err == nil {
			err = replace(filepath.Join(c.out, name+".omb.json"), append(b, '\n'))
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// testResult is a run in the benchmark's shape and by its rules: publish latency runs from the send, and how late the send was stands apart;
// end-to-end latency runs from the send, in microseconds where the benchmark has whole milliseconds.
func testResult(file *omb.Workload, driver string, r *Result) omb.TestResult {
	s := r.streams
	t := omb.TestResult{
		Workload: file.Name, Driver: driver, MessageSize: file.Size, Topics: file.Topics, Partitions: file.Partitions,
		ProducersPerTopic: file.Producers, ConsumersPerTopic: file.Consumers,
		PublishRate: []float64{}, PublishErrorRate: []float64{}, ConsumeRate: []float64{}, Backlog: []int64{},
		Publish: omb.Series{Total: s.publish}, PublishDelay: omb.Series{Total: s.delay}, EndToEnd: omb.Series{Total: s.endToEnd},
	}
	add := func(to *omb.Series, h *hdrhistogram.Histogram) { to.Each = append(to.Each, h) }
	for _, p := range s.periods {
		t.PublishRate = append(t.PublishRate, float64(p.acked)/p.seconds)
		t.PublishErrorRate = append(t.PublishErrorRate, float64(p.failed)/p.seconds)
		t.ConsumeRate = append(t.ConsumeRate, float64(p.received)/p.seconds)
		t.Backlog = append(t.Backlog, p.behind)
		add(&t.Publish, p.publish)
		add(&t.PublishDelay, p.delay)
		add(&t.EndToEnd, p.endToEnd)
	}
	return t
}
