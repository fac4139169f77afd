package bench

import (
	"fmt"
	"strings"
)

// blocks cuts a table at each change of the number of partitions.
func blocks(table []Summary) [][]Summary {
	var all [][]Summary
	for i, s := range table {
		if i == 0 || s.Partitions != table[i-1].Partitions {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], s)
	}
	return all
}

// base is the row of a block that ratios refer to: "os" if there is one, else the first.
func base(block []Summary) Summary {
	for _, s := range block {
		if s.Row == "os" {
			return s
		}
	}
	return block[0]
}

// Markdown writes a comparison as a table, with a block for each number of partitions, with all that it takes
// to judge and to repeat it.
func Markdown(table []Summary, runs []*Result, f File) string {
	var b strings.Builder
	if len(table) == 0 || len(runs) == 0 {
		return "No run was finished.\n"
	}
	all, w := blocks(table), runs[0].Workload
	ref := base(all[0])
	partitions := ""
	for _, block := range all[:len(all)-1] {
		partitions += fmt.Sprintf("%d, ", block[0].Partitions)
	}
	partitions += partitionsOf(all[len(all)-1][0].Partitions)
	fmt.Fprintf(&b, "%s. %s, %d producers, %d-byte records, %d a batch, acks %s, %s; %v measured after %v of warm-up. Medians of %d interleaved runs.\n\n",
		upper(runs[0].Loop), partitions, w.Producers, w.Size, w.Batch, w.Acks, w.Compression, w.Duration, w.Warmup, f.Rule.Runs)
	first, line := "", ""
	if len(all) > 1 {
		first, line = "| partitions ", "|--:"
	}
	fmt.Fprintf(&b, "%s| row | acknowledged means | records/s | of %s | p50 | p99 | of %s | p99.9 | max | records a batch | flushes a record | bytes a flush | broker CPU s/GB | resident MiB | start to ready | steal %% | runs | read back |\n", first, ref.Row, ref.Row)
	b.WriteString(line + "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
	for _, block := range all {
		ref := base(block)
		for _, s := range block {
			if first != "" {
				fmt.Fprintf(&b, "| %d ", s.Partitions)
			}
			b.WriteString(s.cells(ref))
		}
	}
	b.WriteString("\n" + notes(table, first != ""))
	for _, why := range refusals(runs) {
		fmt.Fprintf(&b, "- %s\n", why)
	}
	b.WriteString(stages(table, first != ""))
	b.WriteString(waited(table, first != ""))
	for _, text := range memoryTexts(runs) {
		fmt.Fprintf(&b, "- %s\n", text)
	}
	fmt.Fprintf(&b, "\nFlushes are the whole device's. Targets: %s.\n\nMachine: %s.%s\n\nRepeat with:\n\n    %s\n", targets(runs), f.Machine, after(" ", f.Machine.Disk.writesLine()), f.Command)
	return b.String()
}

// stages is how long durable batches waited for the disk, beside the disk's own time.
func stages(table []Summary, sweep bool) string {
	var b strings.Builder
	for _, s := range table {
		if s.DurableP99 == nil || s.Class != Flushed {
			continue
		}
		name := s.Row
		if sweep {
			name = rowKey{s.Row, s.Partitions, s.Load}.String()
		}
		fmt.Fprintf(&b, "- %s: from append to flushed p99 %s", name, micros(s.DurableP99))
		if s.JournalP99 != nil {
			fmt.Fprintf(&b, "; the journal's own writes p99 %s (%s)", micros(s.JournalP99), ratioOf(s.DurableP99, s.JournalP99))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cells is one line of the table; ref is what its ratios refer to.
func (s Summary) cells(ref Summary) string {
	if s.Runs == 0 {
		return fmt.Sprintf("| %s | no run finished | | | | | | | | | | | | | | | 0 | |\n", s.Row)
	}
	mark := ""
	if s.Marked {
		mark = " (disturbed)"
	}
	return fmt.Sprintf("| %s%s | %s | %s | %s | %s | %s | %s | %s | %s | %.1f | %s | %s | %s | %s | %s | %.1f | %d | %s |\n",
		s.Row, mark, s.Class, number(&s.RecordsPerSecond), ratio(s.RecordsPerSecond, ref.RecordsPerSecond),
		micros(s.P50), micros(s.P99), ratioOf(s.P99, ref.P99), micros(s.P999), micros(&s.Max), s.PerBatch,
		share(s.FlushesPerRecord), number(s.BytesPerFlush), number(s.BrokerCPU), mebibytes(s.BrokerRSS), seconds(s.Ready), s.Steal, s.Runs, s.Verified)
}

// share prints a figure that may be far below 1, or "-".
func share(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.3f", *v)
}

// seconds prints a time that was measured if it is above 0, else "-".
func seconds(s float64) string {
	switch {
	case s == 0:
		return "-"
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	}
	return fmt.Sprintf("%.1f s", s)
}

// notes are what the runs themselves say, and which were left out; of a sweep each with its number of partitions.
func notes(table []Summary, sweep bool) string {
	var b strings.Builder
	for _, s := range table {
		name := s.Row
		if sweep {
			name = rowKey{s.Row, s.Partitions, s.Load}.String()
		}
		for _, n := range s.Notes {
			fmt.Fprintf(&b, "- %s: %s\n", name, n)
		}
		if s.Disturbed > 0 && !s.Marked {
			fmt.Fprintf(&b, "- %s: %d runs made and left out of the medians (disturbed, or cut short)\n", name, s.Disturbed)
		}
	}
	return b.String()
}

// after is text with what stands before it; "" where there is none.
func after(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// refusals gives the reason for missing percentiles, once per row.
func refusals(runs []*Result) []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range runs {
		if s := r.Latency.refused(); s != "" && !seen[r.Row] {
			seen[r.Row] = true
			out = append(out, r.Row+": "+s)
		}
	}
	return out
}

func targets(runs []*Result) string {
	var out []string
	seen := map[string]bool{}
	for _, r := range runs {
		t := r.Target
		if !seen[r.Row] {
			seen[r.Row] = true
			out = append(out, fmt.Sprintf("%s is %s on CPU %s, with %s", r.Row, or(t.Version, "of unknown version"), or(t.CPUs, "any"), t.ClientLib))
		}
	}
	return strings.Join(out, "; ")
}
