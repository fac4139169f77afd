package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// resultFormat is the version of the result file. It changes when a field
// changes its meaning.
const resultFormat = 1

// Result is what one run saw. Figures cover the measured time only; the
// warm-up is cut.
type Result struct {
	Row      string            `json:"row,omitempty"` // in a comparison: which row this run belongs to
	Started  time.Time         `json:"started"`
	Workload Workload          `json:"workload"`
	Loop     string            `json:"loop"`
	Target   TargetInfo        `json:"target"`
	Topic    string            `json:"topic"`
	Class    Class             `json:"durabilityClass"`
	Settings map[string]string `json:"settings,omitempty"` // the topic's, as the broker reports them

	SettingsError string `json:"settingsError,omitempty"` // why Settings is empty

	Seconds float64 `json:"seconds"` // measured time
	Acked   int64   `json:"acknowledged"`
	Failed  int64   `json:"failed"`     // refused or given up by the client, warm-up included; in no latency
	Hanging int64   `json:"unfinished"` // neither acknowledged nor refused when the run was given up; each counts in Latency with its wait so far
	Unsent  int64   `json:"unsent"`     // open loop: intended, never sent; each counts in Latency with its wait so far
	Error   string  `json:"firstError,omitempty"`

	RecordsPerSecond float64     `json:"recordsPerSecond"` // acknowledged within the measured time
	BytesPerSecond   float64     `json:"bytesPerSecond"`   // of values; of bench catchup: of batches
	Latency          Latency     `json:"latency"`
	Lag              Latency     `json:"scheduleLag"` // how late the generator handed over; open loop only
	Waits            *Waits      `json:"waits,omitempty"`
	Batches          ClientStats `json:"batches"` // warm-up included
	Intervals        []Interval  `json:"intervals"`

	Touched  *Touched     `json:"touchedBefore,omitempty"`    // where asked for
	FreeHuge *float64     `json:"freeInHugePieces,omitempty"` // share of free memory in pieces of 2 MiB and more, before the run
	Memory   *MemorySpeed `json:"memorySpeed,omitempty"`      // where the broker is confined to a CPU
	Consumed *Consumption `json:"consumed,omitempty"`         // where there are consumers
	Backlog  *Backlog     `json:"backlog,omitempty"`
	CatchUp  *CatchUp     `json:"catchUp,omitempty"` // of bench catchup: nothing was acknowledged

	// Collector is when the generator's garbage is collected: percent, as GOGC; -1: never; 0: not recorded, as by older versions, which
	// had Go's own 100 where GOGC was not set. Of bench catchup: there is no such generator.
	Collector int `json:"generatorGOGC,omitempty"`

	Use    Use          `json:"use"`
	Trace  *Trace       `json:"trace,omitempty"` // of a Millrace that the harness started
	Verify Verification `json:"verification"`
	Notes  []string     `json:"notes,omitempty"` // what a reader must know before using a figure

	Disturbed bool `json:"disturbed"`          // steal was over StealMax, or memory slower than SpeedMin of the best
	Left      bool `json:"leftOut,omitempty"`  // in a comparison: not in the medians
	Partial   bool `json:"cutShort,omitempty"` // interrupted

	streams *streamsResult // of a run with Streams
}

// Interval is one second of a run, by the time of the acknowledgement. The last also holds what was acknowledged after the end.
type Interval struct {
	Second int      `json:"second"`
	Warmup bool     `json:"warmup,omitempty"`
	Acked  int64    `json:"acknowledged"`
	Failed int64    `json:"failed,omitempty"`
	P50    *float64 `json:"p50Micros"`
	P99    *float64 `json:"p99Micros"`
	Max    float64  `json:"maxMicros"`

	CPU *SecondCPU `json:"cpu,omitempty"` // nil where it could not be read
}

// SecondCPU is who used the CPUs within an Interval: CPU seconds a second.
type SecondCPU struct {
	Steal  float64  `json:"steal"` // what the hypervisor took
	Client float64  `json:"client"`
	Broker *float64 `json:"broker,omitempty"` // as the next: nil where the broker's process is not known
	Others *float64 `json:"others,omitempty"` // neither client nor broker: other programs, and the kernel for all
}

// OK reports whether the run's figures count: something was acknowledged, and
// what was acknowledged was there; or something was caught up with.
func (r *Result) OK() bool {
	return (r.Acked > 0 || r.CatchUp != nil && r.CatchUp.Bytes > 0) && r.Verify.State != "FAILED"
}

// perBatch is how many records a batch really had.
func (r *Result) perBatch() float64 {
	if r.Batches.Batches == 0 {
		return 0
	}
	return float64(r.Batches.Records) / float64(r.Batches.Batches)
}

// note adds what a reader must know; see Result.Notes.
func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// judge adds the notes that follow from the figures themselves.
func (r *Result) judge() {
	r.Disturbed = r.Use.Steal > StealMax
	if r.Class == Flushed && r.Use.DiskFlushes != nil && r.Acked > 0 {
		switch saw, least := *r.Use.DiskFlushes, r.flushesMin(); {
		case saw == 0:
			r.note("the broker claims to flush before it acknowledges, and the disk saw no flush")
		case saw < least:
			r.note("the broker claims to flush before it acknowledges, and the disk saw %d flushes where that takes at least %d", saw, least)
		}
	}
	if rate := float64(r.Workload.Rate); rate > 0 && r.RecordsPerSecond > 1.05*rate {
		r.note("more was acknowledged than was due: the warm-up of %v left work behind, and was too short", r.Workload.Warmup)
	}
	if r.Unsent > 0 {
		r.note("over capacity: %d records were due and could not be sent; they count with their wait so far", r.Unsent)
	}
	if r.Hanging > 0 {
		r.note("%d records were not acknowledged %v after the last was due; they count with their wait so far", r.Hanging, r.Workload.DrainTimeout)
	}
	if r.Failed > 0 {
		r.note("%d records failed and are in no latency: %s", r.Failed, r.Error)
	}
	if want := float64(r.Workload.Batch); r.Batches.Batches > 0 && !r.Workload.Streams.on() && (r.perBatch() < 0.9*want || r.perBatch() > 1.1*want) {
		r.note("batches left the client with %.1f records on average, not %d", r.perBatch(), r.Workload.Batch)
	}
	if p := r.Lag.P99; p != nil && r.Latency.P99 != nil && *p > *r.Latency.P99/2 {
		r.note("the generator itself was late (p99 %s): much of the latency is the client's", micros(p))
	}
	r.judgeOthers()
	if s := r.Seconds; s > 0 && r.Use.ClientCPU/s > 0.9*float64(clientCPUs()) {
		r.note("the generator used %.2f CPUs: the client may be what is measured", r.Use.ClientCPU/s)
	}
}

// judgeOthers notes what other programs did meanwhile.
func (r *Result) judgeOthers() {
	if r.disturbedByOthers() {
		r.note("other programs, or the kernel for all, used more than %.1f CPUs meanwhile", OthersMax)
	}
}

// othersCPUs is how many CPUs other programs used, and the kernel for all; nil where that is not known.
func (r *Result) othersCPUs() *float64 {
	if r.Use.OthersCPU == nil || r.Seconds == 0 {
		return nil
	}
	v := *r.Use.OthersCPU / r.Seconds
	return &v
}

func (r *Result) disturbedByOthers() bool {
	v := r.othersCPUs()
	return v != nil && *v > OthersMax
}

// flushesMin is how many flushes the disk saw at least if each batch waited for one that began after it was sent; 0 where
// that cannot be said. Half of the batches were acknowledged within p50, and one flush serves only those of them that were sent
// within p50 of each other; on a fixed schedule these are no more than p50 has room for. A broker that does not flush for its
// records still makes some flushes, for its metadata: none at all is too little to ask.
func (r *Result) flushesMin() int64 {
	w := r.Workload
	if w.Rate == 0 || r.Latency.P50 == nil {
		return 0
	}
	sent := float64(r.Latency.Count) / float64(w.Batch)
	together := *r.Latency.P50/1e6*float64(w.Rate)/float64(w.Batch) + 1
	return max(0, int64(sent/2/together)-1) // one may have ended outside of the measured time
}

func clientCPUs() int { return max(1, len(allowedCPUs(0))) }

// File is what --out writes: one run, or a comparison with all of its runs.
type File struct {
	Format  int        `json:"format"`
	Command string     `json:"command"` // repeats it
	Machine Machine    `json:"machine"`
	Table   []Summary  `json:"table,omitempty"`
	Runs    []*Result  `json:"runs"`
	Rule    RepeatRule `json:"repeatRule,omitzero"`
	Curves  []Curve    `json:"curves,omitempty"` // of bench curve, and of a workload whose rate was looked for
	Search  Search     `json:"search,omitzero"`
	Partial bool       `json:"cutShort,omitempty"` // ended before all runs were made

	Matrix bool     `json:"durabilityMatrix,omitempty"` // of bench durability: a row has runs of several loads
	Notes  []string `json:"notes,omitempty"`            // of such a file: what was not measured, and why
}

// ReadFile reads what Write stored. It fails on other files, of other commands too.
func ReadFile(path string) (File, error) {
	var f File
	b, err := os.ReadFile(path)
	if err != nil {
		return f, err // names the path
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%s: not a result file of bench produce: %w", path, err)
	}
	if f.Format != resultFormat {
		return f, fmt.Errorf("%s: result format %d, this program reads %d", path, f.Format, resultFormat)
	}
	if len(f.Runs) == 0 {
		return f, fmt.Errorf("%s: no run in it: not a result file of bench produce", path)
	}
	for i, r := range f.Runs {
		if r == nil || r.Workload.Partitions < 1 || r.Workload.Batch < 1 {
			return f, fmt.Errorf("%s: run %d has no workload: not a result file of bench produce", path, i+1)
		}
	}
	return f, nil
}

// Write stores f as JSON, whole or not at all.
func (f File) Write(path string) error { return writeJSON(path, f) }

// writeJSON stores v as JSON, whole or not at all: every result file is written by it.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return replace(path, append(b, '\n'))
}

// replace writes a file beside path and renames it over path. Through a link, as /dev/stdout is, and to a device it writes in place.
func replace(path string, b []byte) error {
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return os.WriteFile(path, b, 0)
	}
	t, err := os.CreateTemp(filepath.Dir(path), ".millrace-bench-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(t.Name())
	if _, err := t.Write(b); err != nil {
		t.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(t.Chmod(0o644), t.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(t.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
