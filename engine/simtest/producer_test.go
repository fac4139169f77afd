package simtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// producer is a producer as clients have them: several requests in flight, and what
// has no answer is sent again, the same bytes in the same order.
type producer struct {
	*client
	idempotent bool
	acks       int16
	id         int64 // -1: to be asked for
	lanes      []*lane
	builder    record.Builder
	number     int
	inFlight   int
	ready      bool
}

// lane is what a producer has for one partition.
type lane struct {
	name        string
	id          [16]byte
	index       int
	part        *part
	sequence    int32
	queue       []*batch // not answered, in order
	sent        int      // of these, on this connection
	outstanding int      // answers to come, errors included
	errored     bool     // everything is sent again once they have come
	acked       bool     // something was, under this producer id
	ackedLife   int
	hole        bool  // the log took one behind one that it had refused: it had lost this producer
	again       int64 // not before
	gone        bool  // its topic was deleted
}

const (
	requestsMax = 5
	queueMax    = 8
)

func (r *run) addProducer(name string, idempotent bool, acks int16) {
	p := &producer{client: r.client(name), idempotent: idempotent, acks: acks, id: -1}
	r.producers = append(r.producers, p)
	p.After(r.between(0, 100*time.Millisecond), func() {
		p.redial(p.up, func(error) { p.ready = false })
		p.work()
	})
}

// pending is how many batches have no answer.
func (p *producer) pending() int {
	n := 0
	for _, l := range p.lanes {
		n += len(l.queue)
	}
	return n
}

func (p *producer) where() string {
	s := fmt.Sprintf("ready %v, %d requests in flight", p.ready, p.inFlight)
	for _, l := range p.lanes {
		if len(l.queue) > 0 {
			s += fmt.Sprintf("; %s-%d: %d, %d sent, %d outstanding, errored %v", l.name, l.index, len(l.queue), l.sent, l.outstanding, l.errored)
		}
	}
	return s
}

// up begins on a new connection: everything without an answer is sent again.
func (p *producer) up() {
	p.inFlight = 0
	for _, l := range p.lanes {
		if !p.idempotent && p.below(2) == 0 { // it gives up: nobody knows what became of these
			l.queue = l.queue[l.sent:]
		}
		l.sent, l.outstanding, l.errored, l.again = 0, 0, false, 0
	}
	if !p.idempotent || p.id >= 0 {
		p.refresh()
		return
	}
	q := kmsg.NewPtrInitProducerIDRequest()
	q.Version, q.TransactionTimeoutMillis = p.version(wire.KeyInitProducerID, 0), 60000
	p.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		if r := a.(*kmsg.InitProducerIDResponse); r.ErrorCode == 0 {
			p.run.model.producerID(r.ProducerID)
			p.id = r.ProducerID
			p.refresh()
			return
		}
		p.failed(errAgain)
	})
}

// refresh finds the topics.
func (p *producer) refresh() {
	p.metadata(func(found []*topic) {
		p.lanes = slices.DeleteFunc(p.lanes, func(l *lane) bool {
			l.gone = l.part.topic.deleteAsked && !slices.Contains(found, l.part.topic)
			return l.gone
		})
		for _, t := range found {
			for _, part := range t.parts {
				if !slices.ContainsFunc(p.lanes, func(l *lane) bool { return l.part == part }) {
					p.lanes = append(p.lanes, &lane{name: t.name, id: t.id, index: part.index, part: part})
				}
			}
		}
		p.ready = true
		p.pump()
	})
}

// work makes batches, now and then.
func (p *producer) work() {
	if p.stopped {
		return
	}
	if !p.run.loading {
		p.pump()
		p.After(20*time.Millisecond, p.work)
		return
	}
	if p.ready && p.below(30) == 0 {
		p.refresh()
	}
	if len(p.lanes) > 0 {
		for range 1 + p.below(4) {
			l := p.lanes[p.below(len(p.lanes))]
			for range 1 + p.below(2) {
				if len(l.queue) < queueMax {
					p.make(l)
				}
			}
		}
		p.pump()
	}
	p.After(p.think(), p.work)
}

// make makes a batch.
func (p *producer) make(l *lane) {
	r := p.run
	if p.idempotent && p.id < 0 {
		return
	}
	p.number++
	b := &batch{producer: p, lane: l, number: p.number, count: 1 + p.below(8), idempotent: p.idempotent, pid: p.id}
	size := 10 + p.below(300)
	switch p.below(40) {
	case 0:
		size = 5 << 10
	case 1:
		size, b.count = 40<<10, 1
	}
	codec := record.None
	if p.below(4) == 0 {
		codec = record.Codec(p.below(int(record.Zstd) + 1))
	}
	p.builder.Begin(nil, codec)
	if p.idempotent {
		p.builder.SetProducer(p.id, 0, l.sequence, false)
		l.sequence = record.AddSequence(l.sequence, int32(b.count))
	}
	for i := range b.count {
		value := fmt.Appendf(nil, "%s/%d/%d:", p.name, p.number, i)
		for len(value) < size {
			value = append(value, byte(p.IO.Random()))
		}
		p.builder.Add(p.IO.WallMillis(), fmt.Appendf(nil, "%d", p.number%17), value)
	}
	raw := record.Batch(p.builder.Finish())
	if !p.idempotent && p.acks != 0 && p.below(50) == 0 { // damaged on its way
		raw[len(raw)-1] ^= 0xff
		b.refused = true
	}
	b.bytes, b.content, b.sentAt, b.sentLife = raw, contentOf(raw), r.world.Now(), r.broker.lives
	if other := r.model.batches[b.content]; other != nil {
		r.fail("%v and %v cannot be told apart", b, other)
	}
	r.model.batches[b.content] = b
	l.queue = append(l.queue, b)
}

// pump sends what may be sent.
func (p *producer) pump() {
	for p.ready && p.conn != nil && p.inFlight < requestsMax && p.produce() {
	}
}

// produce sends one request, with a batch for up to three partitions.
func (p *producer) produce() bool {
	var lanes []*lane
	now := p.run.world.Now()
	ids := p.below(4) == 0
	at := 0
	if len(p.lanes) > 0 {
		at = p.below(len(p.lanes))
	}
	for i := range p.lanes {
		l := p.lanes[(at+i)%len(p.lanes)]
		most := requestsMax
		if p.idempotent && !l.acked {
			most = 1 // the first one says where the sequence begins
		}
		if l.errored || l.again > now || l.sent == len(l.queue) || l.outstanding >= most {
			continue
		}
		lanes = append(lanes, l)
		ids = ids || fleeting(l.name)
		if len(lanes) == 3 {
			break
		}
	}
	if len(lanes) == 0 {
		return false
	}
	q := kmsg.NewPtrProduceRequest()
	q.Acks, q.TimeoutMillis = p.acks, 1000
	zstd := slices.ContainsFunc(lanes, func(l *lane) bool { return record.Batch(l.queue[l.sent].bytes).Codec() == record.Zstd })
	switch {
	case ids:
		q.Version = 13
	case zstd: // older versions must not have it
		q.Version = 7 + int16(p.below(6))
	default:
		q.Version = 3 + int16(p.below(10))
	}
	slices.SortStableFunc(lanes, func(a, b *lane) int { return slices.Compare(a.id[:], b.id[:]) })
	sent := make([]*batch, len(lanes))
	for i, l := range lanes {
		if i == 0 || lanes[i-1].id != l.id {
			t := kmsg.NewProduceRequestTopic()
			t.Topic, t.TopicID = l.name, l.id
			q.Topics = append(q.Topics, t)
		}
		b := l.queue[l.sent]
		sent[i] = b
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = int32(l.index), b.bytes
		t := &q.Topics[len(q.Topics)-1]
		t.Partitions = append(t.Partitions, part)
		l.sent++
		l.outstanding++
	}
	if p.acks == 0 {
		for _, l := range lanes {
			l.queue, l.sent, l.outstanding = l.queue[1:], 0, 0
		}
		p.conn.Raw(wire.KeyProduce, q.Version, q.AppendTo(nil), nil)
		return true
	}
	p.inFlight++
	p.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return // up sends it again
		}
		p.inFlight--
		p.answered(q, a.(*kmsg.ProduceResponse), lanes, sent)
	})
	return true
}

func (p *producer) answered(q *kmsg.ProduceRequest, a *kmsg.ProduceResponse, lanes []*lane, sent []*batch) {
	at := 0
	for _, t := range a.Topics {
		for _, x := range t.Partitions {
			if at == len(lanes) {
				p.run.fail("%s: Produce version %d: an answer for more than was asked: %+v", p.name, q.Version, a)
			}
			l := lanes[at]
			if int(x.Partition) != l.index || q.Version < 13 && t.Topic != l.name || q.Version >= 13 && t.TopicID != l.id {
				p.run.fail("%s: Produce version %d: an answer for %s-%d, want %s-%d", p.name, q.Version, t.Topic, x.Partition, l.name, l.index)
			}
			if !p.result(l, sent[at], x.ErrorCode, x.BaseOffset) {
				return
			}
			at++
		}
	}
	if at < len(lanes) {
		p.run.fail("%s: Produce version %d: answers for %d partitions of %d", p.name, q.Version, at, len(lanes))
	}
	p.pump()
}

// result is the answer for one batch. It says no when the connection is given up.
func (p *producer) result(l *lane, b *batch, code int16, base int64) bool {
	r := p.run
	l.outstanding--
	if l.gone {
		return true
	}
	at := slices.Index(l.queue, b)
	if at < 0 {
		r.fail("%s: an answer for %v, which has one", p.name, b)
	}
	drop := func() {
		l.queue = slices.Delete(l.queue, at, at+1)
		l.sent = max(0, l.sent-1)
		b.bytes = nil
	}
	switch {
	case code == 0 && b.refused:
		r.fail("%v-%d: %v is acknowledged, and was damaged", l.name, l.index, b)
	case code == 0:
		r.model.ack(l.part, b, base, p.life)
		l.acked, l.ackedLife = true, p.life
		l.hole = l.hole || l.errored
		drop()
	case code == wire.CorruptMessage && b.refused:
		drop()
	case code == wire.CorruptMessage:
		r.fail("%v: refused as damaged: %s", b, wire.CodeName(code))
	case code == wire.UnknownTopicOrPartition || code == wire.UnknownTopicID:
		if !l.part.topic.deleteAsked {
			r.fail("%s-%d: %s, and nobody deleted it", l.name, l.index, wire.CodeName(code))
		}
		p.lanes = slices.DeleteFunc(p.lanes, func(o *lane) bool { return o == l })
		l.queue, l.gone = nil, true
	case code == wire.OutOfOrderSequenceNumber || code == wire.InvalidProducerEpoch || code == wire.UnknownProducerID:
		if !l.errored && !l.hole && l.acked && l.ackedLife == r.broker.lives && b.sentLife == r.broker.lives && at == 0 {
			r.fail("%s-%d: %v: %s, and the broker has not restarted since the batch before was acknowledged", l.name, l.index, b, wire.CodeName(code))
		}
		if l.errored {
			break
		}
		if !p.idempotent {
			r.fail("%v: %s", b, wire.CodeName(code))
		}
		// What had no answer may be in the log: a new id, and nothing is sent again.
		r.note("%s begins anew: %s for %v", p.name, wire.CodeName(code), b)
		p.id = -1
		for _, l := range p.lanes {
			l.queue, l.sequence, l.acked, l.hole, l.sent = nil, 0, false, false, 0
		}
		p.failed(errAgain)
		return false
	case !wire.Retriable(code):
		r.fail("%s-%d: %v: %s", l.name, l.index, b, wire.CodeName(code))
	default:
		l.errored = true
	}
	if l.errored && l.outstanding == 0 {
		l.errored, l.sent, l.again = false, 0, r.world.Now()+int64(50*time.Millisecond)
	}
	return true
}
