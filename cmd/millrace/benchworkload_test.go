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

// Two topics with keys and two subscriptions each, of a broker that is started for it; a backlog in between. Every record is read back, and every
// record arrives at both subscriptions.
func TestBenchWorkload(t *testing.T) {
	dir := t.TempDir()
	load, driver, out := filepath.Join(dir, "two.yaml"), filepath.Join(dir, "driver.yaml"), filepath.Join(dir, "out")
	for path, text := range map[string]string{
		load: "name: two topics\ntopics: 2\npartitionsPerTopic: 2\nkeyDistributor: RANDOM_NANO\nmessageSize: 1000\nuseRandomizedPayloads: true\nrandomBytesRatio: 0.5\n" +
			"randomizedPayloadPoolSize: 10\nsubscriptionsPerTopic: 2\nconsumerPerSubscription: 2\nproducersPerTopic: 1\nproducerRate: 1000\n" +
			"consumerBacklogSizeGB: 0.0012\nbacklogDrainRatio: 0.5\ntestDurationMinutes: 0.005\nwarmupDurationMinutes: 0.001\nlogIntervalMillis: 200\n",
		driver: "name: D\ndriverClass: io.openmessaging.benchmark.driver.kafka.KafkaBenchmarkDriver\nreplicationFactor: 1\ntopicConfig: |\n  flush.messages=1\n" +
			"commonConfig: |\n  bootstrap.servers=127.0.0.1:1\nproducerConfig: |\n  acks=all\n  linger.ms=1\n  compression.type=lz4\nconsumerConfig: |\n  max.poll.records=10\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := bench.Main([]string{"workload", load, "--driver", driver, "--serve", "--dir", dir, "--out", out, "--repeats", "0",
		"--override", "group.initial.rebalance.delay.ms=0"}, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, &stdout, &stderr)
	}
	if want := "max.poll.records=10: franz-go has no equal"; !strings.Contains(stderr.String(), want) {
		t.Errorf("no %q in\n%s", want, &stderr)
	}
	f, err := bench.ReadFile(filepath.Join(out, "two.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := f.Runs[0]
	if c := r.Consumed; r.Verify.State != "passed" || c == nil || c.Missing != 0 || c.Latency.Count != 2*r.Latency.Count || r.Settings["flush.messages"] != "1" {
		t.Errorf("read back %+v, consumed %+v of %d, notes %q", r.Verify, c, r.Latency.Count, r.Notes)
	}
	if b := r.Backlog; b == nil || !b.Drained || b.Records*1000 < b.Asked {
		t.Errorf("backlog %+v", b)
	}
	b, err := os.ReadFile(filepath.Join(out, "two-D.omb.json"))
	if err != nil {
		t.Fatal(err)
	}
	var theirs struct {
		Workload                        string
		PublishRate, EndToEndLatencyAvg []float64
		AggregatedPublishLatency50pct   *float64
	}
	if err := json.Unmarshal(b, &theirs); err != nil {
		t.Fatal(err)
	}
	if theirs.Workload != "two topics" || len(theirs.PublishRate) < 2 || len(theirs.EndToEndLatencyAvg) != len(theirs.PublishRate) || theirs.AggregatedPublishLatency50pct == nil {
		t.Errorf("%s", b)
	}
}

// One rate, of a broker that is started for it: the file has its point, and says whether it was sustained as the exit code does.
func TestBenchCurve(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "curve.json")
	var stdout, stderr bytes.Buffer
	code := bench.Main([]string{"curve", "--dir", dir, "--from", "200", "--to", "200", "--warmup", "100ms", "--duration", "500ms", "--precision", "1", "--growth", "100",
		"--repeats", "0", "--out", out, "--report", filepath.Join(dir, "r.html")}, nil, &stdout, &stderr)
	f, err := bench.ReadFile(out)
	if err != nil {
		t.Fatalf("%v, exit code %d\n%s%s", err, code, &stdout, &stderr)
	}
	if len(f.Curves) != 1 || len(f.Curves[0].Points) == 0 || f.Search.From != 200 {
		t.Fatalf("%+v", f.Curves)
	}
	if r := f.Runs[0]; r.Row != "millrace at 200/s" {
		t.Errorf("the first run is of row %q", r.Row)
	}
	c := f.Curves[0]
	if p := c.Points[len(c.Points)-1]; p.Offered != 200 || p.Sustained != (c.Sustained == 200) || (code == 0) != (c.Sustained > 0) {
		t.Errorf("exit code %d, %+v", code, c)
	}
	if !strings.Contains(stdout.String(), "| offered/s |") {
		t.Errorf("no table in\n%s", &stdout)
	}
}
