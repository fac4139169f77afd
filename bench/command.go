package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

// Exit codes of Main.
const (
	exitOK     = 0
	exitFailed = 1 // a run could not be made, or an acknowledged record was not read back
	exitUsage  = 2
)

const usage = `usage: millrace bench produce|curve|workload|ceiling|consume|catchup|durability|powerloss|disk|trace|report|compare [flags]

  produce   send records at a fixed rate (or as fast as they are acknowledged) and
            measure from the time each should have been sent; then read all back
  produce --compare write,file,journal,interval,os --peer kafka
            the same, once per flush policy and peer, interleaved, with medians
  curve     the same at one rate after another: latency against offered load, and the largest
            rate that is sustained
  workload  make the runs that workload files of the OpenMessaging Benchmark ask for, with
            their producers and consumers; results in its shape and in ours
  ceiling   measure the clients themselves, against a broker that acknowledges without writing
  consume   measure how long records take from a producer to a consumer at the end of the log,
            alone and beside a consumer that catches up on some GiB that are not in memory
  catchup   measure how fast consumers catch up from the page cache, and what it costs the broker, beside
            a bare sendfile loop
  durability --out DIR
            what each flush policy, and each peer, costs and loses: policies, acks, partitions and
            batches in one interleaved run, beside a power-loss ledger; --quick: a few minutes
  powerloss cut the power of a broker under load, at random points, on a file system that
            forgets what was not synced; restart it; count what was acknowledged and is gone
  powerloss --ground sim
            the same in the simulator: every point of a short history, and points of
            thousands of longer ones
  disk      measure what a durable write costs on the disk under a directory, and say
            whether a flush reaches it
  trace     show where the produce requests of a running broker spend their time, stage by
            stage, and the slowest of them one by one
  report    write result files (--out) as one HTML page with charts, or as tables in Markdown
  compare   say what changed from one result file to another, and whether that is noise;
            the exit code is 1 when something got worse

Run one of them with -h for its flags.
`

// Main is "millrace bench" with the arguments that follow it. It returns the
// process's exit code. simulate makes what powerloss --ground sim runs on.
func Main(args []string, simulate Simulator, stdout, stderr io.Writer) int {
	return Program{Simulate: simulate}.Main(args, stdout, stderr)
}

// Program is what "millrace bench" is linked with. What needs one that is nil says so.
type Program struct {
	Simulate Simulator // powerloss --ground sim
	Rings    *Rings    // the lean client, the null broker
}

// Main is the function Main of this program.
func (p Program) Main(args []string, stdout, stderr io.Writer) int {
	simulate, rings := p.Simulate, p.Rings
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	stderr, heard := outlive(stderr, stop)
	defer heard()
	if len(args) > 0 {
		switch args[0] {
		case "powerloss":
			return mainPowerLoss(ctx, args, simulate, stdout, stderr)
		case "report":
			return mainReport(args[1:], stdout, stderr)
		case "compare":
			return mainCompare(args[1:], stdout, stderr)
		}
	}
	if len(args) > 0 && args[0] == catchUpName { // for bench consume and catchup: it starts itself
		if err := mainCatchUp(args[1:], stdout); err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailed
		}
		return exitOK
	}
	if len(args) > 0 && args[0] == bareName { // for a Bare: it starts itself
		if err := mainBare(args[1:], stderr); err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailed
		}
		return exitOK
	}
	if len(args) > 0 && args[0] == nullName { // for a NullBroker: it starts itself
		if err := mainNull(args[1:], rings); err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailed
		}
		return exitOK
	}
	if len(args) == 0 || !slices.Contains([]string{"produce", "curve", "workload", "ceiling", "consume", "catchup", "durability", "disk", "trace"}, args[0]) {
		fmt.Fprint(stderr, usage)
		if len(args) > 0 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
			return exitOK
		}
		return exitUsage
	}
	ctx, deaf := signal.NotifyContext(ctx, stopSignals()...)
	defer deaf()
	run, err := p.parseCommand(args, stdout, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "millrace bench %s: %v\n", args[0], err)
		return exitUsage
	}
	code, err := run(ctx)
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted: what is printed and written is partial")
	}
	if err != nil {
		fmt.Fprintf(stderr, "millrace bench %s: %v\n", args[0], err)
		return max(code, exitFailed)
	}
	return code
}

// parseCommand turns a command line into what it asks for.
func (with Program) parseCommand(args []string, stdout, stderr io.Writer) (func(context.Context) (int, error), error) {
	rings := with.Rings
	if args[0] == "durability" {
		d, err := parseDurability(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		d.args, d.stdout, d.rings = args, stdout, rings
		return func(ctx context.Context) (int, error) { return d.measure(ctx, with.Simulate) }, nil
	}
	if args[0] == "trace" {
		return func(ctx context.Context) (int, error) { return mainTrace(ctx, args[1:], stdout, stderr) }, nil
	}
	if args[0] == "disk" {
		c, err := parseDiskCommand(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		c.args, c.stdout, c.stderr = args, stdout, stderr
		return c.run, nil
	}
	if args[0] == "consume" {
		c, err := parseConsume(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		c.args, c.stdout = args, stdout
		return c.measure, nil
	}
	if args[0] == "catchup" {
		c, err := parseCatchup(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		c.args, c.stdout, c.rings = args, stdout, rings
		return c.measure, nil
	}
	if args[0] == "curve" {
		c, err := parseCurve(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		c.args, c.stdout, c.stderr, c.rings = args, stdout, stderr, rings
		return c.measure, nil
	}
	if args[0] == "workload" {
		c, err := parseWorkloads(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		c.args, c.stdout, c.stderr, c.rings = args, stdout, stderr, rings
		return c.measure, nil
	}
	if args[0] == "ceiling" {
		c, err := parseCeiling(args[1:], stderr)
		if err != nil {
			return nil, err
		}
		c.args, c.stdout, c.stderr, c.rings = args, stdout, stderr, rings
		return c.measure, nil
	}
	p, err := parseProduce(args[1:], stderr)
	if err != nil {
		return nil, err
	}
	p.args, p.stdout, p.stderr, p.rings = args, stdout, stderr, rings
	if p.comparing() {
		return p.compare, nil
	}
	return p.single, nil
}

// produce is one parsed command line.
type produce struct {
	args           []string
	stdout, stderr io.Writer
	rings          *Rings
	bar            *progress // nil until something is to be shown

	clients   []string // more than one only when comparing
	null      bool
	bootstrap string
	serve     bool
	dir       string
	dataDir   string
	overrides list
	confine   string
	workload  Workload
	options   Options
	verifyMax int64 // MiB
	touch     int64 // MiB
	out       string
	page      string // HTML

	partitions []int       // more than one only when comparing
	ours       []ownRow    // of our own broker
	managed    []peer.Spec // peers that are started here
	peers      list        // peers that run
	rule       RepeatRule
	update     string
	section    string
	writes     []DiskRow // of the disk itself, before the first run

	asked struct { // as the flags have it; resolve reads it
		compare, partitions, clients string
		managed                      list
	}
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// pairs is a list of key=value.
type pairs map[string]string

func (p pairs) String() string { return "" }
func (p pairs) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return errors.New("not key=value")
	}
	p[k] = v
	return nil
}

func newProduce() *produce {
	return &produce{workload: Workload{TopicConfig: map[string]string{}, Warmup: 5 * time.Second, Duration: 20 * time.Second},
		rule: RepeatRule{Runs: 5, StealMax: StealMax}}
}

func parseProduce(args []string, stderr io.Writer) (*produce, error) {
	p := newProduce()
	w := &p.workload
	f := flag.NewFlagSet("millrace bench produce", flag.ContinueOnError)
	f.SetOutput(stderr)
	p.targetFlags(f)
	p.loadFlags(f)
	f.BoolVar(&p.null, "null", false, "measure against a broker that acknowledges without writing, or have one as a row: see bench ceiling")
	f.Int64Var(&w.Rate, "rate", 1000, "intended `records/s`; 0 saturates: closed loop, bounded by --in-flight")
	f.IntVar(&w.InFlight, "in-flight", 0, "with --rate 0: `records` in flight over all producers (default: 10 batches per partition, at least 1000, at most 64 MiB)")
	f.StringVar(&p.out, "out", "", "write raw histograms, settings and machine facts to `FILE.json`")
	f.StringVar(&p.page, "report", "", "write a page with charts to `FILE.html`, its tables to FILE.md, and without --out the results to FILE.json, which is not there yet")
	f.StringVar(&p.update, "update", "", "when comparing: rewrite the table in this Markdown `FILE`")
	f.StringVar(&p.section, "section", "produce", "with --update: `name` of the table's section")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err := p.resolve(); err != nil {
		return nil, err
	}
	return p, p.check()
}

// targetFlags are those that say what is measured, and how often.
func (p *produce) targetFlags(f *flag.FlagSet) {
	w := &p.workload
	f.StringVar(&p.bootstrap, "bootstrap-server", "", "measure the broker at `host:port[,host:port]`")
	f.BoolVar(&p.serve, "serve", false, "start millrace serve for each run, on an empty directory (default without --bootstrap-server)")
	f.StringVar(&p.dir, "dir", "", "with --serve or --peer: `directory` in which data directories are made (default: the system's temporary one)")
	f.StringVar(&p.dataDir, "data-dir", "", "with --bootstrap-server: the broker's log `directory` on this machine, for the disk's counters (default: ask the broker)")
	f.Var(&p.overrides, "override", "with --serve: broker setting `key=value`; repeatable")
	f.StringVar(&p.confine, "confine", "auto", "keep the broker to one CPU and the generator to the others: `on, off` or auto (on when comparing or serving)")
	f.IntVar(&w.Replication, "replication-factor", -1, "replicas of each partition; -1: the broker's default")
	f.DurationVar(&w.DrainTimeout, "drain-timeout", 30*time.Second, "how long to wait for acknowledgements after the last send")
	f.Var(pairs(w.TopicConfig), "topic-config", "topic setting `key=value`; repeatable")
	f.BoolVar(&p.options.Verify, "verify", true, "read back every acknowledged record, up to --verify-max")
	f.Int64Var(&p.verifyMax, "verify-max", 8192, "`MiB` sent above which nothing is read back (the result says so)")
	f.BoolVar(&p.options.Keep, "keep", false, "leave the topic behind")
	f.Int64Var(&p.touch, "touch-memory", 0, touchUsage)
	f.StringVar(&p.asked.clients, "client", clientFranz, "who produces: franz (franz-go, what a user has) or lean (our own, so that the client is not what is measured); `franz,lean` compares them")
	f.StringVar(&p.asked.compare, "compare", "", "`rows` of our own broker, each a flush policy, as write,file,journal,interval,os; with --serve and other settings too: [NAME=]journal+ring.backend=posix")
	f.Var(&p.asked.managed, "peer", "a peer that is installed, started and stopped here as a row, with or without --compare: `[NAME=]kafka[+topic.setting=value]` or [NAME=]nats[+sync_interval=always]; repeatable")
	f.Var(&p.peers, "peer-bootstrap", "another broker as a row, with or without --compare: `NAME=HOST:PORT[,HOST:PORT][+topic.setting=value]`; repeatable")
	f.IntVar(&p.rule.Runs, "runs", p.rule.Runs, "runs of each row (produce: when comparing; curve: of each rate)")
	f.IntVar(&p.rule.RepeatsMax, "repeats", 2, repeatsUsage+" (produce: when comparing)")
}

// loadFlags are those that say what a record and a run are.
func (p *produce) loadFlags(f *flag.FlagSet) {
	w := &p.workload
	f.StringVar(&p.asked.partitions, "partitions", "1", "partitions of the topic; when comparing several `counts`, as 1,16,64: the whole comparison with each")
	f.IntVar(&w.Size, "size", 1024, "`bytes` of each record's value")
	f.IntVar(&w.Batch, "batch", 1, "`records` handed over together, as one batch of one partition")
	f.StringVar(&w.Acks, "acks", "all", "all, 1 or 0")
	f.BoolVar(&w.Idempotent, "idempotent", true, "idempotent producer; only with acks all")
	f.IntVar(&w.Producers, "producers", 1, "clients, each with connections of its own")
	f.StringVar(&w.Compression, "compression", "none", "none, gzip, snappy, lz4 or zstd, by the client")
	f.Float64Var(&w.RandomBytes, "random-bytes", 1, "`ratio` of each value that is random, so does not compress")
	f.DurationVar(&w.Warmup, "warmup", w.Warmup, "sent and verified, not in any figure")
	f.DurationVar(&w.Duration, "duration", w.Duration, "measured time")
}

// resolve reads what the flags hold as text.
func (p *produce) resolve() error {
	p.options.VerifyMax, p.options.Touch, p.options.memory = p.verifyMax<<20, p.touch<<20, &memoryWatch{}
	if p.asked.compare != "" {
		for _, s := range strings.Split(p.asked.compare, ",") {
			row, err := parseOwn(s)
			if err != nil {
				return fmt.Errorf("--compare: %w", err)
			}
			p.ours = append(p.ours, row)
		}
	}
	for _, s := range p.asked.managed {
		spec, err := peer.Parse(s)
		if err != nil {
			return fmt.Errorf("--peer: %w", err)
		}
		p.managed = append(p.managed, spec)
	}
	var err error
	if p.clients, err = parseClients(or(p.asked.clients, clientFranz)); err != nil {
		return err
	}
	if p.asked.partitions == "" { // there is no such flag
		return nil
	}
	if p.partitions, err = counts(p.asked.partitions); err != nil {
		return fmt.Errorf("--partitions: %w", err)
	}
	return nil
}

// counts reads numbers with commas between them, each at most once.
func counts(s string) (all []int, err error) {
	for _, field := range strings.Split(s, ",") {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", field)
		}
		if slices.Contains(all, n) {
			return nil, fmt.Errorf("%d is there twice", n)
		}
		all = append(all, n)
	}
	return all, nil
}

// comparing reports whether there are rows: policies, peers, or several clients.
func (p *produce) comparing() bool {
	return len(p.ours)+len(p.managed)+len(p.peers) > 0 || len(p.clients) > 1
}

// checkTargets sees that what is measured can be.
func (p *produce) checkTargets() error {
	if p.bootstrap == "" {
		p.serve = true
	}
	switch {
	case p.null && p.bootstrap != "" && !p.comparing():
		return errors.New("--null and --bootstrap-server exclude each other")
	case p.serve && p.bootstrap != "":
		return errors.New("--serve and --bootstrap-server exclude each other")
	case !p.comparing() && p.update != "":
		return errors.New("--update needs --compare, --peer or --peer-bootstrap")
	case !p.comparing() && len(p.partitions) > 1:
		return errors.New("--partitions with several counts needs --compare, --peer or --peer-bootstrap")
	case p.rule.Runs < 1 || p.rule.RepeatsMax < 0:
		return fmt.Errorf("--runs %d --repeats %d: at least one run", p.rule.Runs, p.rule.RepeatsMax)
	case p.confine != "auto" && p.confine != "on" && p.confine != "off":
		return fmt.Errorf("--confine %q is not on, off or auto", p.confine)
	}
	return p.checkNames()
}

func (p *produce) check() error {
	if err := p.checkTargets(); err != nil {
		return err
	}
	for _, n := range p.partitions {
		w := p.of(n)
		if err := w.Validate(); err != nil {
			return err
		}
		if err := p.takes(w); err != nil {
			return err
		}
	}
	p.workload = p.of(p.partitions[0])
	return p.checkPage()
}

// checkPage says what would be lost by --report: Markdown that the bench did not make, and, without --out, the results of an earlier run.
func (p *produce) checkPage() error {
	if p.page == "" {
		return nil
	}
	if err := checkTables(p.page); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	if st, err := os.Stat(p.results()); p.out == "" && err == nil && st.Mode().IsRegular() && st.Size() > 0 {
		return fmt.Errorf("--report: %s is there: --out %s replaces it, or call the page something else", p.results(), p.results())
	}
	return nil
}

// results is where the result file goes: beside the page where nothing else is said; "" for nowhere.
func (p *produce) results() string {
	if p.out == "" && p.page != "" {
		return beside(p.page, ".json")
	}
	return p.out
}

// takes says what of a workload a managed peer has no equivalent for.
func (p *produce) takes(w Workload) error {
	for _, spec := range p.managed {
		if spec.Kind.Protocol != peer.NATS {
			continue
		}
		if err := natsTakes(w); err != nil {
			return fmt.Errorf("--peer %s: %w", spec.Label, err)
		}
	}
	return nil
}

// checkNames sees that every row has a name of its own.
func (p *produce) checkNames() error {
	var names []string
	for _, row := range p.ours {
		if len(row.overrides) > 0 && !p.serve {
			return fmt.Errorf("--compare %s: settings are for a broker that is started here, not for --bootstrap-server", row.name)
		}
		names = append(names, row.name)
	}
	for _, spec := range p.managed {
		names = append(names, spec.Label)
	}
	for _, s := range p.peers {
		name, _, _, err := parsePeer(s)
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	if p.null {
		names = append(names, nullName)
	}
	slices.Sort(names)
	for i := range len(names) - 1 {
		if names[i] == names[i+1] {
			return fmt.Errorf("two rows are called %q: give one another name, as NAME=...", names[i])
		}
	}
	return nil
}

// of is the workload with this many partitions. What Validate fills in is not in it yet.
func (p *produce) of(partitions int) Workload {
	w := p.workload
	w.Partitions = partitions
	return w
}

// confinement decides by --confine, and says what it decided.
func (p *produce) confinement() Confinement {
	var c Confinement
	if p.confine == "on" || p.confine == "auto" && (p.serve || p.comparing()) {
		c = Confine()
	}
	if len(c.Broker) > 0 {
		p.say("the broker keeps to CPU %s, the generator to CPU %s", cpuList(c.Broker), cpuList(c.Generator))
	} else {
		p.say("broker and generator share all CPUs")
	}
	return c
}

// ownRow is a row of our own broker.
type ownRow struct {
	name, policy string
	overrides    []string // key=value
}

// parseOwn reads [NAME=]POLICY[+broker.setting=value]... Without a name the row is called as it is written.
func parseOwn(s string) (row ownRow, err error) {
	parts := strings.Split(s, "+")
	name, policy, named := strings.Cut(parts[0], "=")
	if !named {
		name, policy = s, parts[0]
	}
	if _, ok := policies[policy]; !ok {
		return row, fmt.Errorf("%q is not write, file, interval, os or journal", policy)
	}
	for _, kv := range parts[1:] {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return row, fmt.Errorf("%q: %q is not key=value", s, kv)
		}
	}
	return ownRow{name, policy, parts[1:]}, nil
}

// target makes the target to measure; a broker of our own runs with settings, key=value, beside those of --override.
func (p *produce) target(name string, c Confinement, client string, settings ...string) (Target, error) {
	kafka := Kafka{Name: name, Client: client, Rings: p.rings}
	if !p.serve {
		kafka.Address, kafka.DataDir = p.bootstrap, p.dataDir
		return &kafka, nil
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return &Serve{Kafka: kafka, Binary: binary, Parent: p.dir, Overrides: slices.Concat(p.overrides, settings), CPUs: c.Broker}, nil
}

// progress shows what runs, its phases and, on a terminal, what each second is like.
func (p *produce) progress() {
	p.bar = newProgress(p.stderr)
	p.options.bar = p.bar
	p.options.Phase = func(phase string) { p.bar.step(phase, true) }
	if p.bar.tty {
		p.options.Each = p.bar.second
	}
}

// eachSecond has a line for each second, as is wanted of a single run on a terminal.
func (p *produce) eachSecond() {
	if !p.bar.tty {
		return
	}
	p.options.Each = func(in Interval) {
		mark := ""
		if in.Warmup {
			mark = "  warm-up"
		}
		acked := float64(in.Acked)
		p.say("%4d s  %10s records/s  p50 %8s  p99 %8s  max %8s%s", in.Second, number(&acked), micros(in.P50), micros(in.P99), micros(&in.Max), mark)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func (p *produce) file(runs []*Result) File {
	dir := ""
	if len(runs) > 0 {
		dir = runs[0].Target.DataDir
	}
	return File{Format: resultFormat, Command: commandLine(p.args), Machine: p.machine(dir), Runs: runs}
}

// machine reads the facts; a managed broker's directory is gone by now, its
// parent is on the same disk.
func (p *produce) machine(dir string) Machine {
	if p.serve || len(p.managed) > 0 {
		dir = p.parent()
	}
	m := ReadMachine(dir)
	m.Disk.Writes = p.writes
	return m
}

// parent is where data directories are made.
func (p *produce) parent() string { return or(p.dir, os.TempDir()) }

func (p *produce) single(ctx context.Context) (int, error) {
	p.progress()
	p.eachSecond()
	defer p.bar.end()
	c := p.confinement()
	rows, err := p.allRows(ctx, c)
	if err != nil {
		return exitFailed, err
	}
	p.bar.expect(runsCost(rows, p.workload), false)
	p.probeDisk(ctx)
	_, runs, err := Compare(ctx, rows, p.workload, RepeatRule{Runs: 1}, c, p.options,
		func(_ string, _, _ int, r *Result) { p.bar.end(); PrintResult(p.stdout, r) })
	file := p.file(runs)
	file.Partial = err != nil
	if err = errors.Join(err, p.store(file)); err != nil {
		return exitFailed, err
	}
	return exitOf(runs), nil
}

// store writes the files that were asked for: beside a page are its tables in Markdown and the result file. Where no run was made it leaves what is there.
func (p *produce) store(f File) (err error) {
	if len(f.Runs) == 0 {
		return nil
	}
	out := p.results()
	if out != "" {
		err = f.Write(out)
	}
	if p.page != "" {
		name := "this run"
		if out != os.DevNull {
			name = filepath.Base(out)
		}
		err = errors.Join(err, writePage(p.page, []resultFile{{Name: name, Produce: &f}}))
	}
	return err
}

// exitOf is exitOK if every run's figures count.
func exitOf(runs []*Result) int {
	for _, r := range runs {
		if !r.OK() {
			return exitFailed
		}
	}
	return exitOK
}

// length is how long one run offers load.
func (w Workload) length() time.Duration { return w.Warmup + w.Duration }

// commandLine quotes arguments for a shell.
func commandLine(args []string) string {
	out := []string{"millrace", "bench"}
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$&|;<>()*?[]{}~#!`") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}
