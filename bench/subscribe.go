package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franzConsumer is a Subscription on franz-go.
type franzConsumer struct {
	topic    string
	client   *kgo.Client
	assigned atomic.Int64
	failed   atomic.Pointer[error]
	cancel   context.CancelFunc
	reading  sync.WaitGroup
}

// Subscribe implements Subscriber.
func (k *Kafka) Subscribe(topic, group string, got func(value []byte)) (Subscription, error) {
	c := &franzConsumer{topic: topic}
	count := func(sign int64) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			c.assigned.Add(sign * int64(len(partitions[topic])))
		}
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(k.Address, ",")...),
		kgo.ClientID("millrace-bench-consumer"),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.FetchMaxWait(500 * time.Millisecond),
	}
	opts = append(opts, k.ConsumerOptions...)
	opts = append(opts,
		// The topic is empty now: whatever a new group begins with, it begins here.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(count(1)), kgo.OnPartitionsRevoked(count(-1)), kgo.OnPartitionsLost(count(-1)))
	var err error
	if c.client, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("%s: consumer: %w", k.Name, err)
	}
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	c.reading.Go(func() { c.read(ctx, got) })
	return c, nil
}

func (c *franzConsumer) read(ctx context.Context, got func([]byte)) {
	for {
		fetches := c.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			err = fmt.Errorf("consume %s, partition %d: %w", topic, partition, err)
			c.failed.CompareAndSwap(nil, &err)
		})
		fetches.EachRecord(func(r *kgo.Record) { got(r.Value) })
	}
}

// Assigned implements Subscription.
func (c *franzConsumer) Assigned() int { return int(c.assigned.Load()) }

// Pause implements Subscription. The client goes on with its heartbeats.
func (c *franzConsumer) Pause() { c.client.PauseFetchTopics(c.topic) }

// Resume implements Subscription.
func (c *franzConsumer) Resume() { c.client.ResumeFetchTopics(c.topic) }

// Err implements Subscription.
func (c *franzConsumer) Err() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Close implements Subscription. It leaves the group.
func (c *franzConsumer) Close() {
	c.cancel()
	c.reading.Wait()
	c.client.Close()
}

// Forget implements Subscriber.
func (k *Kafka) Forget(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	_, err := k.admin.DeleteGroup(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return fmt.Errorf("%s: delete group %s: %w", k.Name, group, err)
	}
	return nil
}
