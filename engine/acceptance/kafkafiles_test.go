package acceptance_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Apache Kafka and millrace leave the same files: the tool of each reads those of
// the other and prints the same, log verify finds Kafka's sound, and our broker
// serves from them what Kafka served.
func TestKafkaFiles(t *testing.T) {
	if standIn() {
		t.Skip("it compares Apache Kafka with millrace, and millrace stands aside")
	}
	kafka := startKafka(t)
	mixed, stamped := kafka.topic(t, 1, mixedConfig...), kafka.topic(t, 1, "message.timestamp.type=LogAppendTime")
	kafka.mix(t, mixed, true)
	kafka.produce(t, stamped, 0, numbered("v", 20)...)
	served := map[string][]string{mixed: kafka.serves(t, mixed), stamped: kafka.serves(t, stamped)}
	times := kafka.offsetsByTime(t, mixed)
	stopKafka(t, kafka)

	t.Run("verify", func(t *testing.T) {
		v := logVerify(t, kafka.dir)
		if len(v.Findings) > 0 || v.Segments < v.Partitions+2 {
			t.Fatalf("%d partitions, %d segments, findings %v", v.Partitions, v.Segments, v.Findings)
		}
		t.Logf("Apache Kafka's directory: %d partitions, %d segments, %d batches", v.Partitions, v.Segments, v.Batches)
	})
	t.Run("dump", func(t *testing.T) {
		files := append(partitionFiles(t, kafka, mixed), partitionFiles(t, kafka, stamped)...)
		sameDump(t, files, "isTransactional: true", "endTxnMarker: ABORT", "endTxnMarker: COMMIT", "LogAppendTime: ", "lastStableOffset: ")
	})

	eachBackend(t, func(t *testing.T, backend string) {
		b := startBroker(t, backend)
		ours := b.topic(t, 1, mixedConfig...)
		b.mix(t, ours, false)
		for topic := range served {
			b.millrace(t, "", "topic create", topic, "--partitions", "1", "--config", mixedConfig[0], "--config", mixedConfig[1], "--config", mixedConfig[2])
		}
		b.stop(t)

		if v := logVerify(t, b.dir); len(v.Findings) > 0 {
			t.Fatalf("log verify: %v", v.Findings)
		}
		sameDump(t, partitionFiles(t, b, ours))

		size := int64(0)
		for topic := range served {
			size += adopt(t, kafka, b, topic)
		}
		// First all is believed, as after a clean stop, Apache Kafka's indexes included;
		// then nothing is known but the .log files, and all else is made again from them.
		for _, believed := range []bool{true, false} {
			if !believed {
				b.kill(t)
				must(t, os.Remove(filepath.Join(b.dir, "recovery-point-offset-checkpoint")))
				for topic := range served {
					for _, file := range partitionFiles(t, b, topic) {
						if filepath.Ext(file) != ".log" {
							must(t, os.Remove(file))
						}
					}
				}
			}
			report := b.startsSaying(t)
			t.Logf("%+v", report)
			switch { // of what is believed only the end is looked at, from the last index entry on
			case report.cut > 0 || report.damaged > 0,
				believed && (report.how != "opened after a clean stop" || report.checked > size/10 || report.mended),
				!believed && (report.how != "opened after a crash" || report.checked < size):
				t.Fatalf("opening %d bytes of Apache Kafka's (believed: %v): %+v", size, believed, report)
			}
			for topic, want := range served {
				sameLines(t, fmt.Sprintf("record of %s (believed: %v)", topic, believed), b.serves(t, topic), want)
			}
			equal(t, "offsets by time", b.offsetsByTime(t, mixed), times)
		}
		b.produce(t, mixed, 0, "after")
		after := b.serves(t, mixed)
		equal(t, "records after one more", len(after), len(served[mixed])+1)
		b.stop(t)
		if v := logVerify(t, b.dir); len(v.Findings) > 0 {
			t.Fatalf("log verify: %v", v.Findings)
		}
	})
}

// startKafka starts Apache Kafka's broker; it is killed when the test ends.
func startKafka(t *testing.T) *broker {
	t.Helper()
	ownProcess(t)
	needs(t, "kafka")
	b := newBroker(t, "apache-kafka", t.TempDir())
	args := []string{"serve"}
	for _, override := range append([]string{"listeners=PLAINTEXT://" + b.bootstrap, "admin.listener=" + b.admin, "log.dirs=" + b.dir,
		"transaction.state.log.num.partitions=1", "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1"}, b.overrides...) {
		args = append(args, "--override", override)
	}
	cmd := exec.Command(filepath.Join(clientsDir, "apache-kafka.sh"), args...)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	b.proc = startProcess(t, cmd)
	t.Cleanup(func() {
		b.kill(t)
		if t.Failed() {
			t.Logf("Apache Kafka's log:\n%s", b.log.tail())
		}
	})
	eventually(t, readyTimeout, "Apache Kafka to be ready", func() bool {
		if b.proc.ended() {
			t.Fatalf("Apache Kafka ended before it was ready (%v):\n%s", b.proc.err, b.log.tail())
		}
		return b.ready()
	})
	return b
}

// stopKafka ends it cleanly.
func stopKafka(t *testing.T, b *broker) {
	t.Helper()
	must(t, b.proc.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-b.proc.done:
	case <-time.After(stopTimeout):
		t.Fatalf("Apache Kafka runs on %v after SIGTERM:\n%s", stopTimeout, b.log.tail())
	}
	if !exists(filepath.Join(b.dir, ".kafka_cleanshutdown")) {
		t.Fatalf("Apache Kafka did not stop cleanly:\n%s", b.log.tail())
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// mixedConfig makes segments small, and indexes that have something in them.
var mixedConfig = []string{"segment.bytes=1048576", "index.interval.bytes=1000", "retention.ms=-1"}

// mix fills partition 0 of a topic with one of everything: several segments, each
// codec, producers that are idempotent and not, keys, values and headers that are
// null and empty, timestamps out of order and, where the broker has them, transactions.
func (b *broker) mix(t *testing.T, topic string, transactions bool) {
	t.Helper()
	const base = 1_700_000_000_000
	count := 0
	send := func(c *kgo.Client, records ...*kgo.Record) {
		t.Helper()
		for _, r := range records {
			r.Topic, r.Timestamp = topic, time.UnixMilli(base+int64(count%7)*1000+int64(count))
			count++
		}
		must(t, c.ProduceSync(timeout(t), records...).FirstErr())
	}
	many := func(n, size int) (records []*kgo.Record) {
		for i := range n {
			value := append(noise(size/4), bytes.Repeat([]byte("x"), size/2)...) // compresses by any codec
			records = append(records, &kgo.Record{Key: fmt.Append(nil, "key-", i), Value: value, Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}}})
		}
		return records
	}
	idempotent := b.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchMaxBytes(20_000))
	send(idempotent, &kgo.Record{Key: []byte("tombstone")})
	send(idempotent, &kgo.Record{Value: []byte{}}, &kgo.Record{Key: []byte{}, Value: []byte("not UTF-8: \xff\xfe, German: ä")})
	send(idempotent, &kgo.Record{Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "null"}, {Key: "empty", Value: []byte{}}, {Key: "", Value: []byte("x")}}})
	send(idempotent, many(1300, 1000)...)
	for _, codec := range []kgo.CompressionCodec{kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		c := b.client(t, kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchMaxBytes(20_000))
		send(c, many(200, 1000)...)
	}
	send(b.client(t, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.ProducerBatchCompression(kgo.NoCompression())), many(50, 100)...)
	if transactions {
		c := b.client(t, kgo.TransactionalID(unique(t)))
		for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
			must(t, c.BeginTransaction())
			send(c, many(5, 100)...)
			must(t, c.EndTransaction(timeout(t), end))
		}
	}
	send(idempotent, many(20, 1000)...)
}

// serves is what a consumer gets from partition 0, a line a record, markers of transactions included.
func (b *broker) serves(t *testing.T, topic string) (lines []string) {
	t.Helper()
	c := b.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.KeepControlRecords())
	ends, err := kadm.NewClient(c).ListEndOffsets(timeout(t), topic)
	must(t, errors.Join(err, ends.Error()))
	end, _ := ends.Lookup(topic, 0)
	for next := int64(0); next < end.Offset; {
		fetches := c.PollFetches(timeout(t))
		must(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			lines = append(lines, fmt.Sprintf("%d %d %v %t %t producer %d %d codec %d key %q %t value %q %t headers %q", r.Offset, r.Timestamp.UnixMilli(),
				r.Attrs.TimestampType(), r.Attrs.IsTransactional(), r.Attrs.IsControl(), r.ProducerID, r.ProducerEpoch, r.Attrs.CompressionType(),
				r.Key, r.Key == nil, r.Value, r.Value == nil, r.Headers))
		})
	}
	return lines
}

// offsetsByTime looks up times in partition 0, all below those of transactions' markers:
// Apache Kafka answers with a marker, too, and our log never does.
func (b *broker) offsetsByTime(t *testing.T, topic string) string {
	t.Helper()
	var found []int64
	for ms := int64(1_700_000_000_000 - 100); ms < 1_700_000_000_000+8_000; ms += 203 {
		found = append(found, b.listAfter(t, topic, time.UnixMilli(ms)))
	}
	return fmt.Sprint(found)
}

// partitionFiles are the files of partition 0 that kafka-dump-log reads.
func partitionFiles(t *testing.T, b *broker, topic string) []string {
	t.Helper()
	var files []string
	for _, ext := range []string{".log", ".index", ".timeindex", ".txnindex", ".snapshot"} {
		found, err := filepath.Glob(filepath.Join(b.dir, topic+"-0", "*"+ext))
		must(t, err)
		files = append(files, found...)
	}
	return files
}

// sameDump dumps the files of a mixed topic with both tools, which must print the
// same, that there is one of everything in it, and the parts.
func sameDump(t *testing.T, files []string, parts ...string) {
	t.Helper()
	args := []string{"--print-data-log", "--files", strings.Join(files, ",")}
	theirs := tool(t, "kafka-dump-log", args...)
	sameLines(t, "line of the dump", strings.Split(millrace(t, "", append([]string{"log", "dump"}, args...)...), "\n"), strings.Split(theirs, "\n"))
	for _, part := range append(parts, "compresscodec: none", "compresscodec: gzip", "compresscodec: snappy", "compresscodec: lz4", "compresscodec: zstd",
		" producerId: -1 ", "lastSequence: 1", "keySize: -1", "keySize: 0", "valueSize: -1", "valueSize: 0", "headerKeys: [null,empty,]", "payload: not UTF-8: \uFFFD",
		" position: ", "\ntimestamp: ", "currentTxnFirstOffset: ", " isvalid: true") {
		if !strings.Contains(theirs, part) {
			t.Errorf("%q is not in the dump", part)
		}
	}
	for _, word := range []string{"isvalid: false", "ismatch", "not found", "out of order", "invalid bytes"} {
		if strings.Contains(theirs, word) {
			t.Errorf("the dump says %q", word)
		}
	}
	t.Logf("%d files, %d lines, %d batches, %d records", len(files), strings.Count(theirs, "\n"), strings.Count(theirs, "baseOffset: "), strings.Count(theirs, "| offset: "))
}

// sameLines fails the test at the first line that differs.
func sameLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(none)", "(none)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s %d of %d:\n got %.1500s\nwant %.1500s", what, i+1, len(want), g, w)
		}
	}
}

// adopt puts a copy of the files of Kafka's partition in the place of those of a broker
// that has been stopped and made a topic of that name. What is ours stays: the
// topic's id, and the name of its incarnation. It returns how many bytes of .log there are.
func adopt(t *testing.T, kafka, b *broker, topic string) (size int64) {
	t.Helper()
	from, to := filepath.Join(kafka.dir, topic+"-0"), filepath.Join(b.dir, topic+"-0")
	entries, err := os.ReadDir(to)
	must(t, err)
	for _, e := range entries {
		if e.Name() != "partition.metadata" && filepath.Ext(e.Name()) != ".incarnation" {
			must(t, os.Remove(filepath.Join(to, e.Name())))
		}
	}
	entries, err = os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		if e.Name() == "partition.metadata" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, e.Name()), text, 0o644))
		if filepath.Ext(e.Name()) == ".log" {
			size += int64(len(text))
		}
	}
	return size
}
