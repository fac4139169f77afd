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
	"strings"
	"time"

	"github.com/millrace/millrace/bench/forgetfs"
	"github.com/millrace/millrace/bench/peer"
)

const durabilityAbout = `usage: millrace bench durability [--quick] --out DIR [flags]

What each durability setting costs, and what it loses: every flush policy of ours, and every peer, with every acks,
number of partitions and batch, interleaved round by round; at a fixed rate for latency, then saturated for
throughput; beside it what a power cut takes of what was acknowledged. DIR gets durability.json and powerloss.json
with every run and every cut, and durability.md and durability.html, which "millrace bench report" draws again from them.
How long it will take is printed first. Ctrl-C leaves what there was, marked as cut short.

flags:
`

// durability is one parsed command line of "millrace bench durability".
type durability struct {
	produce // its rows, confinement and rule; workload has what all cells share

	policies  []string // of our own broker: the names of its rows
	acks      []string
	batches   []int
	rate      int64         // batches/s of the part at a fixed rate
	saturated time.Duration // measured time of the saturated part; 0: there is none
	ground    string
	cuts      int
	life      time.Duration
	seed      uint64

	notes []string // what was not measured, and why
}

// The defaults, of the full run and of --quick.
var durabilityDefaults = []struct{ flag, full, quick string }{
	{"acks", "all,1", "all"},
	{"partitions", "1,16,64", "1,16"},
	{"batch", "1,16", "1"},
	{"warmup", "2s", "1s"},
	{"duration", "8s", "6s"},
	{"saturate", "6s", "3s"},
	{"runs", "3", "1"},
	{"cuts", "10", "3"},
	{"seconds", "2", "1"},
}

// warmupJVM is the least warm-up where a peer runs on a JVM and nobody says another.
const warmupJVM = 10 * time.Second

// simCuts is how many cuts of the simulator stand for one on FUSE: they are that much quicker.
const simCuts = 20

func parseDurability(args []string, stderr io.Writer) (*durability, error) {
	d := &durability{produce: produce{serve: true, clients: []string{clientFranz}, rule: RepeatRule{StealMax: StealMax}, stderr: stderr}}
	w := &d.workload
	*w = Workload{Replication: -1, Compression: "none", RandomBytes: 1, TopicConfig: map[string]string{}}
	f := flag.NewFlagSet("millrace bench durability", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, durabilityAbout); f.PrintDefaults() }
	def := map[string]string{}
	for _, v := range durabilityDefaults {
		def[v.flag] = v.full
	}
	number := func(name string) (n int) { _, _ = fmt.Sscan(def[name], &n); return n }
	duration := func(name string) time.Duration { v, _ := time.ParseDuration(def[name]); return v }
	quick := f.Bool("quick", false, "a few minutes: one round, fewer loads, shorter runs, fewer cuts; flags that are given hold")
	f.StringVar(&d.out, "out", "", "`directory` for the results; it is made")
	names := f.String("policies", "write,file,journal,interval,os", "flush `policies` of our own broker")
	var managed list
	f.Var(&managed, "peer", "a peer that is installed, started and stopped here as a row: `[NAME=]kafka[+topic.setting=value]` or [NAME=]nats[+sync_interval=always]; repeatable")
	acks := f.String("acks", def["acks"], "all, 1 and 0, with `commas`; NATS has all only")
	partitions := f.String("partitions", def["partitions"], "`numbers` of partitions, with commas")
	batches := f.String("batch", def["batch"], "`numbers` of records handed over together, with commas")
	f.Int64Var(&d.rate, "rate", 2000, "`batches/s` of the part at a fixed rate: as many acknowledgements with every batch")
	f.IntVar(&w.Size, "size", 1024, "`bytes` of each record's value")
	f.IntVar(&w.Producers, "producers", 1, "clients, each with connections of its own")
	f.DurationVar(&w.Warmup, "warmup", duration("warmup"), "of each run, in no figure (default with kafka: 10s at least)")
	f.DurationVar(&w.Duration, "duration", duration("duration"), "measured time of each run at a fixed rate; a p99 takes 10,000 batches")
	f.DurationVar(&d.saturated, "saturate", duration("saturate"), "measured time of each saturated run; 0: none")
	f.DurationVar(&w.DrainTimeout, "drain-timeout", 10*time.Second, "how long to wait for acknowledgements after the last send")
	f.IntVar(&d.rule.Runs, "runs", number("runs"), "rounds: runs of each row with each load")
	f.IntVar(&d.rule.RepeatsMax, "repeats", 1, repeatsUsage)
	f.Int64Var(&d.verifyMax, "verify-max", 8192, "`MiB` sent above which a run is not read back (the table says so)")
	touch := f.Int64("touch-memory", 0, touchUsage)
	f.StringVar(&d.dir, "dir", "", "`directory` in which data directories are made (default: the system's temporary one)")
	f.Var(&d.overrides, "override", "setting of our own broker `key=value`; repeatable")
	f.StringVar(&d.confine, "confine", "on", "keep the broker to one CPU and the generator to the others: `on or off`")
	f.StringVar(&d.ground, "ground", "auto", "where the power is cut: `fuse`, sim (our own rows only), none, or auto: fuse where it can be mounted, else sim")
	f.IntVar(&d.cuts, "cuts", number("cuts"), "power cuts of each row; 20 times as many with sim")
	life := f.Float64("seconds", float64(number("seconds")), "most `seconds` of load before a cut; the least is a quarter of it")
	f.Uint64Var(&d.seed, "seed", 0, "what cuts and losses are drawn from; 0 takes one and prints it")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	given := map[string]bool{}
	f.Visit(func(set *flag.Flag) { given[set.Name] = true })
	for _, v := range durabilityDefaults {
		if *quick && !given[v.flag] {
			if err := f.Set(v.flag, v.quick); err != nil {
				panic(fmt.Sprintf("BUG: --quick sets --%s %s: %v", v.flag, v.quick, err))
			}
		}
	}
	d.life = time.Duration(*life * float64(time.Second))
	d.options = Options{Verify: true, VerifyMax: d.verifyMax << 20, Touch: *touch << 20, memory: &memoryWatch{}}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *names != "" {
		for _, policy := range strings.Split(*names, ",") {
			if _, ok := policies[policy]; !ok {
				return nil, fmt.Errorf("--policies: %q is not write, file, interval, os or journal", policy)
			}
			d.policies = append(d.policies, policy)
			d.ours = append(d.ours, ownRow{name: policy, policy: policy})
		}
	}
	for _, s := range managed {
		spec, err := peer.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("--peer: %w", err)
		}
		d.managed = append(d.managed, spec)
		if spec.Kind.Protocol == peer.Kafka && !given["warmup"] {
			w.Warmup = max(w.Warmup, warmupJVM)
		}
	}
	var err error
	if d.partitions, err = counts(*partitions); err != nil {
		return nil, fmt.Errorf("--partitions: %w", err)
	}
	if d.batches, err = counts(*batches); err != nil {
		return nil, fmt.Errorf("--batch: %w", err)
	}
	d.acks = strings.Split(*acks, ",")
	return d, d.checkDurability()
}

// checkDurability says what is wrong with a command line.
func (d *durability) checkDurability() error {
	names := slices.Clone(d.policies)
	for _, spec := range d.managed {
		names = append(names, spec.Label)
	}
	slices.Sort(names)
	switch {
	case d.out == "":
		return errors.New("--out DIR is missing: where the results go")
	case len(names) == 0:
		return errors.New("no row: --policies is empty, and there is no --peer")
	case len(slices.Compact(slices.Clone(names))) != len(names):
		return fmt.Errorf("two rows have the same name: %s", strings.Join(names, ", "))
	case d.rate < 1:
		return fmt.Errorf("--rate %d is below 1", d.rate)
	case d.saturated < 0:
		return fmt.Errorf("--saturate %v is negative", d.saturated)
	case d.rule.Runs < 1 || d.rule.RepeatsMax < 0:
		return fmt.Errorf("--runs %d --repeats %d: at least one run", d.rule.Runs, d.rule.RepeatsMax)
	case d.confine != "on" && d.confine != "off":
		return fmt.Errorf("--confine %q is not on or off", d.confine)
	case !slices.Contains([]string{"auto", "fuse", "sim", "none"}, d.ground):
		return fmt.Errorf("--ground %q is not fuse, sim, none or auto", d.ground)
	case d.cuts < 1 || d.life < 10*time.Millisecond:
		return fmt.Errorf("--cuts %d --seconds %v: at least one cut, after 0.01 s at least", d.cuts, d.life.Seconds())
	}
	for i, acks := range d.acks {
		if slices.Contains(d.acks[:i], acks) {
			return fmt.Errorf("--acks: %s is there twice", acks)
		}
	}
	for _, batch := range d.batches {
		if batch < 1 {
			return fmt.Errorf("--batch %d is below 1", batch)
		}
	}
	for _, w := range d.loads() {
		if err := w.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// loads are what every row is asked, in the order of a round.
func (d *durability) loads() (all []Workload) {
	for _, acks := range d.acks {
		for _, batch := range d.batches {
			for _, partitions := range d.partitions {
				w := d.of(partitions)
				w.Acks, w.Idempotent, w.Batch, w.Rate = acks, acks == "all", batch, d.rate*int64(batch)
				all = append(all, w)
				if d.saturated > 0 {
					w.Rate, w.Duration = 0, d.saturated
					all = append(all, w)
				}
			}
		}
	}
	return all
}

// matrixCell is one row with one load.
type matrixCell struct {
	row Row
	w   Workload
}

func (c matrixCell) String() string {
	return rowKey{c.row.Name, c.w.Partitions, c.w.shape()}.String()
}

// cells are one round. A publish to JetStream has one kind of acknowledgement: its rows stand under acks all only.
func (d *durability) cells(rows []Row) (all []matrixCell) {
	for _, w := range d.loads() {
		for _, row := range rows {
			if _, nats := row.Target.(*ManagedNATS); !nats || w.Acks == "all" {
				all = append(all, matrixCell{row, w})
			}
		}
	}
	return all
}

// Guesses at what the parts take besides their load; the clock corrects them.
const (
	runOverhead     = 2 * time.Second // start, drain, read back, stop
	runOverheadJVM  = 15 * time.Second
	cutOverhead     = 3 * time.Second // restart, read back
	cutOverheadJVM  = 20 * time.Second
	simCutTime      = 100 * time.Millisecond
	saturatedReread = 2 // a saturated run is read back about half as fast as it was written
)

// cost guesses how long one run of a cell takes.
func (c matrixCell) cost() time.Duration {
	t := c.w.length() + runOverhead
	if m, ok := c.row.Target.(*Managed); ok && m.Peer != nil {
		t += runOverheadJVM
	}
	switch backlog := c.w.CatchUp.Backlog; {
	case backlog > 0: // it is written, and nothing is read back
		t += time.Duration(float64(backlog) / (1 << 30) * float64(backlogCost))
	case c.w.Rate == 0:
		t += c.w.length() / saturatedReread
	}
	return t
}

// cutCost guesses how long one cut takes, with the life before it: of between a quarter of Life and all of it.
func (p PowerLoss) cutCost() time.Duration {
	overhead := cutOverhead
	if p.Peer != nil && p.Peer.Kind.Protocol == peer.Kafka {
		overhead = cutOverheadJVM
	}
	return p.Life*5/8 + overhead
}

// ledgerRow is one row of the power-loss ledger to be.
type ledgerRow struct {
	name   string
	ground PowerGround
	cost   time.Duration // guessed
}

// ledgerRows are those whose power can be cut here. What cannot be goes to the notes.
func (d *durability) ledgerRows(simulate Simulator, fuse error) (rows []ledgerRow, err error) {
	ground := d.ground
	if ground == "auto" {
		ground = "fuse"
		if fuse != nil {
			ground = "sim"
			d.notes = append(d.notes, fmt.Sprintf("nothing can be mounted with FUSE here (%v): the power was cut in the simulator, and of our own rows only", fuse))
		}
	}
	switch ground {
	case "none":
		d.notes = append(d.notes, "what a power loss takes was not measured (--ground none)")
	case "sim":
		if simulate == nil {
			d.notes = append(d.notes, "what a power loss takes was not measured: this program has no simulator")
			return nil, nil
		}
		grounds, err := simulate(PowerSimulation{Cuts: simCuts * d.cuts, Recovering: 0.25, Partitions: 8, Producers: 2, Seed: d.seed, Overrides: d.overrides})
		if err != nil {
			return nil, err
		}
		for _, policy := range d.policies {
			for _, g := range grounds {
				rows = append(rows, ledgerRow{policy, g, time.Duration(simCuts*d.cuts) * simCutTime})
			}
		}
	case "fuse":
		if fuse != nil {
			return nil, fmt.Errorf("--ground fuse: %w", fuse)
		}
		binary, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		p := PowerLoss{Binary: binary, Parent: d.dir, Overrides: d.overrides, Cuts: d.cuts, Life: d.life, Recovering: 0.25,
			Partitions: 8, Producers: 2, Rate: 2000, Seed: d.seed, SyncTime: 200 * time.Microsecond}
		for _, policy := range d.policies {
			rows = append(rows, ledgerRow{policy, p, time.Duration(d.cuts) * p.cutCost()})
		}
		for _, spec := range d.managed {
			of := p
			of.Peer, of.Ordered = &spec, true // a peer may rely on a synced file having its name
			rows = append(rows, ledgerRow{spec.Label, of, time.Duration(d.cuts) * of.cutCost()})
		}
	}
	return rows, nil
}

// cutPower makes the ledger, row after row: no time is measured in it that others could disturb.
func (d *durability) cutPower(ctx context.Context, rows []ledgerRow) PowerFile {
	f := PowerFile{Command: commandLine(d.args), Seed: d.seed, Machine: machineUnder(d.dir)}
	for i, r := range rows {
		if ctx.Err() != nil {
			break
		}
		d.bar.begin("power loss %d/%d: %s", i+1, len(rows), r.name)
		row := r.ground.Run(ctx, r.name)
		d.bar.passed(r.cost)
		f.Rows = append(f.Rows, row)
		lost, window := lossOf([]*PowerRow{row})
		d.say("%s: %d cuts, lost %s acknowledged, loss window %s", row.name(), row.Cuts, lost.Text, window.Text)
	}
	f.Partial = ctx.Err() != nil
	return f
}

// rounds makes the runs: round by round, each row with each load once, so that what changes on the machine meanwhile touches
// all alike. A cell whose run could not be made is noted and left out of later rounds; the others go on.
func (d *durability) rounds(ctx context.Context, cells []matrixCell, c Confinement) (f File, failed int, err error) {
	f = File{Format: resultFormat, Command: commandLine(d.args), Machine: d.machine(""), Rule: d.rule, Matrix: true}
	restore, err := c.confineGenerator()
	if err != nil {
		return f, 0, err
	}
	defer restore()
	broken, loads := make([]bool, len(cells)), make([]string, len(cells))
	for i, cell := range cells {
		loads[i] = rowKey{"", cell.w.Partitions, cell.w.shape()}.String()
	}
	for _, s := range interleave(loads, d.rule.Runs) {
		cell := cells[s.row]
		if broken[s.row] {
			d.bar.skip(cell.cost())
			continue
		}
		at := s.round*len(cells) + s.row + 1
		attempts, err := attempt(ctx, cell.row, cell.w, d.rule, c, d.options, func(n int, r *Result) {
			if r == nil {
				d.bar.begin("run %d/%d, round %d of %d: %s", at, d.rule.Runs*len(cells), s.round+1, d.rule.Runs, cell)
				return
			}
			d.say("%s: %s records/s  p50 %s  p99 %s  %s  read back %s", cell, number(&r.RecordsPerSecond), micros(r.Latency.P50), micros(r.Latency.P99), r.disturbance(), r.Verify.State)
		})
		d.bar.passed(cell.cost())
		f.Runs = append(f.Runs, attempts...)
		if ctx.Err() != nil {
			f.Partial = true
			break
		}
		if err != nil {
			broken[s.row], failed = true, failed+1
			d.notes = append(d.notes, fmt.Sprintf("%s, round %d could not be run: %v", cell, s.round+1, err))
			d.say("%s", d.notes[len(d.notes)-1])
		}
	}
	d.options.memory.settle(f.Runs)
	f.Table = f.summaries()
	for _, r := range f.Runs { // where time goes within a broker is the larger part of a run in the file, and bench produce has it
		r.Trace = nil
	}
	f.Notes = d.notes
	return f, failed, nil
}

// measure makes everything.
func (d *durability) measure(ctx context.Context, simulate Simulator) (int, error) {
	if err := os.MkdirAll(d.out, 0o755); err != nil {
		return exitFailed, fmt.Errorf("--out: %w", err)
	}
	if d.seed == 0 {
		d.seed = rand.Uint64()
	}
	c := d.confinement()
	if err := d.install(ctx); err != nil {
		return exitFailed, err
	}
	rows, err := d.rows(c)
	if err != nil {
		return exitFailed, err
	}
	ledger, err := d.ledgerRows(simulate, forgetfs.Available())
	if err != nil {
		return exitFailed, err
	}
	cells := d.cells(rows)
	var cuts, loads time.Duration
	for _, r := range ledger {
		cuts += r.cost
	}
	for _, cell := range cells {
		loads += time.Duration(d.rule.Runs) * cell.cost()
	}
	d.say("%d rows of the power-loss ledger (seed %d): about %s. %d rows with %d loads in %d rounds, %d runs: about %s, more where runs are disturbed. About %s in all.",
		len(ledger), d.seed, roughly(cuts), len(rows), len(d.loads()), d.rule.Runs, d.rule.Runs*len(cells), roughly(loads), roughly(cuts+loads))
	d.progress()
	defer d.bar.end()
	d.options = d.quiet()
	d.bar.expect(cuts+loads, false)
	power := d.cutPower(ctx, ledger)
	file, failed := File{}, 0
	d.probeDisk(ctx)
	if ctx.Err() == nil {
		file, failed, err = d.rounds(ctx, cells, c)
	}
	d.bar.end()
	code, unwritten := d.finish(power, file)
	err = errors.Join(err, unwritten)
	if failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d rows and loads could not be run; the notes say why", failed, len(cells)))
	}
	return code, errors.Join(err, ctx.Err())
}

// finish writes what there is and says whether it counts.
func (d *durability) finish(power PowerFile, file File) (code int, err error) {
	var files []resultFile
	if len(power.Rows) > 0 {
		err = errors.Join(err, power.Write(filepath.Join(d.out, "powerloss.json")))
		files = append(files, resultFile{Name: "powerloss.json", Power: &power})
	}
	if len(file.Runs) > 0 {
		file.Partial = file.Partial || power.Partial
		err = errors.Join(err, file.Write(filepath.Join(d.out, "durability.json")))
		files = append([]resultFile{{Name: "durability.json", Produce: &file}}, files...)
	}
	if len(files) == 0 {
		return exitFailed, err
	}
	text, failed := markdownAll(files)
	if err = errors.Join(err, failed); failed == nil {
		fmt.Fprintln(d.stdout, text)
	}
	err = errors.Join(err, writePage(filepath.Join(d.out, "durability.html"), files))
	var written []string
	for _, f := range files {
		written = append(written, f.Name)
	}
	d.say("written to %s: %s, durability.md, durability.html", d.out, strings.Join(written, ", "))
	code = exitOf(file.Runs)
	for _, row := range power.Rows {
		if !row.OK() {
			code = exitFailed
		}
	}
	return code, err
}
