package engine_test

import (
	"encoding/binary"
	"net"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/uring"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// hand is a broker whose cores this goroutine steps, one after the other, and a
// client of it: so all that happens between two points is what the test asked for.
type hand struct {
	testing.TB
	*engine.Broker
	conn  net.Conn
	fd    int
	frame []byte   // the reply being read
	ends  [2]int64 // of the partitions, after the last put to each
}

// polling is an IO that never blocks.
type polling struct{ ring.IO }

func (p polling) Wait(int64) int { return p.IO.Wait(0) }

// ChooseSendFile is ring.SendFileChooser's.
func (p polling) ChooseSendFile(inlineMax int64) {
	p.IO.(ring.SendFileChooser).ChooseSendFile(inlineMax)
}

func newHand(t testing.TB, backend string, overrides ...string) *hand {
	t.Helper()
	if backend == "uring" {
		ringtest.NeedUring(t, uring.Available())
	}
	runtime.LockOSThread() // a ring belongs to its thread
	t.Cleanup(runtime.UnlockOSThread)
	h := &hand{TB: t, frame: make([]byte, 0, 4<<20)}
	set, _, err := config.Parse("", "", append([]string{
		"listeners=PLAINTEXT://127.0.0.1:0", "log.dirs=" + t.TempDir(), "memory.bytes=268435456", "tail.bytes=33554432",
	}, overrides...))
	h.must(err)
	host := posix.Host()
	h.Broker, err = engine.Open(engine.Config{
		Set: set, Host: host, Cores: 2, Recovery: 1, Log: func(string, ...any) {},
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(host, filepath.Join(dir, "metadata.json"), file.Runner(run))
			return s, nil, err
		},
	})
	h.must(err)
	for i := range h.Loops() {
		io, err := newIO(backend, host, int(set.Int("memory.bytes")))
		h.must(err)
		h.must(h.Setup(i, polling{io}))
	}
	booted := false
	h.Boot(func(err error) { h.must(err); booted = true })
	h.step(&booted)
	h.conn, err = net.Dial("tcp", h.Addr().String())
	h.must(err)
	raw, err := h.conn.(*net.TCPConn).SyscallConn()
	h.must(err)
	h.must(raw.Control(func(fd uintptr) { h.fd = int(fd) }))
	t.Cleanup(func() {
		h.conn.Close()
		closed := false
		h.BeginClose(func(err error) { h.must(err); closed = true })
		h.step(&closed)
		for _, l := range h.Loops() {
			h.must(l.IO.Close())
		}
		h.must(h.FinishClose())
	})
	return h
}

func (h *hand) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// turn steps every core once.
func (h *hand) turn() {
	for _, l := range h.Loops() {
		l.Step()
	}
	runtime.Gosched() // the workers of epoll's backend, where there is one processor
}

func (h *hand) step(until *bool) {
	for !*until {
		h.turn()
	}
}

// send puts a request on the connection.
func (h *hand) send(frame []byte) {
	for len(frame) > 0 {
		n, err := unix.Write(h.fd, frame)
		if err == unix.EAGAIN {
			h.turn()
			continue
		}
		h.must(err)
		frame = frame[n:]
	}
}

// receive steps the cores until a whole reply is here: valid until the next one.
func (h *hand) receive() []byte {
	b := h.frame[:0]
	for want := 4; len(b) < want; {
		n, err := unix.Read(h.fd, b[len(b):want]) // it does not block: net set it so
		if err == unix.EAGAIN {
			h.turn()
			continue
		}
		h.must(err)
		if n == 0 {
			h.Fatal("the broker closed the connection")
		}
		b = b[:len(b)+n]
		if len(b) == 4 && want == 4 {
			want += int(binary.BigEndian.Uint32(b))
		}
	}
	return b[4:]
}

// ask sends a cold request and returns its reply.
func (h *hand) ask(q kmsg.Request) kmsg.Response {
	h.Helper()
	h.send(wire.AppendRequest(nil, 1, "hand", q))
	_, body, err := wire.ParseResponseHeader(h.receive(), q.Key(), q.GetVersion())
	h.must(err)
	a := q.ResponseKind()
	a.SetVersion(q.GetVersion())
	h.must(a.ReadFrom(body))
	return a
}

// topic makes a topic of two partitions, one on each core.
func (h *hand) topic(name string) {
	h.Helper()
	q := kmsg.NewPtrCreateTopicsRequest()
	q.Version = 7
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, 2, 1
	q.Topics = append(q.Topics, t)
	if a := h.ask(q).(*kmsg.CreateTopicsResponse).Topics[0]; a.ErrorCode != 0 {
		h.Fatalf("%+v", a)
	}
}

// way is a request that can be sent again and again.
type way struct {
	name       string
	partitions map[int32]bool
}

// ways are the legs that a request can have: one here, one there (which is which, the
// kernel decides with the connection), both.
var ways = []way{
	{"partition 0", map[int32]bool{0: true}},
	{"partition 1", map[int32]bool{1: true}},
	{"both", map[int32]bool{0: true, 1: true}},
}

func (w way) produce(version int16, b []byte) []byte {
	batches := map[int32][]byte{}
	for p := range w.partitions {
		batches[p] = b
	}
	q := produce("t", -1, batches)
	q.Version = version
	return wire.AppendRequest(nil, 1, "hand", q)
}

// last is where the last n records of a partition begin, after a put. The partitions need not be of the same length.
func (h *hand) last(n int64) func(partition int32) int64 {
	return func(p int32) int64 { return h.ends[p] - n }
}

// fetch asks for what is from there on.
func (w way) fetch(wait, minBytes int32, from func(partition int32) int64) []byte {
	offsets := map[int32]int64{}
	for p := range w.partitions {
		offsets[p] = from(p)
	}
	return wire.AppendRequest(nil, 1, "hand", fetch("t", wait, minBytes, offsets))
}

// put produces once, checks the answer, and returns the end of the log.
func (h *hand) put(w way, b []byte) int64 {
	h.Helper()
	h.send(w.produce(9, b))
	_, body, err := wire.ParseResponseHeader(h.receive(), wire.KeyProduce, 9)
	h.must(err)
	a := kmsg.NewPtrProduceResponse()
	a.Version = 9
	h.must(a.ReadFrom(body))
	end := int64(0)
	for _, p := range a.Topics[0].Partitions {
		if p.ErrorCode != 0 {
			h.Fatalf("produce: %+v", p)
		}
		end = p.BaseOffset + int64(record.Batch(b).Count())
		h.ends[p.Partition] = end
	}
	return end
}
