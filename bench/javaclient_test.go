package bench

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/omb"
	"github.com/twmb/franz-go/pkg/kgo"
)

func driverOf(t *testing.T, text string) omb.Driver {
	t.Helper()
	path := filepath.Join(t.TempDir(), "driver.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := omb.ReadDriver(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers("127.0.0.1:1")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestJavaClient(t *testing.T) {
	c, err := newJavaClient(driverOf(t, `
reset: true
commonConfig: |
  bootstrap.servers=localhost:9092
  client.id=me
  default.api.timeout.ms=1200000
producerConfig: |
  acks=1
  linger.ms=7
  batch.size=131072
  compression.type=zstd
  compression.zstd.level=3
  max.in.flight.requests.per.connection=2
  max.request.size=4194304
consumerConfig: |
  auto.offset.reset=latest
  enable.auto.commit=false
  max.partition.fetch.bytes=99999999
  max.poll.records=500
  partition.assignment.strategy=org.apache.kafka.clients.consumer.RangeAssignor, org.apache.kafka.clients.consumer.CooperativeStickyAssignor
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.acks != "1" || c.idempotent || c.compression != "zstd" {
		t.Errorf("acks %s, idempotent %v, %s", c.acks, c.idempotent, c.compression)
	}
	// What has no equal is named, each once; what has one is not.
	var named []string
	for _, w := range c.warnings {
		named = append(named, strings.FieldsFunc(w, func(r rune) bool { return r == '=' || r == ':' })[0])
	}
	if want := []string{"commonConfig default.api.timeout.ms", "producerConfig max.request.size", "consumerConfig max.poll.records", "reset", "consumerConfig enable.auto.commit"}; !slices.Equal(named, want) {
		t.Errorf("warned of %q, want %q", named, want)
	}
	w := twoTopics()
	p := client(t, append(c.options(w), kgo.DisableIdempotentWrite())...)
	if got := p.OptValue(kgo.ProducerLinger); got != 7*time.Millisecond {
		t.Errorf("linger %v", got)
	}
	if got := p.OptValue(kgo.ProducerBatchMaxBytes); got != int32(131072) {
		t.Errorf("batch %v", got)
	}
	if got := p.OptValue(kgo.MaxProduceRequestsInflightPerBroker); got != 2 {
		t.Errorf("%v in flight", got)
	}
	if got := p.OptValue(kgo.ClientID); got != "me" {
		t.Errorf("client id %v", got)
	}
	r := client(t, append(c.consumer, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"))...)
	if got := r.OptValue(kgo.FetchMaxPartitionBytes); got != int32(99999999) {
		t.Errorf("a partition's fetch %v", got)
	}
	if got := r.OptValue(kgo.AutoCommitInterval); got != commitEvery {
		t.Errorf("commits every %v", got)
	}
}

// What the properties do not say is as the Java client has it.
func TestJavaClientDefaults(t *testing.T) {
	c, err := newJavaClient(omb.Driver{})
	if err != nil || c.acks != "all" || !c.idempotent || c.compression != "none" || len(c.warnings) != 0 {
		t.Fatalf("%v, %+v", err, c)
	}
	w := twoTopics()
	p := client(t, c.options(w)...)
	if got := p.OptValue(kgo.ProducerBatchMaxBytes); got != int32(javaBatchSize) {
		t.Errorf("batch %v", got)
	}
	w.Size = 1 << 20 // larger than a batch: it goes alone
	if got := client(t, c.options(w)...).OptValue(kgo.ProducerBatchMaxBytes); got.(int32) < 1<<20 {
		t.Errorf("batch %v for a record of 1 MiB", got)
	}
	c, err = newJavaClient(driverOf(t, "producerConfig: |\n  enable.idempotence=true\n  max.in.flight.requests.per.connection=1\n"))
	if err != nil || !c.idempotent || len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "max.in.flight") {
		t.Errorf("%v, %+v", err, c)
	}
}

func TestJavaClientRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"producerConfig: |\n  acks=2":                                            "driver.yaml:2: producerConfig: acks=2: not all, 1, 0",
		"producerConfig: |\n  x=y\n  linger.ms=-1":                               "driver.yaml:3: producerConfig: linger.ms=-1: not a whole number",
		"producerConfig: |\n  compression.type=bzip2":                            "compression.type=bzip2: not none, gzip",
		"producerConfig: |\n  acks=1\n  enable.idempotence=true":                 "enable.idempotence=true with acks=1",
		"consumerConfig: |\n  enable.auto.commit=perhaps":                        "not true or false",
		"consumerConfig: |\n  partition.assignment.strategy=my.Assignor":         "my.Assignor is not an assignor of Kafka's",
		"consumerConfig: |\n  auto.offset.reset=none":                            "not earliest, latest",
		"commonConfig: |\n  security.protocol=SASL_SSL":                          "driver.yaml:2: commonConfig: security.protocol=SASL_SSL: the bench connects without TLS",
		"producerConfig: |\n  compression.type=zstd\n  compression.zstd.level=x": "not a whole number",
	} {
		_, err := newJavaClient(driverOf(t, text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseWorkloads(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const load = "topics: 2\npartitionsPerTopic: 4\nmessageSize: 100\nuseRandomizedPayloads: true\nrandomizedPayloadPoolSize: 10\nrandomBytesRatio: 0.5\nproducersPerTopic: 3\nsubscriptionsPerTopic: 1\nconsumerPerSubscription: 2\ntestDurationMinutes: 5\n"
	one := file("one.yaml", load+"producerRate: 300\n")
	driver := file("driver.yaml", "name: D\nreplicationFactor: 3\ntopicConfig: |\n  min.insync.replicas=2\n  flush.messages=1\ncommonConfig: |\n  bootstrap.servers=10.0.0.1:9092\n")
	c, err := parseWorkloads([]string{one, "--driver", driver, "--topic-config", "min.insync.replicas=1"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.workloadOf(&c.files[0])
	if err != nil {
		t.Fatal(err)
	}
	if c.bootstrap != "10.0.0.1:9092" || c.serve || w.Producers != 6 || w.Rate != 300 || w.Warmup != time.Minute || w.Duration != 5*time.Minute || w.Replication != 3 ||
		w.TopicConfig["min.insync.replicas"] != "1" || w.TopicConfig["flush.messages"] != "1" || w.Streams.consumers() != 4 || w.Streams.Pool != 10 || w.RandomBytes != 0.5 || w.Streams.Every != 10*time.Second {
		t.Errorf("%s, serve %v, %+v", c.bootstrap, c.serve, w)
	}
	search := file("search.yaml", load+"producerRate: 0\n")
	c, err = parseWorkloads([]string{search, "--serve", "--driver", driver, "--replication-factor", "1", "--duration", "3s", "--warmup", "0s"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if w, err := c.workloadOf(&c.files[0]); err != nil || !c.serve || w.Rate != 10_000 || w.Replication != 1 || w.Duration != 3*time.Second || w.Warmup != 0 {
		t.Errorf("%v, serve %v, %+v", err, c.serve, w)
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	again := file("other/one.yaml", load)
	for want, args := range map[string][]string{
		"no workload file named":        {"--serve"},
		"two workload files are called": {one, again},
		"no such file":                  {filepath.Join(dir, "absent.yaml")},
		"--probe 0s":                    {one, "--probe", "0s"},
		"size 20 is not within":         {file("small.yaml", strings.Replace(load, "100", "20", 1))},
		"2:":                            {file("wrong.yaml", "topics: 1\npartitions: 4\n")},
		"producers 3000 is not within":  {file("many.yaml", strings.Replace(load, "producersPerTopic: 3", "producersPerTopic: 1500", 1))},
		"--duration says how long":      {file("ever.yaml", strings.Replace(load, "testDurationMinutes: 5", "testDurationMinutes: 0", 1))},
		"--peer nats: NATS JetStream":   {one, "--peer", "nats"},
		"exclude each other":            {one, "--serve", "--bootstrap-server", "x:1"},
		"workloads are for franz":       {one, "--client", "franz,lean"},
		"flag provided but not defined": {one, "--rate", "5"},
		"absent.data is not there":      {file("payload.yaml", strings.Replace(load, "useRandomizedPayloads: true", "payloadFile: absent.data", 1))},
	} {
		if _, err := parseWorkloads(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
