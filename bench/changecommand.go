package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parseMixed parses flags that may stand before, between and after other arguments, and returns those.
func parseMixed(f *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if f.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, f.Arg(0)), f.Args()[1:]
	}
}

// mainCompare is "millrace bench compare".
func mainCompare(args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("millrace bench compare", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "usage: millrace bench compare OLD.json NEW.json [flags]")
		f.PrintDefaults()
	}
	threshold := f.Float64("threshold", 1.10, "how many `times` worse a figure may get; beyond it, and beyond noise, the exit code is 1")
	files, err := parseMixed(f, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage // the flags have said it
	}
	code, err := compareFiles(files, *threshold, stdout)
	if err != nil {
		fmt.Fprintf(stderr, "millrace bench compare: %v\n", err)
	}
	return code
}

func compareFiles(files []string, threshold float64, stdout io.Writer) (int, error) {
	if len(files) != 2 {
		return exitUsage, fmt.Errorf("%d files: two result files of bench produce are compared, the old one first", len(files))
	}
	if !(threshold >= 1) {
		return exitUsage, fmt.Errorf("--threshold %v is below 1", threshold)
	}
	before, err := ReadFile(files[0])
	if err != nil {
		return exitUsage, err
	}
	after, err := ReadFile(files[1])
	if err != nil {
		return exitUsage, err
	}
	changes, err := Changes(before, after, threshold)
	if err != nil {
		return exitUsage, fmt.Errorf("%s and %s cannot be compared: %w", files[0], files[1], err)
	}
	p := func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) }
	p("old  %s", describe(files[0], before))
	p("new  %s", describe(files[1], after))
	if d := before.Machine.difference(after.Machine); d != "" {
		p("note: not the same machine: %s", d)
	}
	if was, is := before.collectors(), after.collectors(); was != is {
		p("note: not the same generator: its collector at GOGC %s against %s", was, is)
	}
	r := before.Runs[0]
	switch {
	case before.catchUps():
		p("%s\n", r.Workload.catchingUp())
	case before.Matrix:
		p("%d producers, %d-byte records, compression %s; the rest is in each row's name\n", r.Workload.Producers, r.Workload.Size, r.Workload.Compression)
	default:
		p("%s. %d producers, %d-byte records, %d a batch, acks %s, compression %s\n", upper(r.Loop), r.Workload.Producers, r.Workload.Size, r.Workload.Batch, r.Workload.Acks, r.Workload.Compression)
	}
	printChanges(stdout, changes)
	printLonely(stdout, before, after)
	return conclude(stdout, changes, after, threshold), nil
}

func describe(path string, f File) string {
	s := fmt.Sprintf("%s: %s, %s", path, f.Runs[0].Started.UTC().Format("2006-01-02 15:04"), f.Machine.Tool)
	if f.Partial {
		s += ", cut short"
	}
	return s
}

// collectors are the settings of the generators' collectors, as GOGC, each once.
func (f File) collectors() string {
	var all []string
	for _, r := range f.Runs {
		s := "not recorded"
		if r.Collector != 0 {
			s = strconv.Itoa(r.Collector)
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// difference names what makes figures of two machines no comparison, or "".
func (m Machine) difference(o Machine) string {
	s := ""
	for _, d := range []struct{ name, was, is string }{
		{"kernel", m.Kernel, o.Kernel},
		{"CPU", fmt.Sprintf("%d × %s", m.CPUs, m.CPU), fmt.Sprintf("%d × %s", o.CPUs, o.CPU)},
		{"governor", m.Governor, o.Governor},
		{"file system", m.Disk.FileSystem, o.Disk.FileSystem},
		{"device", m.Disk.Device, o.Disk.Device},
		{"write cache", m.Disk.WriteCache, o.Disk.WriteCache},
	} {
		if d.was != d.is {
			if s != "" {
				s += ", "
			}
			s += fmt.Sprintf("%s %s against %s", d.name, or(d.was, "none"), or(d.is, "none"))
		}
	}
	return s
}

// printChanges is the table: a line for each figure, the row's name at its first.
func printChanges(out io.Writer, changes []Change) {
	names, widest := make([]string, len(changes)), len("row")
	for i, c := range changes {
		if i == 0 || c.Row != changes[i-1].Row || c.Partitions != changes[i-1].Partitions || c.Load != changes[i-1].Load {
			names[i] = rowKey{c.Row, c.Partitions, c.Load}.String()
			widest = max(widest, utf8.RuneCountInString(names[i]))
		}
	}
	fmt.Fprintf(out, "%-*s  %-9s  %10s  %10s  %7s  %16s  %s\n", widest, "row", "figure", "old", "new", "ratio", "95 % interval", "verdict")
	for i, c := range changes {
		ratio, interval, verdict := "-", "-", string(c.Verdict)
		if c.Ratio != 0 {
			ratio = fmt.Sprintf("%.3f", c.Ratio)
		}
		if c.Low != 0 || c.High != 0 {
			interval = fmt.Sprintf("%.3f to %.3f", c.Low, c.High)
		}
		if c.Why != "" {
			verdict += ": " + c.Why
		}
		fmt.Fprintf(out, "%-*s  %-9s  %10s  %10s  %7s  %16s  %s\n", widest, names[i], c.Figure.Name, c.Figure.Print(c.Old), c.Figure.Print(c.New), ratio, interval, verdict)
	}
}

// printLonely names the rows that only one file has, and runs that do not count.
func printLonely(out io.Writer, before, after File) {
	oldKeys, was := rowsOf(before)
	newKeys, is := rowsOf(after)
	say := func(which string, keys []rowKey, runs, others map[rowKey][]*Result) {
		for _, k := range keys {
			if others[k] == nil {
				fmt.Fprintf(out, "only in the %s file: %s\n", which, k)
			} else if n := len(runs[k]) - len(counted(runs[k])); n > 0 {
				fmt.Fprintf(out, "%s: %d runs of the %s file do not count: disturbed or cut short\n", k, n, which)
			}
		}
	}
	say("old", oldKeys, was, is)
	say("new", newKeys, is, was)
}

// conclude says in one line what the table says, and gives the exit code. A loss in the new file is worse than any figure.
func conclude(out io.Writer, changes []Change, after File, threshold float64) int {
	worse, undecided, code := 0, 0, exitOK
	for _, c := range changes {
		switch c.Verdict {
		case Worse:
			worse, code = worse+1, exitFailed
		case Undecided:
			undecided++
		}
	}
	fmt.Fprintf(out, "\n%d of %d figures got worse by more than %v times and beyond noise; %d could not be decided\n", worse, len(changes), threshold, undecided)
	for _, r := range after.Runs {
		if r.Verify.State == "FAILED" {
			fmt.Fprintf(out, "%s: acknowledged records were not read back as they were sent\n", after.key(r))
			code = exitFailed
		}
	}
	return code
}
