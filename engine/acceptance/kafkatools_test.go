package acceptance_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// tool runs one of Kafka's own tools by the name of its script and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	return toolWithInput(t, "", name, args...)
}

func toolWithInput(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	needs(t, "kafka")
	return run(t, stdin, toolPath(t, name), args...)
}

func toolPath(t *testing.T, name string) string {
	return filepath.Join(cacheDir(t), "kafka", "bin", name+".sh")
}

func (b *broker) tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	return tool(t, name, append([]string{"--bootstrap-server", b.bootstrap}, args...)...)
}

func TestKafkaTools(t *testing.T) {
	needs(t, "kafka")
	eachShared(t, []scenario{
		{"topics", toolTopics},
		{"console", toolConsole},
		{"groups", toolGroups},
		{"configs", toolConfigs},
		{"offsets", toolOffsets},
		{"perf", toolPerf},
		{"delete-records", toolDeleteRecords},
		{"log-dirs", toolLogDirs},
		{"api-versions", toolAPIVersions},
		{"dump-log", toolDumpLog},
	})
}

func toolTopics(t *testing.T, b *broker) {
	topic := unique(t)
	contains(t, b.tool(t, "kafka-topics", "--create", "--topic", topic, "--partitions", "2", "--replication-factor", "1",
		"--config", "retention.ms=3600000"), "Created topic "+topic)
	described := b.tool(t, "kafka-topics", "--describe", "--topic", topic)
	contains(t, described, "PartitionCount: 2", "ReplicationFactor: 1", "retention.ms=3600000", "Partition: 1", "Leader: ", "Isr: ")
	if id := regexp.MustCompile(`TopicId: (\S{22})`).FindString(described); id == "" || strings.HasSuffix(id, "AAAAAAAAAAAAAAAAAAAAAA") {
		t.Fatalf("no topic id in:\n%s", described)
	}
	_, stderr, err := tryRun(t, "", toolPath(t, "kafka-topics"), "--bootstrap-server", b.bootstrap, "--create", "--topic", topic)
	if err == nil {
		t.Fatal("creating a topic twice is an error")
	}
	contains(t, stderr, "already exists")
	b.tool(t, "kafka-topics", "--alter", "--topic", topic, "--partitions", "5")
	contains(t, b.tool(t, "kafka-topics", "--describe", "--topic", topic), "PartitionCount: 5", "Partition: 4")
	if !testing.Short() {
		contains(t, b.tool(t, "kafka-topics", "--list"), topic+"\n")
		equal(t, "under-replicated partitions", b.tool(t, "kafka-topics", "--describe", "--under-replicated-partitions"), "")
	}
	b.tool(t, "kafka-topics", "--delete", "--topic", topic)
	eventually(t, waitTimeout, "the topic to be gone from the list", func() bool {
		return !strings.Contains(b.tool(t, "kafka-topics", "--list"), topic)
	})
}

func toolConsole(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	toolWithInput(t, "a=1\nb=2\nc=3\n", "kafka-console-producer", "--bootstrap-server", b.bootstrap, "--topic", topic,
		"--reader-property", "parse.key=true", "--reader-property", "key.separator==", "--compression-codec", "zstd")
	args := []string{"--topic", topic, "--formatter-property", "print.key=true", "--formatter-property", "print.offset=true",
		"--formatter-property", "print.partition=true"}
	got := b.tool(t, "kafka-console-consumer", append(args, "--from-beginning", "--max-messages", "3")...)
	equal(t, "from the beginning", got, "Partition:0\tOffset:0\ta\t1\nPartition:0\tOffset:1\tb\t2\nPartition:0\tOffset:2\tc\t3\n")
	if !testing.Short() {
		got = b.tool(t, "kafka-console-consumer", append(args, "--partition", "0", "--offset", "2", "--max-messages", "1")...)
		equal(t, "from an offset", got, "Partition:0\tOffset:2\tc\t3\n")
	}
}

func toolGroups(t *testing.T, b *broker) {
	topic, group := b.topic(t, 2), unique(t)
	b.produce(t, topic, 0, numbered("v", 10)...)
	b.produce(t, topic, 1, numbered("v", 5)...)
	groups := func(args ...string) string {
		return b.tool(t, "kafka-consumer-groups", append(args, "--group", group)...)
	}

	c := b.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ClientID("reader"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for n := 0; n < 15; {
		n += c.PollFetches(timeout(t)).NumRecords()
	}
	must(t, c.CommitUncommittedOffsets(timeout(t)))

	rows := describeGroup(t, b, group)
	equal(t, "rows", len(rows), 2)
	equal(t, "partition 0", rows[0], groupRow{topic, "0", "10", "10", "0"})
	equal(t, "partition 1", rows[1], groupRow{topic, "1", "5", "5", "0"})
	members := groups("--describe", "--members", "--verbose")
	contains(t, members, "reader", "/127.0.0.1", topic)
	contains(t, groups("--describe", "--state"), "Stable", strings.Split(b.bootstrap, ":")[0])
	if !testing.Short() {
		contains(t, b.tool(t, "kafka-consumer-groups", "--list", "--state"), group)
	}
	c.Close()

	before := time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000")
	resets := []struct{ how, p0, p1 string }{
		{"--to-offset 3", "3", "3"}, {"--shift-by 4", "7", "5"}, {"--to-latest", "10", "5"}, {"--to-datetime " + before, "0", "0"}, {"--to-earliest", "0", "0"},
	}
	for _, reset := range resets[:count(2, len(resets))] {
		args := append([]string{"--reset-offsets", "--topic", topic, "--execute"}, strings.Fields(reset.how)...)
		got := regexp.MustCompile(regexp.QuoteMeta(topic)+`\s+(\d)\s+(\d+)`).FindAllStringSubmatch(groups(args...), -1)
		found := map[string]string{}
		for _, row := range got {
			found[row[1]] = row[2]
		}
		equal(t, reset.how+" partition 0", found["0"], reset.p0)
		equal(t, reset.how+" partition 1", found["1"], reset.p1)
	}
	contains(t, groups("--delete"), "successful")
	_, stderr, _ := tryRun(t, "", toolPath(t, "kafka-consumer-groups"), "--bootstrap-server", b.bootstrap, "--describe", "--group", group)
	contains(t, stderr, "GroupIdNotFoundException")
}

// groupRow is one line of kafka-consumer-groups --describe; "-" where it shows no number.
type groupRow struct{ topic, partition, current, end, lag string }

func describeGroup(t *testing.T, b *broker, group string) []groupRow {
	t.Helper()
	return groupRows(b.tool(t, "kafka-consumer-groups", "--describe", "--group", group), group)
}

func groupRows(text, group string) []groupRow {
	var rows []groupRow
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 6 && f[0] == group {
			rows = append(rows, groupRow{f[1], f[2], f[3], f[4], f[5]})
		}
	}
	return rows
}

func toolConfigs(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	configs := func(args ...string) string {
		return b.tool(t, "kafka-configs", append(args, "--entity-type", "topics", "--entity-name", topic)...)
	}
	configs("--alter", "--add-config", "retention.bytes=1048576,max.message.bytes=2000000")
	contains(t, configs("--describe"), "retention.bytes=1048576", "max.message.bytes=2000000")
	configs("--alter", "--delete-config", "retention.bytes")
	described := configs("--describe", "--all")
	contains(t, described, "max.message.bytes=2000000", "retention.bytes=-1", "segment.bytes=1073741824", "cleanup.policy=delete")
	if !testing.Short() {
		contains(t, b.tool(t, "kafka-configs", "--describe", "--all", "--entity-type", "brokers"), "log.dirs=", "num.partitions=")
	}
}

func toolOffsets(t *testing.T, b *broker) {
	topic := b.topic(t, 1, "retention.ms=-1")
	c := b.client(t)
	base := time.UnixMilli(1_700_000_000_000)
	for _, seconds := range []int{10, 30, 20} { // the largest timestamp is not the last
		must(t, c.ProduceSync(timeout(t), &kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: base.Add(time.Duration(seconds) * time.Second)}).FirstErr())
	}
	times := []struct{ time, want string }{
		{"latest", "3"}, {"max-timestamp", "1"}, {"1700000015000", "1"}, {"earliest", "0"}, {"1700000030001", ""},
	}
	for _, c := range times[:count(3, len(times))] {
		want := ""
		if c.want != "" {
			want = topic + ":0:" + c.want
		}
		equal(t, "offset at "+c.time, strings.TrimSpace(b.tool(t, "kafka-get-offsets", "--topic", topic, "--time", c.time)), want)
	}
}

func toolPerf(t *testing.T, b *broker) {
	topic, records := b.topic(t, 2), fmt.Sprint(count(20_000, 500_000))
	produced := b.tool(t, "kafka-producer-perf-test", "--topic", topic, "--num-records", records, "--record-size", "100", "--throughput", "-1",
		"--command-property", "compression.type=lz4")
	contains(t, produced, records+" records sent", "99.9th")
	consumed := b.tool(t, "kafka-consumer-perf-test", "--topic", topic, "--num-records", records)
	contains(t, consumed, "data.consumed.in.nMsg")
	if got := strings.Split(strings.Split(strings.TrimSpace(consumed), "\n")[1], ", ")[4]; got != records {
		t.Fatalf("consumed %s of %s records:\n%s", got, records, consumed)
	}
}

func toolDeleteRecords(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	b.produce(t, topic, 0, numbered("v", 10)...)
	file := filepath.Join(t.TempDir(), "offsets.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"version":1,"partitions":[{"topic":%q,"partition":0,"offset":4}]}`, topic), 0o644))
	contains(t, b.tool(t, "kafka-delete-records", "--offset-json-file", file), "low_watermark: 4")
	equal(t, "earliest", strings.TrimSpace(b.tool(t, "kafka-get-offsets", "--topic", topic, "--time", "earliest")), topic+":0:4")
	equalSlices(t, "what is left", values(b.readAll(t, topic)[0]), []string{"v4", "v5", "v6", "v7", "v8", "v9"})
}

func toolLogDirs(t *testing.T, b *broker) {
	topic := b.topic(t, 2)
	b.produce(t, topic, 1, strings.Repeat("x", 5000))
	text := b.tool(t, "kafka-log-dirs", "--describe", "--topic-list", topic)
	var described struct {
		Brokers []struct {
			LogDirs []struct {
				LogDir     string
				Error      *string
				Partitions []struct {
					Partition string
					Size      int64
				}
			}
		}
	}
	must(t, json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &described))
	dir := described.Brokers[0].LogDirs[0]
	if dir.Error != nil {
		t.Fatalf("log directory %s: %s", dir.LogDir, *dir.Error)
	}
	sizes := map[string]int64{}
	for _, p := range dir.Partitions {
		sizes[p.Partition] = p.Size
	}
	if sizes[topic+"-0"] != 0 || sizes[topic+"-1"] < 5000 || len(sizes) != 2 {
		t.Fatalf("sizes %v", sizes)
	}
}

func toolAPIVersions(t *testing.T, b *broker) {
	text := b.tool(t, "kafka-broker-api-versions")
	contains(t, text, b.bootstrap+" (id: ", "Produce(0): 0 to 13", "Fetch(1): 4 to 1", "ApiVersions(18): 0 to ", "OffsetForLeaderEpoch(23): 2 to 4")
	for _, api := range []string{"ListOffsets", "Metadata", "OffsetCommit", "OffsetFetch", "FindCoordinator", "JoinGroup", "Heartbeat", "LeaveGroup",
		"SyncGroup", "DescribeGroups", "ListGroups", "CreateTopics", "DeleteTopics", "DeleteRecords", "InitProducerId", "DescribeConfigs",
		"DescribeLogDirs", "CreatePartitions", "DeleteGroups", "IncrementalAlterConfigs", "ListPartitionReassignments", "DescribeCluster", "DescribeTopicPartitions"} {
		if !regexp.MustCompile(api + `\(\d+\): \d+(?: to \d+)? \[usable: \d+\]`).MatchString(text) {
			t.Errorf("%s is not usable by this client", api)
		}
	}
}

// Kafka's own reader of segment files finds nothing to complain about in ours.
func toolDumpLog(t *testing.T, b *broker) {
	ownProcess(t)
	topic := b.topic(t, 1, "index.interval.bytes=1000", "segment.bytes=1048576")
	c := b.client(t, kgo.ProducerBatchCompression(kgo.GzipCompression()))
	const batches = 60
	for i := range batches {
		must(t, c.ProduceSync(timeout(t), &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Value: noise(1000)}).FirstErr())
	}
	files, err := filepath.Glob(filepath.Join(b.dir, topic+"-0", "*00000.*"))
	must(t, err)
	var dumped []string
	for _, file := range files {
		if ext := filepath.Ext(file); ext == ".log" || ext == ".index" || ext == ".timeindex" || ext == ".snapshot" {
			dumped = append(dumped, file)
		}
	}
	if len(dumped) < 3 {
		t.Fatalf("a .log, an .index and a .timeindex are not all in %v", files)
	}
	text := tool(t, "kafka-dump-log", "--deep-iteration", "--print-data-log", "--files", strings.Join(dumped, ","))
	equal(t, "batches", strings.Count(text, "isvalid: true"), batches)
	contains(t, text, "compresscodec: gzip", "Log starting offset: 0", "key: 59", "producerId: ")
	for _, word := range []string{"ismatch", "orrupt", "not found", "out of order", "isvalid: false", "Could not", "rror"} {
		if strings.Contains(text, word) {
			t.Fatalf("the dump says %q:\n%s", word, text)
		}
	}
	if entries := strings.Count(text, " position: "); entries < batches+20 {
		t.Fatalf("%d positions of batches and index entries", entries)
	}
}
