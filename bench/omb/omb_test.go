package omb

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestReadWorkload(t *testing.T) {
	w, err := ReadWorkload("testdata/keyed-two-topics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w.document = document{}
	want := Workload{Path: "testdata/keyed-two-topics.yaml", Name: "two topics with keys, two subscriptions each", Topics: 2, Partitions: 4,
		KeyDistribute: KeyRoundRobin, Size: 512, Randomized: true, RandomRatio: 0.25, RandomPool: 50, PayloadFile: "unused.data", Subscriptions: 2,
		Consumers: 3, Producers: 2, Rate: 4000, BacklogGB: 1, DrainRatio: 0.95, TestMinutes: 2, LogEveryMillis: 5000}
	if !reflect.DeepEqual(w, want) {
		t.Errorf("got  %+v\nwant %+v", w, want)
	}
}

const smallest = "topics: 1\npartitionsPerTopic: 1\nmessageSize: 100\nuseRandomizedPayloads: true\nrandomizedPayloadPoolSize: 1\nproducersPerTopic: 1\n"

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadWorkloadDefaults(t *testing.T) {
	w, err := ReadWorkload(write(t, "small.yaml", smallest))
	if err != nil {
		t.Fatal(err)
	}
	if w.Name != "small" || w.KeyDistribute != NoKey || w.DrainRatio != 1 || w.WarmupMinutes != 1 || w.LogEveryMillis != 10_000 {
		t.Errorf("%+v", w)
	}
}

// Each error names the file, the line and the field.
func TestReadWorkloadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"producerRates: 5":                                    "w.yaml:7: producerRates: no such field; there are backlogDrainRatio, ",
		"topics: 2":                                           "w.yaml:7: topics is there twice, first in line 1",
		"producerRate: many":                                  `w.yaml:7: producerRate: "many" is not a whole number`,
		"producerRate: 1.5":                                   `w.yaml:7: producerRate: "1.5" is not a whole number`,
		"producerRate: [1]":                                   "w.yaml:7: producerRate: not a single value",
		"producerRate: -1":                                    "w.yaml:7: producerRate: -1 is below 0",
		"keyDistributor: ROUND":                               `w.yaml:7: keyDistributor: "ROUND" is not`,
		"randomBytesRatio: 2":                                 "w.yaml:7: randomBytesRatio: 2 is not within 0 to 1",
		"\nbacklogDrainRatio: 2":                              "w.yaml:8: backlogDrainRatio: 2 is not within 0 to 1",
		"consumerBacklogSizeGB: 1":                            "w.yaml:7: consumerBacklogSizeGB: a backlog needs a producerRate",
		"consumerBacklogSizeGB: 1\nproducerRate: 5":           "w.yaml:7: consumerBacklogSizeGB: a backlog needs consumers",
		"producerRate: 5\nname: \"":                           "w.yaml: ",
		"testDurationMinutes: -1":                             "w.yaml:7: testDurationMinutes: -1",
		"producerRate: ~\nsubscriptionsPerTopic: -2\nname: x": "w.yaml:8: subscriptionsPerTopic: -2 is below 0",
	} {
		_, err := ReadWorkload(write(t, "w.yaml", smallest+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := ReadWorkload(write(t, "w.yaml", "- topics\n")); err == nil {
		t.Error("a list was taken")
	}
	if _, err := ReadWorkload(write(t, "w.yaml", "topics: 1\npartitionsPerTopic: 1\nmessageSize: 100\nproducersPerTopic: 1\n")); err == nil || !strings.Contains(err.Error(), "payloadFile") {
		t.Errorf("no payload: %v", err)
	}
}

func TestPayload(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "workloads"), 0o755); err != nil {
		t.Fatal(err)
	}
	payload := slices.Repeat([]byte{7}, 100)
	if err := os.WriteFile(filepath.Join(dir, "p.data"), payload, 0o644); err != nil {
		t.Fatal(err)
	}
	w := Workload{Path: filepath.Join(dir, "workloads", "w.yaml"), PayloadFile: "p.data", Size: 100}
	if b, err := w.Payload(); err != nil || !slices.Equal(b, payload) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	w.Size = 99
	if _, err := w.Payload(); err == nil || !strings.Contains(err.Error(), "100 bytes, messageSize is 99") {
		t.Error(err)
	}
	w.PayloadFile = "q.data"
	if _, err := w.Payload(); err == nil || !strings.Contains(err.Error(), "q.data is not there") {
		t.Error(err)
	}
}

func TestReadDriver(t *testing.T) {
	d, err := ReadDriver("testdata/millrace-durable.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "durable" || d.Replication != 1 || !d.Reset || d.Bootstrap() != "localhost:9092" {
		t.Errorf("%+v", d)
	}
	want := Properties{{"acks", "all", 16}, {"linger.ms", "2", 17}, {"batch.size", "65536", 18}}
	if !slices.Equal(d.Producer, want) {
		t.Errorf("producer %v, want %v", d.Producer, want)
	}
	if got := d.Consumer.Map(); len(got) != 2 || got["max.poll.records"] != "500" {
		t.Errorf("consumer %v", got)
	}
	for text, want := range map[string]string{
		"name: x\ntopicsConfig: y":             "d.yaml:2: topicsConfig: no such field",
		"driverClass: a.PulsarBenchmarkDriver": "d.yaml:1: driverClass: a.PulsarBenchmarkDriver is not a driver of the Kafka protocol",
		"replicationFactor: 0":                 "d.yaml:1: replicationFactor: 0",
		"topicConfig: a=\\u12":                 "d.yaml:1: topicConfig: line 1 of the text",
	} {
		if _, err := ReadDriver(write(t, "d.yaml", text+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseProperties(t *testing.T) {
	got, err := ParseProperties("# no\n  ! nor this\n\na=b\nc : d\n e f g \nh\ni=\\u0041\\tx\\=\nlong=one,\\\n   two\nk\\ ey=v\r\nlast=a\\")
	if err != nil {
		t.Fatal(err)
	}
	want := Properties{{"a", "b", 4}, {"c", "d", 5}, {"e", "f g", 6}, {"h", "", 7}, {"i", "A\tx=", 8}, {"long", "one,two", 9}, {"k ey", "v", 11}, {"last", "a", 12}}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// The names are those of TestResult.java; a percentile without samples is null.
func TestResultShape(t *testing.T) {
	h := hdrhistogram.New(1, 3_600_000_000, 3)
	for i := range int64(20_000) {
		if err := h.RecordValue(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	empty := hdrhistogram.New(1, 3_600_000_000, 3)
	b, err := json.Marshal(TestResult{Workload: "w", Publish: Series{[]*hdrhistogram.Histogram{h, empty}, h}, PublishDelay: Series{Total: h}, EndToEnd: Series{Total: empty}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	var names []string
	for _, kind := range []string{"PublishLatency", "PublishDelayLatency", "EndToEndLatency"} {
		for _, column := range []string{"Avg", "50pct", "75pct", "95pct", "99pct", "999pct", "9999pct", "Max"} {
			names = append(names, strings.ToLower(kind[:1])+kind[1:]+column, "aggregated"+kind+column)
		}
		names = append(names, "aggregated"+kind+"Quantiles")
	}
	names = append(names, "workload", "driver", "messageSize", "topics", "partitions", "producersPerTopic", "consumersPerTopic", "publishRate", "publishErrorRate", "consumeRate", "backlog")
	for _, name := range names {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
	if len(got) != len(names) {
		t.Errorf("%d fields, want %d", len(got), len(names))
	}
	if p := got["publishLatency99pct"].([]any); len(p) != 2 || p[0].(float64) < 19.7 || p[0].(float64) > 19.9 || p[1] != nil {
		t.Errorf("p99 of two intervals: %v", p)
	}
	if got["aggregatedPublishLatency999pct"] != nil || got["aggregatedPublishDelayLatency50pct"].(float64) < 9900 {
		t.Errorf("p99.9 of 20000 samples %v, median delay %v", got["aggregatedPublishLatency999pct"], got["aggregatedPublishDelayLatency50pct"])
	}
	q := got["aggregatedPublishLatencyQuantiles"].(map[string]any)
	if q["50.0"].(float64) < 9.9 || q["50.0"].(float64) > 10.1 || q["100.0"].(float64) < 20 || len(got["aggregatedEndToEndLatencyQuantiles"].(map[string]any)) != 0 {
		t.Errorf("quantiles %v", q)
	}
}
