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

// A short run: every catch-up reader reads all of the backlog each time, and the records at the
// end of the log arrive meanwhile.
func TestBenchConsume(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.json")
	var stdout, stderr bytes.Buffer
	code := bench.Main([]string{"consume", "--dir", t.TempDir(), "--backlog", "0.03", "--runs", "2", "--readers", "2",
		"--duration", "300ms", "--rate", "500", "--partitions", "2", "--out", out}, nil, &stdout, &stderr)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &stdout, &stderr)
	}
	for _, want := range []string{"| run |", "\n| 2 |", "| median |", "2 catch-up readers"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &stdout)
		}
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Phases []struct {
			CatchUpReaders int
			CatchUpBytes   int64
			CatchUpPasses  int64
			Seconds        float64
			Latency        struct{ Count int64 }
		}
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Phases) != 4 {
		t.Fatalf("%d phases", len(got.Phases))
	}
	for i, p := range got.Phases {
		if want := i % 2 * 2; p.CatchUpReaders != want || p.Latency.Count < int64(p.Seconds*400) {
			t.Errorf("phase %d: %+v", i, p)
		}
		const each = 2 * 32 << 20 * 9 / 10 // two readers; 0.03 GiB is 32 MB
		if i%2 == 1 && p.CatchUpBytes < p.CatchUpPasses*each*9/10 || i%2 == 0 && p.CatchUpBytes != 0 {
			t.Errorf("phase %d: %+v", i, p)
		}
	}
	for _, args := range [][]string{{"--rate", "0"}, {"--confine", "perhaps"}, {"more"}, {"--backlog", "-1"}} {
		if code := bench.Main(append([]string{"consume"}, args...), nil, &stdout, &stderr); code != 2 {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
