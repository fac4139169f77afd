package bench

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/chart"
)

// matrixRow is one row of a durability matrix with one shape of load.
type matrixRow struct {
	label       string
	name        string     // of its row in the power-loss ledger
	paced, full *reportRow // at a fixed rate, and saturated; one may be nil
}

// of is the summary of a part; nil where it was not run.
func (r *matrixRow) of(row *reportRow) *Summary {
	if row == nil {
		return nil
	}
	return &row.Summary
}

// matrixBlock is the rows that were asked for the same, at a fixed rate and saturated.
type matrixBlock struct {
	acks              string
	partitions, batch int
	rows              []*matrixRow
}

func (b *matrixBlock) caption() string {
	return fmt.Sprintf("acks %s, %s, %d a batch", b.acks, partitionsOf(b.partitions), b.batch)
}

// matrixBlocks orders what groupRows gives: by acks, batch and partitions, as they were run first.
func matrixBlocks(groups [][]*reportRow) (all []*matrixBlock) {
	for _, group := range groups {
		for _, r := range group {
			w := r.Runs[0].Workload
			i := slices.IndexFunc(all, func(b *matrixBlock) bool {
				return b.acks == w.Acks && b.partitions == w.Partitions && b.batch == w.Batch
			})
			if i < 0 {
				i, all = len(all), append(all, &matrixBlock{acks: w.Acks, partitions: w.Partitions, batch: w.Batch})
			}
			b := all[i]
			j := slices.IndexFunc(b.rows, func(o *matrixRow) bool { return o.label == r.Label })
			if j < 0 {
				j, b.rows = len(b.rows), append(b.rows, &matrixRow{label: r.Label, name: r.Runs[0].Row})
			}
			if w.Rate > 0 {
				b.rows[j].paced = r
			} else {
				b.rows[j].full = r
			}
		}
	}
	return all
}

// lossOf are the two cells of a power-loss ledger: what was lost of what was acknowledged, and the longest loss window.
// In the simulator a policy has several rows.
func lossOf(rows []*PowerRow) (lost, window reportCell) {
	if len(rows) == 0 {
		return reportCell{Text: "not measured"}, reportCell{Text: "-"}
	}
	gone, acknowledged, widest, early := int64(0), int64(0), 0.0, false
	for _, r := range rows {
		gone, acknowledged, widest = gone+r.Findings.Lost, acknowledged+r.Acknowledged, max(widest, 1e3*r.Findings.LossWindow)
		early = early || r.Error != ""
	}
	lost = reportCell{Text: "0 of " + count(acknowledged), Strong: true}
	window = reportCell{Text: "none"}
	if gone > 0 {
		lost.Text, lost.Warn = count(gone)+" of "+count(acknowledged), true
		window = reportCell{Text: micros(&widest), Warn: true}
	}
	if early {
		lost.Text, lost.Warn = lost.Text+", ended early", true
	}
	return lost, window
}

// count prints a number of things with its thousands apart.
func count(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	v := float64(n)
	return number(&v)
}

// matrixHead is the head of a block's table; the first four are words. Right of the saturated throughput is what belongs to it; steal is
// the highest of all runs.
var matrixHead = []string{"row", "lost, of acknowledged", "loss window", "acknowledged means",
	"p50", "p99", "p99, of os", "flushes a record", "broker CPU s/GB",
	"saturated records/s", "of os", "flushes a record", "broker CPU s/GB", "steal %", "runs", "read back"}

// table is a block: what is lost, then what it costs.
func (b *matrixBlock) table(ledger map[string][]*PowerRow) reportTable {
	t := reportTable{Caption: upper(b.caption()), Words: 4, Head: slices.Clone(matrixHead)}
	base := b.rows[0]
	for _, r := range b.rows {
		if r.name == "os" {
			base = r
			break
		}
	}
	for i := range t.Head {
		t.Head[i] = strings.ReplaceAll(t.Head[i], "of os", "of "+base.label)
	}
	most := 0.0
	for _, r := range b.rows {
		if s := r.of(r.full); s != nil {
			most = max(most, s.RecordsPerSecond)
		}
	}
	for _, r := range b.rows {
		t.Lines = append(t.Lines, b.line(r, base, ledger[r.name], most))
	}
	return t
}

// line is one row; most is the highest throughput of the block.
func (b *matrixBlock) line(r, base *matrixRow, ledger []*PowerRow, most float64) []reportCell {
	paced, full := r.of(r.paced), r.of(r.full)
	line := plain(r.label, "", "", "", "-", "-", "-", "-", "-", "-", "-", "-", "-", "", "", "")
	line[1], line[2] = lossOf(ledger)
	if b.acks == "0" {
		line[1], line[2] = reportCell{Text: "nothing is acknowledged"}, reportCell{Text: "-"}
	}
	var steal float64
	var runs []string
	verified, marked := "passed", false
	for _, of := range []*reportRow{r.paced, r.full} {
		if of == nil {
			continue
		}
		s := of.Summary
		line[3].Text, steal = string(s.Class), max(steal, s.Steal)
		made := fmt.Sprint(s.Runs)
		if s.Runs < len(of.Runs) {
			made += fmt.Sprintf(" of %d", len(of.Runs))
		}
		runs, marked = append(runs, made), marked || s.Marked
		if s.Verified == "FAILED" || verified == "passed" {
			verified = s.Verified
		}
	}
	if paced != nil {
		line[0].Key = template.HTML(chart.Key(r.paced.Style)) // its line in the charts
		line[4].Text, line[5].Text, line[7].Text, line[8].Text = micros(paced.P50), micros(paced.P99), share(paced.FlushesPerRecord), number(paced.BrokerCPU)
		if s := base.of(base.paced); s != nil {
			line[6].Text = ratioOf(paced.P99, s.P99)
		}
		if r.paced.overCapacity() {
			line[6] = reportCell{Text: "over capacity", Warn: true}
		}
	}
	if full != nil {
		line[9].Text, line[11].Text, line[12].Text = number(&full.RecordsPerSecond), share(full.FlushesPerRecord), number(full.BrokerCPU)
		if most > 0 {
			line[9].Bar = 100 * full.RecordsPerSecond / most
		}
		if s := base.of(base.full); s != nil {
			line[10].Text = ratio(full.RecordsPerSecond, s.RecordsPerSecond)
		}
	}
	line[13].Text, line[14].Text, line[15].Text = fmt.Sprintf("%.1f", steal), strings.Join(runs, " + "), verified
	if marked {
		line[14].Text, line[14].Warn = line[14].Text+", none undisturbed", true
	}
	line[15].Warn = verified == "FAILED"
	return line
}

// overCapacity reports whether a load at a fixed rate was more than was taken: its latency is that of a queue that grows.
func (r *reportRow) overCapacity() bool {
	w := r.Runs[0].Workload
	return w.Rate > 0 && slices.ContainsFunc(r.Used, func(run *Result) bool {
		return run.Unsent > 0 || run.Hanging > 0 || run.RecordsPerSecond < 0.95*float64(w.Rate)
	})
}

// ledgerOf are the rows of the power-loss ledgers among files, by name: of those that the matrix's own command made where there
// are such, else of all.
func ledgerOf(files []resultFile, command string) map[string][]*PowerRow {
	own := slices.ContainsFunc(files, func(f resultFile) bool { return f.Power != nil && f.Power.Command == command })
	ledger := map[string][]*PowerRow{}
	for _, f := range files {
		if f.Power != nil && (!own || f.Power.Command == command) {
			for _, r := range f.Power.Rows {
				ledger[r.Policy] = append(ledger[r.Policy], r)
			}
		}
	}
	return ledger
}

// matrixText says what a matrix's columns are.
func matrixText(f File) []string {
	paced, full := "", ""
	rates := map[int]int64{}
	var batches []int
	for _, r := range f.Runs {
		switch w := r.Workload; {
		case w.Rate > 0:
			if _, known := rates[w.Batch]; !known {
				rates[w.Batch], batches = w.Rate, append(batches, w.Batch)
			}
			paced = fmt.Sprintf("%v measured after %v of warm-up", w.Duration, w.Warmup)
		default:
			full = fmt.Sprintf("%v measured after %v of warm-up", w.Duration, w.Warmup)
		}
	}
	var asked []string
	for _, b := range batches {
		asked = append(asked, fmt.Sprintf("%d records/s with %d a batch", rates[b], b))
	}
	w := f.Runs[0].Workload
	text := []string{fmt.Sprintf("%d-byte records, %d producers, compression %s; rounds, in each of which every row is run once with every load: %d; figures are their medians.", w.Size, w.Producers, w.Compression, f.Rule.Runs)}
	if paced != "" {
		text = append(text, fmt.Sprintf("Latency, flushes a record and CPU: open loop, %s; %s.", strings.Join(asked, ", "), paced))
	}
	if full != "" {
		text = append(text, fmt.Sprintf("Saturated, and the columns right of it: closed loop, as fast as it is acknowledged; %s.", full))
	}
	for _, s := range memoryTexts(f.Runs) {
		text = append(text, upper(s)+".")
	}
	return append(text, "One broker, one replica: there acks 1 waits for what acks all waits for, so the loss, which is measured with acks all, stands beside both. Flushes are the whole device's.")
}

// matrixNotes are what a matrix's figures do not say.
func matrixNotes(f File, ledger map[string][]*PowerRow) (notes []string) {
	notes = slices.Clone(f.Notes)
	keys, _ := rowsOf(f)
	var missing []string
	for _, k := range keys {
		if ledger[k.Row] == nil && !slices.Contains(missing, k.Row) {
			missing = append(missing, k.Row)
		}
	}
	if len(missing) > 0 {
		notes = append(notes, "no power-loss ledger of: "+strings.Join(missing, ", "))
	}
	return notes
}

// matrixParts are the matrices of files; none where there are none.
func matrixParts(files []resultFile) (all []reportPart, err error) {
	for n, f := range produced(files, true) {
		ledger := ledgerOf(files, f.File.Command)
		groups, err := groupRows([]named{f})
		if err != nil {
			return nil, err
		}
		p := reportPart{Heading: "The price of durability", Text: matrixText(f.File), Notes: matrixNotes(f.File, ledger)}
		if n > 0 {
			p.Heading += ", " + f.Name
		}
		for _, b := range matrixBlocks(groups) {
			p.Tables = append(p.Tables, b.table(ledger))
		}
		runs := reportTable{}
		notes := reportTable{Caption: "What the runs say of themselves", Words: 2, Head: []string{"row", "note"}}
		for i, rows := range groups {
			w := rows[0].Runs[0].Workload
			t := runsTable(rows)
			runs.Caption, runs.Words, runs.Head = "All runs", t.Words, t.Head
			for _, line := range t.Lines {
				line[0].Text += ", " + w.shape()
				runs.Lines = append(runs.Lines, line)
			}
			for _, r := range rows {
				for _, note := range r.Summary.Notes {
					notes.Lines = append(notes.Lines, plain(r.name()+", "+w.shape(), note))
				}
			}
			if w.Rate == 0 {
				continue
			}
			id := fmt.Sprintf("m%d-%d", n, i)
			sweep, err := sweepFigure(id, rows)
			if err != nil {
				return nil, err
			}
			drawn, err := curves(id, rows)
			if err != nil {
				return nil, err
			}
			for _, figure := range append(sweep, drawn...) {
				figure.Caption += fmt.Sprintf(", acks %s, %d a batch", w.Acks, w.Batch)
				p.Figures = append(p.Figures, figure)
			}
			for j, r := range rows {
				id := fmt.Sprintf("%s-row%d", id, j)
				times, err := timeFigure(id+"-time", r)
				if err != nil {
					return nil, err
				}
				load, err := cpuFigure(id+"-cpu", r)
				if err != nil {
					return nil, err
				}
				for _, figure := range append(times, load...) {
					figure.Caption += fmt.Sprintf(", acks %s, %d a batch", w.Acks, w.Batch)
					p.Times = append(p.Times, figure)
				}
			}
		}
		p.More = []reportTable{runs}
		if len(notes.Lines) > 0 {
			p.More = append(p.More, notes)
		}
		all = append(all, p)
	}
	return all, nil
}

// markdown writes a part: its text, tables and notes, folded tables only where there are no others. Charts are the page's.
func (p reportPart) markdown() string {
	var b strings.Builder
	for _, s := range p.Text {
		b.WriteString(s + "\n")
	}
	tables := p.Tables
	if len(tables) == 0 || p.All {
		tables = slices.Concat(tables, p.More)
	}
	for _, t := range tables {
		fmt.Fprintf(&b, "\n%s:\n\n%s", t.Caption, t.markdown())
	}
	if len(p.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	return b.String()
}

// markdownAll writes files as Markdown: the tables, the machine, and what repeats them.
func markdownAll(files []resultFile) (string, error) {
	var b strings.Builder
	add := func(text string) {
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		b.WriteString(text)
	}
	if slices.ContainsFunc(files, resultFile.partial) {
		add("**Cut short**: not all runs were made.\n")
	}
	for _, f := range produced(files, false) {
		if f.File.searched() { // its table is in its part
			continue
		}
		add(Markdown(f.File.summaries(), f.File.Runs, f.File))
	}
	parts, err := parts(files)
	if err != nil {
		return "", err
	}
	for _, p := range parts {
		add(p.markdown())
	}
	said := map[string]bool{} // a matrix and its ledger have the same command
	for _, f := range files {
		e, err := f.environment("e")
		if err != nil {
			return "", fmt.Errorf("%s: %w", f.Name, err)
		}
		if f.Produce != nil && !f.Produce.Matrix && !f.Produce.searched() && !f.Produce.catchUps() || said[e.Command] { // Markdown has said it, or the file before
			continue
		}
		said[e.Command] = true
		m := fmt.Sprintf("Machine: %s", f.machine())
		if f.Produce != nil {
			runs := f.Produce.Runs
			if f.Produce.searched() {
				runs = f.Produce.firstOfRows()
			}
			m = "Targets: " + targets(runs) + ".\n\n" + m + fmt.Sprintf(". Taken on %s", f.Produce.Runs[0].Started.UTC().Format(time.DateOnly))
		}
		m += after(". ", strings.TrimSuffix(f.machine().Disk.writesLine(), "."))
		add(fmt.Sprintf("%s.\n\nRepeat with:\n\n    %s\n", m, e.Command))
	}
	return b.String(), nil
}

// machine is where the file was made.
func (f resultFile) machine() Machine {
	switch {
	case f.Produce != nil:
		return f.Produce.Machine
	case f.Consume != nil:
		return f.Consume.Machine
	case f.Disk != nil:
		return f.Disk.Machine
	}
	return f.Power.Machine
}

// summaries are the file's table; of a single run, which is stored without one, what it would be.
func (f File) summaries() []Summary {
	if len(f.Table) > 0 {
		return f.Table
	}
	keys, runs := rowsOf(f)
	var table []Summary
	for _, k := range keys {
		s := Summarize(k.Row, k.Partitions, runs[k])
		s.Load = k.Load
		table = append(table, s)
	}
	return table
}
