package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// probeTimeout is how long one question of TakesTopics or TakesStreams may wait for its answer.
const probeTimeout = time.Second

// TakesTopics reports whether the broker at address, which speaks Kafka's protocol, would make a topic now. That is later than its
// first answer: Kafka answers before its controller has heard of the broker. Nothing is made.
func TakesTopics(ctx context.Context, address string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ClientID("millrace-bench"),
		kgo.RequestRetries(0), kgo.RetryTimeout(probeTimeout), kgo.DialTimeout(probeTimeout))
	if err != nil {
		return err
	}
	defer client.Close()
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Topics = []kmsg.MetadataRequestTopic{}
	brokers, err := metadata.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if len(brokers.Brokers) == 0 {
		return errors.New("metadata names no broker yet")
	}
	create := kmsg.NewPtrCreateTopicsRequest()
	create.ValidateOnly, create.TimeoutMillis = true, int32(probeTimeout.Milliseconds())
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "millrace-bench-ready", 1, 1
	create.Topics = append(create.Topics, topic)
	created, err := create.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if len(created.Topics) != 1 {
		return fmt.Errorf("asked for one topic, answered for %d", len(created.Topics))
	}
	return kerr.ErrorForCode(created.Topics[0].ErrorCode)
}

// TakesStreams reports whether the NATS server at address would make a stream now: whether JetStream answers that it is there for
// this account. Nothing is made.
func TakesStreams(ctx context.Context, address string) error {
	conn, err := nats.Connect("nats://"+address, nats.Name("millrace-bench"), nats.NoReconnect(), nats.Timeout(probeTimeout))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err = js.AccountInfo(ctx)
	return err
}
