package nullbroker

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/ring/posix"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func start(t *testing.T) *Broker {
	t.Helper()
	started, over := make(chan *Broker), make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread()
		io, err := posix.New(posix.Host(), posix.Config{PoolBytes: 8 << 20})
		if err != nil {
			t.Error(err)
			close(started)
			return
		}
		b, err := New(io, "127.0.0.1:0")
		if err != nil {
			t.Error(err)
		}
		started <- b
		if b != nil {
			b.Run()
		}
		if err := io.Close(); err != nil {
			t.Error(err)
		}
	}()
	b := <-started
	if b == nil {
		t.FailNow()
	}
	t.Cleanup(func() { b.Stop(); <-over })
	return b
}

// A client that asks what producers ask gets answers, whatever it sends, with each way to acknowledge.
func TestProduce(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, acks := range []kgo.Acks{kgo.AllISRAcks(), kgo.LeaderAck(), kgo.NoAck()} {
		c, err := kgo.NewClient(kgo.SeedBrokers(b.Address().String()), kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite(), kgo.DefaultProduceTopic("t"),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		admin := kadm.NewClient(c)
		if _, err := admin.CreateTopic(ctx, 3, 1, nil, "t"); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.CreateTopic(ctx, 3, 1, nil, "t"); err == nil {
			t.Error("a topic was made twice")
		}
		topics, err := admin.ListTopics(ctx)
		if err != nil || len(topics["t"].Partitions) != 3 {
			t.Fatalf("%v %v", topics, err)
		}
		for p := range int32(3) {
			for range 100 {
				c.Produce(ctx, &kgo.Record{Partition: p, Value: make([]byte, 1000)}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.DeleteTopic(ctx, "t"); err != nil {
			t.Fatal(err)
		}
	}
}

// An idempotent client gets a producer id of its own.
func TestProducerID(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := map[int64]bool{}
	for range 2 {
		c, err := kgo.NewClient(kgo.SeedBrokers(b.Address().String()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		id, _, err := c.ProducerID(ctx)
		if err != nil || seen[id] {
			t.Errorf("producer id %d, %v", id, err)
		}
		seen[id] = true
	}
}

// What is no request ends its connection, and nobody else's.
func TestBadRequest(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Address().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := kadm.NewClient(c).ListGroups(ctx); err == nil {
		t.Error("ListGroups was answered")
	}
	if err := c.Ping(ctx); err != nil {
		t.Errorf("after that: %v", err)
	}
}
