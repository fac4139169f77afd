package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Trace is what a Millrace broker's flight recorders say: where its produce requests spend their
// time. It is the answer of the admin listener's /trace; times are ns.
type Trace struct {
	Stages  []StageTimes   `json:"stages"`
	Total   StageTimes     `json:"total"`   // from a request's arrival to its reply
	Durable StageTimes     `json:"durable"` // from the append until it is where flush.policy wants it
	Journal StageTimes     `json:"journal"` // the journal's own writes
	Worst   []TraceRequest `json:"worst,omitempty"`
}

// StageTimes is a histogram: its buckets are [upper bound, count], each an eighth wider than
// the last.
type StageTimes struct {
	Name    string      `json:"name"`
	Count   uint64      `json:"count"`
	Sum     uint64      `json:"sum"`
	Buckets [][2]uint64 `json:"buckets"`
}

// TraceRequest is one of the slowest requests.
type TraceRequest struct {
	Time      time.Time        `json:"time"`
	Topic     string           `json:"topic"`
	Partition int32            `json:"partition"`
	Parts     int32            `json:"partitions"`
	Bytes     int64            `json:"bytes"`
	Core      int              `json:"core"`
	Owner     int              `json:"owner"`
	Total     int64            `json:"total"`
	Stages    map[string]int64 `json:"stages"`
	Longest   string           `json:"longest"`
	Cause     string           `json:"cause"`
	GC        int64            `json:"gc"`
}

const traceTimeout = 5 * time.Second

// FetchTrace asks the admin listener at host:port.
func FetchTrace(ctx context.Context, admin string) (*Trace, error) {
	b, err := askAdmin(ctx, admin, "/trace")
	if err != nil {
		return nil, err
	}
	t := new(Trace)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("admin listener %s: %w", admin, err)
	}
	return t, nil
}

// askAdmin is what the admin listener at host:port answers to a GET.
func askAdmin(ctx context.Context, admin, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("admin listener %s: %w", admin, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("admin listener %s: %s", admin, resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("admin listener %s: %w", admin, err)
	}
	return b, nil
}

// since is what was counted after an earlier look. The slowest requests are those of t.
func (t *Trace) since(from *Trace) *Trace {
	d := &Trace{Total: t.Total.since(from.Total), Durable: t.Durable.since(from.Durable), Journal: t.Journal.since(from.Journal), Worst: t.Worst}
	for i, s := range t.Stages {
		if i < len(from.Stages) {
			s = s.since(from.Stages[i])
		}
		d.Stages = append(d.Stages, s)
	}
	return d
}

func (s StageTimes) since(from StageTimes) StageTimes {
	old := make(map[uint64]uint64, len(from.Buckets))
	for _, b := range from.Buckets {
		old[b[0]] = b[1]
	}
	d := StageTimes{Name: s.Name, Count: s.Count - from.Count, Sum: s.Sum - from.Sum}
	for _, b := range s.Buckets {
		if n := b[1] - old[b[0]]; n > 0 {
			d.Buckets = append(d.Buckets, [2]uint64{b[0], n})
		}
	}
	return d
}

// Quantile is the upper bound of the bucket in which the q-quantile lies, in µs; nil where fewer
// than SamplesAbove samples lie above it.
func (s StageTimes) Quantile(q float64) *float64 {
	if float64(s.Count)*(1-q) < SamplesAbove {
		return nil
	}
	want, seen := q*float64(s.Count), uint64(0)
	for _, b := range s.Buckets {
		if seen += b[1]; float64(seen) >= want {
			us := float64(b[0]) / 1e3
			return &us
		}
	}
	return nil
}

// p99 of a part of t, in µs; nil where there is none.
func (t *Trace) p99(part func(*Trace) StageTimes) *float64 {
	if t == nil {
		return nil
	}
	return part(t).Quantile(.99)
}

// mean is in µs.
func (s StageTimes) mean() *float64 {
	if s.Count == 0 {
		return nil
	}
	us := float64(s.Sum) / float64(s.Count) / 1e3
	return &us
}

// print writes the stages as a table, with the requests that took longest.
func (t *Trace) print(w io.Writer, worst int) {
	fmt.Fprintf(w, "%-10s %10s %10s %10s %10s %10s\n", "stage", "requests", "mean", "p50", "p99", "p99.9")
	row := func(name string, s StageTimes) {
		fmt.Fprintf(w, "%-10s %10d %10s %10s %10s %10s\n", name, s.Count, micros(s.mean()), micros(s.Quantile(.5)), micros(s.Quantile(.99)), micros(s.Quantile(.999)))
	}
	for _, s := range t.Stages {
		row(s.Name, s)
	}
	row("total", t.Total)
	row("durable", t.Durable)
	row("journal", t.Journal)
	fmt.Fprintln(w, "\nwait: for the write or sync before one's own. durable: from the append to the end of flush. journal: its own\nwrites. Percentiles are upper bounds of buckets that are an eighth wide.")
	if len(t.Worst) == 0 || worst == 0 {
		return
	}
	fmt.Fprintln(w, "\nthe slowest of the last one to two minutes:")
	for _, r := range t.Worst[:min(worst, len(t.Worst))] {
		total, longest := float64(r.Total)/1e3, float64(r.Stages[r.Longest])/1e3
		fmt.Fprintf(w, "%s  %8s  %s-%d, %d bytes: %s took %s: %s", r.Time.Local().Format("15:04:05.000"), micros(&total), r.Topic, r.Partition, r.Bytes, r.Longest, micros(&longest), r.Cause)
		if r.GC > 0 {
			fmt.Fprintf(w, "; garbage collection stopped all for %s", time.Duration(r.GC).Round(time.Microsecond))
		}
		fmt.Fprintln(w)
	}
}

// brief is one line for the summary of a run.
func (t *Trace) brief() string {
	var parts []string
	for _, s := range t.Stages {
		parts = append(parts, s.Name+" "+micros(s.Quantile(.99)))
	}
	s := strings.Join(parts, ", ") + "; append to flushed " + micros(t.Durable.Quantile(.99))
	if t.Journal.Count > 0 {
		s += ", the journal's own writes " + micros(t.Journal.Quantile(.99))
	}
	return s
}

// mainTrace is "millrace bench trace".
func mainTrace(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	flags := flag.NewFlagSet("millrace bench trace", flag.ContinueOnError)
	flags.SetOutput(stderr)
	admin := flags.String("admin", "127.0.0.1:9644", "`host:port` of the broker's admin.listener")
	seconds := flags.Duration("duration", 0, "show what is counted from now on, for so long; 0: all since the broker's start")
	worst := flags.Int("worst", 16, "how many of the slowest requests are shown")
	asJSON := flags.Bool("json", false, "print the answer as JSON")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK, nil
		}
		return exitUsage, nil
	}
	switch {
	case flags.NArg() > 0:
		return exitUsage, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *worst < 0 || *seconds < 0:
		return exitUsage, fmt.Errorf("--worst %d --duration %v: neither is below 0", *worst, *seconds)
	}
	t, err := FetchTrace(ctx, *admin)
	if err != nil {
		return exitFailed, err
	}
	if *seconds > 0 {
		from := t
		select {
		case <-ctx.Done():
		case <-time.After(*seconds):
		}
		if t, err = FetchTrace(context.WithoutCancel(ctx), *admin); err != nil {
			return exitFailed, err
		}
		t = t.since(from)
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", " ")
		return exitOK, e.Encode(t)
	}
	t.print(stdout, *worst)
	return exitOK, nil
}
