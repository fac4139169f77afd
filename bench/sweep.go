package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

// compare makes the comparison, once for each number of partitions.
func (p *produce) compare(ctx context.Context) (int, error) {
	p.progress()
	defer p.bar.end()
	c := p.confinement()
	if err := p.install(ctx); err != nil {
		return exitFailed, err
	}
	rows, err := p.rows(c)
	if err != nil {
		return exitFailed, err
	}
	load := time.Duration(p.rule.Runs*len(rows)*len(p.partitions)) * p.workload.length()
	total := time.Duration(p.rule.Runs*len(p.partitions)) * runsCost(rows, p.workload)
	most := ""
	if p.rule.RepeatsMax > 0 {
		most = fmt.Sprintf(", at most %s where runs are disturbed", roughly(time.Duration(p.rule.RepeatsMax+1)*total))
	}
	p.say("%d rows, %d runs each, with %d numbers of partitions: %v of load, about %s in all%s", len(rows), p.rule.Runs, len(p.partitions), load, roughly(total), most)
	p.bar.expect(total, false)
	p.probeDisk(ctx)
	var table []Summary
	var results []*Result
	for _, partitions := range p.partitions {
		block, made, failed := Compare(ctx, rows, p.of(partitions), p.rule, c, p.options, p.told)
		table, results = append(table, block...), append(results, made...)
		if err = failed; err != nil {
			break
		}
	}
	return p.report(table, results, err)
}

// install makes sure that every peer can be started before the first run is made.
func (p *produce) install(ctx context.Context) error {
	for _, spec := range p.managed {
		if err := spec.Kind.New(peer.Options{Say: p.say}).Install(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *produce) say(format string, args ...any) {
	if p.bar != nil {
		p.bar.say(format, args...)
		return
	}
	fmt.Fprintf(p.stderr, format+"\n", args...)
}

// rows are our own, then the peers, in the order of the command line, then a null broker; each with each client.
func (p *produce) rows(c Confinement) (rows []Row, err error) {
	for _, client := range p.clients {
		more, err := p.rowsOf(client, c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// name is what a row is called: with several clients it says whose.
func (p *produce) name(row, client string) string {
	if len(p.clients) > 1 {
		return row + "/" + client
	}
	return row
}

// rowsOf are the rows of one client. JetStream has a client of its own, and is there once.
func (p *produce) rowsOf(client string, c Confinement) (rows []Row, err error) {
	for _, own := range p.ours {
		policy := "flush.policy=" + own.policy
		t, err := p.target(own.name, c, client, append([]string{policy}, own.overrides...)...)
		if err != nil {
			return nil, err
		}
		row := Row{Name: p.name(own.name, client), Target: t, Policy: own.policy}
		if !p.serve {
			row.Config = map[string]string{"flush.policy": own.policy}
		}
		rows = append(rows, row)
	}
	if len(p.ours)+len(p.managed)+len(p.peers) == 0 && !p.null { // only the clients are compared
		t, err := p.target("broker", c, client)
		if err != nil {
			return nil, err
		}
		rows = append(rows, Row{Name: p.name("broker", client), Target: t})
	}
	for _, spec := range p.managed {
		if spec.Kind.Protocol == peer.NATS && client != p.clients[0] {
			continue
		}
		t := managed(spec, peer.Options{Parent: p.dir, CPUs: c.Broker, Say: p.say})
		name := spec.Label
		if m, ok := t.(*Managed); ok {
			m.Client, m.Rings, name = client, p.rings, p.name(name, client)
		}
		rows = append(rows, Row{Name: name, Target: t, Config: spec.Config})
	}
	for _, s := range p.peers {
		name, address, config, err := parsePeer(s)
		if err != nil {
			return nil, err
		}
		rows = append(rows, Row{Name: p.name(name, client), Target: &Kafka{Name: name, Address: address, Client: client, Rings: p.rings}, Config: config})
	}
	if p.null {
		t, err := p.nullTarget(nullName, client, c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, Row{Name: p.name(nullName, client), Target: t})
	}
	return rows, nil
}

// told shows a run that was made.
func (p *produce) told(row string, round, attempt int, r *Result) {
	partitions := ""
	if len(p.partitions) > 1 {
		partitions = partitionsOf(r.Workload.Partitions) + "  "
	}
	p.say("%-12s %sround %d/%d  %s records/s  p50 %s  p99 %s  %s  ready in %.2f s  read back %s",
		row, partitions, round, p.rule.Runs, number(&r.RecordsPerSecond), micros(r.Latency.P50), micros(r.Latency.P99), r.disturbance(), r.Target.Ready, r.Verify.State)
}

// report prints and writes what was made; err is what ended it early.
func (p *produce) report(table []Summary, results []*Result, err error) (int, error) {
	p.bar.end()
	f := p.file(results)
	f.Table, f.Rule, f.Partial = table, p.rule, err != nil
	text := Markdown(table, results, f)
	fmt.Fprintln(p.stdout, text)
	err = errors.Join(err, p.store(f))
	// A table that was cut short does not replace one that was not.
	if p.update != "" && err == nil {
		err = UpdateSection(p.update, p.section, text)
	}
	if err != nil {
		return exitFailed, err
	}
	return exitOf(results), nil
}
