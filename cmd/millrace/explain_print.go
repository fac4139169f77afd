package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/bench"
	"golang.org/x/sys/unix"
)

const (
	columnsMin     = 60
	columnsMax     = 120
	columnsDefault = 100 // where the output is no terminal
)

// columns is how wide the output may be.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return columnsDefault
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return columnsDefault
	}
	return min(max(int(size.Col), columnsMin), columnsMax)
}

// page writes text of a width.
type page struct {
	io.Writer
	width int
}

// text writes a paragraph, its lines after the first indented.
func (p page) text(indent int, text string) {
	lines := strings.Split(wrap(text, p.width), "\n")
	fmt.Fprintln(p, lines[0])
	if len(lines) > 1 {
		p.hang(strings.Repeat(" ", indent), indent, strings.Join(lines[1:], " "))
	}
}

// hang writes head and, beside it, text: its further lines stand below its first.
func (p page) hang(head string, indent int, text string) {
	pad := strings.Repeat(" ", max(0, indent-utf8.RuneCountInString(head)))
	for i, line := range strings.Split(wrap(text, p.width-indent), "\n") {
		if i == 0 {
			fmt.Fprintln(p, strings.TrimRight(head+pad+line, " "))
			continue
		}
		fmt.Fprintln(p, strings.Repeat(" ", indent)+line)
	}
}

func (p page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// printExplanation writes x for reading at a terminal of that many columns.
func printExplanation(w io.Writer, x *explanation, width int) {
	p := page{w, width}
	head := fmt.Sprintf("topic %s, partitions %d, replicas %d", x.Topic, x.Partitions, x.Replicas)
	switch {
	case x.Broker == "kafka":
		head += " (no flush.policy: Apache Kafka's settings)"
	case x.Own:
		head += ", flush.policy=" + x.Policy + " (the topic's own)"
	default:
		head += ", flush.policy=" + x.Policy + " (by the broker's settings)"
	}
	p.text(2, head)
	p.line("")
	p.text(0, x.Summary)
	p.text(0, x.copies)
	for _, note := range x.Notes {
		p.text(0, "Note: "+note+".")
	}
	p.line("")
	p.faults(x.Outcomes)
	p.line("")
	p.seen(x)
	if x.Prices != nil && len(x.Prices.Rows) > 0 {
		p.line("")
		p.prices(x.Prices)
	}
	p.line("")
	p.disk(&x.Disk)
}

// faults is the table of what survives. Faults with the same answer for acks=1 and acks=all take
// one row, and a reason that has been given is referred to.
func (p page) faults(all []outcome) {
	const acksWidth = 8
	width := 0
	for _, o := range all {
		width = max(width, len(faultName(o.Fault, o.Scope)))
	}
	row := func(fault, acks, text string) {
		p.hang(fmt.Sprintf("%-*s  %-*s", width, fault, acksWidth, acks), width+2+acksWidth, text)
	}
	row("FAULT", "ACKS", "AN ACKNOWLEDGED RECORD")
	given := map[string]string{}
	for rest := all; len(rest) > 0; {
		o := rest[0]
		same := 1
		for same < len(rest) && rest[same].Fault == o.Fault && rest[same].Scope == o.Scope && rest[same].Text == o.Text && rest[same].Why == o.Why {
			same++
		}
		rest = rest[same:]
		if o.Acks == "0" { // below, for all faults
			continue
		}
		name, acks := faultName(o.Fault, o.Scope), o.Acks
		if same > 1 {
			acks = "1, all"
		}
		why := o.Why
		if before := given[why]; before != "" {
			why = "as " + before
		} else if given[why] = name; same == 1 {
			given[why] += ", acks=" + acks
		}
		row(name, acks, o.Text+": "+why)
	}
	if i := slices.IndexFunc(all, func(o outcome) bool { return o.Acks == "0" }); i >= 0 {
		row("any of them", "0", all[i].Text+": "+all[i].Why)
	}
}

// seen is what was off disk, beside what the policy allows.
func (p page) seen(x *explanation) {
	s := x.Seen
	if !s.Told {
		p.text(0, "SEEN NOW: this broker does not tell how far its partitions are on disk (Millrace does, Apache Kafka does not).")
		return
	}
	p.text(0, fmt.Sprintf("SEEN NOW, in %.1f s and %s looks; %s records were appended meanwhile", s.Seconds, thousands(int64(s.Looks)), thousands(s.Appended)))
	p.line("%-28s%15s  %15s  %15s", "of one partition, at most", "RECORDS", "BYTES (ABOUT)", "AGE")
	p.line("%-28s%15s  %15s  %15s", "acknowledged, not on disk", thousands(s.Records), size(s.Bytes), age(s.Ms))
	allowed := []string{"no bound", "no bound", "no bound"}
	switch {
	case x.Sync:
		allowed = []string{"0", "0 B", "0 ms"}
	case x.Bounds != nil:
		if x.Bounds.Records > 0 {
			allowed[0] = thousands(x.Bounds.Records)
		}
		if x.Bounds.Bytes > 0 {
			allowed[1] = size(x.Bounds.Bytes)
		}
		if x.Bounds.Ms > 0 {
			allowed[2] = span(x.Bounds.Ms)
		}
	}
	p.line("%-28s%15s  %15s  %15s", "the policy allows", allowed[0], allowed[1], allowed[2])
	switch {
	case x.Sync && s.Records > 0:
		p.text(0, "More than the policy allows: it was another one when they were acknowledged, and they are being synced now.")
	case x.Policy == "os" && s.Records > 0:
		p.text(0, "What the kernel has written back by itself is not known, and counts as not on disk.")
	case s.Appended == 0 && s.Records == 0 && !x.Sync:
		p.text(0, "Nothing was appended meanwhile: under load it is more.")
	}
}

// age is a time in ms, in a unit that reads well.
func age(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 600_000:
		return fmt.Sprintf("%.0f s", ms/1e3)
	case ms < 3600_000*48:
		return fmt.Sprintf("%.0f min", ms/60e3)
	}
	return fmt.Sprintf("%.0f days", ms/86400e3)
}

// prices is the table of what each policy costs.
func (p page) prices(all *prices) {
	p.text(0, fmt.Sprintf("PRICE, measured now: %s records/s of %d bytes over %d partitions, acks=%s; MB/s by a load that fills it",
		thousands(all.Rate), all.Bytes, all.Partitions, all.Acks))
	policy, takes := len("POLICY"), len("POWER LOSS TAKES")
	for _, row := range all.Rows {
		policy, takes = max(policy, len(row.Policy)+2), max(takes, utf8.RuneCountInString(row.Takes))
	}
	// The widest of the cells, where it does not fit, goes onto a line of its own.
	const figures = 9 + 9 + 8 + 10 + 8 + 1
	below := policy+2+takes+figures > p.width
	if below {
		takes = len("POWER LOSS TAKES")
	}
	p.line("%-*s  %-*s%9s%9s%8s%10s%8s", policy, "POLICY", takes, "POWER LOSS TAKES", "P50", "P99", "MB/S", "STEAL", "OTHERS")
	few, disturbed := false, false
	for _, row := range all.Rows {
		name, cell, rate, others, mark := row.Policy, row.Takes, "-", "-", ""
		if row.Own {
			name += " *"
		}
		if row.BytesPerSecond != nil {
			rate = fmt.Sprintf("%.0f", *row.BytesPerSecond/1e6)
			if *row.BytesPerSecond < 10e6 {
				rate = fmt.Sprintf("%.1f", *row.BytesPerSecond/1e6)
			}
		}
		if row.Others != nil {
			others = fmt.Sprintf("%.1f", *row.Others)
		}
		if row.Disturbed {
			mark, disturbed = "!", true
		}
		few = few || row.P99 == nil
		if below && utf8.RuneCountInString(cell) > takes {
			cell = "see below"
		}
		p.line("%-*s  %-*s%9s%9s%8s%8.1f %%%8s%s", policy, name, takes, cell, latency(row.P50), latency(row.P99), rate, row.Steal, others, mark)
	}
	for _, row := range all.Rows {
		if below && utf8.RuneCountInString(row.Takes) > takes {
			p.text(2, row.Policy+": "+row.Takes)
		}
	}
	p.text(0, "* the topic's. One run each: millrace bench produce --compare repeats them and takes medians.")
	if few {
		p.text(0, "-: a percentile needs 100 samples above it, a p99 10,000 in all (--seconds, --rate).")
	}
	if disturbed {
		p.text(0, fmt.Sprintf("!: disturbed, not to be compared: over %.0f %% of the CPUs' time was stolen by the hypervisor, or other programs used over %.1f CPUs.", bench.StealMax, bench.OthersMax))
	}
	for _, note := range all.Notes {
		p.text(2, "Note: "+note+".")
	}
}

// latency is microseconds in a unit that reads well, "-" where there is none.
func latency(us *float64) string {
	switch {
	case us == nil:
		return "-"
	case *us < 1000:
		return fmt.Sprintf("%.0f µs", *us)
	case *us < 10_000:
		return fmt.Sprintf("%.2f ms", *us/1e3)
	}
	return fmt.Sprintf("%.0f ms", *us/1e3)
}

// disk is what can be said of the disk under the logs.
func (p page) disk(d *diskState) {
	switch {
	case !d.Local:
		p.text(0, "DISK: the broker's log directory is not on this machine; millrace bench disk, there, says whether its flushes reach the disk.")
		return
	case d.File == "":
		p.text(0, fmt.Sprintf("DISK under %s (%s): not measured. Whether a flush reaches it: millrace bench disk --dir %s", d.LogDir, word(d.FileSystem), d.LogDir))
		return
	}
	when := ""
	if !d.Judgement.Started.IsZero() {
		when = d.Judgement.Started.Local().Format(" of 2006-01-02 15:04")
	}
	p.text(0, "DISK, by "+d.File+when)
	if len(d.Verdicts) == 0 {
		p.text(2, d.Judgement.Reason)
	}
	for _, v := range d.Verdicts {
		if topic, _, _ := strings.Cut(v, ":"); topic == "flushes" || topic == "speed" {
			p.hang("", 2, v)
		}
	}
	if d.Journal != "" {
		p.hang("", 2, d.Journal)
	}
}
