package web_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/web"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/twmb/franz-go/pkg/kgo"
)

func get(t *testing.T, s *web.Server, path string) (int, string) {
	t.Helper()
	a, err := http.Get("http://" + s.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// checkTrace: three requests of one record each went through every stage.
func checkTrace(t *testing.T, trace *web.Trace) {
	t.Helper()
	if len(trace.Stages) != 7 || trace.Total.Count != 3 || trace.Durable.Count != 3 || len(trace.Worst) != 3 {
		t.Fatalf("trace %+v", trace)
	}
	sum := uint64(0)
	for _, s := range trace.Stages {
		if s.Name == "" || s.Count != 3 {
			t.Errorf("stage %+v", s)
		}
		sum += s.Sum
	}
	if sum != trace.Total.Sum {
		t.Errorf("the stages took %d ns, all of it %d", sum, trace.Total.Sum)
	}
	for _, r := range trace.Worst {
		parts := int64(0)
		for _, ns := range r.Stages {
			parts += ns
		}
		if r.Topic != "t" || r.Parts != 1 || r.Total <= 0 || parts != r.Total || r.Stages[r.Longest] == 0 || r.Cause == "" || time.Since(r.Time) > time.Minute || time.Since(r.Time) < 0 {
			t.Errorf("request %+v", r)
		}
	}
}

func TestPages(t *testing.T) {
	s, err := web.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	state := func(when string, live, ready, metrics int) {
		t.Helper()
		for path, want := range map[string]int{"/live": live, "/ready": ready, "/metrics": metrics, "/status": metrics, "/trace": metrics, "/": 200, "/nothing": 404} {
			if code, body := get(t, s, path); code != want {
				t.Fatalf("%s: %s: %d %s", when, path, code, body)
			}
		}
	}
	state("before there is a broker", 200, 503, 503)
	if _, err := web.Listen(s.Addr().String()); err == nil || !strings.Contains(err.Error(), "admin.listener") {
		t.Fatalf("a port in use: %v", err)
	}

	set, _, err := config.Parse("", "", []string{"listeners=PLAINTEXT://127.0.0.1:0", "flush.policy=os", "log.dirs=" + t.TempDir(), "memory.bytes=67108864", "tail.bytes=1048576"})
	if err != nil {
		t.Fatal(err)
	}
	host := posix.Host()
	b, err := engine.Open(engine.Config{
		Set: set, Host: host, Cores: 2, Recovery: 1, Log: t.Logf,
		NewIO: func(int) (ring.IO, error) { return posix.New(host, posix.Config{}) },
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(host, filepath.Join(dir, "metadata.json"), file.Runner(run))
			return s, nil, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Show(b)
	state("before it serves", 200, 503, 503)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	state("while it serves", 200, 200, 200)

	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr().String()), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.ProduceSync(t.Context(), kgo.StringRecord("one"), kgo.StringRecord("two")).FirstErr(); err == nil {
		t.Fatal("a record without a topic was produced")
	}
	for range 3 {
		if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	_, text := get(t, s, "/metrics")
	for _, line := range []string{
		`millrace_requests_total{api="Produce"} 3`,
		`millrace_produce_batches_total 3`,
		`millrace_produce_seconds_count 3`,
		`millrace_produce_seconds_bucket{le="+Inf"} 3`,
		`millrace_partition_log_end_offset{topic="t",partition="0"} 3`,
		`millrace_partition_high_watermark{topic="t",partition="0"} 3`,
		`millrace_partition_failed{topic="t",partition="0"} 0`,
		`millrace_fetch_path_bytes_total{path="memory"} 0`,
		`millrace_fetch_path_bytes_total{path="splice"} 0`,
		`millrace_fetch_cold_total{core="1"} 0`,
		`millrace_partition_uncleanable{topic="t",partition="0"} 0`, `millrace_cleanings_failed_total{core="0"} 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	var status web.Status
	_, body := get(t, s, "/status")
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	if w := (web.BrokerStatus{NodeID: 1, ClusterID: b.Shared().ClusterID, Address: b.Addr().String(), LogDir: b.Shared().LogDir, Backend: "posix", Uptime: status.Broker.Uptime, FetchPath: b.FetchPaths().String(), Sync: b.JournalWay().String()}); status.Broker != w || w.Uptime <= 0 {
		t.Errorf("broker %+v, want %+v", status.Broker, w)
	}
	if len(status.Cores) != 2 || !status.Cores[1].Answered || status.Cores[1].Core != 1 || status.Cores[0].JournalSize <= 0 {
		t.Errorf("cores %+v", status.Cores)
	}
	if len(status.Partitions) != 1 || status.Partitions[0].Size <= 0 {
		t.Fatalf("partitions %+v", status.Partitions)
	}
	p := status.Partitions[0]
	if w := (web.PartitionStatus{Topic: "t", Core: p.Core, Policy: "os", HighWatermark: 3, LogEnd: 3, Size: p.Size}); p != w {
		t.Errorf("partition %+v, want %+v", p, w)
	}
	var trace web.Trace
	_, body = get(t, s, "/trace")
	if err := json.Unmarshal([]byte(body), &trace); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	checkTrace(t, &trace)
	_, html := get(t, s, "/")
	if regexp.MustCompile(`(src|href)="?(https?:)?//`).MatchString(html) {
		t.Error("the page refers to somewhere else")
	}
	// The text format of Prometheus: every sample belongs to the metric that was described last.
	sample := regexp.MustCompile(`^([a-z_]+)(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.eE+-]+$`)
	name := ""
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if f := strings.Fields(line); f[0] == "#" {
			name = f[2]
			continue
		}
		if m := sample.FindStringSubmatch(line); m == nil || !strings.HasPrefix(m[1], name) {
			t.Errorf("line %q under %s", line, name)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	state("once it is closed", 200, 503, 503)
	if stats := b.Stats(); len(stats) != 2 {
		t.Fatalf("stats of a closed broker: %+v", stats)
	}
}
