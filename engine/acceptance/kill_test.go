package acceptance_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A producer that is idempotent and waits for all replicas runs through kill -9 of the broker:
// every acknowledged record is there once, at the offset of its acknowledgement, and in order.
// This is a kill of the process: the page cache survives, a power failure is another test.
func TestKillLoop(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		b := startBroker(t, backend)
		const partitions = 3
		topic := b.topic(t, partitions, "segment.bytes=1048576") // so that kills also meet rolls
		c := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(16<<10),
			kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(200))

		var mu sync.Mutex
		acked := [partitions]map[int]int64{{}, {}, {}} // sequence -> offset
		produced := make(chan [partitions]int)
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { // sends until told to stop
			var next [partitions]int
			for p := int32(0); ctx.Err() == nil; p = (p + 1) % partitions {
				sequence := next[p]
				next[p]++
				record := &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d %s", sequence, noise(100))}
				c.Produce(context.Background(), record, func(r *kgo.Record, err error) {
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Errorf("record %d of partition %d: %v", sequence, r.Partition, err)
						return
					}
					acked[r.Partition][sequence] = r.Offset
				})
			}
			produced <- next
		}()
		ackedCount := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(acked[0]) + len(acked[1]) + len(acked[2])
		}

		kills := count(3, 20)
		for kill := range kills {
			goal := ackedCount() + 500 + rand.IntN(3000)
			eventually(t, readyTimeout, fmt.Sprintf("acknowledgements before kill %d", kill+1), func() bool { return ackedCount() >= goal })
			b.kill(t)
			b.start(t)
		}
		goal := ackedCount() + 500
		eventually(t, readyTimeout, "acknowledgements after the last kill", func() bool { return ackedCount() >= goal })
		stop()
		next := <-produced
		must(t, c.Flush(timeout(t)))

		total := 0
		for p, records := range b.readAll(t, topic) {
			if len(records) != next[p] {
				t.Errorf("partition %d: %d records sent and acknowledged, %d stored", p, next[p], len(records))
			}
			for i, r := range records {
				var sequence int
				fmt.Sscan(string(r.Value), &sequence)
				if offset, ok := acked[p][i]; sequence != i || !ok || offset != r.Offset {
					t.Fatalf("partition %d offset %d holds record %d; record %d was acknowledged at %d (%v)", p, r.Offset, sequence, i, offset, ok)
				}
			}
			total += len(records)
		}
		t.Logf("%d kills, %d records acknowledged, each stored once and in order", kills, total)
	})
}

// What a kill may leave on disk, and worse: a torn tail, indexes that are missing or wrong, checkpoints that are garbage.
func TestRecovery(t *testing.T) {
	garbage := func(path string) error { return os.WriteFile(path, noise(64), 0o644) }
	for _, damage := range []struct {
		name, file string
		how        func(path string) error
	}{
		{"torn tail", "00000000000000000000.log", func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.Write(newBatch("torn").encode()[:70])
				f.Close()
			}
			return err
		}},
		{"missing index", "00000000000000000000.index", os.Remove},
		{"corrupt index", "00000000000000000000.index", garbage},
		{"corrupt time index", "00000000000000000000.timeindex", garbage},
		{"corrupt producer snapshot", "00000000000000000060.snapshot", garbage},
		{"corrupt recovery checkpoint", "../recovery-point-offset-checkpoint", garbage},
		{"corrupt log start checkpoint", "../log-start-offset-checkpoint", garbage},
		{"corrupt epoch checkpoint", "leader-epoch-checkpoint", garbage},
	} {
		if standIn() && damage.name == "corrupt index" {
			continue // Apache Kafka believes an index of whole entries, and does not show the records
		}
		if testing.Short() && damage.name != "torn tail" && damage.name != "corrupt recovery checkpoint" {
			continue
		}
		t.Run(damage.name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				b := startBroker(t, backend)
				topic := b.topic(t, 1, "index.interval.bytes=200")
				sent := numbered("v", 60)
				b.produce(t, topic, 0, sent...)
				if damage.name == "torn tail" {
					b.kill(t)
				} else {
					b.stop(t)
				}
				must(t, damage.how(filepath.Join(b.dir, topic+"-0", damage.file)))
				before := len(b.log.String())
				b.launch(t)
				// Either it recovers, or it refuses to start and names the file.
				eventually(t, readyTimeout, "the broker to be ready or gone", func() bool { return b.proc.ended() || b.ready() })
				said := func() string { return b.log.String()[before:] }
				if b.proc.ended() {
					t.Logf("refused to start: %s", said())
				} else {
					equalSlices(t, "records", values(b.readAll(t, topic)[0]), sent)
					b.produce(t, topic, 0, "after")
					equal(t, "records", len(b.readAll(t, topic)[0]), 61)
					equal(t, "offset by time", b.listAfter(t, topic, time.Now().Add(-time.Hour)), 0)
				}
				if !standIn() { // Apache Kafka says "segment 0"
					// What it has said before it was ready may not have been read from its pipe yet.
					name := filepath.Base(damage.file)
					eventually(t, waitTimeout, "the log to name "+name, func() bool { return strings.Contains(said(), name) })
				}
			})
		})
	}
}
