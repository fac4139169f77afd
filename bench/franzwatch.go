package bench

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/bench/lean"
	recordbatch "github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franzWatch sees where franz-go's records wait. kgo's hooks say when a record has its partition, how long a request waited to be
// written, and when one was answered; none says which records a request carried, so the connection looks at the
// requests themselves: the records of a partition leave in the order in which they got it.
//
// A batch that is sent again is known by its sequence. Where a record fails, or a batch without sequence may have been sent again, that
// order is lost: from then on nothing is told. So it is where a producer begins anew, with another id or epoch: what had left has new
// sequences then.
type franzWatch struct {
	began     time.Time
	requests  int                              // produce requests that a broker may have in flight
	waited    func(value []byte, w lean.Waits) // set before anything is sent
	producing atomic.Pointer[watched]          // the record that Produce is called with
	lost      atomic.Bool

	mu      sync.Mutex
	queues  []watchedQueue // by partition: records that have not left
	nodes   map[int32]*franzNode
	byPlace map[string]*franzNode // by host:port
	request wire.ProduceRequest
}

// watched is a record, and what is known of it, in ns since the watch began. It is its record's Context, by which the hooks find it. As
// such it never ends and knows nothing: the client may ask it when the record has long been another.
type watched struct {
	record kgo.Record

	handed, placed, made, written int64
	buffer, metadata, slot        int64
	full                          int64 // its leader's full time when placed
}

// Deadline implements context.Context.
func (*watched) Deadline() (at time.Time, ok bool) { return }

// Done implements context.Context.
func (*watched) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (*watched) Err() error { return nil }

// Value implements context.Context.
func (*watched) Value(any) any { return nil }

// watchedQueue is a partition's records that have not left, and the sequence of the next batch.
type watchedQueue struct {
	records    []*watched
	head       int
	known      bool // the producer below
	producerID int64
	epoch      int16
	next       int32
}

// franzNode is one broker.
type franzNode struct {
	conn      *watchedConn // which produce requests went by last
	inFlight  int
	fullSince int64 // so many are in flight as are allowed since then; 0: fewer
	fullTotal int64
	leaving   []*watched // of the request that was written last
	start     int64      // when its writing began
}

// franzInFlight is how many produce requests the client has in flight at a broker where nobody says otherwise: its own default with
// idempotence, and what is set without.
const franzInFlight = 5

func newFranzWatch(w Workload, requests int) *franzWatch {
	if requests == 0 {
		requests = franzInFlight
	}
	return &franzWatch{began: time.Now(), requests: requests, queues: make([]watchedQueue, w.Partitions), nodes: map[int32]*franzNode{}, byPlace: map[string]*franzNode{}}
}

func (f *franzWatch) now() int64 { return int64(time.Since(f.began)) }

// handed makes s the record that Produce is called with next.
func (f *franzWatch) handed(s *watched, partition int32, key, value []byte) {
	*s = watched{handed: f.now()}
	s.record = kgo.Record{Partition: partition, Key: key, Value: value, Context: s}
	f.producing.Store(s)
}

// OnProduceRecordPartitioned is told when a record is in its partition's buffer (kgo.HookProduceRecordPartitioned): within Produce, or
// where the topic was not known yet, later.
func (f *franzWatch) OnProduceRecordPartitioned(r *kgo.Record, leader int32) {
	s := r.Context.(*watched)
	s.placed = f.now()
	if f.producing.Load() == s {
		s.buffer = s.placed - s.handed
	} else {
		s.metadata = s.placed - s.handed
	}
	if f.lost.Load() {
		return
	}
	f.mu.Lock()
	if n := f.nodes[leader]; n != nil {
		s.full = n.full(s.placed)
	}
	f.queues[r.Partition].push(s)
	f.mu.Unlock()
}

// full is how long the broker had all requests in flight that it may have, until now.
func (n *franzNode) full(now int64) int64 {
	if n.fullSince != 0 {
		return n.fullTotal + max(0, now-n.fullSince)
	}
	return n.fullTotal
}

// dial connects, and watches what is written (kgo.Dialer).
func (f *franzWatch) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.byPlace[address]
	if n == nil {
		n = &franzNode{}
		f.byPlace[address] = n
	}
	return &watchedConn{Conn: c, watch: f, node: n}, nil
}

// watchedConn is a connection of the client. One goroutine writes, a whole request at a time.
type watchedConn struct {
	net.Conn
	watch *franzWatch
	node  *franzNode
}

// Write notes which records are in a produce request.
func (c *watchedConn) Write(b []byte) (int, error) {
	const key = 4 // behind the size
	if len(b) < key+2 || b[key] != 0 || b[key+1] != byte(wire.KeyProduce) || c.watch.lost.Load() {
		return c.Conn.Write(b)
	}
	c.watch.leave(c, b[key:])
	n, err := c.Conn.Write(b)
	c.watch.left(c, err)
	return n, err
}

// leave takes the records of a request from their queues.
func (f *franzWatch) leave(c *watchedConn, frame []byte) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := c.node
	if n.conn != c { // what was in flight on the one before is not any more
		n.conn, n.inFlight = c, 0
		n.notFull(now)
	}
	n.leaving, n.start = n.leaving[:0], now
	h, body, err := wire.ParseHeader(frame)
	if err == nil {
		err = f.request.Parse(h.Version, body)
	}
	if err != nil {
		f.lost.Store(true)
		return
	}
	for t := f.request.Topics(); t.Next(); {
		for t.NextPartition() {
			if len(t.Records) < recordbatch.HeaderSize || int(t.Partition) >= len(f.queues) {
				f.lost.Store(true)
				return
			}
			b := recordbatch.Batch(t.Records)
			first, sure := f.queues[t.Partition].first(b)
			if !sure {
				f.lost.Store(true)
				return
			}
			if first {
				n.leaving = f.queues[t.Partition].take(n.leaving, int(b.Count()))
			}
		}
	}
}

// left notes that they are written.
func (f *franzWatch) left(c *watchedConn, err error) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := c.node
	for _, s := range n.leaving {
		s.made, s.written = n.start, now
	}
	if err != nil || f.request.Acks == 0 {
		return
	}
	if n.inFlight++; n.inFlight == f.requests {
		n.fullSince = now
	}
}

func (n *franzNode) notFull(now int64) {
	n.fullTotal, n.fullSince = n.full(now), 0
}

// node finds a broker by what the hooks say of it.
func (f *franzWatch) node(m kgo.BrokerMetadata) *franzNode {
	n := f.nodes[m.NodeID]
	if n == nil {
		if n = f.byPlace[net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))]; n != nil {
			f.nodes[m.NodeID] = n
		}
	}
	return n
}

// OnBrokerWrite is told after a request was written, before its answer is looked at, how long ago it was made (kgo.HookBrokerWrite).
func (f *franzWatch) OnBrokerWrite(m kgo.BrokerMetadata, key int16, _ int, writeWait, _ time.Duration, err error) {
	if key != wire.KeyProduce {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.node(m)
	if n == nil {
		return
	}
	for _, s := range n.leaving {
		s.made = max(s.placed, n.start-int64(writeWait))
		s.slot = min(max(0, n.full(s.made)-s.full), s.made-s.placed)
	}
	clear(n.leaving)
	n.leaving = n.leaving[:0]
	if err != nil {
		f.unsure()
	}
}

// OnBrokerE2E is told when a request was answered, or failed (kgo.HookBrokerE2E).
func (f *franzWatch) OnBrokerE2E(m kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if key != wire.KeyProduce {
		return
	}
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.node(m)
	if n == nil || n.inFlight == 0 {
		return
	}
	if n.inFlight--; n.inFlight < f.requests {
		n.notFull(now)
	}
	if e.Err() != nil {
		f.unsure()
	}
}

// unsure loses the order where batches have no sequences by which one that is sent again is known. mu is held.
func (f *franzWatch) unsure() {
	for i := range f.queues {
		if f.queues[i].next == recordbatch.NoSequence {
			f.lost.Store(true)
			return
		}
	}
}

// finished tells of a record's waits.
func (f *franzWatch) finished(s *watched, err error) {
	switch {
	case err != nil:
		if !f.lost.Swap(true) {
			f.mu.Lock()
			clear(f.queues)
			f.mu.Unlock()
		}
	case f.waited != nil && s.written != 0 && !f.lost.Load():
		f.waited(s.record.Value, lean.Waits{
			Buffer: time.Duration(s.buffer), Metadata: time.Duration(s.metadata), Fill: time.Duration(s.made - s.placed - s.slot),
			Slot: time.Duration(s.slot), Write: time.Duration(s.written - s.made), Flight: time.Duration(f.now() - s.written),
		})
	}
}

func (q *watchedQueue) push(s *watched) {
	if q.head == len(q.records) {
		q.records, q.head = q.records[:0], 0
	} else if q.head >= 64 && 2*q.head >= len(q.records) {
		q.records, q.head = q.records[:copy(q.records, q.records[q.head:])], 0
	}
	q.records = append(q.records, s)
}

// first says whether a batch is sent for the first time, and whether that is sure.
func (q *watchedQueue) first(b recordbatch.Batch) (first, sure bool) {
	sequence := b.BaseSequence()
	switch {
	case b.ProducerID() == recordbatch.NoProducerID:
		q.next = recordbatch.NoSequence
		return true, true
	case !q.known:
		q.known, q.producerID, q.epoch = true, b.ProducerID(), b.ProducerEpoch()
	case b.ProducerID() != q.producerID || b.ProducerEpoch() != q.epoch: // sequences begin anew
		return false, false
	case sequence != q.next:
		return false, true
	}
	q.next = recordbatch.AddSequence(sequence, b.Count())
	return true, true
}

// take moves the first n records to dst.
func (q *watchedQueue) take(dst []*watched, n int) []*watched {
	for ; n > 0 && q.head < len(q.records); n-- {
		dst = append(dst, q.records[q.head])
		q.records[q.head] = nil
		q.head++
	}
	return dst
}
