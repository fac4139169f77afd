package main

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/ring"
)

var nothingAcknowledged = regexp.MustCompile(`(?m)^.* round \d+/\d+  0\.00 records/s`)

// benchOn runs the bench with its own rings on that backend. It measures for half a second, and for longer on a machine so busy that
// nothing is acknowledged in that.
func benchOn(t *testing.T, backend string, args ...string) (stdout string, measured time.Duration) {
	t.Helper()
	rings := &bench.Rings{Backend: backend, New: func(poolBytes int) (ring.IO, error) { return newBenchIO(backend, poolBytes) }}
	for measured = 500 * time.Millisecond; ; measured *= 4 {
		var out, errs bytes.Buffer
		code := (bench.Program{Rings: rings}).Main(append(slices.Clone(args), "--warmup", "100ms", "--duration", measured.String()), &out, &errs)
		switch nothing := nothingAcknowledged.MatchString(errs.String()); {
		case code == 0:
			return out.String(), measured
		case !nothing || measured > 20*time.Second:
			t.Fatalf("exit code %d\n%s%s", code, &out, &errs)
		}
	}
}

// The lean client and our own broker, each on each backend: everything that was acknowledged is read back.
func TestBenchLean(t *testing.T) {
	backends := []string{"posix"}
	if uringBlocked() == nil {
		backends = append(backends, "uring")
	}
	for _, client := range backends {
		for _, broker := range backends {
			acks := map[bool]string{true: "all", false: "1"}[client != broker || broker == "posix"]
			out := filepath.Join(t.TempDir(), "out.json")
			text, measured := benchOn(t, client, "produce", "--client", "lean", "--dir", t.TempDir(), "--override", "ring.backend="+broker, "--override", "flush.policy=journal",
				"--acks", acks, "--rate", "3000", "--partitions", "5", "--out", out)
			f, err := bench.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			// Without a CPU for a while the generator comes too late for the last ones.
			warm := int64(300)
			sent := warm + int64(3000*measured.Seconds()) - f.Runs[0].Unsent
			for _, want := range []string{"lean (millrace, on ring/" + client + ")", fmt.Sprintf("passed: %d acknowledged, %d read", sent, sent), "\nwaits "} {
				if !strings.Contains(text, want) {
					t.Errorf("client on %s, broker on %s, acks %s: no %q in\n%s", client, broker, acks, want, text)
				}
			}
			if w := f.Runs[0].Waits; w == nil || w.Flight.Count != sent-warm || w.Flight.Histogram == "" {
				t.Errorf("waits %+v", w)
			}
		}
	}
}

// Both clients compared on one broker, and a broker that writes nothing beside it.
func TestBenchClientsAndNull(t *testing.T) {
	text, _ := benchOn(t, benchRings().Backend, "produce", "--client", "franz,lean", "--compare", "os", "--null", "--dir", t.TempDir(), "--rate", "2000", "--partitions", "2", "--runs", "1", "--repeats", "0")
	for _, want := range []string{"\n| os/franz", "\n| null/franz", "\n| os/lean", "\n| null/lean", "null: acknowledges without writing", "lean (millrace, on ring/", "records waited p50 / p99: buffer full"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestBenchCeiling(t *testing.T) {
	out := filepath.Join(t.TempDir(), "ceiling.json")
	text, _ := benchOn(t, benchRings().Backend, "ceiling", "--rate", "1000", "--partitions", "4", "--runs", "1", "--repeats", "0", "--out", out)
	for _, want := range []string{"Null: acknowledges without writing", "at 1,000/s", "\n| franz", "\n| lean"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	f, err := bench.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	rates := map[string]int64{}
	for _, r := range f.Runs {
		rates[r.Row] = r.Workload.Rate
	}
	if want := map[string]int64{"franz, saturated": 0, "franz, at 1000/s": 1000, "lean, saturated": 0, "lean, at 1000/s": 1000}; !maps.Equal(rates, want) || len(f.Table) != len(want) {
		t.Errorf("%d rows, runs %v, want %v", len(f.Table), rates, want)
	}
}
