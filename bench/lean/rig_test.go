package lean

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/uring"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	topic      = "records"
	partitions = 3
	poolBytes  = 4 << 20
)

// rings are the backends that this machine has.
func rings() map[string]func() (ring.IO, error) {
	all := map[string]func() (ring.IO, error){
		"posix": func() (ring.IO, error) {
			return posix.New(posix.Host(), posix.Config{PoolBytes: poolBytes, RecvBuffers: 16, RecvBufferSize: 4096})
		},
	}
	if uring.Available() == nil {
		all["uring"] = func() (ring.IO, error) {
			return uring.New(posix.Host(), uring.Config{PoolBytes: poolBytes, RecvBuffers: 16, RecvBufferSize: 4096})
		}
	}
	return all
}

func onEachRing(t *testing.T, f func(t *testing.T, open func() (ring.IO, error))) {
	for name, open := range rings() {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, open) })
	}
}

// network is the listener of a fake cluster, and does to its connections what it is told.
type network struct {
	pieces     int          // the broker's bytes are written so many at a time; 0: whole
	cutEvery   int64        // a connection is cut after about so many bytes, in either direction; 0: never
	spare      atomic.Int64 // so many further cuts
	confuse    func(answer []byte)
	mu         sync.Mutex
	random     *rand.Rand
	cuts, seen int
}

func (n *network) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	return &listener{l, n}, err
}

type listener struct {
	net.Listener
	network *network
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen++
	w := &line{Conn: c, network: n, left: 1 << 60}
	if n.cutEvery > 0 {
		w.left = n.cutEvery/2 + n.random.Int64N(n.cutEvery)
	}
	return w, nil
}

type line struct {
	net.Conn
	network *network
	mu      sync.Mutex
	left    int64 // bytes until it is cut
}

var errCut = errors.New("cut")

// through is how many of n bytes get through.
func (w *line) through(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int64(n) <= w.left {
		w.left -= int64(n)
		return n
	}
	if w.network.spare.Add(-1) < 0 { // no further cut
		w.left = 1 << 60
		return n
	}
	n, w.left = int(w.left), 0
	w.network.mu.Lock()
	w.network.cuts++
	w.network.mu.Unlock()
	return n
}

func (w *line) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if m := w.through(n); m < n {
		w.Conn.Close()
		return 0, errCut
	}
	return n, err
}

func (w *line) Write(b []byte) (int, error) {
	m := w.through(len(b))
	out := slices.Clone(b[:m])
	if w.network.confuse != nil {
		w.network.confuse(out)
	}
	for size := max(w.network.pieces, 0); len(out) > 0; {
		piece := out
		if size > 0 {
			piece = out[:min(size, len(out))]
		}
		if _, err := w.Conn.Write(piece); err != nil {
			return 0, err
		}
		out = out[len(piece):]
	}
	if m < len(b) {
		w.Conn.Close()
		return 0, errCut
	}
	return len(b), nil
}

func cluster(t *testing.T, n *network, o ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	n.random = rand.New(rand.NewPCG(1, 2))
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic), kfake.ListenFn(n.listen)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// load sends numbered records and knows what was acknowledged.
type load struct {
	client *Client

	mu     sync.Mutex
	acked  [partitions]map[uint64]bool
	failed error
	ended  int
	waits  []Waits
	order  [partitions]uint64 // next sequence to be acknowledged
	mixed  bool               // acknowledged out of order
}

func (l *load) done(value []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, seq := binary.BigEndian.Uint32(value), binary.BigEndian.Uint64(value[4:])
	l.ended++
	if err != nil {
		l.failed = err
		return
	}
	l.mixed = l.mixed || l.order[p] != seq
	l.order[p] = seq + 1
	l.acked[p][seq] = true
}

func (l *load) waited(_ []byte, w Waits) {
	l.mu.Lock()
	l.waits = append(l.waits, w)
	l.mu.Unlock()
}

func value(p int32, seq uint64, size int) []byte {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(p)), seq)
	return append(b, make([]byte, size)...)
}

func newLoad(t *testing.T, cfg Config) *load {
	t.Helper()
	l := &load{}
	for p := range l.acked {
		l.acked[p] = map[uint64]bool{}
	}
	cfg.Topic, cfg.Partitions, cfg.ClientID, cfg.Done, cfg.Waited = topic, partitions, "test", l.done, l.waited
	var err error
	if l.client, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.client.Close)
	return l
}

// send sends n batches of each records, round the partitions.
func (l *load) send(n, each int) {
	var next [partitions]uint64
	for i := range n {
		p := int32(i % partitions)
		var values [][]byte
		for range each {
			values = append(values, value(p, next[p], i%300))
			next[p]++
		}
		l.client.Send(p, values)
	}
}

func (l *load) drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.client.Drain(ctx); err != nil {
		t.Fatalf("%d records ended: %v (%v)", l.ended, err, l.client.leaders.last)
	}
}

// readBack returns each partition's sequences, in the order of their offsets.
func readBack(t *testing.T, c *kfake.Cluster) (all [partitions][]uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	from := map[int32]kgo.Offset{}
	total := int64(0)
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().AtStart()
		total += c.PartitionInfo(topic, p).HighWatermark
	}
	r, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for total > 0 {
		f := r.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records were not read back", total)
		}
		f.EachRecord(func(r *kgo.Record) {
			p := binary.BigEndian.Uint32(r.Value)
			if int32(p) != r.Partition {
				t.Errorf("a record of partition %d in %d", p, r.Partition)
			}
			all[r.Partition] = append(all[r.Partition], binary.BigEndian.Uint64(r.Value[4:]))
			total--
		})
	}
	return all
}

// whole checks that n records are there, acknowledged and read back, each once and in order.
func (l *load) whole(t *testing.T, c *kfake.Cluster, n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil || l.ended != n || l.mixed {
		t.Errorf("%d of %d records ended, out of order %v, error %v", l.ended, n, l.mixed, l.failed)
	}
	for p, got := range readBack(t, c) {
		for i, seq := range got {
			if uint64(i) != seq {
				t.Fatalf("partition %d: record %d at offset %d; %d in all, %d acknowledged", p, seq, i, len(got), len(l.acked[p]))
			}
		}
		if len(got) != len(l.acked[p]) {
			t.Errorf("partition %d: %d acknowledged, %d there", p, len(l.acked[p]), len(got))
		}
	}
}

// await looks until something is so.
func await(t *testing.T, so func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	late := time.After(20 * time.Second)
	for !so() {
		select {
		case <-look.C:
		case <-late:
			t.Fatal("not so after 20 s")
		}
	}
}

func name(acks int16, idempotent bool, codec record.Codec) string {
	return fmt.Sprintf("acks %d, idempotent %v, %v", acks, idempotent, codec)
}
