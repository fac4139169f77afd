package netio

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
)

// BenchmarkRoundTrip is one exchange of 64 bytes each way over loopback: this
// package on each ring against Go's net with a goroutine for each connection, all
// with the same client (a posix ring on a thread of its own), each connection
// with one request under way.
func BenchmarkRoundTrip(b *testing.B) {
	type server struct {
		name  string
		start func(b *testing.B) netip.AddrPort
	}
	servers := []server{{"net", netServer}}
	for _, backend := range backends() {
		servers = append(servers, server{backend, func(b *testing.B) netip.AddrPort { return ringServer(b, backend) }})
	}
	for _, conns := range []int{1, 64} {
		for _, s := range servers {
			b.Run(fmt.Sprintf("%s/conns=%d", s.name, conns), func(b *testing.B) {
				at := s.start(b)
				runtime.LockOSThread() // the client's ring is closed on it
				d := newDriver(b, at, conns)
				d.run(int64(2 * conns)) // everything is warm
				b.ReportAllocs()
				b.ResetTimer()
				d.run(int64(b.N))
			})
		}
	}
}

const roundTripBytes = 64

// netServer is what one would write without this package.
func netServer(b *testing.B) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := io.ReadFull(c, buf[:4]); err != nil {
						return
					}
					n := 4 + int(binary.BigEndian.Uint32(buf))
					if _, err := io.ReadFull(c, buf[4:n]); err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

type echoes struct{ io ring.IO }

func (e echoes) Closed(*Conn) {}

func (e echoes) Serve(x *Exchange) {
	m := e.io.Pool().Get(4 + len(x.Frame))
	binary.BigEndian.PutUint32(m, uint32(len(x.Frame)))
	copy(m[4:], x.Frame)
	x.Reply(append(x.Pieces(), Piece{Mem: m}), m, nil)
}

// ringServer runs a Server on a thread of its own.
func ringServer(b *testing.B, backend string) netip.AddrPort {
	at := make(chan netip.AddrPort)
	ended := make(chan struct{})
	var stop atomic.Bool
	var wake func()
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		io := newRing(b, backend)
		defer io.Close()
		fd, addr, err := io.Host().Listen("127.0.0.1:0", true)
		if err != nil {
			b.Error(err)
		}
		s := NewServer(io, fd, Config{FrameMax: 1 << 20, InFlight: 64, IdleMax: 600e9, Log: b.Logf}, echoes{io})
		wake = io.Wake
		at <- addr
		for !stop.Load() {
			io.Wait(s.NextDeadline())
			if now := io.Now(); s.NextDeadline() <= now {
				s.Expire(now)
			}
			s.Tick()
		}
		s.Close()
		io.Wait(0)
	}()
	addr := <-at
	b.Cleanup(func() {
		stop.Store(true)
		wake()
		<-ended
	})
	return addr
}

// driver is the client: it keeps a request under way on each of its connections.
type driver struct {
	b     *testing.B
	io    ring.IO
	conns []*driven
	left  int64 // requests to begin
	open  int   // connections with one under way
}

type driven struct {
	ring.Op
	d   *driver
	fd  ring.FD
	mem []byte
	got int
}

func newDriver(b *testing.B, at netip.AddrPort, conns int) *driver {
	d := &driver{b: b, io: newRing(b, "posix")}
	b.Cleanup(func() { d.io.Close() })
	for range conns {
		fd, err := d.io.Host().Socket(at)
		if err != nil {
			b.Fatal(err)
		}
		c := &driven{d: d, fd: fd, mem: d.io.Pool().Get(1 << 10)}
		binary.BigEndian.PutUint32(c.mem, roundTripBytes)
		c.Op = ring.Op{Code: ring.Connect, FD: fd, Addr: at, Done: c}
		d.open++
		d.io.Submit(&c.Op)
		d.conns = append(d.conns, c)
		b.Cleanup(func() { d.io.Host().Close(fd) })
	}
	d.wait()
	return d
}

func (d *driver) wait() {
	giveUp := d.io.Stamp() + int64(60*time.Second)
	for d.open > 0 {
		if d.io.Wait(giveUp); d.io.Now() >= giveUp {
			d.b.Fatal("no reply within a minute")
		}
	}
}

// run does n exchanges.
func (d *driver) run(n int64) {
	d.left = n
	for _, c := range d.conns {
		d.open++
		c.begin()
	}
	d.wait()
}

func (c *driven) begin() {
	if c.d.left == 0 {
		c.d.open--
		return
	}
	c.d.left--
	c.got = 0
	c.do(ring.Send, c.mem[:4+roundTripBytes])
}

func (c *driven) do(code ring.Code, buf []byte) {
	c.Op = ring.Op{Code: code, FD: c.fd, Buf: buf, Done: c.Op.Done}
	c.d.io.Submit(&c.Op)
}

func (c *driven) Complete(op *ring.Op) {
	const want = 4 + roundTripBytes
	switch {
	case op.Result < 0 || op.Code != ring.Connect && op.Result == 0:
		c.d.b.Fatalf("%v: %d", op.Code, op.Result)
	case op.Code == ring.Connect:
		c.d.open--
	case op.Code == ring.Send && int(op.Result) < len(op.Buf):
		c.do(ring.Send, op.Buf[op.Result:])
	case op.Code == ring.Send:
		c.do(ring.Recv, c.mem[want:2*want])
	default:
		if c.got += int(op.Result); c.got < want {
			c.do(ring.Recv, c.mem[want+c.got:2*want])
		} else {
			c.begin()
		}
	}
}
