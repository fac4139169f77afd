package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What JetStream's publishers may have in flight without a fixed number asked for. The server refuses what is beyond 100,000
// messages or 128 MiB waiting for one stream, and all of it may be for one.
const (
	natsInFlightEach  = 4000     // the client library's own default
	natsInFlightAll   = 80_000   // over all producers
	natsInFlightBytes = 96 << 20 // bytes, over all producers
)

// natsInFlight bounds one producer's messages in flight.
func natsInFlight(w Workload) int {
	if w.Rate == 0 {
		return max(1, w.InFlight/w.Producers, w.Batch) // what was asked; it is kept by the run
	}
	return max(1, min(natsInFlightEach, natsInFlightAll/w.Producers, natsInFlightBytes/w.Size/w.Producers))
}

// natsClient is a Client on nats.go's asynchronous publishing.
//
// Messages whose connection broke have no known end: they stay in flight until Close, and count as unfinished.
type natsClient struct {
	conn     *nats.Conn
	js       jetstream.JetStream
	done     func(*nats.Msg, error) // as Done is
	subjects []string               // of the partitions
	slots    chan struct{}          // one taken for each message in flight
	closing  chan struct{}

	mu       sync.Mutex // held while done is told
	inFlight map[*nats.Msg]struct{}
	closed   bool

	sent, bytes atomic.Int64
}

var errGivenUp = errors.New("given up before it was acknowledged")

// NewClient implements Target.
func (n *NATS) NewClient(topic string, w Workload, done Done) (Client, error) {
	if n.Again {
		a := &natsAgain{server: n, topic: topic, w: w, done: done, prefix: rand.Text() + "-", open: map[uint64]*nats.Msg{}, last: errGivenUp}
		if err := a.connect(); err != nil {
			return nil, err
		}
		return a, nil
	}
	c, err := newNATSClient(n, topic, w, func(m *nats.Msg, err error) { done(m.Data, err) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

func newNATSClient(n *NATS, topic string, w Workload, done func(*nats.Msg, error)) (*natsClient, error) {
	slots := natsInFlight(w)
	c := &natsClient{done: done, slots: make(chan struct{}, slots), closing: make(chan struct{}), inFlight: map[*nats.Msg]struct{}{}}
	for p := range w.Partitions {
		c.subjects = append(c.subjects, natsSubject(topic, p))
	}
	var err error
	if c.conn, err = n.connect(); err != nil {
		return nil, err
	}
	c.js, err = jetstream.New(c.conn,
		jetstream.WithPublishAsyncMaxPending(slots), // so that it never waits by itself: it would give up
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { c.end(m, nil) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { c.end(m, err) }))
	if err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("%s: client: %w", n.Name, err)
	}
	return c, nil
}

// Send implements Client. It waits for a slot for each message.
func (c *natsClient) Send(partition int32, values [][]byte) {
	for _, value := range values {
		c.publish(&nats.Msg{Subject: c.subjects[partition], Data: value})
	}
}

// publish sends one message, which waits for its slot.
func (c *natsClient) publish(m *nats.Msg) {
	if !c.begin(m) {
		return
	}
	_, err := c.js.PublishMsgAsync(m)
	switch {
	case err == nil:
		c.sent.Add(1)
		c.bytes.Add(int64(len(m.Data)))
	case errors.Is(err, nats.ErrConnectionClosed): // see natsClient
	default:
		c.end(m, err)
	}
}

// begin takes a slot. It reports false, and has told done, when the client was closed.
func (c *natsClient) begin(m *nats.Msg) bool {
	select {
	case c.slots <- struct{}{}:
	case <-c.closing:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.done(m, errGivenUp)
		return false
	}
	c.inFlight[m] = struct{}{}
	return true
}

// end tells done how a message ended, once.
func (c *natsClient) end(m *nats.Msg, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.inFlight[m]; !ok {
		return
	}
	delete(c.inFlight, m)
	c.done(m, err)
	select {
	case <-c.slots:
	default: // begun while the client was being closed, without a slot
	}
}

// Drain implements Client: when every slot can be had, no message is in flight.
func (c *natsClient) Drain(ctx context.Context) error {
	taken := 0
	defer func() {
		for range taken {
			<-c.slots
		}
	}()
	for ; taken < cap(c.slots); taken++ {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Stats implements Client: a message is a batch of one.
func (c *natsClient) Stats() ClientStats {
	n := c.sent.Load()
	return ClientStats{Batches: n, Records: n, Bytes: c.bytes.Load()}
}

// Close implements Client.
func (c *natsClient) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	close(c.closing)
	for m := range c.inFlight {
		delete(c.inFlight, m)
		c.done(m, errGivenUp)
	}
	c.mu.Unlock()
	c.conn.Close()
}
