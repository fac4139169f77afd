package acceptance_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A consumer from the beginning of a compacted topic sees the last value of each key, before and after
// a restart, and Kafka's tool and ours find nothing wrong with the files.
func TestCompactedTopic(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		b := startBroker(t, backend, "log.cleaner.backoff.ms=200", "log.cleaner.io.max.bytes.per.second=50000000")
		topic := b.topic(t, 1, "cleanup.policy=compact", "segment.bytes=1048576", "min.cleanable.dirty.ratio=0.01", "file.delete.delay.ms=0")
		want := map[string]string{}
		total := 0
		for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(), kgo.NoCompression()} {
			client := b.client(t, kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()))
			for i := range 3000 {
				// Hard to compress, so that segments fill.
				key, value := fmt.Sprintf("key-%d", i%50), fmt.Sprintf("%d-%x", total, bytes.Repeat([]byte{byte(i), byte(i * 7), byte(i >> 3)}, 150))
				total++
				want[key] = value
				client.Produce(timeout(t), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Errorf("produce: %v", err)
					}
				})
			}
			must(t, client.Flush(timeout(t)))
		}
		look := func() int {
			// There are fewer records than offsets, but the last one is always there.
			c := b.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			defer c.Close()
			got := map[string]string{}
			n := 0
			for last := int64(-1); last < int64(total)-1; {
				fetches := c.PollFetches(timeout(t))
				must(t, fetches.Err())
				fetches.EachRecord(func(r *kgo.Record) {
					if r.Offset <= last {
						t.Fatalf("offset %d after %d", r.Offset, last)
					}
					got[string(r.Key)], last = string(r.Value), r.Offset
					n++
				})
			}
			equal(t, "keys", len(got), len(want))
			for key, value := range want {
				if got[key] != value {
					t.Fatalf("%s is %.20q, not %.20q", key, got[key], value)
				}
			}
			return n
		}
		eventually(t, 2*time.Minute, "compaction", func() bool { return look() < total/2 })
		b.stop(t)
		logVerify(t, b.dir)
		var dumped []string
		for _, path := range partitionFiles(t, b, topic) {
			if ext := filepath.Ext(path); ext == ".log" || ext == ".index" || ext == ".timeindex" {
				dumped = append(dumped, path)
			}
		}
		out := tool(t, "kafka-dump-log", "--deep-iteration", "--files", strings.Join(dumped, ","))
		contains(t, out, "isvalid: true", " position: ", "timestamp: ")
		for _, word := range []string{"ismatch", "orrupt", "not found", "out of order", "isvalid: false", "Could not", "rror", "Found"} {
			if strings.Contains(out, word) {
				t.Fatalf("Kafka's dump of the compacted partition says %q:\n%s", word, out)
			}
		}
		b.start(t)
		look()
	})
}
