package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

func TestParseDurability(t *testing.T) {
	d, err := parseDurability(strings.Fields("--out x --peer nats --peer kafka+flush.messages=1"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.loads()) != 2*2*3*2 || d.rule.Runs != 3 || d.workload.Warmup != warmupJVM || d.cuts != 10 || len(d.policies) != 5 {
		t.Errorf("%+v", d)
	}
	d, err = parseDurability(strings.Fields("--out x --quick --partitions 4 --saturate 0"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if loads := d.loads(); len(loads) != 1 || loads[0].Partitions != 4 || !loads[0].Idempotent || d.rule.Runs != 1 || d.workload.Warmup != time.Second || d.life != time.Second {
		t.Errorf("%+v", d)
	}
	for _, bad := range []string{"", "--out x --acks all,all", "--out x --acks 2", "--out x --batch 0", "--out x --partitions 1,1", "--out x --policies fast", "--out x --rate 0",
		"--out x --ground moon", "--out x --cuts 0", "--out x --peer rabbit", "--out x --peer os=kafka", "--out x --policies=", "--out x --saturate -1s", "--out x --runs 0", "--out x stray"} {
		if _, err := parseDurability(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// A batch of 16 comes as often as one of 1, so both are acknowledged as often; a NATS row has no acks but all.
func TestDurabilityCells(t *testing.T) {
	d, err := parseDurability(strings.Fields("--out x --acks all,1 --partitions 1,8 --batch 1,16 --rate 500 --policies os --peer nats"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.rows(Confinement{})
	if err != nil {
		t.Fatal(err)
	}
	own, nats := 0, 0
	for _, c := range d.cells(rows) {
		if c.w.Rate != 0 && c.w.Rate != 500*int64(c.w.Batch) || c.w.Rate == 0 && c.w.Duration != d.saturated {
			t.Errorf("%s: %+v", c, c.w)
		}
		switch {
		case c.row.Name == "os":
			own++
		case c.w.Acks != "all":
			t.Errorf("%s", c)
		default:
			nats++
		}
	}
	if own != 16 || nats != 8 {
		t.Errorf("%d and %d cells", own, nats)
	}
}

// pretendGround gives rows that were made before.
type pretendGround struct{ row PowerRow }

func (g pretendGround) Run(_ context.Context, policy string) *PowerRow {
	row := g.row
	row.Policy = policy
	return &row
}

// broken is a target that does not start.
type broken struct{ memory }

func (*broken) Start(context.Context) error { return errors.New("no such disk") }

// newDurability is a short run of rows in memory.
func newDurability(t *testing.T, dir string) *durability {
	t.Helper()
	d, err := parseDurability([]string{"--out", dir, "--acks", "all", "--partitions", "2", "--batch", "1,4", "--runs", "2", "--repeats", "0",
		"--warmup", "10ms", "--duration", "80ms", "--saturate", "40ms", "--rate", "5000", "--dir", t.TempDir()}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	d.args, d.stdout, d.stderr, d.bar = []string{"durability", "--out", dir}, io.Discard, io.Discard, newProgress(io.Discard)
	return d
}

func TestDurabilityRounds(t *testing.T) {
	dir := t.TempDir()
	d := newDurability(t, dir)
	said := &bytes.Buffer{}
	d.stderr, d.bar = said, newProgress(said)
	power := d.cutPower(t.Context(), []ledgerRow{
		{"os", pretendGround{PowerRow{Cuts: 3, Acknowledged: 6492, Findings: Findings{Lost: 397, LossWindow: 400.3}, EachCut: []PowerCut{{Findings: Findings{Lost: 397, LossWindow: 400.3}}}}}, 0},
		{"journal", pretendGround{PowerRow{Cuts: 3, Acknowledged: 5514, Promises: true}}, 0},
	})
	rows := []Row{{Name: "os", Target: &memory{}}, {Name: "bad", Target: &broken{}}, {Name: "journal", Target: &memory{}, Policy: "journal"}}
	cells := d.cells(rows)
	file, failed, err := d.rounds(t.Context(), cells, Confinement{})
	if err != nil || failed != 4 {
		t.Fatalf("%d failed, %v", failed, err)
	}
	if len(file.Runs) != 2*2*4 || file.Partial || !file.Matrix || len(file.Table) != 8 || len(file.Notes) != 4 || !strings.Contains(file.Notes[0], "no such disk") {
		t.Errorf("%d runs, %d rows, notes %q, %+v", len(file.Runs), len(file.Table), file.Notes, file.Rule)
	}
	var order []string
	for _, r := range file.Runs[:4] {
		order = append(order, file.key(r).String())
	}
	if want := []string{"os, 2 partitions, acks all, 1 a batch, at a fixed rate", "journal, 2 partitions, acks all, 1 a batch, at a fixed rate",
		"os, 2 partitions, acks all, 1 a batch, saturated", "journal, 2 partitions, acks all, 1 a batch, saturated"}; !slices.Equal(order, want) {
		t.Errorf("in the order %q", order)
	}
	if !strings.Contains(said.String(), "run 1/24, round 1 of 2: os, 2 partitions") || !strings.Contains(said.String(), " left\n") {
		t.Errorf("said %s", said)
	}
	for _, r := range file.Runs {
		if r.Verify.State != "passed" {
			t.Errorf("%s: read back %+v", file.key(r), r.Verify)
		}
	}
	// An older version's file lacks the line by which bench report knows its own.
	if err := os.WriteFile(filepath.Join(dir, "durability.md"), []byte("| row |\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// On a machine that was busy elsewhere a run of 40 ms may have no acknowledgement in its time: then it does not count.
	if code, err := d.finish(power, file); err != nil || code != exitOf(file.Runs) {
		t.Fatalf("exit code %d: %v", code, err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "durability.html"))
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, string(page))
	text, err := os.ReadFile(filepath.Join(dir, "durability.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"397 of 6,492", "0 of 5,514", "400 ms", "no such disk", "Acks all, 2 partitions, 4 a batch"} {
		if !strings.Contains(string(page), want) || !strings.Contains(string(text), want) {
			t.Errorf("no %q in the page or in the text", want)
		}
	}
	for _, want := range []string{"Over time, at a fixed rate", "<figcaption>Latency each second, journal, 2 partitions (flushed), acks all, 4 a batch"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if strings.Contains(string(page), "Cut short") {
		t.Error("whole, and said to be cut short")
	}
	// What is drawn again from the files is the same.
	again := filepath.Join(dir, "again.html")
	var out bytes.Buffer
	if code := Main([]string{"report", filepath.Join(dir, "durability.json"), filepath.Join(dir, "powerloss.json"), "--out", again}, nil, &out, &out); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &out)
	}
	if b, err := os.ReadFile(again); err != nil || !bytes.Equal(b, page) {
		t.Errorf("another page: %v", err)
	}
	// Two such files are compared by row and load.
	changes, err := Changes(file, file, 1.1)
	if err != nil || len(changes) != 8*len(comparedFigures) || changes[0].Load == "" {
		t.Errorf("%d changes, %v", len(changes), err)
	}
}

// A cut of Kafka takes a JVM's start; of NATS, as of ours, it does not.
func TestCutCost(t *testing.T) {
	p := PowerLoss{Life: 8 * time.Second}
	for s, want := range map[string]time.Duration{"": 5*time.Second + cutOverhead, "nats": 5*time.Second + cutOverhead, "kafka": 5*time.Second + cutOverheadJVM} {
		if p.Peer = nil; s != "" {
			spec, err := peer.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			p.Peer = &spec
		}
		if got := p.cutCost(); got != want {
			t.Errorf("%q: %v, not %v", s, got, want)
		}
	}
}

// After an interrupt the files are whole, and say that runs are missing.
func TestDurabilityCutShort(t *testing.T) {
	dir := t.TempDir()
	d := newDurability(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	d.options.Phase = func(phase string) {
		if strings.Contains(phase, "closed loop") {
			cancel()
		}
	}
	file, _, err := d.rounds(ctx, d.cells([]Row{{Name: "os", Target: &memory{}}}), Confinement{})
	if err != nil || !file.Partial || len(file.Runs) != 2 {
		t.Fatalf("%d runs, cut short %v, %v", len(file.Runs), file.Partial, err)
	}
	power := d.cutPower(ctx, []ledgerRow{{"os", pretendGround{}, 0}})
	if !power.Partial || len(power.Rows) != 0 {
		t.Errorf("%+v", power)
	}
	if _, err := d.finish(power, file); err != nil {
		t.Fatal(err)
	}
	read, err := readResult(filepath.Join(dir, "durability.json"))
	if err != nil || !read.partial() || len(read.Produce.Runs) != 2 {
		t.Errorf("%+v %v", read, err)
	}
	for _, name := range []string{"durability.md", "durability.html"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(b), "Cut short") {
			t.Errorf("%s is not marked as cut short: %v", name, err)
		}
	}
	var out bytes.Buffer
	document := filepath.Join(dir, "B.md")
	if code := Main([]string{"report", filepath.Join(dir, "durability.json"), "--update", document, "--section", "x"}, nil, &out, &out); code != exitFailed {
		t.Errorf("exit code %d: %s", code, &out)
	}
	if _, err := os.Stat(document); err == nil {
		t.Error("what was cut short was put into a document")
	}
}

func TestDurabilityGround(t *testing.T) {
	simulated := 0
	simulate := func(s PowerSimulation) ([]PowerGround, error) {
		simulated = s.Cuts
		return []PowerGround{pretendGround{}}, nil
	}
	for _, c := range []struct {
		ground string
		fuse   error
		rows   int
		notes  int
		fails  bool
	}{
		{"auto", nil, 3, 0, false}, // our own, Kafka's and NATS's
		{"auto", errors.New("no /dev/fuse"), 1, 1, false},
		{"fuse", errors.New("no /dev/fuse"), 0, 0, true},
		{"none", nil, 0, 1, false},
	} {
		d, err := parseDurability([]string{"--out", "x", "--policies", "journal", "--peer", "kafka", "--peer", "nats", "--cuts", "2", "--ground", c.ground}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.ledgerRows(simulate, c.fuse)
		if len(rows) != c.rows || len(d.notes) != c.notes || (err != nil) != c.fails {
			t.Errorf("%s, %v: %d rows, notes %q, %v", c.ground, c.fuse, len(rows), d.notes, err)
		}
		if c.ground == "auto" && c.fuse == nil && (rows[0].ground.(PowerLoss).Ordered || !rows[1].ground.(PowerLoss).Ordered || rows[1].ground.(PowerLoss).Peer.Kind.Protocol != peer.Kafka ||
			rows[2].ground.(PowerLoss).Peer.Kind.Protocol != peer.NATS || rows[2].cost >= rows[1].cost) {
			t.Errorf("%+v", rows)
		}
	}
	if simulated != 2*simCuts {
		t.Errorf("%d cuts in the simulator", simulated)
	}
}

// A matrix has the ledger of its own run; of others only where there is none.
func TestLedgerOf(t *testing.T) {
	file := func(command string, lost int64) resultFile {
		return resultFile{Power: &PowerFile{Command: command, Rows: []*PowerRow{{Policy: "os", Findings: Findings{Lost: lost}}}}}
	}
	files := []resultFile{file("a", 1), file("b", 2), {Produce: &File{}}}
	for command, want := range map[string][]int64{"a": {1}, "b": {2}, "c": {1, 2}} {
		var got []int64
		for _, r := range ledgerOf(files, command)["os"] {
			got = append(got, r.Findings.Lost)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", command, got, want)
		}
	}
}

func TestLossOf(t *testing.T) {
	for _, c := range []struct {
		rows         []*PowerRow
		lost, window string
		warn         bool
	}{
		{nil, "not measured", "-", false},
		{[]*PowerRow{{Acknowledged: 1000}}, "0 of 1,000", "none", false},
		{[]*PowerRow{{Acknowledged: 1000, Findings: Findings{Lost: 20, LossWindow: 0.5}}, {Acknowledged: 500, Findings: Findings{Lost: 1, LossWindow: 7}}}, "21 of 1,500", "7.00 ms", true},
		{[]*PowerRow{{Acknowledged: 1000, Error: "mount"}}, "0 of 1,000, ended early", "none", true},
	} {
		if lost, window := lossOf(c.rows); lost.Text != c.lost || window.Text != c.window || lost.Warn != c.warn {
			t.Errorf("%+v %+v, want %+v", lost, window, c)
		}
	}
}

func TestMatrixMarksWhatIsOverCapacity(t *testing.T) {
	run := func(row string, rate int64, perSecond float64) *Result {
		r := ran(perSecond, us(9000), 0)
		r.Row, r.Class, r.Workload = row, Flushed, Workload{Rate: rate, Partitions: 1, Batch: 1, Acks: "all"}
		return r
	}
	f := File{Matrix: true, Runs: []*Result{run("os", 2000, 2000), run("slow", 2000, 1200), run("os", 0, 50_000), run("slow", 0, 1300)}}
	groups, err := groupRows([]named{{"x", f}})
	if err != nil {
		t.Fatal(err)
	}
	blocks := matrixBlocks(groups)
	if len(blocks) != 1 || len(blocks[0].rows) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	table := blocks[0].table(nil)
	if got := table.Lines[0]; got[5].Text != "9.00 ms" || got[9].Text != "50,000" || got[9].Bar != 100 || len(got) != len(table.Head) {
		t.Errorf("%+v", got)
	}
	if got := table.Lines[1]; got[5].Text != "9.00 ms" || got[6].Text != "over capacity" || !got[6].Warn || got[10].Text != "0.03×" || got[1].Text != "not measured" {
		t.Errorf("%+v", got)
	}
}
