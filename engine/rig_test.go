package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/uring"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// patience is how long a test waits for what must happen.
// Long, for a machine that others use too: what never happens is what fails.
const patience = 2 * time.Minute

// backends are those that this binary has. Where the kernel blocks one, open leaves
// its test out.
func backends() []string {
	if errors.Is(uring.Available(), uring.ErrNotBuilt) {
		return []string{"posix"}
	}
	return []string{"posix", "uring"}
}

// eachBackend runs a test on every backend.
func eachBackend(t *testing.T, run func(t *testing.T, backend string)) {
	for _, name := range backends() {
		t.Run(name, func(t *testing.T) { run(t, name) })
	}
}

// rig is a broker in this process.
type rig struct {
	testing.TB
	*engine.Broker
	backend string
	cores   int
	dir     string
	set     []string
	faults  *fault.Rules // of its disk; nil: none

	mu    sync.Mutex
	lines []string // what it logged
}

// start starts a broker, which ends with the test.
func start(t testing.TB, backend string, cores int, overrides ...string) *rig {
	t.Helper()
	r := &rig{TB: t, backend: backend, cores: cores, dir: t.TempDir(), set: overrides}
	r.open()
	return r
}

// startFaulty is start on a disk that breaks by rule (package ring/fault). It need
// not close cleanly.
func startFaulty(t testing.TB, backend string, cores int, rules string, overrides ...string) *rig {
	t.Helper()
	r := &rig{TB: t, backend: backend, cores: cores, dir: t.TempDir(), set: overrides}
	var err error
	r.faults, err = fault.Parse(rules)
	r.must(err)
	r.open()
	return r
}

func (r *rig) open() {
	r.Helper()
	if r.backend == "uring" {
		ringtest.NeedUring(r.TB, uring.Available())
	}
	set, _, err := config.Parse("", "", append([]string{
		"listeners=PLAINTEXT://127.0.0.1:0", "log.dirs=" + r.dir, "memory.bytes=268435456", "tail.bytes=67108864", "journal.bytes=8388608",
		"group.initial.rebalance.delay.ms=0", "offsets.topic.num.partitions=4",
	}, r.set...))
	if err != nil {
		r.Fatal(err)
	}
	var host ring.Host = posix.Host()
	if r.faults != nil {
		host = fault.WrapHost(host, r.faults)
	}
	r.Broker, err = engine.Open(engine.Config{
		Set: set, Host: host, Cores: r.cores, Recovery: 2, Log: r.log,
		NewIO: func(int) (ring.IO, error) {
			io, err := newIO(r.backend, host, int(set.Int("memory.bytes")))
			if err == nil && r.faults != nil {
				io = fault.Wrap(io, r.faults)
			}
			return io, err
		},
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(host, filepath.Join(dir, "metadata.json"), file.Runner(run))
			if err != nil {
				return nil, nil, err
			}
			return s, s.Load(), nil
		},
	})
	if err == nil {
		err = r.Broker.Start()
	}
	if err != nil {
		r.Fatal(err)
	}
	b := r.Broker
	r.Cleanup(func() {
		if r.Broker == b {
			r.close()
		}
	})
}

func (r *rig) close() {
	r.Helper()
	b := r.Broker
	r.Broker = nil
	if err := b.Close(); err != nil && r.faults == nil {
		r.Errorf("close: %v", err)
	}
}

// restart closes the broker and opens it again on the same directory.
func (r *rig) restart() {
	r.Helper()
	r.close()
	r.open()
}

func newIO(backend string, host ring.Host, pool int) (ring.IO, error) {
	if backend == "uring" {
		return uring.New(host, uring.Config{PoolBytes: pool})
	}
	return posix.New(host, posix.Config{PoolBytes: pool})
}

func (r *rig) log(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

// logged says whether a line with all these words has been logged.
func (r *rig) logged(words ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.lines {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

// until waits for a condition.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// kafka is a franz-go client of the broker.
func (r *rig) kafka(opts ...kgo.Opt) *kgo.Client {
	r.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(r.Addr().String()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(10 * time.Millisecond),
	}, opts...)...)
	r.must(err)
	r.Cleanup(c.Close)
	return c
}

// context ends with the test's patience.
func (r *rig) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.Cleanup(cancel)
	return ctx
}

// client speaks the protocol by hand on one connection.
type client struct {
	r    *rig
	conn net.Conn
	last int32 // correlation id
}

func (r *rig) dial() *client {
	r.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	r.must(err)
	r.Cleanup(func() { conn.Close() })
	return &client{r: r, conn: conn}
}

// send sends a request and does not wait for its reply.
func (c *client) send(q kmsg.Request) {
	c.r.Helper()
	c.last++
	c.write(wire.AppendRequest(nil, c.last, "rig", q))
}

func (c *client) write(frame []byte) {
	c.r.Helper()
	c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(frame); err != nil {
		c.r.Fatal(err)
	}
}

// frame reads one reply, without its size.
func (c *client) frame() ([]byte, error) {
	c.conn.SetDeadline(time.Now().Add(patience))
	var size [4]byte
	if _, err := io.ReadFull(c.conn, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c.conn, b)
	return b, err
}

// receive reads the reply to a request.
func (c *client) receive(q kmsg.Request) kmsg.Response {
	c.r.Helper()
	b, err := c.frame()
	c.r.must(err)
	_, body, err := wire.ParseResponseHeader(b, q.Key(), q.GetVersion())
	c.r.must(err)
	a := q.ResponseKind()
	a.SetVersion(q.GetVersion())
	if err := a.ReadFrom(body); err != nil {
		c.r.Fatalf("%s version %d: reply: %v", wire.Name(q.Key()), q.GetVersion(), err)
	}
	return a
}

func (c *client) do(q kmsg.Request) kmsg.Response {
	c.r.Helper()
	c.send(q)
	return c.receive(q)
}

// closed says that the broker closed the connection, with nothing more said.
func (c *client) closed() error {
	if b, err := c.frame(); err == nil {
		return fmt.Errorf("answered with %d bytes", len(b))
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		return err
	}
	return nil
}

// topic makes a topic and returns its id.
func (r *rig) topic(name string, partitions int32, configs ...string) [16]byte {
	r.Helper()
	q := kmsg.NewPtrCreateTopicsRequest()
	q.Version = 7
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		t.Configs = append(t.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: k, Value: &v})
	}
	q.Topics = append(q.Topics, t)
	a := r.dial().do(q).(*kmsg.CreateTopicsResponse).Topics[0]
	if err := kerr.ErrorForCode(a.ErrorCode); err != nil {
		r.Fatalf("create %s: %v: %s", name, err, deref(a.ErrorMessage))
	}
	return a.TopicID
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

var timestamp = time.Now().UnixMilli()

// batch is a batch of n records of that many bytes each.
func batch(n, size int) []byte { return batchAt(timestamp, n, size) }

func batchAt(timestamp int64, n, size int) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	for i := range n {
		b.Add(timestamp, fmt.Appendf(nil, "%d", i), make([]byte, size))
	}
	return b.Finish()
}

// produce is a Produce request for some partitions of a topic, one batch each.
func produce(topic string, acks int16, batches map[int32][]byte) *kmsg.ProduceRequest {
	q := kmsg.NewPtrProduceRequest()
	q.Version, q.Acks, q.TimeoutMillis = 9, acks, 10000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	for p := int32(0); len(t.Partitions) < len(batches); p++ {
		if b, ok := batches[p]; ok {
			t.Partitions = append(t.Partitions, kmsg.ProduceRequestTopicPartition{Partition: p, Records: b})
		}
	}
	q.Topics = append(q.Topics, t)
	return q
}

// put appends batches and returns the answers, in order of the partitions.
func (c *client) put(topic string, batches map[int32][]byte) []kmsg.ProduceResponseTopicPartition {
	c.r.Helper()
	return c.do(produce(topic, -1, batches)).(*kmsg.ProduceResponse).Topics[0].Partitions
}

// fetch is a Fetch request for some partitions of a topic, by offset.
func fetch(topic string, wait, minBytes int32, offsets map[int32]int64) *kmsg.FetchRequest {
	q := kmsg.NewPtrFetchRequest()
	q.Version, q.MaxWaitMillis, q.MinBytes, q.MaxBytes = 12, wait, minBytes, 50<<20
	q.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	for p := int32(0); len(t.Partitions) < len(offsets); p++ {
		if at, ok := offsets[p]; ok {
			x := kmsg.NewFetchRequestTopicPartition()
			x.Partition, x.FetchOffset, x.PartitionMaxBytes = p, at, 1<<20
			t.Partitions = append(t.Partitions, x)
		}
	}
	q.Topics = append(q.Topics, t)
	return q
}

func (c *client) get(q *kmsg.FetchRequest) []kmsg.FetchResponseTopicPartition {
	c.r.Helper()
	a := c.do(q).(*kmsg.FetchResponse)
	if a.ErrorCode != 0 {
		c.r.Fatalf("fetch: %v", kerr.ErrorForCode(a.ErrorCode))
	}
	var all []kmsg.FetchResponseTopicPartition
	for _, t := range a.Topics {
		all = append(all, t.Partitions...)
	}
	return all
}

// records counts the records of whole batches.
func records(t testing.TB, b []byte) (n int) {
	t.Helper()
	for len(b) > 0 {
		x, rest, err := record.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		if !x.CheckCRC() {
			t.Fatalf("the batch at offset %d: CRC", x.BaseOffset())
		}
		n += int(x.Count())
		b = rest
	}
	return n
}

type (
	fetchResponse   = kmsg.FetchResponse
	produceResponse = kmsg.ProduceResponse
)

// requests counts the requests of an API that have arrived.
func (r *rig) requests(key int16) (n uint64) {
	for _, s := range r.Stats() {
		n += s.API.Requests[key]
	}
	return n
}
