package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"
)

// curve is one parsed command line.
type curve struct {
	produce
	search Search
}

func parseCurve(args []string, stderr io.Writer) (*curve, error) {
	c := &curve{produce: *newProduce()}
	c.rule.Runs, c.workload.Warmup, c.workload.Duration = 1, 3*time.Second, 10*time.Second
	f := flag.NewFlagSet("millrace bench curve", flag.ContinueOnError)
	f.SetOutput(stderr)
	c.targetFlags(f)
	c.loadFlags(f)
	c.search.flags(f, 1000)
	f.StringVar(&c.out, "out", "", "write points, and all runs with their raw histograms, to `FILE.json`")
	f.StringVar(&c.page, "report", "", "write a page with charts to `FILE.html`, its tables to FILE.md, and without --out the results to FILE.json, which is not there yet")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err := errors.Join(c.resolve(), c.search.validate()); err != nil {
		return nil, err
	}
	c.workload.Rate = c.search.From
	return c, c.check()
}

// flags are those of a search that begins at from.
func (s *Search) flags(f *flag.FlagSet, from int64) {
	f.Int64Var(&s.From, "from", from, "`records/s` to begin with")
	f.Int64Var(&s.To, "to", 10_000_000, "`records/s` above which nothing is tried")
	f.Float64Var(&s.Growth, "growth", 1.5, "`times` the last rate, until one is not sustained")
	f.Float64Var(&s.Precision, "precision", 0.05, "`share` of the rate within which the largest sustained one is found")
	f.DurationVar(&s.TimeMax, "time-max", 15*time.Minute, "after which no further rate is tried")
}

func (c *curve) measure(ctx context.Context) (int, error) {
	c.progress()
	defer c.bar.end()
	confinement := c.confinement()
	rows, err := c.allRows(ctx, confinement)
	if err != nil {
		return exitFailed, err
	}
	c.probeDisk(ctx)
	f := File{}
	for _, n := range c.partitions {
		curves, runs, failed := c.search.Rates(ctx, rows, c.of(n), c.rule, confinement, c.quiet(), c.point) // a line a point is enough
		f.Curves, f.Runs = append(f.Curves, curves...), append(f.Runs, runs...)
		if err = failed; err != nil {
			break
		}
	}
	done := c.file(f.Runs)
	done.Curves, done.Search, done.Rule, done.Partial = f.Curves, c.search, c.rule, err != nil
	c.bar.end()
	printCurves(c.stdout, f.Curves)
	if err := errors.Join(err, c.store(done)); err != nil {
		return exitFailed, err
	}
	return exitOfCurves(done), nil
}

// allRows are the rows of a comparison, or the only target. Peers are installed.
func (p *produce) allRows(ctx context.Context, c Confinement) ([]Row, error) {
	if p.comparing() {
		if err := p.install(ctx); err != nil {
			return nil, err
		}
		return p.rows(c)
	}
	name := "broker"
	switch {
	case p.null:
		name = nullName
		t, err := p.nullTarget(name, p.clients[0], c)
		return []Row{{Name: name, Target: t}}, err
	case p.serve:
		name = "millrace"
	}
	t, err := p.target(name, c, p.clients[0])
	return []Row{{Name: name, Target: t}}, err
}

// point tells of a rate that was tried.
func (p *produce) point(c Curve, at Point) {
	verdict := "sustained"
	if !at.Sustained {
		verdict = "NOT sustained: " + at.Why
	}
	verdict += at.besides()
	p.say("%-12s %s  %8d records/s  %s", c.Row, partitionsOf(c.Partitions), at.Offered, verdict)
}

// besides says what else a reader must know of a point.
func (p Point) besides() (s string) {
	if p.Disturbed {
		s = "; disturbed"
	}
	if p.Others > OthersMax {
		s += fmt.Sprintf("; others used %.1f CPUs", p.Others)
	}
	return s
}

// printCurves writes a table for each curve.
func printCurves(out io.Writer, curves []Curve) {
	for _, c := range curves {
		fmt.Fprintf(out, "%s, %s\n\n| offered/s | acknowledged/s | p50 | p99 | p99.9 | max | steal %% | sustained |\n|--:|--:|--:|--:|--:|--:|--:|---|\n", c.Row, partitionsOf(c.Partitions))
		for _, p := range c.Points {
			offered, verdict := float64(p.Offered), "yes"
			if !p.Sustained {
				verdict = "no: " + p.Why
			}
			verdict += p.besides()
			fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %.1f | %s |\n", number(&offered), number(&p.Achieved), micros(p.P50), micros(p.P99), micros(p.P999), micros(&p.Max), p.Steal, verdict)
		}
		fmt.Fprintf(out, "\n%s\n\n", c.verdict())
	}
}

// verdict is the largest sustained rate in words.
func (c Curve) verdict() string {
	sustained, failed := float64(c.Sustained), float64(c.Failed)
	s := "no rate was sustained"
	if c.Sustained > 0 {
		s = fmt.Sprintf("the largest rate that was sustained: %s records/s", number(&sustained))
	}
	if c.Failed > 0 {
		s += fmt.Sprintf("; %s was not", number(&failed))
	}
	return s + " (" + or(c.Ended, "cut short") + ")"
}

// exitOfCurves is exitOK if everything was read back as it was sent and every curve has a rate.
func exitOfCurves(f File) int {
	for _, r := range f.Runs {
		if r.Verify.State == "FAILED" {
			return exitFailed
		}
	}
	for _, c := range f.Curves {
		if c.Sustained == 0 {
			return exitFailed
		}
	}
	return exitOK
}
