package simpower

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/ring"
)

// early is a ring that says that a sync, or a durable write, is done before it is.
type early struct {
	ring.IO
	answers []*ring.Op
}

type ignore struct{}

func (ignore) Complete(*ring.Op) {}

// Submit has the ring do it, on a copy, and answers at once.
func (e *early) Submit(op *ring.Op) {
	if op.Next != nil || op.Code != ring.Sync && (op.Code != ring.Write || op.Flags&ring.DSync == 0) {
		e.IO.Submit(op)
		return
	}
	e.IO.Submit(&ring.Op{Code: op.Code, Flags: op.Flags, FD: op.FD, Buf: slices.Clone(op.Buf), Off: op.Off, Len: op.Len, Done: ignore{}})
	op.Active = true
	e.answers = append(e.answers, op)
	e.IO.Wake()
}

// Wait delivers the answers too.
func (e *early) Wait(until int64) int {
	n := e.IO.Wait(until)
	answers := e.answers
	e.answers = nil
	for _, op := range answers {
		op.Active, op.Result = false, int32(len(op.Buf))
		op.Done.Complete(op)
	}
	return n + len(answers)
}

// rotten is a machine that reads the last bytes of a segment wrongly at a start: recovery takes
// the last batch for torn, and cuts a batch that is whole.
type rotten struct {
	ring.Host
	logs map[ring.FD]bool
}

func (r *rotten) Open(path string, mode ring.OpenMode) (ring.FD, error) {
	fd, err := r.Host.Open(path, mode)
	if err == nil {
		r.logs[fd] = strings.HasSuffix(path, ".log")
	}
	return fd, err
}

func (r *rotten) ReadAt(fd ring.FD, p []byte, off int64) (int, error) {
	n, err := r.Host.ReadAt(fd, p, off)
	if size, sizeErr := r.Host.Size(fd); r.logs[fd] && sizeErr == nil && n > 0 && off+int64(n) == size {
		p[n-1] ^= 1
	}
	return n, err
}

// What the ledger must find: each of these faults loses what was acknowledged.
func TestFaultsAreFound(t *testing.T) {
	for name, f := range map[string]struct {
		policy, rules string
		wrapped
	}{
		"write, and no sync reaches the disk":        {policy: "write", rules: `(Sync (path "*.log") lie)`},
		"file, and no sync reaches the disk":         {policy: "file", rules: `(Sync (path "*.log") lie)`},
		"file answers before its sync completes":     {policy: "file", wrapped: wrapped{io: func(io ring.IO) ring.IO { return &early{IO: io} }}},
		"journal writes without DSync":               {policy: "journal", rules: `(Write (path "*.journal") unsynced)`},
		"journal answers before its write completes": {policy: "journal", wrapped: wrapped{io: func(io ring.IO) ring.IO { return &early{IO: io} }}},
		"interval, and no sync reaches the disk":     {policy: "interval", rules: `(Sync (path "*.log") lie)`},
		"names of new segments are not synced":       {policy: "write", rules: `(SyncDir (path "/data/power-*") lie)`},
		"recovery cuts too much": {policy: "write", wrapped: wrapped{host: func(h ring.Host) ring.Host {
			return &rotten{h, map[ring.FD]bool{}}
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := simulation(t, 1)
			s.Cuts, s.Faults = 40, f.rules
			for _, g := range []bench.PowerGround{every{s, f.wrapped, 31}, sampled{s, f.wrapped}} {
				row := g.Run(t.Context(), f.policy)
				t.Logf("%s: %d cuts, %d acknowledged, %d lost, %s", row.Points, row.Cuts, row.Acknowledged, row.Findings.Lost, row.Error)
				if f.policy == "interval" && row.Points == "sampled" && row.BeyondBound == 0 {
					t.Errorf("%s: what is lost is within the bound", row.Points)
				}
				if row.OK() || row.Findings.Lost == 0 || len(row.Findings.Examples) == 0 {
					t.Errorf("%s: OK %v, %d lost", row.Points, row.OK(), row.Findings.Lost)
				}
			}
		})
	}
}

// The command exits 1 with what it has found, and 0 where there is nothing.
func TestCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.json")
	run := func(args ...string) (code int, table string) {
		var out bytes.Buffer
		args = append([]string{"powerloss", "--ground", "sim", "--seed", "7", "--policies", "journal", "--cuts", "20", "--points", "sampled", "--out", file}, args...)
		code = bench.Main(args, Grounds, &out, &out)
		return code, out.String()
	}
	if code, table := run(); code != 0 || !strings.Contains(table, "journal, sampled") {
		t.Errorf("exits %d:\n%s", code, table)
	}
	code, table := run("--faults", `(Write (path "*.journal") unsynced)`)
	if code != 1 || !strings.Contains(table, "FAILED") || !strings.Contains(table, "was acknowledged") {
		t.Errorf("with a fault it exits %d:\n%s", code, table)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var ledger bench.PowerFile
	if err := json.Unmarshal(text, &ledger); err != nil {
		t.Fatal(err)
	}
	if row := ledger.Rows[0]; row.Findings.Lost == 0 || len(row.EachCut) == 0 || row.EachCut[0].Seed == 0 || row.EachCut[0].Outcome == "" {
		t.Errorf("%+v", row)
	}
	for _, bad := range [][]string{{"--faults", "(nothing)"}, {"--override", "flush.ms=x"}, {"--rate", "5"}, {"--points", "few"}} {
		if code, _ := run(bad...); code == 0 {
			t.Errorf("%v was taken", bad)
		}
	}
}
