package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// tailLoad produces to a topic at a fixed rate and consumes it at its end, all the
// time; end-to-end latency runs from when a record should have been sent to when a
// consumer has it. What it measures between begin and end goes into a histogram.
type tailLoad struct {
	producer *kgo.Client
	consumer *kgo.Client
	schedule Schedule
	size     int
	parts    int32

	start  time.Time
	cancel context.CancelFunc
	all    sync.WaitGroup
	failed atomic.Pointer[error]

	mu     sync.Mutex
	from   time.Duration // what is measured: records intended in [from, until)
	until  time.Duration
	before int64 // in counts at begin
	counts *hdrhistogram.Histogram
	lag    *hdrhistogram.Histogram
}

// startTail begins. The topic exists.
func startTail(address, topic string, rate int64, size, partitions int) (*tailLoad, error) {
	t := &tailLoad{schedule: Schedule{Rate: rate, Batch: 1}, size: size, parts: int32(partitions)}
	seeds := kgo.SeedBrokers(strings.Split(address, ",")...)
	var err error
	t.producer, err = kgo.NewClient(seeds, kgo.ClientID("millrace-bench"), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return nil, err
	}
	t.consumer, err = kgo.NewClient(seeds, kgo.ClientID("millrace-bench-tail"), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMinBytes(1), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		t.producer.Close()
		return nil, err
	}
	var ctx context.Context
	ctx, t.cancel = context.WithCancel(context.Background())
	t.start = time.Now()
	t.counts, t.lag = newHistogram(), newHistogram()
	t.all.Go(func() { t.produce(ctx) })
	t.all.Go(func() { t.consume(ctx) })
	return t, nil
}

func (t *tailLoad) produce(ctx context.Context) {
	told := func(_ *kgo.Record, err error) {
		if err != nil && ctx.Err() == nil {
			t.failed.CompareAndSwap(nil, &err)
		}
	}
	random := rand.NewChaCha8([32]byte{1}) // the backlog's values are others
	for i := int64(0); ctx.Err() == nil; i++ {
		at := t.schedule.At(i)
		if early := at - time.Since(t.start); early > 0 {
			time.Sleep(early)
		}
		value := randomValue(random, t.size)
		binary.BigEndian.PutUint64(value, uint64(at))
		late := time.Since(t.start) - at
		t.mu.Lock()
		if at >= t.from && at < t.until {
			record(t.lag, late, 1)
		}
		t.mu.Unlock()
		t.producer.Produce(ctx, &kgo.Record{Partition: int32(i % int64(t.parts)), Value: value}, told)
	}
}

func (t *tailLoad) consume(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := t.consumer.PollFetches(ctx)
		now := time.Since(t.start)
		fetches.EachError(func(_ string, _ int32, err error) {
			if ctx.Err() == nil {
				t.failed.CompareAndSwap(nil, &err)
			}
		})
		t.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			if at := time.Duration(binary.BigEndian.Uint64(r.Value)); at >= t.from && at < t.until {
				record(t.counts, now-at, 1)
			}
		})
		t.mu.Unlock()
	}
}

// always is after every record.
const always = time.Duration(1<<63 - 1)

// begin measures what should be sent from now on.
func (t *tailLoad) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.from, t.until, t.before = time.Since(t.start), always, t.counts.TotalCount()
}

// arriveMax is how long after the end of the measured time a record may still arrive.
const arriveMax = 30 * time.Second

// end stops that, once all of it has arrived.
func (t *tailLoad) end(ctx context.Context) error {
	t.mu.Lock()
	t.until = time.Since(t.start)
	want := t.schedule.Count(t.until) - t.schedule.Count(t.from)
	t.mu.Unlock()
	for give := time.Now().Add(arriveMax); ; time.Sleep(5 * time.Millisecond) {
		t.mu.Lock()
		got := t.counts.TotalCount() - t.before
		t.mu.Unlock()
		err := t.failed.Load()
		switch {
		case err != nil:
			return *err
		case ctx.Err() != nil:
			return ctx.Err()
		case got >= want:
			return nil
		case time.Now().After(give):
			return fmt.Errorf("%d of %d records have not arrived after %v", want-got, want, arriveMax)
		}
	}
}

// take returns what was measured since the last take.
func (t *tailLoad) take() (counts, lag *hdrhistogram.Histogram) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts, lag = t.counts, t.lag
	t.counts, t.lag = newHistogram(), newHistogram()
	return counts, lag
}

func (t *tailLoad) stop() {
	t.cancel()
	t.producer.Close()
	t.consumer.Close()
	t.all.Wait()
}

// backlogValue is the value of one record of the backlog of bench consume, bytes.
const backlogValue = 8 << 10

// randomValue is one of size bytes. None is like another: neither a file system nor a disk makes them smaller.
func randomValue(random *rand.ChaCha8, size int) []byte {
	value := make([]byte, size)
	_, _ = random.Read(value) // it never fails
	return value
}

// backlogBuffered is how much of a backlog is with the client, bytes.
const backlogBuffered = 32 << 20

// fillBacklog writes that many bytes of records, each with a value of valueBytes, in batches of batchBytes at most to partition 0 of a
// topic, and returns the offset after the last.
func fillBacklog(ctx context.Context, address, topic string, bytes int64, batchBytes, valueBytes int) (int64, error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(address, ",")...), kgo.ClientID("millrace-bench"), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(int32(batchBytes)), kgo.ProducerLinger(5*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(backlogBuffered/valueBytes))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var failed atomic.Pointer[error]
	random := rand.NewChaCha8([32]byte{})
	for left := bytes; left > 0 && ctx.Err() == nil && failed.Load() == nil; left -= int64(valueBytes) {
		c.Produce(ctx, &kgo.Record{Value: randomValue(random, valueBytes)}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := c.Flush(ctx); err != nil {
		return 0, err
	}
	if err := failed.Load(); err != nil {
		return 0, fmt.Errorf("fill %s: %w", topic, *err)
	}
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	end, ok := ends.Lookup(topic, 0)
	if !ok || end.Err != nil {
		return 0, fmt.Errorf("end of %s: %v", topic, end.Err)
	}
	return end.Offset, nil
}
