package lean

import (
	"fmt"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	requestHead    = 1024             // bytes: header and topic, and what ends the request
	requestBatches = ring.IOVMax - 2  // besides head and end
	requestBytes   = 8 << 20          // after which no further batch is put into a request
	produceTimeout = int32(30 * 1000) // ms: how long the broker may wait for its replicas
)

// request is one request from its making to its answer.
type request struct {
	key, version int16
	correlation  int32
	until        int64 // it is answered by then
	memory       []byte
	bufs         [ring.IOVMax][]byte
	count, at    int // of bufs; those before at are written

	batches []*batch            // of a produce request
	then    func(answer []byte) // of another one; not called where the connection ends

	early    []byte // its answer, where that came before the end of its write was told
	hasEarly bool

	next *request
}

// newRequest is nil where there is no memory: something is in flight, then.
func (c *Client) newRequest() *request {
	r := c.freeReq
	if r != nil {
		c.freeReq = r.next
		r.next = nil
		return r
	}
	memory := c.io.Pool().Get(requestHead)
	if memory == nil {
		return nil
	}
	return &request{memory: memory}
}

func (c *Client) putRequest(r *request) {
	clear(r.bufs[:])
	clear(r.batches)
	if cap(r.memory) > requestHead { // a cold one
		c.io.Pool().Put(r.memory)
		return
	}
	*r = request{memory: r.memory, bufs: r.bufs, batches: r.batches[:0], early: r.early[:0], next: c.freeReq}
	c.freeReq = r
}

// ask queues a request other than Produce.
func (n *conn) ask(q kmsg.Request, then func(answer []byte)) {
	n.correlation++
	b := wire.AppendRequest(nil, n.correlation, n.c.cfg.ClientID, q)
	memory := n.c.io.Pool().Get(len(b))
	if memory == nil {
		n.end(fmt.Errorf("no memory for a request of %d bytes", len(b)))
		return
	}
	copy(memory, b)
	r := &request{key: q.Key(), version: q.GetVersion(), correlation: n.correlation, memory: memory, count: 1, then: then}
	r.bufs[0] = memory
	n.asks = append(n.asks, r)
}

// call is ask with the answer parsed; an answer that cannot be read ends the connection.
func (n *conn) call(q kmsg.Request, then func(kmsg.Response)) {
	n.ask(q, func(answer []byte) {
		a := q.ResponseKind()
		a.SetVersion(q.GetVersion())
		if err := a.ReadFrom(answer); err != nil {
			n.end(fmt.Errorf("%s version %d: the answer cannot be read: %w", wire.Name(q.Key()), q.GetVersion(), err))
			return
		}
		then(a)
	})
}

// produce makes a request of the partitions that wait, one batch of each; nil: none can be made.
func (n *conn) produce() *request {
	c := n.c
	r := c.newRequest()
	if r == nil {
		return nil
	}
	n.correlation++
	r.key, r.version, r.correlation = wire.KeyProduce, n.produceVersion, n.correlation
	now, size := c.io.Stamp(), 0
	for _, p := range n.waiting[:min(len(n.waiting), requestBatches)] {
		b := p.peek()
		if len(r.batches) > 0 && size+len(b.blob) > requestBytes {
			break
		}
		size += len(b.blob)
		r.batches = append(r.batches, p.take(now))
		r.bufs[len(r.batches)] = b.blob
		p.waits = false
		p.schedule() // behind the others, for the next request
	}
	n.waiting = n.waiting[:copy(n.waiting, n.waiting[len(r.batches):])]
	r.count = len(r.batches) + 2
	end := append(r.memory[:0], wire.ProduceRequestEnd...)
	head := wire.AppendRequestHeader(r.memory[len(end):len(end)], r.key, r.version, r.correlation, c.cfg.ClientID)
	head = wire.AppendProduceHead(head, c.cfg.Acks, produceTimeout, c.cfg.Topic, len(r.batches))
	wire.PutSize(head, size+len(end))
	r.bufs[0], r.bufs[r.count-1] = head, end
	return r
}

// wrote notes that a produce request has left.
func (c *Client) wrote(r *request, now int64) {
	for _, b := range r.batches {
		if b.written != 0 {
			continue
		}
		b.written = now
		c.batches.Add(1)
		c.records.Add(int64(len(b.values)))
		c.bytes.Add(int64(b.bytes))
	}
}

// acknowledged takes the answer to a produce request. The error is of an answer that no broker may give.
func (n *conn) acknowledged(r *request, answer []byte) error {
	c := n.c
	n.produces--
	if err := c.response.Parse(answer); err != nil {
		return n.unsettled(r, err)
	}
	if len(c.response.Partitions) != len(r.batches) {
		return n.unsettled(r, fmt.Errorf("an answer for %d partitions to a request for %d", len(c.response.Partitions), len(r.batches)))
	}
	now := c.io.Stamp()
	if ms := c.response.ThrottleMillis; ms > 0 {
		n.mutedUntil = now + int64(ms)*1e6
	}
	for i := range c.response.Partitions {
		a := &c.response.Partitions[i]
		for j := i; ; j++ { // brokers answer in the order of the request, and need not
			if j == len(r.batches) {
				return n.unsettled(r, fmt.Errorf("an answer for partition %d, which was not asked for", a.Partition))
			}
			if r.batches[j].partition.index == a.Partition {
				r.batches[i], r.batches[j] = r.batches[j], r.batches[i]
				break
			}
		}
		b := r.batches[i]
		r.batches[i] = nil
		b.partition.settle(b, a.ErrorCode, a.Message, now)
	}
	c.putRequest(r)
	return nil
}

// unsettled puts a request back into flight that was answered wrongly: the end of the connection takes its batches back.
func (n *conn) unsettled(r *request, err error) error {
	n.produces++
	n.flight = append([]*request{r}, n.flight...)
	return err
}

// greet asks what the broker speaks.
func (n *conn) greet() {
	q := kmsg.NewPtrApiVersionsRequest()
	q.Version, q.ClientSoftwareName, q.ClientSoftwareVersion = 3, "millrace-bench", "lean"
	n.call(q, func(a kmsg.Response) {
		most := map[int16]int16{}
		for _, k := range a.(*kmsg.ApiVersionsResponse).ApiKeys {
			most[k.ApiKey] = k.MaxVersion
		}
		// Of Produce the versions with compact lengths and topics by name.
		n.produceVersion, n.metadataVersion, n.producerVersion = min(12, most[wire.KeyProduce]), min(12, most[wire.KeyMetadata]), min(4, most[wire.KeyInitProducerID])
		if n.produceVersion < 9 {
			n.end(fmt.Errorf("%s serves Produce up to version %d, and 9 is needed", n.address, n.produceVersion))
			return
		}
		n.up()
	})
}

// producer asks for a producer id.
func (n *conn) producer(then func(*kmsg.InitProducerIDResponse)) {
	q := kmsg.NewPtrInitProducerIDRequest()
	q.Version, q.TransactionTimeoutMillis = n.producerVersion, 60_000
	q.ProducerID, q.ProducerEpoch = record.NoProducerID, record.NoProducerEpoch
	n.call(q, func(a kmsg.Response) { then(a.(*kmsg.InitProducerIDResponse)) })
}

// metadata asks for the leaders.
func (n *conn) metadata(then func(*kmsg.MetadataResponse)) {
	q := kmsg.NewPtrMetadataRequest()
	q.Version, q.AllowAutoTopicCreation = n.metadataVersion, false
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(n.c.cfg.Topic)
	q.Topics = append(q.Topics, t)
	n.call(q, func(a kmsg.Response) { then(a.(*kmsg.MetadataResponse)) })
}
