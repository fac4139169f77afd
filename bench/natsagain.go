package bench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsAgain is a Client that outlives the server: what is not acknowledged it sends again, in the order of Send. Each message has an
// id, so that the server acknowledges but does not store what it has already, within the stream's duplicates window.
//
// Drain makes a connection where the last one broke, and sends again, once: what is refused then is given up. The workload is to allow as much in flight as there will be: else Send
// waits for a server that is gone.
type natsAgain struct {
	server *NATS
	topic  string
	w      Workload
	done   Done
	prefix string // of the ids
	client *natsClient

	mu   sync.Mutex
	sent uint64
	open map[uint64]*nats.Msg // not acknowledged, by the number in their ids
	last error                // why one of them was not
}

// connect takes another client; where there is none to be had the last one stays.
func (a *natsAgain) connect() error {
	client, err := newNATSClient(a.server, a.topic, a.w, a.heard)
	if err == nil {
		a.client = client
	}
	return err
}

// Send implements Client.
func (a *natsAgain) Send(partition int32, values [][]byte) {
	for _, value := range values {
		m := nats.NewMsg(natsSubject(a.topic, int(partition)))
		m.Data = value
		a.mu.Lock()
		a.sent++
		m.Header.Set(jetstream.MsgIDHeader, a.prefix+strconv.FormatUint(a.sent, 10))
		a.open[a.sent] = m
		a.mu.Unlock()
		a.client.publish(m)
	}
}

// number is the one in a message's id.
func (a *natsAgain) number(m *nats.Msg) uint64 {
	id := m.Header.Get(jetstream.MsgIDHeader)
	n, err := strconv.ParseUint(id[len(a.prefix):], 10, 64)
	if err != nil {
		panic(fmt.Sprintf("BUG: the id of a message is %q", id))
	}
	return n
}

// heard is told how the client's messages end. What was not acknowledged stays open.
func (a *natsAgain) heard(m *nats.Msg, err error) {
	if err == nil {
		a.end(m, nil)
		return
	}
	a.mu.Lock()
	a.last = err
	a.mu.Unlock()
}

func (a *natsAgain) end(m *nats.Msg, err error) {
	a.mu.Lock()
	delete(a.open, a.number(m))
	a.mu.Unlock()
	a.done(m.Data, err)
}

// left are the open messages, in the order of Send.
func (a *natsAgain) left() (all []*nats.Msg, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(a.open)) {
		all = append(all, a.open[n])
	}
	return all, a.last
}

// Drain implements Client.
func (a *natsAgain) Drain(ctx context.Context) error {
	_ = a.drainUnlessClosed(ctx) // what it leaves open is sent again
	again, _ := a.left()
	if len(again) == 0 && !a.client.conn.IsClosed() || ctx.Err() != nil {
		return ctx.Err()
	}
	a.client.Close()
	if err := a.connect(); err != nil {
		return err
	}
	for _, m := range again {
		a.client.publish(m)
	}
	if err := a.drainUnlessClosed(ctx); err != nil {
		return err
	}
	a.giveUp()
	return nil
}

// drainUnlessClosed waits until the client's messages have ended, ctx has, or the connection is closed.
func (a *natsAgain) drainUnlessClosed(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := a.client.conn.StatusChanged(nats.CLOSED)
	if a.client.conn.IsClosed() {
		return nats.ErrConnectionClosed
	}
	go func() {
		select {
		case <-closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return a.client.Drain(ctx)
}

func (a *natsAgain) giveUp() {
	all, why := a.left()
	for _, m := range all {
		a.end(m, why)
	}
}

// Stats implements Client: of the present connection.
func (a *natsAgain) Stats() ClientStats { return a.client.Stats() }

// Close implements Client.
func (a *natsAgain) Close() {
	a.client.Close()
	a.giveUp()
}
