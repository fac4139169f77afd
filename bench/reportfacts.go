package bench

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// plus adds up what two runs counted.
func (s StageTimes) plus(o StageTimes) StageTimes {
	counts := map[uint64]uint64{}
	for _, b := range slices.Concat(s.Buckets, o.Buckets) {
		counts[b[0]] += b[1]
	}
	sum := StageTimes{Name: or(s.Name, o.Name), Count: s.Count + o.Count, Sum: s.Sum + o.Sum}
	for _, upper := range slices.Sorted(maps.Keys(counts)) {
		sum.Buckets = append(sum.Buckets, [2]uint64{upper, counts[upper]})
	}
	return sum
}

// stagesTable is where a Millrace's produce requests spent their time, over all runs that count; none for other brokers.
func stagesTable(r *reportRow) []reportTable {
	var stages []StageTimes // in the order of the way of a record
	var total, durable, journal StageTimes
	for _, run := range r.Used {
		if run.Trace == nil {
			continue
		}
		for _, s := range run.Trace.Stages {
			i := slices.IndexFunc(stages, func(o StageTimes) bool { return o.Name == s.Name })
			if i < 0 {
				stages = append(stages, s)
			} else {
				stages[i] = stages[i].plus(s)
			}
		}
		total, durable, journal = total.plus(run.Trace.Total), durable.plus(run.Trace.Durable), journal.plus(run.Trace.Journal)
	}
	if stages == nil {
		return nil
	}
	t := reportTable{Caption: "Stages, " + r.name() + " (" + string(r.Summary.Class) + ")", Words: 1, Head: []string{"stage", "requests", "mean", "p50", "p99", "p99.9"}}
	longest := 0.0
	for _, s := range stages {
		if p99 := s.Quantile(.99); p99 != nil {
			longest = max(longest, *p99)
		}
	}
	add := func(name string, s StageTimes, bar bool) {
		count := float64(s.Count)
		line := plain(name, number(&count), micros(s.mean()), micros(s.Quantile(.5)), micros(s.Quantile(.99)), micros(s.Quantile(.999)))
		if p99 := s.Quantile(.99); bar && p99 != nil && longest > 0 {
			line[4].Bar = 100 * *p99 / longest
		}
		t.Lines = append(t.Lines, line)
	}
	for _, s := range stages {
		add(s.Name, s, true)
	}
	add("arrival to reply", total, false)
	add("append to flushed", durable, false)
	if journal.Count > 0 {
		add("the journal's own writes", journal, false)
	}
	return []reportTable{t}
}

// reportEnvironment is where and how a file's runs were made.
type reportEnvironment struct {
	Name, Command string
	Partial       bool
	Facts         []reportFact
	Rows          reportTable
	Settings      []reportSettings
	Figures       []reportFigure
}

type reportFact struct{ Name, Value string }

// reportSettings are all settings of a row's topic, as the broker reports them.
type reportSettings struct {
	Row   string
	Lines []string
}

func environment(f named) reportEnvironment {
	m := f.File.Machine
	e := reportEnvironment{Name: f.Name, Command: f.File.Command, Partial: f.File.Partial}
	fact := func(name, format string, args ...any) {
		if v := strings.TrimSpace(fmt.Sprintf(format, args...)); v != "" {
			e.Facts = append(e.Facts, reportFact{name, v})
		}
	}
	first, last := f.File.Runs[0].Started, f.File.Runs[len(f.File.Runs)-1].Started
	fact("started (UTC)", "%s; the last run %s", first.UTC().Format(time.DateTime), last.UTC().Format(time.DateTime))
	fact("client", "%s", f.File.Runs[0].Target.ClientLib)
	e.Facts = append(e.Facts, m.facts()...)
	if rule := f.File.Rule; rule.Runs > 0 {
		fact("repeats", "%d runs a row wanted; one with over %.0f %% CPU steal, or with memory at less than %.0f %% of its best speed before and after it, is disturbed and made again, up to %d times", rule.Runs, rule.StealMax, 100*SpeedMin, rule.RepeatsMax)
	}
	e.Rows = reportTable{Caption: "Brokers and the settings read back", Words: 6, Head: []string{"row", "acknowledged means", "version", "CPUs", "start to ready", "settings"}}
	described := f.File
	if described.searched() {
		described.Runs = described.firstOfRows()
	}
	keys, runs := rowsOf(described)
	seen := map[string]bool{}
	for _, k := range keys {
		if f.File.Matrix && seen[k.Row] { // only the load is another
			continue
		}
		seen[k.Row] = true
		r := runs[k][0]
		e.Rows.Lines = append(e.Rows.Lines, plain(k.String(), string(r.Class), or(r.Target.Version, "unknown"), or(r.Target.CPUs, "any"), seconds(r.Target.Ready), settingsLine(r)))
		e.Settings = append(e.Settings, allSettings(k.String(), r.Target.Command, r.Settings)...)
	}
	return e
}

// allSettings is what a broker was started with and what it reports; none where neither is known.
func allSettings(row string, command []string, settings map[string]string) []reportSettings {
	s := reportSettings{Row: row}
	if len(command) > 0 {
		s.Lines = append(s.Lines, "started as: "+strings.Join(command, " "))
	}
	for _, key := range slices.SortedFunc(maps.Keys(settings), cmp.Compare) {
		s.Lines = append(s.Lines, key+"="+settings[key])
	}
	if s.Lines == nil {
		return nil
	}
	return []reportSettings{s}
}

// facts are what is known of the machine.
func (m Machine) facts() (all []reportFact) {
	for _, f := range []reportFact{
		{"CPU", fmt.Sprintf("%d × %s%s", m.CPUs, or(m.CPU, "unknown"), map[bool]string{true: ", virtual"}[m.Hypervisor])},
		{"governor", m.Governor},
		{"memory", fmt.Sprintf("%d MiB", m.Memory>>20)},
		{"kernel", "Linux " + m.Kernel},
		{"page cache", m.PageCache},
		{"bench", m.Tool + ", " + m.Go},
	} {
		if f.Value != "" {
			all = append(all, f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Limits)) {
		all = append(all, reportFact{"limit: " + name, m.Limits[name]})
	}
	return append(all, m.Disk.facts()...)
}

// facts are what is known of the disk; what could not be read is not among them.
func (d Disk) facts() (all []reportFact) {
	for _, f := range []reportFact{
		{"data in", d.Directory},
		{"file system", strings.TrimSpace(d.FileSystem + " " + d.Mount)},
		{"device", d.Device},
		{"write cache", d.WriteCache},
		{"I/O scheduler", d.Scheduler},
		{"blocks, logical", d.BlockBytes},
		{"blocks, physical", d.PhysicalBytes},
		{"FUA", d.FUA},
	} {
		if f.Value != "" {
			all = append(all, f)
		}
	}
	return all
}
