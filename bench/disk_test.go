package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestDiskPlan(t *testing.T) {
	rows := diskPlan()
	if len(rows) != 5*3*3+2*3*3 {
		t.Errorf("%d rows", len(rows))
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.String()] || r.weight <= 0 || diskSpaceMin%r.size != 0 {
			t.Errorf("%s: twice, or of weight %v, or not in step with the file", r, r.weight)
		}
		seen[r.String()] = true
	}
}

// Two slices of one row are added up, and the counters with them.
func TestDiskRowArithmetic(t *testing.T) {
	r := &diskRow{way: WayDirect, place: PlaceOverwrite, size: 4096, depth: 1, latency: newHistogram(), sync: newHistogram(), round: newHistogram()}
	for range 150 {
		r.done(300*time.Microsecond, 100*time.Microsecond)
		r.done(400*time.Microsecond, 200*time.Microsecond)
	}
	m := meter{disk: "/sys/block/vdx"}
	at := func(total, steal uint64, flushes int64) sample {
		return sample{cpu: cpuTimes{total: total, steal: steal}, disk: diskCount{flushes: flushes, writes: 2 * flushes}, hasDisk: true}
	}
	r.passed(m, at(1000, 10, 5000), at(1100, 14, 5200), 100*time.Millisecond)
	r.passed(m, at(2000, 20, 9000), at(2100, 26, 9250), 200*time.Millisecond)
	d, err := r.result()
	if err != nil {
		t.Fatal(err)
	}
	if d.Writes != 300 || math.Abs(d.BytesPerSecond-300*4096/0.3) > 1 || d.FlushesPerWrite == nil || *d.FlushesPerWrite != 1.5 {
		t.Errorf("%+v", d)
	}
	if len(d.Rounds) != 1 || d.Rounds[0] != 300 { // the second slice had no samples
		t.Errorf("medians of the rounds: %v", d.Rounds)
	}
	if d.Use.Steal != 5 || !d.Disturbed || *d.Use.DiskWrites != 900 {
		t.Errorf("steal %v %%, disturbed %v, %d writes", d.Use.Steal, d.Disturbed, *d.Use.DiskWrites)
	}
	if d.Latency.P50 == nil || *d.Latency.P50 != 300 || d.Latency.P99 != nil || d.Latency.Max != 400 || *d.Sync.P50 != 100 {
		t.Errorf("%+v, of it sync %+v", d.Latency, d.Sync)
	}
	if d, err := (&diskRow{latency: newHistogram(), sync: newHistogram()}).result(); err != nil || d.Missing == "" {
		t.Errorf("a row without a write has figures: %+v, %v", d, err)
	}
}

// figures are rows at 4 KiB, one at a time: medians and flushes of each way's
// overwrite, and of RWF_DSYNC into fallocated space.
func figures(dsync, direct, buffered, first, flushes float64) []DiskRow {
	row := func(way, place string, p50 float64, depth int, flushes float64) DiskRow {
		return DiskRow{Way: way, Place: place, Size: 4 << 10, Depth: depth, Latency: Latency{P50: &p50}, Rounds: []float64{p50, p50 - 1, p50 + 1}, FlushesPerWrite: &flushes}
	}
	return []DiskRow{
		row(WayDSync, PlaceOverwrite, dsync, 1, flushes), row(WayDirect, PlaceOverwrite, direct, 1, flushes),
		row(WayBuffered, PlaceOverwrite, buffered, 1, flushes), row(WayDSync, PlaceFallocated, first, 1, flushes),
		row(WayDSync, PlaceOverwrite, dsync, 16, flushes/2),
	}
}

func TestVerdicts(t *testing.T) {
	volatile := Disk{Device: "sda", FileSystem: "ext4", WriteCache: "write back", FUA: "0", BlockBytes: "512", PhysicalBytes: "4096", AtomicBytes: "0"}
	with := func(change func(*Disk)) Disk { d := volatile; change(&d); return d }
	for name, c := range map[string]struct {
		disk    Disk
		virtual bool
		rows    []DiskRow
		want    []string
		not     string
	}{
		"a flush each": {volatile, false, figures(800, 1000, 1200, 1600, 1), []string{
			"one flush per synchronous write reached the device (write+fdatasync 1.00, direct RWF_DSYNC 1.00, direct+fdatasync 1.00)",
			"they share them, 0.50 per write", "slow enough for a medium",
			"journal: direct RWF_DSYNC is cheaper, 800 µs against 1.00 ms with direct+fdatasync at 4 KiB (p50, 20 % less); direct+fdatasync costs, of direct RWF_DSYNC: 4 KiB 1.25×",
			"costs 2.00× of an overwrite, a write at the end - (4 KiB", "worth writing zeros"}, "fewer flushes"},
		"too few":         {volatile, false, figures(800, 1000, 1200, 1600, 0.7), []string{"fewer flushes than synchronous writes: 0.70 each"}, "one flush per"},
		"too many":        {volatile, false, figures(800, 1000, 1200, 1600, 2), []string{"2.00 per synchronous write reached the device"}, "fewer flushes"},
		"fua":             {with(func(d *Disk) { d.FUA = "1" }), false, figures(800, 1000, 1200, 1600, 0), []string{"the device has FUA", "fewer flushes than synchronous writes: 0.00 each, one at a time (direct+fdatasync)"}, "one flush per"},
		"write through":   {with(func(d *Disk) { d.WriteCache = "write through" }), false, figures(30, 32, 31, 30, 0), []string{"no volatile cache", "cannot be told apart without cutting the power", "cost the same", "gains little"}, "fewer flushes"},
		"memory":          {Disk{FileSystem: "tmpfs"}, false, figures(2, 3, 4, 2, 0), []string{"tmpfs has no block device", "that is memory", "no block device to ask"}, "fewer flushes"},
		"virtual":         {with(func(d *Disk) { d.Rotational = "1" }), true, figures(130, 140, 150, 230, 1), []string{"cannot be told from inside a virtual machine"}, "turns"},
		"turning":         {with(func(d *Disk) { d.Rotational = "1" }), false, figures(500, 600, 700, 800, 1), []string{"faster than a disk that turns"}, "slow enough"},
		"several devices": {with(func(d *Disk) { d.Stacked = true }), false, figures(800, 1000, 1200, 1600, 0), []string{"lies on several devices"}, "fewer flushes"},
		"two calls win":   {volatile, false, figures(1000, 900, 500, 1600, 1), []string{"journal: write+fdatasync is cheaper, 500 µs against 1.00 ms with direct RWF_DSYNC"}, "cost the same"},
		"atomic":          {with(func(d *Disk) { d.AtomicBytes = "65536" }), false, nil, []string{"a write of up to 64 KiB", "too few samples", "cannot be compared"}, "torn, and"},
	} {
		f := DiskFile{Machine: Machine{Disk: c.disk, Hypervisor: c.virtual}, Rows: c.rows, Choice: journalChoice(c.rows)}
		got := strings.Join(verdicts(f), "\n")
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", name, want, got)
			}
		}
		if strings.Contains(got, c.not) {
			t.Errorf("%s: %q in\n%s", name, c.not, got)
		}
	}
}

// A median that not every round bears out decides nothing.
func TestChoiceNeedsEveryRound(t *testing.T) {
	rows := figures(800, 1000, 1200, 1600, 1)
	if c := journalChoice(rows); c == nil || !c.Sure || c.Way != WayDSync || c.Other != WayDirect {
		t.Errorf("%+v", c)
	}
	rows[1].Rounds[2] = 790
	f := DiskFile{Rows: rows, Choice: journalChoice(rows)}
	if got := strings.Join(choiceVerdict(f), "\n"); f.Choice.Sure || !strings.Contains(got, "cannot be told apart") {
		t.Errorf("%+v: %s", f.Choice, got)
	}
	rows[1].Rounds = rows[1].Rounds[:2]
	if c := journalChoice(rows); c.Sure {
		t.Errorf("a round is missing: %+v", c)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// On a disk that others keep busy a second may be too short for any row: then it is measured for longer.
func TestDiskMeasuresATemporaryDirectory(t *testing.T) {
	for seconds := 1; !measuresDisk(t, seconds); seconds *= 4 {
		if seconds > 60 {
			t.Fatalf("no row was measured in %d s", seconds)
		}
	}
}

// measuresDisk says whether a row was measured.
func measuresDisk(t *testing.T, seconds int) bool {
	t.Helper()
	dir := t.TempDir()
	var out, errOut bytes.Buffer
	if code := Main([]string{"disk", "--dir", dir, "--seconds", strconv.Itoa(seconds)}, nil, &out, &errOut); code != exitOK {
		t.Fatalf("exit %d\n%s", code, errOut.String())
	}
	if got := names(t, dir); got != "disk.json" {
		t.Errorf("left in the directory: %s", got)
	}
	b, err := os.ReadFile(filepath.Join(dir, "disk.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f DiskFile
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	measured := 0
	for _, r := range f.Rows {
		if r.Missing == "" {
			measured++
			if r.Writes == 0 || r.Latency.Max <= 0 || r.BytesPerSecond <= 0 || r.Sync != nil && r.Sync.Max > r.Latency.Max {
				t.Errorf("%+v", r)
			}
		}
	}
	if len(f.Rows) != len(diskPlan()) || len(f.Verdicts) < 3 || f.Machine.Disk.FileSystem == "" {
		t.Errorf("%d rows, %d measured, verdicts %q", len(f.Rows), measured, f.Verdicts)
	}
	for _, want := range []string{"overwrite   write+fdatasync", "torn writes: ", dir} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	return measured > 0
}

// An interrupted run leaves what was measured where it was asked to, and never where a broker's tools look for whole figures.
func TestDiskInterrupted(t *testing.T) {
	for _, out := range []string{"", filepath.Join(t.TempDir(), "part.json")} {
		t.Run("out="+filepath.Base(out), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c, err := parseDiskCommand([]string{"--dir", dir, "--seconds", "20", "--out", out}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			c.stdout, c.stderr = io.Discard, io.Discard
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			inner, stop := context.WithCancel(context.Background())
			context.AfterFunc(ctx, stop)
			if code, err := c.run(inner); code != exitFailed || err == nil || strings.Contains(err.Error(), "nothing was saved") != (out == "") {
				t.Errorf("exit %d, %v", code, err)
			}
			if got := names(t, dir); got != "" {
				t.Errorf("left behind: %s", got)
			}
			if out == "" {
				return
			}
			f, err := readResult(out)
			if err != nil || !f.partial() || len(f.Disk.Rows) == 0 || f.Disk.Choice != nil {
				t.Errorf("%+v, %v", f.Disk, err)
			}
		})
	}
}

func TestParseDiskCommandRefuses(t *testing.T) {
	for _, bad := range []string{"--seconds 0", "--seconds NaN", "--seconds 7200", "stray", "--no-such-flag"} {
		if _, err := parseDiskCommand(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	var errOut bytes.Buffer
	if code := Main([]string{"disk", "--dir", filepath.Join(t.TempDir(), "none"), "--seconds", "1"}, nil, io.Discard, &errOut); code != exitFailed {
		t.Errorf("a directory that is not there: exit %d, %s", code, errOut.String())
	}
}
