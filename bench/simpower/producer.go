package simpower

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/simclient"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	requestsMax  = 5 // in flight on a connection, as idempotent producers have them
	queueMax     = 8 // batches of one partition without an answer
	retryBackoff = 50 * time.Millisecond
	redialMin    = 10 * time.Millisecond
)

var errAgain = errors.New("the connection is of no use to go on")

// producer is an idempotent producer: several requests in flight, and what has no
// answer is sent again, the same bytes in the same order, over all lives of the broker.
type producer struct {
	*simclient.Machine
	history  *history
	number   int
	random   *rand.Rand
	conn     *simclient.Conn // nil: none
	id       int64           // -1: to be asked for
	ready    bool
	inFlight int
	lanes    []*lane
	builder  record.Builder

	loading bool
	left    int // batches it makes in all its lives; -1: no end
	failed  int64
}

// lane is what a producer has for one partition.
type lane struct {
	partition   int
	next        uint64 // the ledger's sequence of the next record
	sequence    int32  // the protocol's
	queue       []*batch
	sent        int // of these, on this connection
	outstanding int // answers to come, errors included
	errored     bool
	acked       bool  // something was, under this producer id: the log knows where the sequence is
	again       int64 // not before
}

// batch is one that has no answer.
type batch struct {
	bytes  []byte
	values [][]byte
}

func newProducer(h *history, number int) *producer {
	p := &producer{
		Machine: simclient.New(h.world, nameOf("producer", number), clientIP(1+number)),
		history: h, number: number, id: -1, left: -1,
		random: rand.New(rand.NewPCG(h.world.Seed(), uint64(1000+number))),
	}
	for i := range h.Partitions {
		p.lanes = append(p.lanes, &lane{partition: i})
	}
	p.After(p.pace(), p.dial)
	p.After(p.pace(), p.work)
	return p
}

// pace is the time between two pieces of work.
func (p *producer) pace() time.Duration {
	return time.Duration(1 + p.random.Int64N(2*int64(p.history.pace)))
}

// pending is how many batches have no answer.
func (p *producer) pending() int {
	n := 0
	for _, l := range p.lanes {
		n += len(l.queue)
	}
	return n
}

// dial connects until it works. On a new connection everything without an answer is sent again.
func (p *producer) dial() {
	p.conn = p.Dial(simclient.Config{
		Addr: p.history.broker.addr(), ClientID: p.Host.Name(),
		Up:     p.up,
		Closed: func() { p.conn, p.ready = nil, false },
		Down:   func(error) { p.After(redialMin+p.pace(), p.dial) },
		Fail:   p.history.fail,
	})
}

func (p *producer) up() {
	p.inFlight = 0
	for _, l := range p.lanes {
		l.sent, l.outstanding, l.errored, l.again = 0, 0, false, 0
	}
	if p.id >= 0 {
		p.ready = true
		p.pump()
		return
	}
	q := kmsg.NewPtrInitProducerIDRequest()
	q.Version, q.TransactionTimeoutMillis = 4, 60000
	p.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return
		}
		if r := a.(*kmsg.InitProducerIDResponse); r.ErrorCode == 0 {
			p.id, p.ready = r.ProducerID, true
			p.pump()
			return
		}
		p.After(redialMin, func() {
			if p.conn != nil && !p.ready {
				p.conn.End(errAgain)
			}
		})
	})
}

// work makes batches, now and then.
func (p *producer) work() {
	if p.loading && p.ready && p.left != 0 {
		l := p.lanes[p.random.IntN(len(p.lanes))]
		if p.left > 0 { // few: all partitions get some
			l = p.lanes[p.left%len(p.lanes)]
		}
		if len(l.queue) < queueMax {
			p.make(l)
		}
	}
	p.pump()
	p.After(p.pace(), p.work)
}

// make makes a batch.
func (p *producer) make(l *lane) {
	p.left--
	h := p.history
	b := &batch{}
	p.builder.Begin(nil, record.None)
	p.builder.SetProducer(p.id, 0, l.sequence, false)
	for range 1 + p.random.IntN(h.batchMax) {
		value := make([]byte, bench.PowerValueMin+p.random.IntN(h.valueMax))
		h.ledger.Fill(value, p.number, l.partition, l.next, p.random)
		p.builder.Add(p.IO.WallMillis(), nil, value)
		b.values = append(b.values, value)
		h.sizes[recordKey{p.number, l.partition, l.next}] = len(value)
		l.next++
	}
	b.bytes = p.builder.Finish()
	l.sequence = record.AddSequence(l.sequence, int32(len(b.values)))
	l.queue = append(l.queue, b)
}

// pump sends what may be sent.
func (p *producer) pump() {
	for p.ready && p.inFlight < requestsMax && p.produce() {
	}
}

// produce sends one request, with a batch for each of up to three partitions.
func (p *producer) produce() bool {
	var lanes []*lane
	q := kmsg.NewPtrProduceRequest()
	q.Version, q.Acks, q.TimeoutMillis = 9, -1, 1000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	var sent []*batch
	for i, at := 0, p.random.IntN(len(p.lanes)); i < len(p.lanes) && len(lanes) < 3; i++ {
		l := p.lanes[(at+i)%len(p.lanes)]
		most := requestsMax
		if !l.acked {
			most = 1 // the first one says where the sequence begins
		}
		if l.errored || l.again > p.IO.Now() || l.sent == len(l.queue) || l.outstanding >= most {
			continue
		}
		b := l.queue[l.sent]
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = int32(l.partition), b.bytes
		t.Partitions = append(t.Partitions, part)
		lanes, sent = append(lanes, l), append(sent, b)
		l.sent++
		l.outstanding++
	}
	if len(lanes) == 0 {
		return false
	}
	q.Topics = append(q.Topics, t)
	p.inFlight++
	p.conn.Call(q, func(a kmsg.Response, err error) {
		if err != nil {
			return // up sends it again
		}
		p.inFlight--
		p.answered(a.(*kmsg.ProduceResponse), lanes, sent)
	})
	return true
}

func (p *producer) answered(a *kmsg.ProduceResponse, lanes []*lane, sent []*batch) {
	if len(a.Topics) != 1 || len(a.Topics[0].Partitions) != len(lanes) {
		p.history.fail("an answer for other partitions than were asked: %+v", a)
	}
	for i, x := range a.Topics[0].Partitions {
		if int(x.Partition) != lanes[i].partition {
			p.history.fail("an answer for partition %d, want %d", x.Partition, lanes[i].partition)
		}
		if !p.result(lanes[i], sent[i], x.ErrorCode) {
			return
		}
	}
	p.pump()
}

// result is the answer for one batch. It says no when the connection is given up.
func (p *producer) result(l *lane, b *batch, code int16) bool {
	h := p.history
	l.outstanding--
	switch {
	case code == 0:
		at := slices.Index(l.queue, b)
		if at < 0 {
			h.fail("an answer for a batch that has one")
		}
		l.queue = slices.Delete(l.queue, at, at+1)
		l.sent--
		l.acked = true
		for _, v := range b.values {
			h.ledger.Ack(v)
		}
	case code == wire.OutOfOrderSequenceNumber || code == wire.UnknownProducerID || code == wire.InvalidProducerEpoch:
		if l.errored { // it came behind one that was refused
			break
		}
		h.row.Forgotten++
		if h.row.Promises {
			h.find("partition %d: the log has forgotten producer %d: %s", l.partition, p.number, wire.CodeName(code))
		}
		p.anew()
		return false
	case wire.Retriable(code):
		l.errored = true
	default:
		h.fail("partition %d: a batch is refused: %s", l.partition, wire.CodeName(code))
	}
	if l.errored && l.outstanding == 0 {
		l.errored, l.sent, l.again = false, 0, h.world.Now()+int64(retryBackoff)
	}
	return true
}

// anew takes another producer id, as clients do that the log has forgotten. What had no
// answer may be in the log: it is given up.
func (p *producer) anew() {
	p.id = -1
	for _, l := range p.lanes {
		for _, b := range l.queue {
			p.failed += int64(len(b.values))
		}
		l.queue, l.sequence, l.acked, l.sent = nil, 0, false, 0
	}
	p.conn.End(errAgain)
}
