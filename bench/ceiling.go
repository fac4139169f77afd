package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/nullbroker"
)

const ceilingAbout = `usage: millrace bench ceiling [flags]

What the clients themselves can do and cost: each produces to a null broker, which acknowledges without looking inside and
without writing. First as fast as it is acknowledged, for its ceiling in records/s; then at a fixed rate, for the latency that is the
client's, the loopback's and the machine's. A figure of a broker that is near to these is not the broker's. The clients take
turns. Nothing is read back: nothing is written.

`

// ceiling is one parsed command line; what the clients are measured with is a produce's.
type ceiling struct {
	produce
}

// parseCeiling reads the flags of bench ceiling.
func parseCeiling(args []string, stderr io.Writer) (*ceiling, error) {
	c := &ceiling{produce{workload: Workload{Replication: -1, Compression: "none", RandomBytes: 1, DrainTimeout: 30 * time.Second}, rule: RepeatRule{StealMax: StealMax}, null: true}}
	w := &c.workload
	f := flag.NewFlagSet("millrace bench ceiling", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, ceilingAbout)
		f.PrintDefaults()
	}
	clients := f.String("client", clientFranz+","+clientLean, "`clients` to measure")
	f.Int64Var(&w.Rate, "rate", 2000, "intended `records/s` of the second part")
	f.IntVar(&w.Partitions, "partitions", 16, "partitions of the topic")
	f.IntVar(&w.Size, "size", 1024, "`bytes` of each record's value")
	f.IntVar(&w.Batch, "batch", 1, "`records` handed over together, as one batch of one partition")
	f.StringVar(&w.Acks, "acks", "all", "all, 1 or 0")
	f.BoolVar(&w.Idempotent, "idempotent", true, "idempotent producer; only with acks all")
	f.IntVar(&w.Producers, "producers", 1, "clients, each with connections of its own")
	f.IntVar(&w.InFlight, "in-flight", 0, "`records` in flight over all producers in the first part (default: as bench produce has it)")
	f.DurationVar(&w.Warmup, "warmup", 2*time.Second, "in no figure")
	f.DurationVar(&w.Duration, "duration", 10*time.Second, "measured time of each part")
	f.IntVar(&c.rule.Runs, "runs", 5, "runs of each client, in each part")
	f.IntVar(&c.rule.RepeatsMax, "repeats", 2, repeatsUsage)
	f.StringVar(&c.confine, "confine", "auto", "keep the broker to one CPU and the client to the others: `on, off` or auto (on)")
	f.StringVar(&c.out, "out", "", "write raw histograms and machine facts to `FILE.json`")
	c.options.memory = &memoryWatch{}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if w.Rate < 1 {
		return nil, fmt.Errorf("--rate %d: the second part needs one", w.Rate)
	}
	var err error
	if c.clients, err = parseClients(*clients); err != nil {
		return nil, err
	}
	c.partitions = []int{w.Partitions}
	return c, c.check()
}

// parseClients reads names with commas between them.
func parseClients(s string) (all []string, err error) {
	for _, name := range strings.Split(s, ",") {
		if name != clientFranz && name != clientLean {
			return nil, fmt.Errorf("--client: %q is not %s or %s", name, clientFranz, clientLean)
		}
		for _, other := range all {
			if other == name {
				return nil, fmt.Errorf("--client: %s is there twice", name)
			}
		}
		all = append(all, name)
	}
	return all, nil
}

// measure makes both parts.
func (c *ceiling) measure(ctx context.Context) (int, error) {
	c.progress()
	defer c.bar.end()
	confinement := c.confinement()
	var rows []Row
	for _, client := range c.clients {
		t, err := c.nullTarget(client, client, confinement)
		if err != nil {
			return exitFailed, err
		}
		rows = append(rows, Row{Name: client, Target: t})
	}
	fast, paced := c.workload, c.workload
	fast.Rate, paced.InFlight = 0, 0
	c.bar.expect(time.Duration(c.rule.Runs)*(runsCost(rows, fast)+runsCost(rows, paced)), false)
	var tables [2][]Summary
	var results []*Result
	var failed error
	for i, w := range []Workload{fast, paced} {
		if failed = w.Validate(); failed != nil {
			break
		}
		of := slices.Clone(rows)
		for j := range of { // in a file, runs of one row were asked for the same
			of[j].Name += []string{", saturated", fmt.Sprintf(", at %d/s", w.Rate)}[i]
		}
		var made []*Result
		tables[i], made, failed = Compare(ctx, of, w, c.rule, confinement, c.options, c.told)
		results = append(results, made...)
		if failed != nil {
			break
		}
	}
	c.bar.end()
	f := c.file(results)
	f.Rule, f.Partial = c.rule, failed != nil
	f.Table = append(append(f.Table, tables[0]...), tables[1]...)
	if failed == nil {
		fmt.Fprint(c.stdout, ceilingTable(c.clients, tables[0], tables[1], paced, c.rule, f))
	}
	if err := errors.Join(failed, c.store(f)); err != nil {
		return exitFailed, err
	}
	return exitOf(results), nil
}

// ceilingTable writes both parts beside each other: rows of the same clients in the same order.
func ceilingTable(clients []string, fast, paced []Summary, w Workload, rule RepeatRule, f File) string {
	var b strings.Builder
	rate := float64(w.Rate)
	fmt.Fprintf(&b, "%s. %d partitions, %d producers, %d-byte records, %d a batch, acks %s, idempotent %v. Medians of %d interleaved runs of %v.\n\n",
		upper(nullbroker.Says), w.Partitions, w.Producers, w.Size, w.Batch, w.Acks, w.Idempotent, rule.Runs, w.Duration)
	fmt.Fprintf(&b, "| client | saturated, records/s | MB/s | at %s/s: p50 | p99 | p99.9 | max | steal %% saturated | steal %% paced | runs |\n", number(&rate))
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for i, s := range fast {
		p := paced[i]
		mark := ""
		if s.Marked || p.Marked {
			mark = " (disturbed)"
		}
		fmt.Fprintf(&b, "| %s%s | %s | %.1f | %s | %s | %s | %s | %.1f | %.1f | %d, %d |\n", clients[i], mark, number(&s.RecordsPerSecond), s.BytesPerSecond/1e6,
			micros(p.P50), micros(p.P99), micros(p.P999), micros(&p.Max), s.Steal, p.Steal, s.Runs, p.Runs)
	}
	fmt.Fprintf(&b, "\n%s", waited(paced, false))
	fmt.Fprintf(&b, "\nMachine: %s.\n\nRepeat with:\n\n    %s\n", f.Machine, f.Command)
	return b.String()
}
