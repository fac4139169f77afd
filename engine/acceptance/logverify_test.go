package acceptance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// millraceBinary is our own, also where Apache Kafka stands in for our broker.
func millraceBinary() string {
	if standIn() {
		return filepath.Join("..", "..", "bin", "millrace")
	}
	return brokerBinary()
}

// millrace runs one of our own commands and returns what it prints.
func millrace(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	return run(t, stdin, millraceBinary(), args...)
}

// verified is what log verify --json says.
type verified struct {
	Partitions, Segments, Batches, Damaged int
	Findings                               []struct{ Level, File, Text string }
}

// logVerify runs log verify --deep on a directory and fails the test where it finds damage.
func logVerify(t *testing.T, dir string) verified {
	t.Helper()
	var v verified
	out, stderr, err := tryRun(t, "", millraceBinary(), "log", "verify", "--deep", "--json", dir)
	if err != nil {
		t.Fatalf("log verify %s: %v\n%s%s", dir, err, out, stderr)
	}
	must(t, json.Unmarshal([]byte(out), &v))
	return v
}

// What a broker leaves behind is sound: after kill -9, in the midst of appends, and after SIGTERM.
func TestLogVerify(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		b := startBroker(t, backend)
		adm := kadm.NewClient(b.client(t))

		b.topic(t, 2) // no partition of it is ever appended to
		half := b.topic(t, 3)
		b.produce(t, half, 1, numbered("v", 10)...)
		begun := b.topic(t, 1) // its log starts within a segment
		b.produce(t, begun, 0, "below the start")
		b.produce(t, begun, 0, numbered("v", 10)...)
		_, err := adm.DeleteRecords(timeout(t), kadm.Offsets{begun: {0: {Topic: begun, At: 1}}})
		must(t, err)
		gone := b.topic(t, 1)
		b.produce(t, gone, 0, "gone")
		_, err = adm.DeleteTopic(timeout(t), gone)
		must(t, err)
		read := b.join(t, unique(t), half)
		eventually(t, waitTimeout, "the records of "+half, func() bool { return read.count() == 10 })
		read.leave(t)

		codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
			"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
		topics, clients := map[string]string{}, map[string]*kgo.Client{}
		for name, codec := range codecs {
			topics[name] = b.topic(t, 2, "segment.bytes=1048576", "index.interval.bytes=1000")
			clients[name] = b.client(t, kgo.DefaultProduceTopic(topics[name]), kgo.ProducerBatchCompression(codec),
				kgo.MaxBufferedRecords(50), kgo.ProducerBatchMaxBytes(20_000))
		}
		// load appends in the background, through whatever happens, and returns when each topic has had its share.
		load := func() (end func()) {
			ctx, stop := context.WithCancel(context.Background())
			counts, ended := map[string]*atomic.Int64{}, make(chan struct{}, len(codecs))
			for name := range codecs {
				acked := &atomic.Int64{}
				counts[name] = acked
				go func() {
					defer func() { ended <- struct{}{} }()
					for i := 0; ctx.Err() == nil; i++ {
						value := append(noise(250), bytes.Repeat([]byte("x"), 500)...) // half of it compresses, by any codec
						r := &kgo.Record{Key: fmt.Append(nil, i), Value: value, Headers: []kgo.RecordHeader{{Key: "codec", Value: []byte(name)}}}
						clients[name].Produce(ctx, r, func(_ *kgo.Record, err error) {
							if err == nil {
								acked.Add(1)
							}
						})
					}
				}()
			}
			end = func() {
				stop()
				for range codecs {
					<-ended
				}
			}
			for name, acked := range counts {
				eventually(t, waitTimeout, "records of "+name, func() bool { return acked.Load() >= int64(count(2500, 10_000)) })
			}
			return end
		}

		check := func(when string) verified {
			t.Helper()
			v := logVerify(t, b.dir)
			t.Logf("after %s: %d partitions, %d segments, %d batches, findings %v", when, v.Partitions, v.Segments, v.Batches, v.Findings)
			if v.Partitions < 2+3+1+2*len(codecs) || v.Segments < v.Partitions+1 || v.Batches < 200 {
				t.Fatalf("%d partitions, %d segments, %d batches are too few", v.Partitions, v.Segments, v.Batches)
			}
			return v
		}
		for kill := range count(2, 5) {
			end := load()
			b.kill(t)
			end()
			check(fmt.Sprintf("kill %d", kill+1))
			b.start(t)
		}
		load()()
		b.stop(t)
		if v := check("SIGTERM"); len(v.Findings) > 0 {
			t.Fatalf("after a clean stop nothing is to be put right, yet: %v", v.Findings)
		}
	})
}
