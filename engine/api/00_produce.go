package api

// Produce (key 0), versions 3-13. 7 zstd; 8 record errors; 9 flexible; 10 leader
// hints (never filled: there is one broker); 11-12 transactions, which are not
// served yet; 13 topic ids.
//
// What we do differently: acks=0, 1 and -1 are all appended alike; 1 and -1 are
// acknowledged when the batch is below the partition's high watermark, which
// with one replica is what flush.policy says. timeout.ms does not end that wait:
// there are no followers to wait for, and what is in the log stays there.

import (
	"unsafe"

	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/metrics"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/engine/shard"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/netio"
)

// produceCall is one Produce request. It is used again.
type produceCall struct {
	core  *Core
	x     *netio.Exchange
	h     wire.Header
	req   wire.ProduceRequest
	parts []producePart
	legs  []produceLeg // by core
	left  int          // legs under way
	last  *produceLeg  // that ended last; nil: no partition was found
	begin int64        // the ring's clock
	size  int          // bytes of the request
	flown metrics.Request
	wait  shard.Waiter
	next  *produceCall // free; or the connection's next that waits for a credit
}

// partsKept bounds what a call keeps for its next use.
const partsKept = 1024

type producePart struct {
	replica.Produce
	leg       *produceLeg
	route     *Route
	topic     *TopicRoute
	name      string // where there is no such topic
	id        [16]byte
	partition int32
	first     bool // of its topic
	many      int  // partitions of its topic, where first
	at        int  // of the records in the frame
}

// produceLeg is the part of a call that one core has to do.
type produceLeg struct {
	call    *produceCall
	owner   *Core
	left    int  // parts under way
	any     bool // there are parts
	parking bool // a part waits to be appended, and looks into the frame
	started int64
	last    *producePart // that ended last
	done    produceLegDone
}

// produceLegDone carries a leg's end home.
type produceLegDone struct{ leg *produceLeg }

func (c *Core) produce(x *netio.Exchange, h wire.Header, body []byte) {
	p := c.freeCalls
	if p == nil {
		p = &produceCall{legs: make([]produceLeg, len(c.Cores))}
		p.wait.Retry = p
		for i := range p.legs {
			l := &p.legs[i]
			l.call, l.owner = p, c.Cores[i]
			l.done.leg = l
		}
	} else {
		c.freeCalls, p.next = p.next, nil
	}
	p.core, p.x, p.h, p.begin, p.size, p.last = c, x, h, c.Loop.IO.Now(), len(x.Frame), nil
	c.producing++
	if err := p.req.Parse(h.Version, body); err != nil {
		p.fail("Produce version %d: %v", h.Version, err)
		return
	}
	if a := p.req.Acks; a < -1 || a > 1 {
		p.refuseAll(wire.InvalidRequiredAcks, "acks is none of -1, 0 and 1")
		return
	}
	if p.req.TransactionalID != nil {
		p.refuseAll(wire.TransactionalIDAuthorizationFailed, "transactions are not served")
		return
	}
	p.resolve()
	p.flown.Stamps[metrics.Decoded] = c.Loop.IO.Stamp()
	// A connection's requests are appended in their order: who comes behind one that
	// waits for a credit waits too.
	if k, ok := x.Conn.User.(*conn); ok && k.first != nil {
		p.hold()
		k.last.next = p
		k.last = p
		return
	}
	if !p.credited() {
		p.hold()
		k := connOf(x.Conn)
		k.first, k.last = p, p
		return
	}
	p.start()
}

// hold makes ready for a wait: receive buffers are few.
func (p *produceCall) hold() {
	p.x.Own()
	p.rebase()
}

// credited says whether every core can be sent its part now: all or none. Otherwise
// Retry is called when it may be so.
func (p *produceCall) credited() bool {
	for i := range p.legs {
		if p.legs[i].any && !p.core.Loop.HasCredits(i, 1) {
			p.core.Loop.WaitForCredit(i, &p.wait)
			return false
		}
	}
	return true
}

// Retry is shard.Waiter's: a credit came back. p is the first of its connection.
func (p *produceCall) Retry() {
	k := connOf(p.x.Conn)
	for k.first != nil && k.first.credited() {
		p = k.first
		if k.first = p.next; k.first == nil {
			k.last = nil
		}
		p.next = nil
		p.start()
	}
}

// fail closes the connection.
func (p *produceCall) fail(format string, args ...any) {
	p.x.Conn.Fail(format, args...)
	p.x.Silent()
	p.recycle()
}

// resolve lays out the parts and finds who owns them.
func (p *produceCall) resolve() {
	c := p.core
	n := p.req.PartitionCount
	if cap(p.parts) < n {
		p.parts = make([]producePart, n, n+n/2)
	}
	p.parts = p.parts[:n]
	for i := range p.legs {
		p.legs[i].any, p.legs[i].left, p.legs[i].parking = false, 0, false
	}
	routes := c.Routes.Load()
	i := 0
	for t := p.req.Topics(); t.Next(); {
		var topic *TopicRoute
		if p.h.Version >= 13 {
			topic = routes.ByID[t.ID]
		} else {
			topic = routes.ByName[string(t.Name)]
		}
		first := true
		for t.NextPartition() {
			part := &p.parts[i]
			i++
			*part = producePart{topic: topic, id: t.ID, partition: t.Partition, first: first, many: t.PartitionCount}
			first = false
			w := &part.Produce
			w.Records, w.Acks, w.Origin, w.Done = t.Records, p.req.Acks, log.Client, part
			w.BaseOffset, w.AppendTime, w.LogStart, w.Index = -1, -1, -1, -1
			if topic == nil {
				w.Code = wire.UnknownTopicOrPartition
				if p.h.Version >= 13 {
					w.Code = wire.UnknownTopicID
				} else {
					part.name = string(t.Name)
				}
				continue
			}
			if t.Partition < 0 || int(t.Partition) >= len(topic.Partitions) {
				w.Code = wire.UnknownTopicOrPartition
				continue
			}
			if code, message := p.forbids(topic, t.Records); code != 0 {
				w.Code, w.Message = code, message
				continue
			}
			if len(t.Records) > 0 {
				part.at = int(uintptr(unsafe.Pointer(unsafe.SliceData(t.Records))) - uintptr(unsafe.Pointer(unsafe.SliceData(p.x.Frame))))
			}
			part.route = &topic.Partitions[t.Partition]
			part.leg = &p.legs[part.route.Core]
			part.leg.any = true
			part.leg.left++
		}
	}
}

// forbids says what no partition of the topic would take from this request.
func (p *produceCall) forbids(t *TopicRoute, records []byte) (code int16, message string) {
	switch {
	case t.Internal:
		return wire.InvalidTopicException, "clients do not write to the broker's own topics"
	case p.h.Version < 7 && len(records) >= record.HeaderSize && record.Batch(records).Codec() == record.Zstd:
		return wire.UnsupportedCompressionType, "zstd needs Produce version 7" // KIP-110
	}
	return 0, ""
}

// start sends every core its part. There are credits for that.
func (p *produceCall) start() {
	c := p.core
	p.left = 1
	for i := range p.legs {
		if l := &p.legs[i]; l.any && i != c.Loop.ID {
			p.left++
			c.Loop.Send(i, l)
		}
	}
	if mine := &p.legs[c.Loop.ID]; mine.any {
		p.left++
		mine.run()
		if p.left == 2 && mine.left > 0 { // only this core is left, with batches that are appended or parked
			if mine.parking {
				p.hold()
			} else {
				p.release()
			}
		}
	}
	p.legEnded()
}

// rebase points the records of parts that are still to be appended into the
// frame, which may have moved.
func (p *produceCall) rebase() {
	for i := range p.parts {
		if w := &p.parts[i].Produce; p.parts[i].route != nil && len(w.Records) > 0 {
			n := len(w.Records)
			w.Records = p.x.Frame[p.parts[i].at : p.parts[i].at+n]
		}
	}
}

// release gives the frame back: everything in it has been copied into the tails.
func (p *produceCall) release() {
	for i := range p.parts {
		p.parts[i].Records = nil
	}
	p.x.ReleaseFrame()
}

// Deliver runs the leg on its core.
func (l *produceLeg) Deliver(*shard.Loop) { l.run() }

func (l *produceLeg) run() {
	c, p := l.owner, l.call
	l.started, l.last = c.Loop.IO.Stamp(), nil
	l.left++ // this function: parts may end before it does
	for i := range p.parts {
		part := &p.parts[i]
		if part.leg != l || part.route == nil {
			continue
		}
		c.Metrics.ProduceBatches++
		c.Metrics.ProduceBytes += uint64(len(part.Records))
		q := part.route.Partition
		c.Append(q, &part.Produce)
		l.parking = l.parking || q.Parked()
	}
	l.partEnded()
}

// Produced is replica.Produced's.
func (part *producePart) Produced(*replica.Produce) {
	part.leg.last = part
	part.leg.partEnded()
}

func (l *produceLeg) partEnded() {
	if l.left--; l.left > 0 {
		return
	}
	home := l.call.core
	if home == l.owner {
		l.call.last = l
		l.call.legEnded()
	} else {
		l.owner.Loop.Reply(home.Loop.ID, &l.done)
	}
}

// Deliver is a leg's end, at home.
func (d *produceLegDone) Deliver(at *shard.Loop) {
	at.Credit(d.leg.owner.Loop.ID)
	d.leg.call.last = d.leg
	d.leg.call.legEnded()
}

func (p *produceCall) legEnded() {
	if p.left--; p.left == 0 {
		p.reply()
	}
}

func (p *produceCall) refuseAll(code int16, message string) {
	p.resolve()
	for i := range p.parts {
		p.parts[i].route = nil
		p.parts[i].Code, p.parts[i].Message = code, message
	}
	p.reply()
}

func (p *produceCall) reply() {
	c, x := p.core, p.x
	v := p.h.Version
	if p.req.Acks == 0 {
		for i := range p.parts {
			if part := &p.parts[i]; part.Code != 0 { // the only way to tell the client
				if part.badBytes() {
					p.fail("Produce with acks=0: a batch for %s-%d: %s: %s", part.topic.Name, part.partition, wire.CodeName(part.Code), part.Message)
				} else {
					p.fail("Produce with acks=0: %s", wire.CodeName(part.Code))
				}
				return
			}
		}
		x.Silent()
		p.recycle()
		return
	}
	size, topics := 64, 0 // a topic without partitions is not answered
	for i := range p.parts {
		part := &p.parts[i]
		size += 128 + 2*len(part.Message) // once for the record that was refused
		if part.first {
			topics++
			size += 64 + len(part.name)
			if part.topic != nil {
				size += len(part.topic.Name)
			}
		}
		if part.Code != 0 {
			c.Metrics.ProduceErrors++
			if part.badBytes() {
				x.Conn.Say("a batch for %s-%d was refused: %s: %s", part.topic.Name, part.partition, wire.CodeName(part.Code), part.Message)
			}
		}
	}
	head := c.Loop.IO.Pool().Get(size)
	if head == nil {
		p.fail("no memory for a reply of %d bytes", size)
		return
	}
	b := wire.AppendResponseHeader(head[:0], wire.KeyProduce, v, p.h.CorrelationID)
	b = wire.AppendProduceStart(b, v, topics)
	for i := range p.parts {
		part := &p.parts[i]
		if part.first {
			if i > 0 {
				b = wire.AppendProduceTopicEnd(b, v)
			}
			if part.topic != nil {
				b = wire.AppendProduceTopic(b, v, part.topic.NameBytes, part.topic.ID, part.many)
			} else {
				b = wire.AppendProduceTopic(b, v, []byte(part.name), part.id, part.many)
			}
		}
		r := wire.ProducePartition{
			Partition: part.partition, ErrorCode: part.Code, BaseOffset: part.BaseOffset,
			LogAppendTime: part.AppendTime, LogStart: part.LogStart, Message: part.Message,
		}
		if part.Index >= 0 {
			r.RecordErrors = []wire.RecordError{{Index: part.Index, Message: part.Message}}
		}
		b = wire.AppendProducePartition(b, v, &r)
	}
	if len(p.parts) > 0 {
		b = wire.AppendProduceTopicEnd(b, v)
	}
	b = wire.AppendProduceEnd(b, v, 0, nil)
	if len(b) > cap(head) {
		panic("BUG: api: produce: the reply outgrew its buffer")
	}
	wire.PutSize(b, 0)
	now := c.Loop.IO.Stamp()
	c.Metrics.ProduceTime.Record(now - p.begin)
	p.fly(now)
	x.Reply(append(x.Pieces(), netio.Piece{Mem: b}), head, nil)
	p.recycle()
}

// fly tells the flight recorder of a request that is answered without an error.
func (p *produceCall) fly(now int64) {
	if p.last == nil || p.last.last == nil || p.last.last.Code != 0 {
		return
	}
	l := p.last
	part := l.last
	f := &p.flown
	f.Topic, f.Partition, f.Parts, f.Bytes = part.topic.Name, part.partition, int32(len(p.parts)), int64(p.size)
	f.Core, f.Owner = p.core.Loop.ID, l.owner.Loop.ID
	s := &f.Stamps
	s[metrics.Received], s[metrics.Started], s[metrics.Appended] = p.begin, l.started, part.Appended
	s[metrics.Submitted], s[metrics.Flushed], s[metrics.Acknowledged], s[metrics.Replied] = part.Submitted, part.Flushed, part.Acknowledged, now
	p.core.Metrics.Flight.Record(f)
}

// badBytes says that what the client sent is no batch that we could ever take. A
// bomb is among those that are too large.
func (part *producePart) badBytes() bool {
	switch part.Code {
	case wire.CorruptMessage, wire.InvalidRecord, wire.UnsupportedCompressionType, wire.MessageTooLarge:
		return part.topic != nil
	}
	return false
}

func (p *produceCall) recycle() {
	c := p.core
	clear(p.parts)
	if cap(p.parts) > partsKept {
		p.parts = nil
	}
	p.x, p.req = nil, wire.ProduceRequest{}
	c.producing--
	p.next = c.freeCalls
	c.freeCalls = p
}
