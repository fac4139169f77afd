//go:build uring

package uring

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"github.com/millrace/millrace/ring/ringtest"
)

// rig is a ring under test. The test's goroutine must be locked to its thread.
type rig struct {
	*Ring
	t testing.TB
}

func open(t testing.TB, cfg Config) *rig { return openWith(t, cfg, nil) }

// openWith leaves out some of what the kernel can do.
func openWith(t testing.TB, cfg Config, without []string) *rig {
	t.Helper()
	f, err := Probe()
	ringtest.NeedUring(t, err)
	for i := range f.Checks {
		for _, name := range without {
			if f.Checks[i].Name == name {
				f.Checks[i].OK = false
			}
		}
	}
	r, err := newRing(host.New(), cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !r.closing {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return &rig{r, t}
}

// call is an op and its completions.
type call struct {
	ring.Op
	results []int32
	then    func(*call)
}

func (c *call) Complete(op *ring.Op) {
	c.results = append(c.results, op.Result)
	if c.then != nil {
		c.then(c)
	}
}

func (g *rig) prepare(op ring.Op) *call {
	c := &call{Op: op}
	c.Done = c
	return c
}

func (g *rig) submit(op ring.Op) *call {
	c := g.prepare(op)
	g.Submit(&c.Op)
	return c
}

func (g *rig) until(what string, done func() bool) {
	g.t.Helper()
	giveUp := g.Stamp() + int64(time.Minute)
	for !done() {
		if g.Stamp() > giveUp {
			g.t.Fatal("gave up waiting:", what)
		}
		g.Wait(g.Stamp() + int64(time.Millisecond))
	}
}

func (g *rig) end(c *call) int32 {
	g.t.Helper()
	g.until(c.Code.String()+" ends", func() bool { return !c.Active })
	return c.Result
}

func (g *rig) do(op ring.Op) int32 {
	g.t.Helper()
	return g.end(g.submit(op))
}

func (g *rig) want(got, want int32) {
	g.t.Helper()
	if got != want {
		g.t.Fatalf("result %d, want %d", got, want)
	}
}

func (g *rig) get(n int) []byte {
	g.t.Helper()
	b := g.Pool().Get(n)
	if b == nil {
		g.t.Fatal("the pool is empty")
	}
	return b
}

func (g *rig) path(name string) string { return filepath.Join(g.t.TempDir(), name) }

// file makes one of n bytes, at position i the byte of pattern(i).
func (g *rig) file(name string, n int) ring.FD {
	g.t.Helper()
	fd, err := g.Host().Open(g.path(name), ring.CreateNew)
	if err != nil {
		g.t.Fatal(err)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = pattern(i)
	}
	if _, err := g.Host().WriteAt(fd, b, 0); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { g.Host().Close(fd) })
	return fd
}

func pattern(i int) byte { return byte(i*131 + i>>8*17 + i>>16) }

// listen takes the first port from 21000 to 21099 that nobody has.
func (g *rig) listen() (ring.FD, netip.AddrPort) {
	g.t.Helper()
	var err error
	for port := 21000; port < 21100; port++ {
		var fd ring.FD
		var at netip.AddrPort
		if fd, at, err = g.Host().Listen(fmt.Sprintf("127.0.0.1:%d", port), true); err == nil {
			return fd, at
		}
	}
	g.t.Fatal(err)
	return ring.NoFD, netip.AddrPort{}
}

// pair is a connection: the client's end and the server's.
func (g *rig) pair() (client, server ring.FD) {
	g.t.Helper()
	l, at := g.listen()
	client, server = g.connect(l, at)
	g.want(g.do(ring.Op{Code: ring.Close, FD: l}), 0)
	return client, server
}

func (g *rig) connect(l ring.FD, at netip.AddrPort) (client, server ring.FD) {
	g.t.Helper()
	client, err := g.Host().Socket(at)
	if err != nil {
		g.t.Fatal(err)
	}
	a := g.submit(ring.Op{Code: ring.Accept, FD: l})
	g.want(g.do(ring.Op{Code: ring.Connect, FD: client, Addr: at}), 0)
	if g.end(a) < 0 {
		g.t.Fatal(a.Error())
	}
	return client, ring.FD(a.Result)
}
