package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

const catchupAbout = `usage: millrace bench catchup [flags]

How fast a consumer catches up from the page cache, and what it costs the broker: a backlog is written to each row's broker and
synced, a first reader brings it into memory, then readers fetch all of it again and again. Beside the brokers stand two bare
servers on the same CPU: one answers the same fetches by sendfile(2) from a file of such batches and does nothing else, the other
sends the file without waiting for requests. Rows take turns.

`

// catchup is one parsed command line; its rows, confinement and rule are a produce's.
type catchup struct {
	produce
	bare bool
}

// CatchUpLoad is what readers that catch up are asked.
type CatchUpLoad struct {
	Backlog int64 `json:"backlogBytes"` // of values
	Batch   int   `json:"batchBytes"`   // at most
	Readers int   `json:"readers"`
	Fetch   int   `json:"fetchBytes"` // asked for at once
}

// CatchUp is what they saw, all of them together. A run's Seconds are from the first request of any to the last answer of any.
type CatchUp struct {
	Bytes      int64            `json:"bytes"` // of whole batches
	Fetches    int64            `json:"fetches"`
	Passes     int              `json:"passes"` // times that the backlog was read to its end
	ReadersCPU float64          `json:"readersCPUSeconds"`
	Paths      map[string]int64 `json:"bytesByPath,omitempty"` // of a Millrace that the harness started: see docs/reads.md
}

// The bare servers' names.
const (
	bareRow   = "bare sendfile"
	streamRow = "bare sendfile, no requests"
)

const (
	catchUpRecords    = 16 // of a batch
	catchUpBatchMin   = 1 << 10
	catchUpReadersMax = 64
)

func parseCatchup(args []string, stderr io.Writer) (*catchup, error) {
	c := &catchup{produce: produce{serve: true, stderr: stderr, rule: RepeatRule{StealMax: StealMax}}}
	w := &c.workload
	*w = Workload{Partitions: 1, Replication: -1, Batch: catchUpRecords, TopicConfig: map[string]string{}}
	f := flag.NewFlagSet("millrace bench catchup", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, catchupAbout); f.PrintDefaults() }
	f.StringVar(&c.asked.compare, "compare", "os", "`rows` of our own broker, each a flush policy with settings: os,os+fetch.path=sendfile,epoll=os+ring.backend=posix; \"\": none")
	f.Var(&c.asked.managed, "peer", "a peer that is started here as a row: `[NAME=]kafka[+topic.setting=value]`; repeatable")
	f.Var(&c.peers, "peer-bootstrap", "another broker of this machine as a row: `NAME=HOST:PORT[+topic.setting=value]`; repeatable")
	f.BoolVar(&c.bare, "bare", true, "have the two bare servers as rows")
	backlog := f.Float64("backlog", 2, "`GiB` that there are to catch up; they must fit into memory")
	f.IntVar(&w.CatchUp.Batch, "batch", 16<<10, "`bytes` of a batch, 16 records each")
	f.IntVar(&w.CatchUp.Readers, "readers", 1, "at the same time, each with all of the backlog")
	f.IntVar(&w.CatchUp.Fetch, "fetch", fetchMax, "`bytes` that a reader asks for at once")
	f.DurationVar(&w.Warmup, "warmup", 2*time.Second, "of each run, in no figure; a whole read at least (default with kafka: 10s)")
	f.DurationVar(&w.Duration, "duration", 5*time.Second, "measured time of each run")
	f.IntVar(&c.rule.Runs, "runs", 5, "of each row, in turns")
	f.IntVar(&c.rule.RepeatsMax, "repeats", 2, repeatsUsage)
	f.StringVar(&c.dir, "dir", "", "`directory` in which data directories are made (default: the system's temporary one)")
	f.Var(&c.overrides, "override", "setting of our own broker `key=value`; repeatable")
	f.Var(pairs(w.TopicConfig), "topic-config", "setting of the backlog's topic `key=value`; repeatable")
	f.StringVar(&c.confine, "confine", "on", "keep the broker to one CPU and the readers to the others: `on or off`")
	f.StringVar(&c.out, "out", "", "write all runs and machine facts to `FILE.json`")
	f.StringVar(&c.update, "update", "", "rewrite the table in this Markdown `FILE`")
	f.StringVar(&c.section, "section", "catchup", "with --update: `name` of the table's section")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	c.partitions = []int{1}
	w.CatchUp.Backlog = int64(*backlog * (1 << 30))
	warm := false
	f.Visit(func(set *flag.Flag) { warm = warm || set.Name == "warmup" })
	for _, spec := range c.managed {
		if spec.Kind.Protocol != peer.Kafka {
			return nil, fmt.Errorf("--peer %s: the readers speak %s only", spec.Label, peer.Kafka)
		}
		if !warm {
			w.Warmup = max(w.Warmup, warmupJVM)
		}
	}
	return c, c.checkCatchup()
}

func (c *catchup) checkCatchup() error {
	w := &c.workload
	l := w.CatchUp
	switch {
	case l.Batch < catchUpBatchMin || l.Batch > messageMaxDefault:
		return fmt.Errorf("--batch %d is not within %d to %d", l.Batch, catchUpBatchMin, messageMaxDefault)
	case l.Backlog < int64(l.Batch):
		return fmt.Errorf("--backlog: %d bytes are less than a batch", l.Backlog)
	case l.Readers < 1 || l.Readers > catchUpReadersMax:
		return fmt.Errorf("--readers %d is not within 1 to %d", l.Readers, catchUpReadersMax)
	case l.Fetch < l.Batch || l.Fetch > 1<<30:
		return fmt.Errorf("--fetch %d is not within a batch, %d, and 1 GiB", l.Fetch, l.Batch)
	case w.Duration <= 0 || w.Warmup < 0:
		return fmt.Errorf("--duration %v --warmup %v: a time above 0, and one that is not negative", w.Duration, w.Warmup)
	case !c.bare && len(c.ours)+len(c.managed)+len(c.peers) == 0:
		return errors.New("no row: --compare is empty, and there is no --peer")
	}
	for _, row := range c.ours {
		if row.name == bareRow || row.name == streamRow {
			return fmt.Errorf("--compare: %q is what a bare server is called", row.name)
		}
	}
	w.Size = (l.Batch-batchOverhead)/catchUpRecords - 13 // see batchBytes
	return c.checkTargets()
}

// measure makes the comparison.
func (c *catchup) measure(ctx context.Context) (int, error) {
	c.progress()
	defer c.bar.end()
	confinement := c.confinement()
	if err := c.install(ctx); err != nil {
		return exitFailed, err
	}
	var rows []Row
	if len(c.ours)+len(c.managed)+len(c.peers) > 0 {
		var err error
		if rows, err = c.rows(confinement); err != nil {
			return exitFailed, err
		}
	}
	if c.bare {
		fetches, stream, err := c.bareTargets(confinement, c.workload.CatchUp.Backlog)
		if err != nil {
			return exitFailed, err
		}
		rows = append(rows, Row{Name: bareRow, Target: fetches}, Row{Name: streamRow, Target: stream})
	}
	c.options.run = runCatchUp
	c.bar.expect(time.Duration(c.rule.Runs)*runsCost(rows, c.workload), false)
	return c.finish(Compare(ctx, rows, c.workload, c.rule, confinement, c.options, c.toldCatchUp))
}

// finish writes and prints what was made; err is what ended it early. The runs are stored first: what shows them may fail.
func (c *catchup) finish(table []Summary, results []*Result, err error) (int, error) {
	c.bar.end()
	f := c.file(results)
	f.Table, f.Rule, f.Partial = table, c.rule, err != nil
	err = errors.Join(err, c.store(f))
	text := "No run was finished.\n"
	if len(results) > 0 {
		made, failed := markdownAll([]resultFile{{Name: "catchup", Produce: &f}})
		text, err = made, errors.Join(err, failed)
	}
	fmt.Fprintln(c.stdout, text)
	if c.update != "" && err == nil { // a table that was cut short does not replace one that was not
		err = UpdateSection(c.update, c.section, text)
	}
	if err != nil {
		return exitFailed, err
	}
	return exitOf(results), nil
}

func (c *catchup) toldCatchUp(row string, round, _ int, r *Result) {
	mb := r.BytesPerSecond / 1e6
	c.say("%-26s round %d/%d  %s MB/s  broker CPU %s s/GB  %s", row, round, c.rule.Runs, number(&mb), number(r.brokerCPUPerGB()), r.disturbance())
}

// runCatchUp makes one run: see Options.run.
func runCatchUp(ctx context.Context, t Target, w Workload, o Options) (res *Result, err error) {
	l, info := w.CatchUp, t.Info()
	bare, isBare := t.(*Bare)
	res = &Result{Started: time.Now().UTC(), Workload: w, Loop: w.Loop(), Target: info, Topic: fmt.Sprintf("millrace-bench-%08x", rand.Uint32())}
	res.Notes, res.Target.ClientLib = slices.Clone(info.Notes), "the bench's catch-up reader"
	res.Verify.State = "skipped: a reader looks at headers only"
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	notes, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(notes)) }()
	if err := t.Create(ctx, res.Topic, w); err != nil {
		return nil, err
	}
	if !o.Keep {
		defer func() {
			clearing, cancel := clearingContext(ctx, 1)
			defer cancel()
			if err := t.Remove(clearing, res.Topic); err != nil {
				res.note("the topic is left behind: %v", err)
			}
		}()
	}
	if res.Settings, err = t.Settings(ctx, res.Topic); err != nil {
		res.SettingsError = err.Error()
	}
	job := catchUpJob{Address: strings.Split(info.Address, ",")[0], Topic: res.Topic, Fetch: l.Fetch, For: w.Warmup}
	switch {
	case isBare:
		job.End, job.Stream = bare.layout.End(), bare.Stream
	default:
		res.Class = classOf(res.Settings)
		o.phase("writing %.1f GiB to catch up", float64(l.Backlog)/(1<<30))
		if job.End, err = fillBacklog(ctx, info.Address, res.Topic, l.Backlog, l.Batch, w.Size); err != nil {
			return nil, err
		}
		if info.DataDir == "" {
			res.note("the broker's log directory is not known: what it writes back meanwhile is in its figures")
		} else if err := segments(info.DataDir, res.Topic, (*os.File).Sync); err != nil {
			return nil, err
		}
	}
	o.phase("reading it for %v to warm up, then for %v", w.Warmup, w.Duration)
	if !job.Stream {
		job.Note = filepath.Join(notes, "batches")
	}
	if _, err := catchUp(ctx, binary, job); err != nil {
		return nil, err
	}
	job.Note, job.Batches, job.For = "", job.Note, w.Duration
	if err := res.catchUp(ctx, binary, job, info); err != nil {
		return nil, err
	}
	res.judgeCatchUp()
	return res, nil
}

// catchUp runs the readers, and reads the counters before and after.
func (r *Result) catchUp(ctx context.Context, binary string, job catchUpJob, info TargetInfo) error {
	pathsFrom, err := fetchPaths(ctx, info.Admin)
	if err != nil {
		return err
	}
	m := newMeter(info)
	m.admin = "" // stages are of produce requests
	from, err := m.read()
	if err != nil {
		return err
	}
	reports, err := catchUpTogether(ctx, binary, job, r.Workload.CatchUp.Readers)
	if err != nil {
		return err
	}
	to, err := m.read()
	if err != nil {
		return err
	}
	pathsTo, err := fetchPaths(ctx, info.Admin)
	if err != nil {
		return err
	}
	c, records := &CatchUp{}, int64(0)
	began, ended := reports[0].From, reports[0].To
	for _, one := range reports {
		c.Bytes, c.Fetches, c.Passes, c.ReadersCPU = c.Bytes+one.Bytes, c.Fetches+one.Fetches, c.Passes+one.Passes, c.ReadersCPU+one.CPU.Seconds()
		records += one.Records
		began, ended = min(began, one.From), max(ended, one.To)
	}
	for path, n := range pathsTo {
		if n -= pathsFrom[path]; n > 0 {
			if c.Paths == nil {
				c.Paths = map[string]int64{}
			}
			c.Paths[path] = n
		}
	}
	r.CatchUp, r.Use = c, m.between(from, to)
	if o := r.Use.OthersCPU; o != nil { // the readers are the client
		*o = max(0, *o+r.Use.ClientCPU-c.ReadersCPU)
	}
	r.Use.ClientCPU = c.ReadersCPU
	r.Seconds = time.Duration(ended - began).Seconds()
	r.BytesPerSecond, r.RecordsPerSecond = float64(c.Bytes)/r.Seconds, float64(records)/r.Seconds
	return nil
}

// catchUpTogether runs readers at the same time.
func catchUpTogether(ctx context.Context, binary string, job catchUpJob, n int) (all []catchUpReport, err error) {
	type outcome struct {
		report catchUpReport
		err    error
	}
	outcomes := make(chan outcome)
	for range n {
		go func() {
			r, err := catchUp(ctx, binary, job)
			outcomes <- outcome{r, err}
		}()
	}
	for range n {
		o := <-outcomes
		all, err = append(all, o.report), errors.Join(err, o.err)
	}
	return all, err
}

// judgeCatchUp adds the notes that follow from the figures.
func (r *Result) judgeCatchUp() {
	r.Disturbed = r.Use.Steal > StealMax
	l := r.Workload.CatchUp
	if n := r.Use.DiskRead; n != nil && float64(*n) > 0.01*float64(r.CatchUp.Bytes) {
		r.note("%d MB were read from the disk meanwhile, by whomever: not all was in the page cache", *n/1e6)
	}
	if used := r.Use.ClientCPU / r.Seconds; used > 0.95*float64(min(l.Readers, clientCPUs())) {
		r.note("the readers used all of their CPU time: they may be what is measured")
	}
	r.judgeOthers()
}

// fetchPaths is how many bytes of records a Millrace has sent by which way, from its metrics; nil where there is no admin listener.
func fetchPaths(ctx context.Context, admin string) (map[string]int64, error) {
	if admin == "" {
		return nil, nil
	}
	b, err := askAdmin(ctx, admin, "/metrics")
	if err != nil {
		return nil, err
	}
	paths := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, `millrace_fetch_path_bytes_total{path="`)
		path, value, whole := strings.Cut(rest, `"} `)
		if !ok || !whole {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("admin listener %s: %q: %w", admin, line, err)
		}
		paths[path] = int64(n)
	}
	return paths, nil
}
