package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/forgetfs"
	"github.com/millrace/millrace/bench/peer"
)

// powerCommand is one parsed command line of "millrace bench powerloss".
type powerCommand struct {
	PowerLoss
	simulation PowerSimulation
	simulated  bool
	policies   []string
	managed    []peer.Spec // further rows
	out        string
	bar        *progress
}

// How many cuts are made where nobody says.
const (
	cutsDefault    = 10
	cutsDefaultSim = 1000
)

// onlyFUSE and onlySim are the flags that the other ground does not know.
var (
	onlyFUSE = []string{"seconds", "rate", "dir", "ordered-names", "sync-time", "command", "peer"}
	onlySim  = []string{"points", "faults"}
)

func parsePowerLoss(args []string, stderr io.Writer) (*powerCommand, error) {
	p := &powerCommand{}
	f := flag.NewFlagSet("millrace bench powerloss", flag.ContinueOnError)
	f.SetOutput(stderr)
	ground := f.String("ground", "fuse", "`fuse`: a real broker on a file system that forgets; sim: the broker in the simulator, without a disk, a clock or a network of this machine")
	names := f.String("policies", "write,file,journal,interval,os", "flush `policies` to cut, one after the other")
	f.IntVar(&p.Cuts, "cuts", 0, "cuts under load, for each policy (default: 10, and 1000 with --ground sim)")
	seconds := f.Float64("seconds", 2, "most `seconds` of load before a cut; the least is a quarter of it")
	f.Float64Var(&p.Recovering, "recovering", 0.25, "`chance` that the start after a cut is cut as well")
	f.IntVar(&p.Partitions, "partitions", 8, "partitions of the topic; the short history of --points every has a number of its own")
	f.IntVar(&p.Producers, "producers", 2, "idempotent producers, acks=all; the short history of --points every has a number of its own")
	f.Int64Var(&p.Rate, "rate", 2000, "most `records/s` of each producer")
	f.Uint64Var(&p.Seed, "seed", 0, "what cuts and losses are drawn from; 0 takes one and prints it")
	f.StringVar(&p.Parent, "dir", "", "`directory` in which the mount point is made (default: the system's temporary one)")
	f.BoolVar(&p.Ordered, "ordered-names", false, "a synced file has a durable name, as on ext4 and XFS; without it only a synced directory makes names durable")
	f.DurationVar(&p.SyncTime, "sync-time", 200*time.Microsecond, "how long the disk takes to sync")
	f.Var((*list)(&p.Overrides), "override", "broker setting `key=value`; repeatable")
	f.StringVar(&p.Command, "command", "", "start another broker, by this `shell command`; {dir}, {address} and {port} in it are replaced; --policies then only names the row")
	var managed list
	f.Var(&managed, "peer", "a peer that is installed and started here as a row: `[NAME=]kafka[+topic.setting=value]` or [NAME=]nats[+sync_interval=always]; repeatable; without --policies there are no other rows")
	points := f.String("points", "both", "--ground sim: every, each point of a short history with each outcome; `sampled`, --cuts points of longer ones; or both")
	f.StringVar(&p.simulation.Faults, "faults", "", "--ground sim: break the broker's ring by `rules` (package ring/fault), to see that the ledger finds it")
	f.StringVar(&p.out, "out", "", "write the ledger with every cut to `FILE.json`")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	p.Life = time.Duration(*seconds * float64(time.Second))
	p.policies = strings.Split(*names, ",")
	p.simulated = *ground == "sim"
	if p.Cuts == 0 {
		p.Cuts = cutsDefault
		if p.simulated {
			p.Cuts = cutsDefaultSim
		}
	}
	if err := p.checkGround(f, *ground, *points); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case p.Cuts < 1 || p.Partitions < 1 || p.Partitions > partitionsMax || p.Producers < 1 || p.Producers > producersMax || p.Rate < 1:
		return nil, fmt.Errorf("cuts, partitions, producers and rate are at least 1, partitions at most %d, producers at most %d", partitionsMax, producersMax)
	case p.Life < 10*time.Millisecond:
		return nil, fmt.Errorf("--seconds %v is below 0.01", *seconds)
	case p.Recovering < 0 || p.Recovering >= 1:
		return nil, fmt.Errorf("--recovering %v is not within 0 and 1", p.Recovering)
	}
	for _, s := range managed {
		spec, err := peer.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("--peer: %w", err)
		}
		p.managed = append(p.managed, spec)
	}
	given := false
	f.Visit(func(flag *flag.Flag) { given = given || flag.Name == "policies" || flag.Name == "command" })
	if len(p.managed) > 0 && !given {
		p.policies = nil
	}
	for _, policy := range p.policies {
		if _, ok := policies[policy]; !ok && p.Command == "" {
			return nil, fmt.Errorf("--policies: %q is not write, file, interval, os or journal", policy)
		}
	}
	if p.Command != "" && len(p.policies) != 1 {
		p.policies = []string{"command"}
	}
	return p, nil
}

// checkGround says which flags the ground does not know.
func (p *powerCommand) checkGround(f *flag.FlagSet, ground, points string) error {
	if ground != "fuse" && ground != "sim" {
		return fmt.Errorf("--ground %q is neither fuse nor sim", ground)
	}
	if points != "every" && points != "sampled" && points != "both" {
		return fmt.Errorf("--points %q is not every, sampled or both", points)
	}
	others := onlySim
	if p.simulated {
		others = onlyFUSE
	}
	var err error
	f.Visit(func(set *flag.Flag) {
		if slices.Contains(others, set.Name) {
			err = fmt.Errorf("--%s is not for --ground %s", set.Name, ground)
		}
	})
	s := &p.simulation
	s.EveryPoint, s.Cuts = points != "sampled", p.Cuts
	if points == "every" {
		s.Cuts = 0
	}
	return err
}

// grounds are what each policy is run on.
func (p *powerCommand) grounds(simulate Simulator) ([]PowerGround, error) {
	if p.simulated {
		s := p.simulation
		s.Recovering, s.Partitions, s.Producers, s.Seed, s.Overrides, s.Say = p.Recovering, p.Partitions, p.Producers, p.Seed, p.Overrides, p.Say
		return simulate(s)
	}
	var err error
	if p.Binary, err = os.Executable(); err == nil {
		err = forgetfs.Available()
	}
	return []PowerGround{p.PowerLoss}, err
}

func mainPowerLoss(ctx context.Context, args []string, simulate Simulator, stdout, stderr io.Writer) int {
	p, err := parsePowerLoss(args[1:], stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "millrace bench powerloss:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(ctx, stopSignals()...)
	defer stop()
	if p.Seed == 0 {
		p.Seed = rand.Uint64()
	}
	p.bar = newProgress(stderr)
	defer p.bar.end()
	p.Say = p.bar.say
	grounds, err := p.grounds(simulate)
	if err != nil {
		fmt.Fprintln(stderr, "millrace bench powerloss:", err)
		return exitFailed
	}
	p.Say("seed %d", p.Seed)
	file := PowerFile{Command: commandLine(args), Seed: p.Seed, Machine: machineUnder(p.Parent)}
	if err := p.rows(ctx, grounds, &file); err != nil {
		fmt.Fprintln(stderr, "millrace bench powerloss:", err)
		return exitFailed
	}
	file.Partial = ctx.Err() != nil
	code := exitOK
	for _, row := range file.Rows {
		if !row.OK() {
			code = exitFailed
		}
	}
	p.bar.end()
	PrintPower(stdout, file.Rows)
	if p.out != "" {
		if err := file.Write(p.out); err != nil {
			fmt.Fprintln(stderr, "millrace bench powerloss:", err)
			return exitFailed
		}
	}
	return code
}

// rows makes the policies' rows, then the peers'. The error is for what keeps a peer from being installed; all else is in the rows.
func (p *powerCommand) rows(ctx context.Context, grounds []PowerGround, file *PowerFile) error {
	for _, spec := range p.managed {
		if err := spec.Kind.New(peer.Options{Say: p.Say}).Install(ctx); err != nil {
			return err
		}
	}
	var rows []ledgerRow
	for _, policy := range p.policies {
		for _, g := range grounds {
			rows = append(rows, p.timed(policy, g))
		}
	}
	for _, spec := range p.managed {
		of := p.PowerLoss
		of.Peer, of.Command = &spec, ""
		rows = append(rows, p.timed(spec.Label, of))
	}
	var all time.Duration
	for _, r := range rows {
		all += r.cost
	}
	p.bar.expect(all, false)
	for i, r := range rows {
		if ctx.Err() != nil {
			break
		}
		p.bar.begin("row %d of %d, %s: %d cuts", i+1, len(rows), r.name, p.Cuts)
		file.Rows = append(file.Rows, r.ground.Run(ctx, r.name))
		if _, each := r.ground.(PowerLoss); !each {
			p.bar.passed(r.cost)
		}
	}
	return nil
}

// timed is a row with what it may take. On FUSE each cut is told of.
func (p *powerCommand) timed(name string, g PowerGround) ledgerRow {
	of, fuse := g.(PowerLoss)
	if !fuse {
		return ledgerRow{name, g, time.Duration(p.Cuts) * simCutTime}
	}
	cut := of.cutCost()
	of.Each = func() { p.bar.passed(cut) }
	return ledgerRow{name, of, time.Duration(p.Cuts) * cut}
}
