package bench

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// catchUps reports whether the file is one of bench catchup.
func (f *File) catchUps() bool { return len(f.Runs) > 0 && f.Runs[0].CatchUp != nil }

// readersCPUPerGB is in seconds for 10^9 bytes.
func (r *Result) readersCPUPerGB() *float64 {
	if r.CatchUp == nil || r.CatchUp.Bytes == 0 {
		return nil
	}
	v := r.CatchUp.ReadersCPU / (float64(r.CatchUp.Bytes) / 1e9)
	return &v
}

// perCPUSecond is bytes for each of the broker's CPU seconds, of seconds for 10^9 bytes.
func perCPUSecond(cpuPerGB *float64) *float64 {
	if cpuPerGB == nil || *cpuPerGB == 0 {
		return nil
	}
	v := 1e9 / *cpuPerGB
	return &v
}

// wentBy says by which ways the bytes of runs went, those that are a hundredth at least.
func wentBy(runs []*Result) string {
	sum, total := map[string]int64{}, int64(0)
	for _, r := range runs {
		for path, n := range r.CatchUp.Paths {
			sum[path] += n
			total += n
		}
	}
	var parts []string
	for _, path := range slices.Sorted(maps.Keys(sum)) {
		if percent := 100 * float64(sum[path]) / float64(total); percent >= 1 {
			parts = append(parts, fmt.Sprintf("%s %.0f %%", path, percent))
		}
	}
	return or(strings.Join(parts, ", "), "-")
}

// catchUpTable is a line for each row, of medians; ratios are of medians. A peer is a row whose topic knows no flush.policy; where its
// settings were not read that is not known.
func catchUpTable(f *File) (t reportTable, notes []string) {
	_, runs := rowsOf(*f)
	table := f.summaries()
	var bare, stream, peer *Summary
	for i := range table {
		s := &table[i]
		if s.Runs == 0 {
			continue
		}
		first := runs[rowKey{Row: s.Row, Partitions: s.Partitions}][0]
		_, ours := first.Settings["flush.policy"]
		switch {
		case s.Row == bareRow:
			bare = s
		case s.Row == streamRow:
			stream = s
		case !ours && first.SettingsError == "" && peer == nil:
			peer = s
		}
	}
	against, per := "peer", func(s *Summary) *float64 {
		if s == nil {
			return nil
		}
		return perCPUSecond(s.BrokerCPU)
	}
	if peer != nil {
		against = peer.Row
	}
	speed := func(s *Summary) *float64 {
		if s == nil {
			return nil
		}
		return &s.BytesPerSecond
	}
	t = reportTable{Caption: "Catching up from the page cache: medians of the runs that count", Words: 1,
		Head: []string{"row", "MB/s", "of " + bareRow, "of that without requests", "broker CPU s/GB", "MB a broker CPU second", "of " + against, "readers' CPU s/GB", "KiB a fetch", "went by", "steal %, highest", "runs"}}
	most := 0.0
	for _, s := range table {
		most = max(most, s.BytesPerSecond)
	}
	for i := range table {
		s := &table[i]
		all := runs[rowKey{Row: s.Row, Partitions: s.Partitions}]
		if s.Runs == 0 {
			t.Lines = append(t.Lines, plain(s.Row, "-", "-", "-", "-", "-", "-", "-", "-", "no run finished", "-", "0"))
			continue
		}
		use := counted(all)
		if len(use) == 0 {
			use = all
		}
		mb, perSecond := s.BytesPerSecond/1e6, per(s)
		if perSecond != nil {
			v := *perSecond / 1e6
			perSecond = &v
		}
		line := plain(s.Row, number(&mb), ratioOf(&s.BytesPerSecond, speed(bare)), ratioOf(&s.BytesPerSecond, speed(stream)), number(s.BrokerCPU), number(perSecond),
			ratioOf(per(s), per(peer)), number(medianOf(use, (*Result).readersCPUPerGB)), number(medianOf(use, (*Result).kibPerFetch)), wentBy(use),
			fmt.Sprintf("%.1f", s.Steal), fmt.Sprintf("%d of %d", s.Runs, len(all)))
		if most > 0 {
			line[1].Bar = 100 * s.BytesPerSecond / most
		}
		if s.Marked {
			line[11].Text, line[11].Warn = line[11].Text+", none undisturbed", true
		}
		t.Lines = append(t.Lines, line)
		for _, n := range s.Notes {
			notes = append(notes, s.Row+": "+n)
		}
	}
	return t, append(notes, memoryTexts(f.Runs)...)
}

// kibPerFetch is how much a reply held.
func (r *Result) kibPerFetch() *float64 {
	if r.CatchUp == nil || r.CatchUp.Fetches == 0 {
		return nil
	}
	v := float64(r.CatchUp.Bytes) / float64(r.CatchUp.Fetches) / (1 << 10)
	return &v
}

// catchingUp says what readers are asked.
func (w Workload) catchingUp() string {
	l := w.CatchUp
	return fmt.Sprintf("%.1f GiB in batches of %s, synced, in the page cache; readers: %d, each fetches %s at once, again and again; %v measured after %v of warm-up",
		float64(l.Backlog)/(1<<30), binarySize(int64(l.Batch)), l.Readers, binarySize(int64(l.Fetch)), w.Duration, w.Warmup)
}

// catchUpPart shows how fast a backlog is read.
func catchUpPart(f *File) (p reportPart) {
	p.Heading = "Catching up from the page cache"
	p.Text = []string{fmt.Sprintf("%s. Medians of %d interleaved runs.", f.Runs[0].Workload.catchingUp(), f.Rule.Runs),
		upper(bareRow) + " answers the same fetches by a loop of sendfile(2) and does nothing else: what that reaches, which is no upper bound where a copy is cheaper, as for small fetches. Without requests it sends all the time, and the reader looks at nothing. Both are on the broker's CPU."}
	table, notes := catchUpTable(f)
	p.Tables, p.Notes = []reportTable{table}, notes
	runs := reportTable{Caption: "Runs", Words: 1, Head: []string{"row", "MB/s", "broker CPU s/GB", "readers' CPU s/GB", "others' CPU s", "steal %", "marks"}}
	for _, r := range f.Runs {
		mb := r.BytesPerSecond / 1e6
		line := plain(r.Row, number(&mb), number(r.brokerCPUPerGB()), number(r.readersCPUPerGB()), number(r.Use.OthersCPU), fmt.Sprintf("%.1f", r.Use.Steal), or(strings.Join(marks(r), ", "), "-"))
		line[6].Warn = len(marks(r)) > 0
		runs.Lines = append(runs.Lines, line)
	}
	p.More = []reportTable{runs}
	return p
}
