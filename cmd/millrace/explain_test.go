package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kadm"
)

var update = flag.Bool("update", false, "write what the golden texts are compared with")

func setting(key, value string) kadm.Config { return kadm.Config{Key: key, Value: &value} }

func plainSettings(pairs ...any) settings {
	s := settings{}
	for i := 0; i < len(pairs); i += 2 {
		key := pairs[i].(string)
		s[key] = setting(key, fmt.Sprint(pairs[i+1]))
	}
	return s
}

func micros(v float64) *float64 { return &v }

// examples are explanations of what there might be.
func examples() map[string]*explanation {
	unmeasured := bench.Judgement{Trust: bench.TrustUnknown, Reason: "as far as the disk keeps its word, which is not measured: millrace bench disk --dir /var/lib/millrace"}
	judged := bench.Judgement{
		Trust: bench.TrustCache, Started: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Device: "vda",
		Reason: "as far as can be told: vda acknowledged flushes faster than a medium can (148 µs), so a cache answered, and whether that outlives the power cannot be seen",
	}
	make := func(topic string, s standing, change func(l *look, x *explanation)) *explanation {
		l := &look{topic: topic, standing: s, spots: []spot{{topic, 0}, {topic, 1}}}
		x := l.explanation()
		change(l, x)
		return x
	}
	return map[string]*explanation{
		"interval": make("orders", standing{Policy: log.Interval, Bounds: window, Replicas: 1, ISR: 1, MinISR: 1, Disk: unmeasured}, func(l *look, x *explanation) {
			x.Own = true
			x.Disk = diskState{LogDir: "/var/lib/millrace", Local: true, FileSystem: "ext4"}
			x.Seen = seen{Told: true, Seconds: 3, Looks: 240, Appended: 5990, Records: 203, Bytes: 219_000, Ms: 63, Where: 1}
			m := measurement{look: l}
			x.Prices = &prices{Rate: 2000, Bytes: 1024, Partitions: 2, Acks: "all", Rows: m.rows()}
			for i := range x.Prices.Rows {
				row := &x.Prices.Rows[i]
				row.P50, row.P99, row.BytesPerSecond, row.Others, row.Steal = micros(351+float64(300*i)), micros(2860+float64(9000*i)), micros(285e6-float64(i)*40e6), micros(0.04*float64(i)), 0.5*float64(i)
			}
			x.Prices.Rows[4].P99, x.Prices.Rows[3].Disturbed, x.Prices.Rows[3].Steal = nil, true, 4.2
			x.Prices.Rows[1].Others = nil
			for _, row := range []string{"write", "file"} {
				x.Prices.note(row, "over capacity: 12 records were due and could not be sent; they count with their wait so far")
			}
		}),
		"journal": make("payments", standing{Policy: log.Journal, Sync: true, Replicas: 1, ISR: 1, MinISR: 1, Disk: judged}, func(_ *look, x *explanation) {
			x.Disk = diskState{LogDir: "/var/lib/millrace", Local: true, FileSystem: "ext4", File: "/var/lib/millrace/disk.json", Judgement: judged,
				Verdicts: []string{"flushes: one flush per synchronous write reached the device (direct RWF_DSYNC 1.00); what it does with one cannot be seen from here", "torn writes: not shown"},
				Journal:  "for the journal RWF_DSYNC is the cheapest way here, 148 µs against 200 µs with direct+fdatasync (4 KiB, p50)"}
			x.Disk.Judgement.Started = time.Time{}
			x.Seen = seen{Told: true, Seconds: 3, Looks: 240, Appended: 5990, Where: -1}
		}),
		"kafka": make("ledger", standing{Kafka: true, Replicas: 3, ISR: 2, MinISR: 1, LagMs: 30_000}, func(_ *look, x *explanation) {
			x.Disk.LogDir = "/var/lib/kafka"
			x.Notes = []string{"flush.ms=1000 is set and does nothing: the broker's log.flush.scheduler.interval.ms, by which it looks, is not"}
		}),
	}
}

// The output as it is read, at the width of a terminal; nothing is wider.
func TestExplanationText(t *testing.T) {
	for name, x := range examples() {
		for _, width := range []int{80, 100, 120} {
			var out bytes.Buffer
			printExplanation(&out, x, width)
			file := filepath.Join("testdata", "explain", fmt.Sprintf("%s-%d.txt", name, width))
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, file, out.Bytes())
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("%s (go test ./cmd/millrace -run ExplanationText -update writes it):\n%s", file, out.Bytes())
			}
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width || strings.HasSuffix(line, " \n") {
					t.Errorf("%s: %d columns: %q", file, n, line)
				}
			}
		}
	}
}

// What is off disk now, and for how long, from looks at a partition.
func TestTraceOfFlushed(t *testing.T) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	s := seen{Where: -1}
	traces := map[int32]*trace{}
	look := func(ms, flushed, highWatermark int64) {
		t.Helper()
		s.look(traces, at(ms), dirAt{partition: 3, size: highWatermark * 100, told: true, offsets: wire.LogDirOffsets{Flushed: flushed, HighWatermark: highWatermark, LogEnd: highWatermark}})
	}
	for _, c := range []struct {
		ms, flushed, highWatermark int64
		records, bytes             int64
		age                        float64
	}{
		{1000, 5, 5, 0, 0, 0},
		{1010, 5, 9, 4, 400, 10},     // four came after the look before
		{1030, 5, 12, 7, 700, 30},    // the first of them is still there
		{1040, 12, 12, 7, 700, 30},   // on disk
		{1100, 12, 30, 18, 1800, 60}, // came between 1040 and 1100
		{1110, 30, 31, 18, 1800, 60},
	} {
		look(c.ms, c.flushed, c.highWatermark)
		if s.Records != c.records || s.Bytes != c.bytes || s.Ms != c.age || s.Where != map[bool]int32{true: -1, false: 3}[c.records == 0] {
			t.Errorf("at %d: %+v, want %+v", c.ms, s, c)
		}
	}
	if got := traces[3]; got.standing != -1 || got.last-got.first != 26 {
		t.Errorf("%+v", got)
	}
	// What was off disk at the first look is older than the watch.
	traces = map[int32]*trace{}
	look(2000, 40, 50)
	look(2010, 40, 60)
	if got := traces[3]; got.standing != 40 {
		t.Errorf("%+v", got)
	}
}

// Doctor repeats what bench disk left, as far as it is of the same disk.
func TestDoctorReadsDiskFile(t *testing.T) {
	dir := t.TempDir()
	if c := measuredDisk(dir); c.Status != statusOK || !strings.Contains(c.Found, "not measured") || !strings.Contains(c.Advice, "millrace bench disk --dir "+dir) {
		t.Errorf("%+v", c)
	}
	path := filepath.Join(dir, "disk.json")
	write(t, path, []byte("{"))
	if c := measuredDisk(dir); c.Status != statusOK || !strings.Contains(c.Found, path) {
		t.Errorf("%+v", c)
	}
	leave := func(device string, micros float64) check {
		t.Helper()
		m := bench.ReadMachine(dir)
		m.Disk.Device = device
		f := bench.DiskFile{Format: 1, Started: time.Now(), Machine: m,
			Rows: []bench.DiskRow{{Way: bench.WayDSync, Place: bench.PlaceOverwrite, Size: 4096, Depth: 1, Latency: bench.Latency{P50: &micros}}}}
		if err := f.Write(path); err != nil {
			t.Fatal(err)
		}
		return measuredDisk(dir)
	}
	device := bench.ReadMachine(dir).Disk.Device
	if c := leave(device+"x", 100); c.Status != statusWarn || !strings.Contains(c.Found, "was measured on "+device+"x") {
		t.Errorf("%+v", c)
	}
	if c := leave(device, 3); c.Status != statusWarn || !strings.Contains(c.Found, "that is memory") {
		t.Errorf("%+v", c)
	}
}
