package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"text/tabwriter"
)

// recoveryOutput keeps what a broker prints while it starts.
type recoveryOutput struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const recoveryOutputMax = 4 << 20

func (o *recoveryOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() < recoveryOutputMax {
		o.buf.Write(p)
	}
	return len(p), nil
}

var (
	cutInLogs   = regexp.MustCompile(`(\d+) bytes checked, (\d+) cut, (\d+) logs damaged`)
	tornJournal = regexp.MustCompile(`the last write, .*is torn or damaged`)
)

// take adds what millrace reports of its recovery, and forgets it.
func (o *recoveryOutput) take(row *PowerRow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range cutInLogs.FindAllSubmatch(o.buf.Bytes(), -1) {
		cut, _ := strconv.ParseInt(string(m[2]), 10, 64)
		damaged, _ := strconv.ParseInt(string(m[3]), 10, 64)
		row.TornBytes += cut
		row.DamagedLogs += damaged
	}
	row.TornFrames += len(tornJournal.FindAll(o.buf.Bytes(), -1))
	o.buf.Reset()
}

// PowerFile is what --out writes.
type PowerFile struct {
	Command string      `json:"command"`
	Seed    uint64      `json:"seed"`
	Machine Machine     `json:"machine"`
	Rows    []*PowerRow `json:"rows"`
	Partial bool        `json:"cutShort,omitempty"` // interrupted
}

// Write stores f as JSON, whole or not at all.
func (f PowerFile) Write(path string) error { return writeJSON(path, f) }

// PrintPower prints the ledger.
func PrintPower(w io.Writer, rows []*PowerRow) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "policy\tcuts\tin recovery\tacknowledged\tsurvived\tlost\tduplicated\treordered\tcorrupt\ttorn bytes cut\tloss window\t")
	for _, r := range rows {
		f, torn := r.Findings, strconv.FormatInt(r.TornBytes, 10)
		if r.Foreign {
			torn = "-"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%.1f ms\t\n", r.name(), r.Cuts, r.InRecovery, r.Acknowledged, r.Survived,
			f.Lost, f.Duplicated, f.Reordered, f.Corrupt+f.Holes, torn, f.LossWindow)
	}
	t.Flush()
	for _, r := range rows {
		for _, s := range r.remarks() {
			fmt.Fprintf(w, "%s: %s\n", r.name(), s)
		}
		if !r.OK() {
			for _, e := range r.Findings.Examples {
				fmt.Fprintf(w, "  %s\n", e)
			}
		}
	}
}

// remarks are what the figures do not say by themselves.
func (r *PowerRow) remarks() (all []string) {
	if r.Error != "" {
		all = append(all, "ended early: "+r.Error)
	}
	if r.DamagedLogs > 0 {
		all = append(all, fmt.Sprintf("%d logs came up damaged", r.DamagedLogs))
	}
	if r.BeyondBound > 0 {
		all = append(all, fmt.Sprintf("FAILED: of what is lost %d records were beyond the bound", r.BeyondBound))
	}
	if r.Promises && !r.Findings.Whole() {
		all = append(all, "FAILED: it flushes before it acknowledges")
	}
	if r.Promises && r.Forgotten > 0 {
		all = append(all, fmt.Sprintf("FAILED: %d times a log had forgotten an idempotent producer", r.Forgotten))
	}
	return all
}

// name is the policy, and which points were cut.
func (r *PowerRow) name() string {
	if r.Points == "" {
		return r.Policy
	}
	return r.Policy + ", " + r.Points
}

// machineUnder is the machine's facts for a run with its mount in parent.
func machineUnder(parent string) Machine {
	if parent == "" {
		parent = os.TempDir()
	}
	return ReadMachine(filepath.Clean(parent))
}
