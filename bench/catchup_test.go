package bench

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bareServer is a started one of a MiB or so.
func bareServer(t *testing.T, stream bool) *Bare {
	t.Helper()
	p := produce{dir: t.TempDir(), workload: Workload{Batch: catchUpRecords, Size: 250}}
	fetches, streams, err := p.bareTargets(Confinement{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b := fetches
	if stream {
		b = streams
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
	return b
}

// A reader takes all batches once by their headers, and again and again by the notes of the first; it notices when they are wrong.
func TestCatchUpReader(t *testing.T) {
	b := bareServer(t, false)
	notes := filepath.Join(t.TempDir(), "batches")
	job := catchUpJob{Address: b.info.Address, Topic: "t", End: b.layout.End(), Fetch: 100_000, For: time.Millisecond, Note: notes}
	first, err := job.run()
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(first.Passes); n < 1 || first.Bytes != n*b.layout.Bytes() || first.Records != n*b.layout.End() || first.Fetches < n*10 || first.To-first.From < 1e6 {
		t.Errorf("%+v of %+v", first, b.layout)
	}
	all, err := readBatches(notes)
	if err != nil {
		t.Fatal(err)
	}
	if end := all[len(all)-1]; int64(len(all)) != b.layout.Batches+1 || end != (batchAt{b.layout.End(), b.layout.Bytes()}) {
		t.Errorf("%d batches noted, the last %+v", len(all), end)
	}
	job.Note, job.Batches, job.For = "", notes, 0
	again, err := job.run()
	if err != nil || again.Bytes != b.layout.Bytes() || again.Passes != 1 || again.Records != b.layout.End() {
		t.Errorf("%+v, %v", again, err)
	}
	all[1].bytes++
	if err := writeBatches(notes, all); err != nil {
		t.Fatal(err)
	}
	if _, err := job.run(); err == nil || !strings.Contains(err.Error(), "noted") {
		t.Errorf("wrong notes: %v", err)
	}
}

func TestCatchUpReaderOfAStream(t *testing.T) {
	b := bareServer(t, true)
	r, err := catchUpJob{Address: b.info.Address, Stream: true, For: 5 * time.Millisecond}.run()
	if err != nil || r.Bytes < streamBytes || r.To-r.From < 5e6 {
		t.Errorf("%+v, %v", r, err)
	}
}

// catchUpFile has a row of ours, a peer and the bare servers, of two runs each.
func catchUpFile() File {
	f := File{Format: resultFormat, Command: "millrace bench catchup", Rule: RepeatRule{Runs: 2}}
	row := func(name string, settings map[string]string, paths map[string]int64, mb, cpu float64) {
		for i := range 2 {
			speed, used := mb*float64(1+i), cpu // medians are 1.5 times mb
			r := &Result{Row: name, Loop: "asked again", Settings: settings, Workload: Workload{Partitions: 1, Batch: catchUpRecords, CatchUp: CatchUpLoad{Backlog: 1 << 31, Batch: 16 << 10, Readers: 1, Fetch: 1 << 20}},
				Seconds: 1, BytesPerSecond: speed * 1e6, CatchUp: &CatchUp{Bytes: int64(1e9), Fetches: 1000, ReadersCPU: 0.25, Paths: paths}}
			r.Use.BrokerCPU = &used
			f.Runs = append(f.Runs, r)
		}
		f.Table = append(f.Table, Summarize(name, 1, f.Runs[len(f.Runs)-2:]))
	}
	row("os", map[string]string{"flush.policy": "os"}, map[string]int64{"sendfile": 97e7, "memory": 3e7, "copy": 1}, 1800, 0.5)
	row("kafka", map[string]string{"flush.messages": "9223372036854775807"}, nil, 1000, 1.25)
	row(bareRow, map[string]string{bareSetting: ""}, nil, 2000, 0.4)
	row(streamRow, map[string]string{bareSetting: ""}, nil, 2400, 0.25)
	return f
}

// The table, printed, in a report and in a section of a document.
func TestCatchUpReport(t *testing.T) {
	dir := t.TempDir()
	path, document := filepath.Join(dir, "catchup.json"), filepath.Join(dir, "B.md")
	if err := catchUpFile().Write(path); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"Catching up from the page cache": {path, "--out", filepath.Join(dir, "r.html")},
		"| os | 2,700 | 0.90× | 0.75× | 0.50 | 2,000 | 2.50× | 0.25 | 977 | memory 3 %, sendfile 97 % | 0.0 | 2 of 2 |": {path, "--markdown"},
		"| bare sendfile | 3,000 | 1.00× | 0.83× | 0.40 | 2,500 | 3.12× | 0.25 |":                                       {path, "--update", document, "--section", "catchup"},
	} {
		var out bytes.Buffer
		if code := Main(append([]string{"report"}, args...), nil, &out, &out); code != exitOK {
			t.Fatalf("%v: exit code %d: %s", args, code, &out)
		}
		text := out.String()
		if name, _, _ := strings.Cut(strings.TrimSpace(text), " "); strings.HasPrefix(name, dir) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if !strings.Contains(text, want) {
			t.Errorf("%v: no %q in\n%s", args, want, text)
		}
	}
	var out bytes.Buffer
	if code := Main([]string{"compare", path, path}, nil, &out, &out); code != exitOK || !strings.Contains(out.String(), "CPU s/GB") {
		t.Errorf("compare: exit code %d:\n%s", code, &out)
	}
}

// The runs are stored where the text of them cannot be made.
func TestCatchUpStoresFirst(t *testing.T) {
	f, p50 := catchUpFile(), 100.0
	row := DiskRow{Way: WayBuffered, Place: PlaceOverwrite, Size: 4096, Depth: 1, Latency: Latency{P50: &p50}, BytesPerSecond: 1}
	c := &catchup{produce: produce{stdout: io.Discard, stderr: io.Discard, out: filepath.Join(t.TempDir(), "r.json"), writes: []DiskRow{row, row}}} // a chart of one size
	if code, err := c.finish(f.Table, f.Runs, nil); code != exitFailed || err == nil || !strings.Contains(err.Error(), "chart") {
		t.Errorf("exit code %d, %v", code, err)
	}
	if got, err := ReadFile(c.out); err != nil || len(got.Runs) != len(f.Runs) {
		t.Errorf("%d runs stored, %v", len(got.Runs), err)
	}
}

// A row whose settings could not be read is not taken for a peer.
func TestCatchUpTableKnowsItsPeer(t *testing.T) {
	f := catchUpFile()
	for _, r := range f.Runs[:2] {
		r.Settings, r.SettingsError = nil, "timeout"
	}
	if table, _ := catchUpTable(&f); table.Head[6] != "of kafka" || table.Lines[1][6].Text != "1.00×" {
		t.Errorf("%q, %+v", table.Head, table.Lines[1])
	}
}

func TestParseCatchup(t *testing.T) {
	c, err := parseCatchup(strings.Fields("--compare os,e=os+ring.backend=posix --peer kafka --backlog 0.5 --batch 4096 --fetch 65536 --readers 2"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	l := c.workload.CatchUp
	if l != (CatchUpLoad{1 << 29, 4096, 2, 65536}) || c.workload.Warmup != warmupJVM || !c.bare || len(c.ours) != 2 || c.workload.batchBytes() > 4096 || c.workload.batchBytes() < 4000 {
		t.Errorf("%+v, batches of %d", c.workload, c.workload.batchBytes())
	}
	for _, bad := range []string{"--batch 100", "--batch 2097152", "--backlog 0", "--readers 0", "--readers 65", "--fetch 8192", "--duration 0s", "--runs 0", "--peer nats",
		"--compare fast", "--confine perhaps", "--section", "more", "--peer kafka --peer kafka"} {
		if _, err := parseCatchup(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := parseCatchup([]string{"--compare", "", "--bare=false"}, io.Discard); err == nil {
		t.Error("no row was taken")
	}
}

// Old result files have no such load; new ones without it do not mention it.
func TestLoadsWithoutCatchUpStayAsTheyWere(t *testing.T) {
	b, err := json.Marshal(Result{Workload: Workload{Partitions: 1}})
	if err != nil || bytes.Contains(b, []byte("catchUp")) {
		t.Errorf("%v: %s", err, b)
	}
}
