package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench"
)

// A short run: the readers get all of the backlog, by the ways that the broker's metrics tell, beside the bare servers.
func TestBenchCatchup(t *testing.T) {
	dir := t.TempDir()
	out, document := filepath.Join(t.TempDir(), "out.json"), filepath.Join(t.TempDir(), "B.md")
	var stdout, stderr bytes.Buffer
	code := bench.Main([]string{"catchup", "--dir", dir, "--backlog", "0.01", "--batch", "4096", "--fetch", "262144", "--readers", "2", "--runs", "1", "--repeats", "0",
		"--warmup", "1ms", "--duration", "50ms", "--compare", "os+fetch.path=sendfile", "--override", "tail.bytes=1048576", "--out", out, "--update", document}, nil, &stdout, &stderr)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &stdout, &stderr)
	}
	if said := stderr.String(); !strings.Contains(said, "round 1 of 1; ") || strings.Contains(said, "sendfile, 1 partition, round 1 of 1; 0 s left") {
		t.Errorf("the time left is not told:\n%s", said)
	}
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n| os+fetch.path=sendfile |", "\n| bare sendfile |", "\n| bare sendfile, no requests |", "<!-- millrace bench: catchup -->"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	if b, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Runs []struct {
			Row     string
			CatchUp struct {
				Bytes, Fetches int64
				BytesByPath    map[string]int64
			}
			BytesPerSecond float64
			Use            struct{ BrokerCPUSeconds float64 }
		}
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Runs) != 3 {
		t.Fatalf("%d runs", len(got.Runs))
	}
	for _, r := range got.Runs {
		if r.CatchUp.Bytes < 1<<20 || r.BytesPerSecond <= 0 {
			t.Errorf("%+v", r)
		}
	}
	ways := int64(0)
	for _, n := range got.Runs[0].CatchUp.BytesByPath {
		ways += n
	}
	if r := got.Runs[0].CatchUp; ways < r.Bytes || r.BytesByPath["sendfile"] == 0 {
		t.Errorf("%+v", r)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
