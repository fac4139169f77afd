package lean

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
)

type batchState uint8

const (
	queued batchState = iota
	inFlight
	ended
)

// batch is the records of one Send, encoded as a partition of a produce request: they stay as they are until they are acknowledged.
type batch struct {
	partition *partition
	state     batchState
	values    [][]byte // the caller's
	block     []byte   // of the pool
	blob      []byte   // in block: partition, length, records, end of the partition
	bytes     int      // of the records, without the batch's header

	handed, taken int64 // when Send was called, when there was memory
	made, written int64 // of its first request; 0: not yet
	blind         int64 // the partition's blind time when taken; from made on: how much of the wait was that
	next          *batch
}

// partition keeps batches in the order of Send: pending[head:next] have been in a request, some of them have ended.
type partition struct {
	c     *Client
	index int32
	conn  *conn // its leader's; nil: asked for

	pending    []*batch
	head, next int
	inFlight   int
	holding    bool // start again from head once nothing is in flight
	known      bool // the broker has taken a batch: it knows where the sequence is
	waits      bool // in conn.waiting
	sequence   int32

	blindSince int64 // it has no leader with a connection since then; 0: it has
	blindTotal int64 // how long it had none before, ns
}

// blind is how long the partition had no usable leader until now, ns.
func (p *partition) blind(now int64) int64 {
	if p.blindSince != 0 {
		return p.blindTotal + now - p.blindSince
	}
	return p.blindTotal
}

func (p *partition) loseSight(now int64) {
	if p.blindSince == 0 {
		p.blindSince = now
	}
}

func (p *partition) see(now int64) {
	p.blindTotal, p.blindSince = p.blind(now), 0
}

// accept takes records, and waits for memory where there is none.
func (c *Client) accept(index int32, values [][]byte, handed int64) {
	p := &c.partitions[index]
	size := c.blobMax(values)
	block := c.memory(size)
	if c.ruined != nil || block == nil {
		err := c.ruined
		if block != nil {
			c.io.Pool().Put(block)
		} else if err == nil {
			err = fmt.Errorf("partition %d: a batch of %d bytes, in all of %d bytes for batches", index, size, c.batchMemory())
		}
		for _, v := range values {
			c.cfg.Done(v, err)
		}
		return
	}
	b := c.freeBatch
	if b == nil {
		b = new(batch)
	} else {
		c.freeBatch = b.next
	}
	b.partition, b.state, b.next = p, queued, nil
	b.values = append(b.values[:0], values...)
	b.handed, b.taken, b.made, b.written = handed, c.io.Stamp(), 0, 0
	b.blind = p.blind(b.taken)
	p.encode(b, block)
	c.holds += len(values)
	p.append(b)
	p.schedule()
}

// blobMax bounds what a batch of these values takes, also where a codec makes it larger (snappy by a sixth at most).
func (c *Client) blobMax(values [][]byte) int {
	const each = 5 + 1 + 10 + 5 + 1 + 5 + 1 // length, attributes, times, offset, key, value length, headers
	n := wire.ProduceRecordsMax + record.HeaderSize + len(wire.ProducePartitionEnd)
	for _, v := range values {
		n += each + len(v)
	}
	if c.cfg.Codec != record.None {
		n += n/6 + 1024
	}
	return n
}

// batchMemory is how much of the pool may be batches; the rest is for requests.
func (c *Client) batchMemory() int { return c.io.Pool().Size() / 8 * 7 }

// memory waits for size bytes; nil: the client was ended, or there can never be as many.
func (c *Client) memory(size int) []byte {
	for pool := c.io.Pool(); c.ruined == nil && !c.closing.Load(); {
		if pool.Used()+size <= c.batchMemory() {
			if b := pool.Get(size); b != nil {
				return b
			}
		}
		if c.holds == 0 {
			return nil
		}
		c.turn(false)
	}
	if c.ruined == nil {
		c.ruin(ErrClosed)
	}
	return nil
}

// encode writes the batch into block, so that what stands before the records ends where they begin.
func (p *partition) encode(b *batch, block []byte) {
	c := p.c
	build := &c.builder
	build.Begin(block[:wire.ProduceRecordsMax], c.cfg.Codec)
	if c.cfg.Idempotent {
		build.SetProducer(c.producerID, c.epoch, p.sequence, false)
		p.sequence = record.AddSequence(p.sequence, int32(len(b.values)))
	}
	at := c.io.WallMillis()
	for _, v := range b.values {
		build.Add(at, nil, v)
	}
	out := build.Finish()
	if len(out)+len(wire.ProducePartitionEnd) > cap(block) || &out[0] != &block[0] {
		panic(fmt.Sprintf("BUG: partition %d: %d records take %d bytes, and %d were reckoned", p.index, len(b.values), len(out), len(block)))
	}
	size := len(out) - wire.ProduceRecordsMax
	var head [wire.ProduceRecordsMax]byte
	h := wire.AppendProduceRecords(head[:0], p.index, size)
	from := wire.ProduceRecordsMax - len(h)
	copy(out[from:], h)
	b.block, b.blob = block, append(out, wire.ProducePartitionEnd...)[from:]
	b.bytes = size - record.HeaderSize
}

func (p *partition) append(b *batch) {
	if p.head == len(p.pending) {
		p.pending, p.head, p.next = p.pending[:0], 0, 0
	} else if p.head >= 64 && p.head*2 >= len(p.pending) {
		n := copy(p.pending, p.pending[p.head:])
		p.pending, p.next, p.head = p.pending[:n], p.next-p.head, 0
	}
	p.pending = append(p.pending, b)
}

// peek is the next batch to be sent, or nil.
func (p *partition) peek() *batch {
	for p.next < len(p.pending) {
		if b := p.pending[p.next]; b.state == queued {
			return b
		}
		p.next++
	}
	return nil
}

// schedule queues the partition at its leader's connection if it has something to send. With sequences the first batch goes alone:
// Kafka takes any sequence from a producer that it does not know, so a second one that is taken where the first was refused, since
// the partition was just being made, would leave no place for the first.
func (p *partition) schedule() {
	if p.c.cfg.Idempotent && !p.known && p.inFlight > 0 {
		return
	}
	if !p.waits && !p.holding && p.conn != nil && p.peek() != nil {
		p.waits = true
		p.conn.waiting = append(p.conn.waiting, p)
	}
}

// take takes the next batch into a request.
func (p *partition) take(now int64) *batch {
	b := p.peek()
	b.state = inFlight
	p.next++
	p.inFlight++
	if b.made == 0 {
		b.made, b.blind = now, p.blind(now)-b.blind
	}
	return b
}

// back takes a batch back out of flight, to be sent again.
func (p *partition) back(b *batch) {
	b.state = queued
	p.inFlight--
	p.holding = true
}

// settle decides by what the broker said of a batch.
func (p *partition) settle(b *batch, code int16, message []byte, now int64) {
	c := p.c
	oldest := p.pending[p.head] == b
	switch {
	case code == 0 || code == wire.DuplicateSequenceNumber:
		p.inFlight--
		p.known = true
		p.done(b, nil, now)
	case wire.Retriable(code) || code == wire.OutOfOrderSequenceNumber && c.cfg.Idempotent && !oldest: // the one before it is to be sent again
		p.back(b)
		p.leave(now)
		c.leaders.want(now + int64(askAgain))
	default:
		err := fmt.Errorf("topic %s, partition %d: %s %s", c.cfg.Topic, p.index, wire.CodeName(code), message)
		if c.cfg.Idempotent {
			p.back(b)
			c.ruin(err)
			return
		}
		p.inFlight--
		p.done(b, err, now)
	}
	p.resume()
}

// resume starts again from the oldest batch once nothing is in flight.
func (p *partition) resume() {
	if p.holding && p.inFlight == 0 {
		p.holding, p.next = false, p.head
	}
	p.schedule()
}

// leave forgets who leads the partition.
func (p *partition) leave(now int64) {
	p.loseSight(now)
	if p.waits {
		p.conn.forget(p)
	}
	p.conn = nil
}

// done tells how a batch ended, and drops from the front what has.
func (p *partition) done(b *batch, err error, now int64) {
	c := p.c
	if err == nil && c.cfg.Waited != nil {
		w := Waits{
			Buffer: time.Duration(b.taken - b.handed), Metadata: time.Duration(b.blind), Slot: time.Duration(b.made - b.taken - b.blind),
			Write: time.Duration(b.written - b.made), Flight: time.Duration(now - b.written),
		}
		for _, v := range b.values {
			c.cfg.Waited(v, w)
		}
	}
	for _, v := range b.values {
		c.cfg.Done(v, err)
	}
	c.holds -= len(b.values)
	c.ended += uint64(len(b.values))
	clear(b.values)
	c.io.Pool().Put(b.block)
	b.state, b.block, b.blob = ended, nil, nil
	for p.head < len(p.pending) && p.pending[p.head].state == ended {
		b := p.pending[p.head]
		p.pending[p.head] = nil
		p.head++
		b.next, c.freeBatch = c.freeBatch, b
	}
	p.next = max(p.next, p.head)
}

// failAll ends all batches. Nothing is in flight.
func (p *partition) failAll(err error) {
	for p.head < len(p.pending) {
		i := p.head
		for p.pending[i].state == ended {
			i++
		}
		p.done(p.pending[i], err, 0)
	}
}
