package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const diskAbout = `usage: millrace bench disk [flags]

Measures the disk under a directory: how long a durable write takes, by way,
size, place and depth; how many flushes reach the device for it; what the device
says of its cache and of torn writes. It writes some GiB to two files of at most
256 MiB each, removes them, and leaves the figures in DIR/disk.json.

flags:
`

// diskRounds is how often the rows are gone through: what else happens on the
// machine meets all of them alike.
const diskRounds = 3

// diskCommand is one parsed command line of "bench disk".
type diskCommand struct {
	args           []string
	stdout, stderr io.Writer

	dir     string
	seconds float64
	out     string
}

func parseDiskCommand(args []string, stderr io.Writer) (*diskCommand, error) {
	c := &diskCommand{}
	f := flag.NewFlagSet("millrace bench disk", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, diskAbout); f.PrintDefaults() }
	f.StringVar(&c.dir, "dir", "", "`directory` to measure in (default: ./data if there is one, else the working directory)")
	f.Float64Var(&c.seconds, "seconds", 55, "length of the run; shorter, fewer percentiles have enough samples to be printed")
	f.StringVar(&c.out, "out", "", "write the figures to `FILE.json` in place of DIR/disk.json")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if !(c.seconds > 0 && c.seconds <= 3600) {
		return nil, fmt.Errorf("--seconds %v is not above 0 and at most 3600", c.seconds)
	}
	if c.dir == "" {
		c.dir = "."
		if st, err := os.Stat("data"); err == nil && st.IsDir() {
			c.dir = "data"
		}
	}
	if c.out == "" {
		c.out = c.own()
	}
	return c, nil
}

// own is where a broker's tools look for the figures.
func (c *diskCommand) own() string { return filepath.Join(c.dir, "disk.json") }

// DiskFile is what "bench disk" leaves: what the machine says, what was
// measured, and what follows from it.
type DiskFile struct {
	Format  int       `json:"format"`
	Command string    `json:"command"` // repeats it
	Started time.Time `json:"started"`
	Machine Machine   `json:"machine"`

	FileBytes int64     `json:"fileBytes"`              // of the files written to; places wrap there or end
	Others    *float64  `json:"othersFlushesPerSecond"` // on the device before anything was written
	Rows      []DiskRow `json:"rows"`
	Choice    *Choice   `json:"journalChoice,omitempty"` // nil where it cannot be told
	Verdicts  []string  `json:"verdicts"`
	Partial   bool      `json:"cutShort,omitempty"` // interrupted
}

// Write stores f as JSON, whole or not at all.
func (f DiskFile) Write(path string) error { return writeJSON(path, f) }

func (c *diskCommand) run(ctx context.Context) (int, error) {
	f := DiskFile{Format: resultFormat, Command: commandLine(c.args), Started: time.Now(), Machine: ReadMachine(c.dir)}
	rows, err := c.measure(ctx, &f)
	if f.Partial = errors.Is(err, context.Canceled); err != nil && !f.Partial {
		return exitFailed, err
	}
	for _, r := range rows {
		row, err := r.result()
		if err != nil {
			return exitFailed, err
		}
		f.Rows = append(f.Rows, row)
	}
	if f.Partial {
		f.Verdicts = []string{"cut short: no verdict"}
	} else {
		f.Choice = journalChoice(f.Rows)
		f.Verdicts = verdicts(f)
	}
	if len(f.Rows) > 0 {
		PrintDisk(c.stdout, f)
	}
	// What others read of a directory's disk is of a whole run, or an earlier one.
	if f.Partial && (len(f.Rows) == 0 || c.out == c.own()) {
		return exitFailed, errors.New("interrupted: nothing was saved")
	}
	if err := f.Write(c.out); err != nil {
		return exitFailed, err
	}
	fmt.Fprintln(c.stderr, "saved in", c.out)
	if f.Partial {
		return exitFailed, context.Canceled
	}
	return exitOK, nil
}

// measure goes through the rows, round after round. Each gets its share of the
// time that is left, so what a slow disk takes for preparation makes rows
// shorter and not the run longer.
func (c *diskCommand) measure(ctx context.Context, f *DiskFile) (rows []*diskRow, err error) {
	end := f.Started.Add(time.Duration(c.seconds * float64(time.Second)))
	m := meter{disk: device(c.dir)}
	f.Others = m.flushesMeanwhile(ctx, min(time.Second/2, time.Until(end)/20))
	p, err := newProbe(c.dir, m, c.seconds)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	f.FileBytes = p.space

	rows = diskPlan()
	left := 0.0 // weight of the slices to come
	for _, r := range rows {
		left += diskRounds * r.weight
	}
	bar := newProgress(c.stderr)
	bar.expect(time.Until(end), false)
	defer bar.end()
	for round := range diskRounds {
		for i, r := range rows {
			if bar.expect(time.Until(end), false); bar.tty || i == 0 { // elsewhere 63 lines are too many
				bar.begin("round %d/%d, row %d/%d: %s", round+1, diskRounds, i+1, len(rows), r)
			}
			if err := ctx.Err(); err != nil {
				return rows, err
			}
			if err := p.prepare(r); err != nil {
				return nil, fmt.Errorf("%s: prepare: %w", r, err)
			}
			share := time.Duration(float64(time.Until(end)) * r.weight / left)
			left -= r.weight
			if err := p.slice(ctx, r, time.Now().Add(share)); err != nil {
				return nil, fmt.Errorf("%s: %w", r, err)
			}
		}
	}
	return rows, ctx.Err()
}

// flushesMeanwhile is how many flushes a second the device sees of others, or nil.
func (m meter) flushesMeanwhile(ctx context.Context, d time.Duration) *float64 {
	from, err := m.read()
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	to, err2 := m.read()
	if err != nil || err2 != nil || !from.hasDisk || !to.hasDisk || d <= 0 {
		return nil
	}
	v := float64(to.disk.flushes-from.disk.flushes) / d.Seconds()
	return &v
}
