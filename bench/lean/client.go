// Package lean is a Kafka producer that costs as little as a producer can: one thread, one ring, no allocation for a
// record, no lock and no hand-over where it is driven ([Client.Drive]). It is the bench's second client, so that
// a reader can tell what of a latency is the client's; it is not for programs.
//
// What it does as others do: it keeps at most five produce requests in flight on a connection, each with at most one
// batch of a partition; an idempotent batch has a sequence and is sent again with the same one until it is
// acknowledged; after an error or a lost connection a partition waits until nothing of it is in flight, asks who
// leads it, and starts again from its oldest batch. Without idempotence a batch that is sent again may be there twice.
//
// What it does not: it never lingers and never joins what was handed over apart, so each Send is a batch;
// and it gives nothing up by itself. An error that does not go away by trying again ends an idempotent client,
// with all that it holds: a gap in the sequences of a partition cannot be closed.
//
// The files: client.go is what a caller sees and the loop, partition.go the batches and their order,
// conn.go a connection, request.go what is asked on it, leader.go who leads what.
package lean

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
)

// Config is what a client is made with.
type Config struct {
	Seeds      []string // host:port of brokers to begin with
	Topic      string   // it exists; at most 249 bytes
	Partitions int      // of the topic
	ClientID   string   // at most 128 bytes
	Acks       int16    // 0, 1 or -1
	Idempotent bool     // only with Acks -1
	Codec      record.Codec

	// Open makes the client's ring, on the client's thread. What is not acknowledged is held in its pool, up to
	// seven eighths of it.
	Open func() (ring.IO, error)
	// Done hears how each record ended, on the client's thread: nil is acknowledged, or with Acks 0 written. The value is
	// the caller's again.
	Done func(value []byte, err error)
	// Waited is told before Done where an acknowledged record has waited. It may be nil.
	Waited func(value []byte, w Waits)

	StartTimeout   time.Duration // for New; 0: 30 s
	RequestTimeout time.Duration // a request that is not answered so long ends its connection; 0: 30 s
}

// Waits is where a record waited, from Send to its acknowledgement: the parts add up to that.
type Waits struct {
	Buffer   time.Duration // until the client took it: what it may hold was full, or, of a lean client that is not driven, until its thread had it
	Metadata time.Duration // its partition had no leader with a connection
	Fill     time.Duration // for its batch to fill, or to linger
	Slot     time.Duration // for a request: as many as allowed were in flight, or the one before was being written
	Write    time.Duration // from the making of its first request until that was written to the socket
	Flight   time.Duration // from there to the acknowledgement, further tries included
}

// Stats counts what left a client for the first time.
type Stats struct {
	Batches int64
	Records int64
	Bytes   int64 // of records as written, without the batches' headers
}

// ErrClosed is how a record ends that Close gives up.
var ErrClosed = errors.New("the client was closed before the record was acknowledged")

const (
	inFlightMax  = 5    // produce requests of a connection, as Kafka bounds idempotent ones
	mailMax      = 4096 // Sends that wait for the thread; beyond them Send blocks
	askAgain     = 20 * time.Millisecond
	dialTimeout  = 10 * time.Second
	dialAgainMax = time.Second
	closeWait    = 5 * time.Second
	answerMax    = 64 << 20 // bytes; metadata of very many partitions
	topicMax     = 249
	clientIDMax  = 128
)

// Client is one producer. What its loop has is touched by its thread only; what mu guards is shared.
type Client struct {
	cfg Config
	io  ring.IO

	partitions []partition
	conns      []*conn
	response   wire.ProduceResponse
	builder    record.Builder
	freeBatch  *batch
	freeReq    *request
	leaders    leaders
	producerID int64
	epoch      int16
	holds      int    // records that have not ended
	ended      uint64 // records that have
	ruined     error  // everything fails with it

	driver  *driver
	driven  bool // Send is called by the driver's step
	stepAt  int64
	stepped uint64          // ended, at the last step
	waiting []chan struct{} // Drains that it has heard of

	called  atomic.Bool // something below waits for the loop
	closing atomic.Bool
	over    chan struct{} // closed when the loop has ended

	mu     sync.Mutex
	room   sync.Cond // mail has been taken
	mail   mailbox
	taken  mailbox // the loop's; its memory is used again
	asked  *driver
	drains []chan struct{}
	gone   bool // the ring is closed

	batches, records, bytes atomic.Int64
}

// driver is a call of Drive.
type driver struct {
	step func() (time.Duration, bool)
	done chan struct{}
}

// mailbox is Sends of other threads.
type mailbox struct {
	letters []letter
	values  [][]byte // of all letters, in their order
}

type letter struct {
	partition int32
	count     int
	handed    int64
}

// New connects a client: it knows every partition's leader, and its producer id, when it returns.
func New(cfg Config) (*Client, error) {
	if len(cfg.Topic) > topicMax || len(cfg.ClientID) > clientIDMax || len(cfg.Seeds) == 0 || cfg.Partitions < 1 {
		panic(fmt.Sprintf("BUG: lean client of topic %q, client id %q, %d seeds, %d partitions", cfg.Topic, cfg.ClientID, len(cfg.Seeds), cfg.Partitions))
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 30 * time.Second
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 30 * time.Second
	}
	c := &Client{cfg: cfg, producerID: record.NoProducerID, epoch: record.NoProducerEpoch, over: make(chan struct{})}
	c.room.L = &c.mu
	c.partitions = make([]partition, cfg.Partitions)
	for i := range c.partitions {
		c.partitions[i] = partition{c: c, index: int32(i)}
	}
	c.leaders = leaders{wanted: true, wantsID: cfg.Idempotent, ready: make(chan struct{})}
	started := make(chan error)
	go c.run(started)
	if err := <-started; err != nil {
		return nil, err
	}
	late := time.NewTimer(cfg.StartTimeout)
	defer late.Stop()
	select {
	case <-c.leaders.ready:
		return c, nil
	case <-c.over:
		return nil, c.ruined
	case <-late.C:
		c.Close()
		return nil, fmt.Errorf("%v, topic %s: not ready after %v: %w", cfg.Seeds, cfg.Topic, cfg.StartTimeout, c.leaders.last)
	}
}

// Send hands over records of one partition as one batch. The values are the client's until Done; the slice that holds them is not.
// It blocks while the client holds too much. One goroutine sends; while Drive runs that is its step.
func (c *Client) Send(partition int32, values [][]byte) {
	if c.driven {
		c.accept(partition, values, c.io.Stamp())
		return
	}
	c.mu.Lock()
	for len(c.mail.letters) >= mailMax && !c.gone {
		c.room.Wait()
	}
	if c.gone {
		c.mu.Unlock()
		for _, v := range values {
			c.cfg.Done(v, ErrClosed)
		}
		return
	}
	c.mail.letters = append(c.mail.letters, letter{partition, len(values), c.io.Stamp()})
	c.mail.values = append(c.mail.values, values...)
	c.wake()
	c.mu.Unlock()
}

// wake has the loop look at what is shared. mu is held, so that the ring is there.
func (c *Client) wake() {
	if !c.gone && !c.called.Swap(true) {
		c.io.Wake()
	}
}

// Drive calls step on the client's thread until it says that there is no more to do, and then returns. step sends what is due, and
// says after how long it wants to be called again, at the latest: it is also called when records have ended. Between two calls the
// thread sleeps in the ring. Close ends it too.
func (c *Client) Drive(step func() (wait time.Duration, more bool)) {
	d := &driver{step, make(chan struct{})}
	c.mu.Lock()
	c.asked = d
	c.wake()
	c.mu.Unlock()
	select {
	case <-d.done:
	case <-c.over:
	}
}

// Drain waits until every record that was sent before has ended, or ctx.
func (c *Client) Drain(ctx context.Context) error {
	drained := make(chan struct{})
	c.mu.Lock()
	c.drains = append(c.drains, drained)
	c.wake()
	c.mu.Unlock()
	select {
	case <-drained:
		return nil
	case <-c.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats may be asked for by any goroutine.
func (c *Client) Stats() Stats {
	return Stats{Batches: c.batches.Load(), Records: c.records.Load(), Bytes: c.bytes.Load()}
}

// Close gives up what has not ended, telling Done, and returns when the thread has ended. It may be called twice.
func (c *Client) Close() {
	c.closing.Store(true)
	c.mu.Lock()
	c.wake()
	c.mu.Unlock()
	<-c.over
}

// run is the client's thread. It ends with its goroutine: nobody else gets it with the priority or the CPUs that Open may have given it.
func (c *Client) run(started chan<- error) {
	runtime.LockOSThread()
	defer close(c.over)
	var err error
	if c.io, err = c.cfg.Open(); err != nil {
		started <- fmt.Errorf("lean client: %w", err)
		return
	}
	for _, seed := range c.cfg.Seeds {
		c.connTo(seed)
	}
	started <- nil
	for !c.closing.Load() {
		c.turn(true)
		c.hear()
		c.step()
	}
	c.end()
}

// turn hands over what is ready, waits for something to happen, and looks at the clock.
func (c *Client) turn(stepping bool) {
	for _, n := range c.conns {
		n.push()
	}
	until := c.until()
	if stepping && c.driver != nil {
		until = min(until, c.stepAt)
	}
	c.io.Wait(until)
	c.tend()
}

func (c *Client) until() int64 {
	at := int64(ring.Forever)
	if c.ruined == nil {
		at = c.leaders.deadline()
	}
	for _, n := range c.conns {
		at = min(at, n.deadline())
	}
	return at
}

// tend does what the clock asks for.
func (c *Client) tend() {
	now := c.io.Now()
	for _, n := range c.conns {
		n.tend(now)
	}
	switch {
	case c.ruined == nil:
		c.ask(now)
	case c.quiet():
		c.failAll()
	}
}

// hear takes what other goroutines ask for.
func (c *Client) hear() {
	if c.called.Load() {
		c.called.Store(false)
		c.mu.Lock()
		c.mail, c.taken = mailbox{c.taken.letters[:0], c.taken.values[:0]}, c.mail
		c.room.Broadcast()
		if c.asked != nil && c.driver == nil {
			c.driver, c.asked, c.stepAt = c.asked, nil, 0
		}
		c.waiting, c.drains = append(c.waiting, c.drains...), nil
		c.mu.Unlock()
		values := c.taken.values
		for _, l := range c.taken.letters {
			c.accept(l.partition, values[:l.count], l.handed)
			values = values[l.count:]
		}
	}
	if c.holds == 0 && len(c.waiting) > 0 {
		for _, d := range c.waiting {
			close(d)
		}
		c.waiting = c.waiting[:0]
	}
}

// step calls the driver when it is due or when records have ended.
func (c *Client) step() {
	d := c.driver
	if d == nil || c.io.Now() < c.stepAt && c.stepped == c.ended {
		return
	}
	c.stepped = c.ended
	c.driven = true
	wait, more := d.step()
	c.driven = false
	if !more {
		c.driver = nil
		close(d.done)
		return
	}
	c.stepAt = c.io.Stamp() + int64(wait)
}

// ruin ends the client but for Close: all connections end, then everything fails.
func (c *Client) ruin(err error) {
	if c.ruined != nil {
		return
	}
	c.ruined = err
	for _, n := range c.conns {
		n.end(err)
	}
}

// quiet says whether the kernel looks into nothing of ours.
func (c *Client) quiet() bool {
	for _, n := range c.conns {
		if n.state != idle {
			return false
		}
	}
	return true
}

func (c *Client) failAll() {
	for i := range c.partitions {
		c.partitions[i].failAll(c.ruined)
	}
}

// end gives up what there is.
func (c *Client) end() {
	c.ruin(ErrClosed)
	for until := c.io.Stamp() + int64(closeWait); !c.quiet() && c.io.Now() < until; {
		c.io.Wait(until)
		c.tend()
	}
	c.failAll()
	c.mu.Lock()
	c.gone = true
	mail := c.mail
	c.room.Broadcast()
	c.mu.Unlock()
	for _, v := range mail.values {
		c.cfg.Done(v, c.ruined)
	}
	_ = c.io.Close() // what it could not unmap costs memory, no record
}
