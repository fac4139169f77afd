// Package nullbroker is a broker that acknowledges every produce request without looking inside and without
// writing anything: what a client gets from it is the client's own ceiling. It is for that, and for nothing else.
//
// It speaks what a producer asks for: ApiVersions, Metadata, CreateTopics and DeleteTopics, InitProducerId, Produce. Topics are a name
// and a number of partitions, in memory. There is nothing to fetch.
package nullbroker

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/netio"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Says is how results against it are marked.
const Says = "null: acknowledges without writing"

// keys are the served APIs, with the most of the versions that wire serves.
var keys = [...]int16{wire.KeyProduce, wire.KeyMetadata, wire.KeyAPIVersions, wire.KeyCreateTopics, wire.KeyDeleteTopics, wire.KeyInitProducerID}

const (
	frameMax  = 100 << 20 // bytes, as Kafka's socket.request.max.bytes
	inFlight  = 64        // requests of a connection
	heldMax   = 128       // receive buffers that wait: half of what a ring has
	topicsMax = 1000
	nodeID    = 1
)

// Broker is one listener and its loop. All but Stop belongs to the goroutine that made it, which is locked to its thread.
type Broker struct {
	io      ring.IO
	server  *netio.Server
	address netip.AddrPort
	stopped atomic.Bool

	topics    []topic
	producers int64 // ids given out
	produce   wire.ProduceRequest
}

type topic struct {
	name       string
	id         [16]byte
	partitions int32
}

// New listens on an address, host:port.
func New(io ring.IO, address string) (*Broker, error) {
	fd, at, err := io.Host().Listen(address, true)
	if err != nil {
		return nil, fmt.Errorf("null broker: %w", err)
	}
	b := &Broker{io: io, address: at}
	b.server = netio.NewServer(io, fd, netio.Config{FrameMax: frameMax, InFlight: inFlight, HeldMax: heldMax, Log: func(string, ...any) {}}, b)
	return b, nil
}

// Address is where it listens.
func (b *Broker) Address() netip.AddrPort { return b.address }

// Run serves until Stop.
func (b *Broker) Run() {
	for !b.stopped.Load() {
		b.io.Wait(b.server.NextDeadline())
		b.server.Expire(b.io.Now())
		b.server.Tick()
	}
}

// Stop ends Run. Any goroutine may call it.
func (b *Broker) Stop() {
	b.stopped.Store(true)
	b.io.Wake()
}

// Closed implements netio.Handler.
func (b *Broker) Closed(*netio.Conn) {}

// Serve implements netio.Handler.
func (b *Broker) Serve(x *netio.Exchange) {
	h, body, err := wire.ParseHeader(x.Frame)
	if err == nil && h.Key == wire.KeyProduce {
		err = b.acknowledge(x, h, body)
		if err == nil {
			return
		}
	}
	var answer kmsg.Response
	if err == nil {
		answer, err = b.answer(h, body)
	}
	if err != nil {
		x.Conn.Fail("%s version %d: %v", wire.Name(h.Key), h.Version, err)
		x.Silent()
		return
	}
	x.ReplyBytes(wire.AppendResponse(nil, h.CorrelationID, answer))
}

// acknowledge answers a produce request. Which topics and partitions are in it is all that it looks at.
func (b *Broker) acknowledge(x *netio.Exchange, h wire.Header, body []byte) error {
	r := &b.produce
	if err := r.Parse(h.Version, body); err != nil {
		return err
	}
	if r.Acks == 0 {
		x.Silent()
		return nil
	}
	// Header and end, and at most 64 bytes a partition and a name a topic.
	memory := b.io.Pool().Get(64 + 64*r.PartitionCount + 300*r.TopicCount)
	if memory == nil {
		return fmt.Errorf("no memory for the answer to %d partitions", r.PartitionCount)
	}
	out := wire.AppendResponseHeader(memory[:0], h.Key, h.Version, h.CorrelationID)
	out = wire.AppendProduceStart(out, h.Version, r.TopicCount)
	for t := r.Topics(); t.Next(); {
		if len(t.Name) > 249 {
			b.io.Pool().Put(memory)
			return fmt.Errorf("a topic's name of %d bytes", len(t.Name))
		}
		out = wire.AppendProduceTopic(out, h.Version, t.Name, t.ID, t.PartitionCount)
		for t.NextPartition() {
			out = wire.AppendProducePartition(out, h.Version, &wire.ProducePartition{Partition: t.Partition, LogAppendTime: -1})
		}
		out = wire.AppendProduceTopicEnd(out, h.Version)
	}
	out = wire.AppendProduceEnd(out, h.Version, 0, nil)
	wire.PutSize(out, 0)
	x.Reply(append(x.Pieces(), netio.Piece{Mem: out}), memory, nil)
	return nil
}

// answer answers what a client asks beside producing.
func (b *Broker) answer(h wire.Header, body []byte) (kmsg.Response, error) {
	if h.Key == wire.KeyAPIVersions {
		a := wire.APIVersions(h.Version)
		served := a.ApiKeys[:0]
		for _, k := range a.ApiKeys {
			for _, key := range keys {
				if k.ApiKey == key {
					served = append(served, k)
				}
			}
		}
		a.ApiKeys = served
		return a, nil
	}
	q, err := wire.ParseRequest(h.Key, h.Version, body)
	if err != nil {
		return nil, err
	}
	a := q.ResponseKind()
	a.SetVersion(h.Version)
	switch q := q.(type) {
	case *kmsg.MetadataRequest:
		b.metadata(q, a.(*kmsg.MetadataResponse))
	case *kmsg.CreateTopicsRequest:
		b.create(q, a.(*kmsg.CreateTopicsResponse))
	case *kmsg.DeleteTopicsRequest:
		b.remove(q, a.(*kmsg.DeleteTopicsResponse))
	case *kmsg.InitProducerIDRequest:
		b.producers++
		a.(*kmsg.InitProducerIDResponse).ProducerID, a.(*kmsg.InitProducerIDResponse).ProducerEpoch = b.producers, 0
	default:
		return nil, wire.ErrUnsupported
	}
	return a, nil
}

func (b *Broker) find(match func(*topic) bool) *topic {
	for i := range b.topics {
		if match(&b.topics[i]) {
			return &b.topics[i]
		}
	}
	return nil
}

func (b *Broker) metadata(q *kmsg.MetadataRequest, a *kmsg.MetadataResponse) {
	node := kmsg.NewMetadataResponseBroker()
	node.NodeID, node.Host, node.Port = nodeID, b.address.Addr().String(), int32(b.address.Port())
	a.Brokers, a.ControllerID = append(a.Brokers, node), nodeID
	add := func(name *string, id [16]byte, t *topic) {
		r := kmsg.NewMetadataResponseTopic()
		r.Topic, r.TopicID = name, id
		if t == nil {
			r.ErrorCode = wire.UnknownTopicOrPartition
			a.Topics = append(a.Topics, r)
			return
		}
		r.Topic, r.TopicID = kmsg.StringPtr(t.name), t.id
		for i := range t.partitions {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.LeaderEpoch, p.Replicas, p.ISR = i, nodeID, 0, []int32{nodeID}, []int32{nodeID}
			r.Partitions = append(r.Partitions, p)
		}
		a.Topics = append(a.Topics, r)
	}
	if q.Topics == nil {
		for i := range b.topics {
			add(nil, [16]byte{}, &b.topics[i])
		}
		return
	}
	for i := range q.Topics {
		want := &q.Topics[i]
		add(want.Topic, want.TopicID, b.find(func(t *topic) bool {
			return want.Topic != nil && t.name == *want.Topic || want.Topic == nil && t.id == want.TopicID
		}))
	}
}

func (b *Broker) create(q *kmsg.CreateTopicsRequest, a *kmsg.CreateTopicsResponse) {
	for i := range q.Topics {
		want := &q.Topics[i]
		r := kmsg.NewCreateTopicsResponseTopic()
		r.Topic, r.NumPartitions, r.ReplicationFactor = want.Topic, max(1, want.NumPartitions), 1
		switch {
		case b.find(func(t *topic) bool { return t.name == want.Topic }) != nil:
			r.ErrorCode = wire.TopicAlreadyExists
		case len(b.topics) >= topicsMax:
			r.ErrorCode = wire.PolicyViolation
		case !q.ValidateOnly:
			t := topic{name: want.Topic, partitions: r.NumPartitions}
			sum := sha256.Sum256([]byte(t.name))
			copy(t.id[:], sum[:])
			r.TopicID = t.id
			b.topics = append(b.topics, t)
		}
		a.Topics = append(a.Topics, r)
	}
}

func (b *Broker) remove(q *kmsg.DeleteTopicsRequest, a *kmsg.DeleteTopicsResponse) {
	for _, name := range q.TopicNames {
		q.Topics = append(q.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	for _, want := range q.Topics {
		r := kmsg.NewDeleteTopicsResponseTopic()
		r.Topic, r.TopicID, r.ErrorCode = want.Topic, want.TopicID, wire.UnknownTopicOrPartition
		for i, t := range b.topics {
			if want.Topic != nil && t.name == *want.Topic || want.Topic == nil && t.id == want.TopicID {
				b.topics, r.ErrorCode = append(b.topics[:i], b.topics[i+1:]...), 0
				break
			}
		}
		a.Topics = append(a.Topics, r)
	}
}
