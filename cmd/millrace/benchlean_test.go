package main

import (
	"bytes"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/ring"
)

// benchOn runs the bench with its own rings on that backend.
func benchOn(t *testing.T, backend string, args ...string) (stdout string) {
	t.Helper()
	rings := &bench.Rings{Backend: backend, New: func(poolBytes int) (ring.IO, error) { return newBenchIO(backend, poolBytes) }}
	var out, errs bytes.Buffer
	if code := (bench.Program{Rings: rings}).Main(args, &out, &errs); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &out, &errs)
	}
	return out.String()
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
			text := benchOn(t, client, "produce", "--client", "lean", "--dir", t.TempDir(), "--override", "ring.backend="+broker, "--override", "flush.policy=journal",
				"--acks", acks, "--rate", "3000", "--partitions", "5", "--warmup", "100ms", "--duration", "500ms", "--out", out)
			for _, want := range []string{"lean (millrace, on ring/" + client + ")", "passed: 1800 acknowledged, 1800 read", "\nwaits "} {
				if !strings.Contains(text, want) {
					t.Errorf("client on %s, broker on %s, acks %s: no %q in\n%s", client, broker, acks, want, text)
				}
			}
			f, err := bench.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if w := f.Runs[0].Waits; w == nil || w.Flight.Count != 1500 || w.Flight.Histogram == "" {
				t.Errorf("waits %+v", w)
			}
		}
	}
}

// Both clients compared on one broker, and a broker that writes nothing beside it.
func TestBenchClientsAndNull(t *testing.T) {
	text := benchOn(t, benchRings().Backend, "produce", "--client", "franz,lean", "--compare", "os", "--null", "--dir", t.TempDir(), "--rate", "2000", "--partitions", "2",
		"--warmup", "100ms", "--duration", "300ms", "--runs", "1", "--repeats", "0")
	for _, want := range []string{"\n| os/franz", "\n| null/franz", "\n| os/lean", "\n| null/lean", "null: acknowledges without writing", "lean (millrace, on ring/", "records waited p50 / p99: buffer full"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestBenchCeiling(t *testing.T) {
	out := filepath.Join(t.TempDir(), "ceiling.json")
	text := benchOn(t, benchRings().Backend, "ceiling", "--rate", "1000", "--partitions", "4", "--warmup", "100ms", "--duration", "300ms", "--runs", "1", "--repeats", "0", "--out", out)
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
