package netio_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The clients of TestIdleConnections are processes of their own, for the sake of
// descriptors and of what is measured: this test binary, told by its environment
// what to be.
const roleVariable = "MILLRACE_IDLE_ROLE"

// role is what a client process is to do.
type role struct {
	Addr    string
	Idle    int     // hold so many connections, each of which has asked one thing
	Busy    int     // or: ask for ever on so many connections, with Rate requests per second on all
	Rate    float64 //
	Topic   string
	Parts   int
	Seconds float64
}

// latencies is what a busy client reports, µs by intended time.
type latencies struct {
	Requests, Late   int // Late: not answered when the time was up
	P50, P99, P999   float64
	Max              float64
	ClientCPUSeconds float64
}

func TestMain(m *testing.M) {
	text := os.Getenv(roleVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var r role
	err := json.Unmarshal([]byte(text), &r)
	switch {
	case err != nil:
	case r.Idle > 0:
		err = idle(r)
	default:
		err = busy(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is a running client.
type child struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func startChild(t *testing.T, r role) *child {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return &child{cmd, in, bufio.NewReader(out)}
}

// line is the next line that the child says.
func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("a client process ended early: %v", err)
	}
	return s
}

// end lets the child go and waits for it.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("a client process: %v", err)
	}
}

// perSource is how many connections leave from one source address, so that ports
// do not run short.
const perSource = 5000

// idle opens its connections one after the other, asks each for ApiVersions, says
// so, and holds them until its standard input ends.
func idle(r role) error {
	at, err := netip.ParseAddrPort(r.Addr)
	if err != nil {
		return err
	}
	question := kmsg.NewRequestFormatter(kmsg.FormatterClientID("idle")).AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1)
	buf := make([]byte, 64<<10)
	for i := range r.Idle {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		from := &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + i/perSource)}}
		const ipBindAddressNoPort = 24 // the port is chosen by connect, which knows that the other end differs
		if err := errors.Join(
			syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, ipBindAddressNoPort, 1),
			syscall.Bind(fd, from),
			syscall.Connect(fd, &syscall.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}),
		); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if _, err := syscall.Write(fd, question); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		for want, got := 4, 0; got < want; {
			n, err := syscall.Read(fd, buf[got:])
			if n <= 0 {
				return fmt.Errorf("connection %d: after %d bytes of the reply: %d, %v", i, got, n, err)
			}
			if got += n; got >= 4 {
				want = 4 + int(binary.BigEndian.Uint32(buf))
			}
		}
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// load is a busy client: one thread on an epoll ring, which sends each request at
// its time, whether or not the earlier ones have been answered.
type load struct {
	io       ring.IO
	conns    []*loadConn
	began    int64
	interval float64 // ns
	requests int
	micros   []float64
	late     int
	err      error
}

// loadConn is one of its connections. Requests that are due while one is being
// sent wait for that; replies come in order.
type loadConn struct {
	load       *load
	fd         ring.FD
	request    []byte // off heap; the correlation id is the same in all
	reply      []byte
	got        int
	send, recv ring.Op
	unsent     int // requests that are due
	at         int // bytes of the request sent
	due        []int64
}

const replyMax = 4096

func busy(r role) error {
	runtime.LockOSThread()
	at, err := netip.ParseAddrPort(r.Addr)
	if err != nil {
		return err
	}
	io, err := posix.New(posix.Host(), posix.Config{PoolBytes: 16 << 20, RecvBuffers: 1, Workers: 1})
	if err != nil {
		return err
	}
	l := &load{io: io, interval: 1e9 / r.Rate, micros: make([]float64, 0, int(r.Rate*r.Seconds)+1)}
	for i := range r.Busy {
		request := produceRequest(r.Topic, i%r.Parts)
		fd, err := io.Host().Socket(at)
		if err != nil {
			return err
		}
		c := &loadConn{load: l, fd: fd, request: io.Pool().Get(len(request)), reply: io.Pool().Get(replyMax), due: make([]int64, 0, 1024)}
		copy(c.request, request)
		c.send = ring.Op{Code: ring.Connect, FD: fd, Addr: at, Done: (*loadSent)(c)}
		c.recv.Done = (*loadReceived)(c)
		io.Submit(&c.send)
		l.conns = append(l.conns, c)
	}
	// A first request on each connection is not counted.
	for _, c := range l.conns {
		c.due = append(c.due, 0)
		c.unsent++
	}
	giveUp := io.Stamp() + int64(time.Minute)
	for !l.quiet() {
		if io.Wait(giveUp); l.err != nil || io.Now() >= giveUp {
			return errors.Join(errors.New("the first requests were not answered"), l.err)
		}
	}
	l.run(r.Seconds)
	if l.err != nil {
		return l.err
	}
	return json.NewEncoder(os.Stdout).Encode(l.report())
}

func (l *load) quiet() bool {
	for _, c := range l.conns {
		if len(c.due) > 0 {
			return false
		}
	}
	return true
}

// run sends for some seconds, and waits for the last replies: who comes late on a
// busy machine is slow, and who does not come is lost.
func (l *load) run(seconds float64) {
	total := int(seconds * 1e9 / l.interval)
	l.began = l.io.Stamp()
	due := func(n int) int64 { return l.began + int64(float64(n)*l.interval) }
	end := due(total) + int64(time.Minute)
	for l.err == nil && l.io.Now() < end && !(l.requests == total && l.quiet()) {
		until := end
		for l.requests < total {
			if until = due(l.requests); until > l.io.Now() {
				break
			}
			until = end
			c := l.conns[l.requests%len(l.conns)]
			c.due = append(c.due, due(l.requests))
			c.unsent++
			l.requests++
			c.push()
		}
		l.io.Wait(until)
	}
	for _, c := range l.conns {
		l.late += len(c.due)
	}
}

func (l *load) report() latencies {
	slices.Sort(l.micros)
	at := func(q float64) float64 {
		if len(l.micros) == 0 {
			return 0
		}
		return l.micros[min(len(l.micros)-1, int(q*float64(len(l.micros))))]
	}
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return latencies{
		Requests: l.requests, Late: l.late, P50: at(0.5), P99: at(0.99), P999: at(0.999), Max: at(1),
		ClientCPUSeconds: float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9,
	}
}

func (c *loadConn) push() {
	if c.send.Active || c.unsent == 0 {
		return
	}
	c.send = ring.Op{Code: ring.Send, FD: c.fd, Buf: c.request[c.at:], Done: c.send.Done}
	c.load.io.Submit(&c.send)
}

func (c *loadConn) listen() {
	c.recv = ring.Op{Code: ring.Recv, FD: c.fd, Buf: c.reply[c.got:], Done: c.recv.Done}
	c.load.io.Submit(&c.recv)
}

type loadSent loadConn

func (d *loadSent) Complete(op *ring.Op) {
	c := (*loadConn)(d)
	switch {
	case op.Result < 0:
		c.load.err = fmt.Errorf("busy connection: %v: %w", op.Code, op.Error())
	case op.Code == ring.Connect:
		c.listen()
		c.push()
	default:
		if c.at += int(op.Result); c.at == len(c.request) {
			c.at = 0
			c.unsent--
		}
		c.push()
	}
}

type loadReceived loadConn

func (d *loadReceived) Complete(op *ring.Op) {
	c := (*loadConn)(d)
	l := c.load
	if op.Result <= 0 {
		l.err = fmt.Errorf("busy connection: recv: %d, %w", op.Result, op.Error())
		return
	}
	now := l.io.Stamp()
	for c.got += int(op.Result); c.got >= 4; {
		size := 4 + int(binary.BigEndian.Uint32(c.reply))
		if size > replyMax {
			l.err = fmt.Errorf("a reply of %d bytes", size)
			return
		}
		if c.got < size {
			break
		}
		if l.err = checkReply(c.reply[:size]); l.err != nil {
			return
		}
		copy(c.reply, c.reply[size:c.got])
		c.got -= size
		if l.began > 0 {
			l.micros = append(l.micros, float64(now-c.due[0])/1e3)
		}
		c.due = append(c.due[:0], c.due[1:]...)
	}
	c.listen()
}

// produceVersion is from before the flexible ones: nothing in its reply varies in size.
const produceVersion = 8

// produceRequest is a Produce of one record of 1 KiB.
func produceRequest(topic string, partition int) []byte {
	var b record.Builder
	b.Begin(nil, record.None)
	b.Add(time.Now().UnixMilli(), nil, make([]byte, 1<<10))
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = produceVersion, 1, 30000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = int32(partition), b.Finish()
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("busy")).AppendRequest(nil, req, 1)
}

func checkReply(b []byte) error {
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = produceVersion
	if err := resp.ReadFrom(b[8:]); err != nil {
		return err
	}
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
		return fmt.Errorf("produce to partition %d: error code %d", resp.Topics[0].Partitions[0].Partition, code)
	}
	return nil
}

// field is a number from a file of /proc: the one behind the words.
func field(path string, words ...string) (n int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != words[0] {
			continue
		}
		at := len(words)
		if len(words) == 2 {
			at = slices.Index(f, words[1]) + 1
		}
		_, err = fmt.Sscan(f[at], &n)
		return n, err
	}
	return 0, fmt.Errorf("%s has no %v", path, words)
}
