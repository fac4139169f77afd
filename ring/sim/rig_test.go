package sim_test

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// call is an op with what became of it.
type call struct {
	ring.Op
	results []int32
	ended   bool
	got     []byte
	then    func(c *call)
	io      ring.IO
}

func (c *call) Complete(op *ring.Op) {
	c.results = append(c.results, op.Result)
	c.ended = !op.More
	if op.Flags&ring.Pick != 0 && op.Result > 0 {
		c.got = append(c.got, op.Chunk.Bytes...)
		c.io.ReturnChunk(op.Chunk)
	}
	if c.then != nil {
		c.then(c)
	}
}

func prepare(io ring.IO, op ring.Op) *call {
	c := &call{Op: op, io: io}
	c.Done = c
	return c
}

func submit(io ring.IO, op ring.Op) *call {
	c := prepare(io, op)
	io.Submit(&c.Op)
	return c
}

// rig drives a world with some IOs until something has happened.
type rig struct {
	*testing.T
	*sim.World
	ios []*sim.IO
}

func newRig(t *testing.T, seed uint64) *rig {
	t.Helper()
	r := &rig{T: t, World: sim.NewWorld(seed)}
	t.Cleanup(func() { r.World.Close() })
	return r
}

func (r *rig) host(name string) *sim.Host {
	h := r.NewHost(name, netip.AddrFrom4([4]byte{10, 0, 0, name[0]}))
	if err := h.MkdirAll("/d"); err != nil {
		r.Fatal(err)
	}
	if err := h.SyncDir("/"); err != nil {
		r.Fatal(err)
	}
	return h
}

func (r *rig) io(h *sim.Host) *sim.IO {
	io := h.NewIO(sim.IOConfig{PoolBytes: 1 << 20, RecvBuffers: 8, RecvBufferBytes: 1 << 10})
	r.ios = append(r.ios, io)
	return io
}

// turn is one step of the world and of whatever is due.
func (r *rig) turn() bool {
	if !r.Step() {
		return false
	}
	for _, io := range r.ios {
		if io.Due() {
			io.Wait(ring.Forever)
		}
	}
	return true
}

func (r *rig) until(what string, done func() bool) {
	r.Helper()
	for turns := 0; !done(); turns++ {
		if !r.turn() {
			r.Fatalf("seed %d: nothing is left to happen, and not yet: %s", r.Seed(), what)
		}
		if turns > 1_000_000 {
			r.Fatalf("seed %d: a million turns, and not yet: %s", r.Seed(), what)
		}
	}
}

func (r *rig) ended(c *call) int32 {
	r.Helper()
	r.until(c.Code.String()+" ends", func() bool { return c.ended })
	return c.Result
}

func (r *rig) do(io *sim.IO, op ring.Op) int32 {
	r.Helper()
	return r.ended(submit(io, op))
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatalf("seed %d: %v", r.Seed(), err)
	}
}

func (r *rig) open(h *sim.Host, path string, mode ring.OpenMode) ring.FD {
	r.Helper()
	fd, err := h.Open(path, mode)
	r.ok(err)
	return fd
}

// text is s in the memory of io.
func text(io *sim.IO, s string) []byte {
	b := io.Pool().Get(len(s))
	copy(b, s)
	return b
}

// pair connects two IOs.
func (r *rig) pair(from, to *sim.IO) (client, server ring.FD) {
	r.Helper()
	listener, at, err := to.Host().Listen(to.Host().(*sim.Host).Name()+":0", true)
	r.ok(err)
	accept := submit(to, ring.Op{Code: ring.Accept, FD: listener})
	client, err = from.Host().Socket(at)
	r.ok(err)
	if n := r.do(from, ring.Op{Code: ring.Connect, FD: client, Addr: at}); n != 0 {
		r.Fatalf("connect: %d", n)
	}
	server = ring.FD(r.ended(accept))
	r.ok(to.Host().Close(listener))
	return client, server
}
