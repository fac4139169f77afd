// Package ringtest holds every backend of ring.IO, and every ring.Host, to the
// text of package ring. A backend's test is one call:
//
//	func TestConformance(t *testing.T) {
//		ringtest.Run(t, func(t *testing.T) ringtest.World {
//			io, err := posix.New(posix.Host(), posix.Config{PoolBytes: ringtest.PoolBytes, RecvBuffers: ringtest.RecvBuffers})
//			...
//			t.Cleanup(func() { io.Close() })
//			return ringtest.Real(io, t.TempDir())
//		})
//	}
//
// Sockets are made with the world's own Listen, Socket, Accept and Connect, both
// ends on one ring, so that a world without a kernel passes too. A sub-test is
// one goroutine, locked to a thread of its own, which also makes the world: the
// ring may be made there and then, and closed by t.Cleanup.
package ringtest

import (
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
)

const (
	// PoolBytes is the smallest pool that the suite can work with.
	PoolBytes = 64 << 20
	// RecvBuffers is a good number of receive buffers for it: one test uses
	// them all up, one at a time. Their size may be anything from 1 KiB.
	RecvBuffers = 32
)

// World is one machine with one ring on it.
type World interface {
	IO() ring.IO
	// Drive calls Wait again and again until done says true; where there is no
	// kernel it also moves the clock. It gives up, and returns false, after a
	// time in which anything the suite asks for should have happened.
	Drive(done func() bool) bool
	// Dir is an empty directory on the IO's Host.
	Dir() string
	Traits() Traits
}

// Traits say what a world is not, so that what cannot be tested there is
// reported rather than forgotten.
type Traits struct {
	// Threads: Wait blocks, time passes by itself, and other goroutines may
	// call Wake. Without it Wait must never block.
	Threads bool
	// AllocFree: nothing is allocated in steady state. A simulation may.
	AllocFree bool
}

// Real is the World of a ring on a real kernel. Each Drive gives up after a minute.
func Real(io ring.IO, dir string) World { return &realWorld{io, dir} }

type realWorld struct {
	io  ring.IO
	dir string
}

func (w *realWorld) IO() ring.IO    { return w.io }
func (w *realWorld) Dir() string    { return w.dir }
func (w *realWorld) Traits() Traits { return Traits{Threads: true, AllocFree: true} }

func (w *realWorld) Drive(done func() bool) bool {
	giveUp := w.io.Stamp() + int64(time.Minute)
	for !done() {
		now := w.io.Stamp()
		if now > giveUp {
			return false
		}
		w.io.Wait(now + int64(20*time.Millisecond))
	}
	return true
}

// need is what a case needs a world to have.
type need uint8

const (
	threads need = 1 << iota
	allocFree
)

type testCase struct {
	name  string
	needs need
	run   func(r *rig)
}

// Run runs the whole suite, each sub-test in a world of its own.
func Run(t *testing.T, newWorld func(t *testing.T) World) {
	for _, group := range [][]testCase{hostCases, fileCases, chainCases, socketCases, multiCases, sendFileCases, closeCases, waitCases, steadyCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				// Never unlocked: the ring and its thread end with the sub-test,
				// after its clean-up.
				runtime.LockOSThread()
				w := newWorld(t)
				switch traits := w.Traits(); {
				case c.needs&threads != 0 && !traits.Threads:
					t.Log("not for this world: it has no threads")
				case c.needs&allocFree != 0 && !traits.AllocFree:
					t.Log("not for this world: it may allocate")
				default:
					c.run(&rig{T: t, World: w, io: w.IO(), host: w.IO().Host()})
				}
			})
		}
	}
}

// rig is a world under test, and the verbs that the cases are written in.
type rig struct {
	*testing.T
	World
	io     ring.IO
	host   ring.Host
	inside string // the method of the ring that we are inside of, where it must not complete anything
	files  int
}

// call is an op and what became of it.
type call struct {
	ring.Op
	r      *rig
	count  int  // completions so far
	ended  bool // the one without More has come
	got    []byte
	hold   bool         // keep the chunks, in held
	held   []ring.Chunk // not yet returned
	fds    []ring.FD    // what an Accept brought
	thenDo func(*call)  // called at each completion
}

func (c *call) Complete(op *ring.Op) {
	r := c.r
	if op != &c.Op {
		r.Errorf("a completer was told of op %p, not of its own %p", op, &c.Op)
	}
	if r.inside != "" {
		r.Errorf("%v completed inside %s", op.Code, r.inside)
	}
	if c.ended {
		r.Errorf("%v completed twice, the second time with %d", op.Code, op.Result)
	}
	if op.More && op.Flags&ring.Multi == 0 {
		r.Errorf("%v without Multi has More set", op.Code)
	}
	if !op.More && (op.Active || op.Slot != 0 || op.Link != nil) {
		r.Errorf("%v is complete, but Active %v Slot %d Link %p", op.Code, op.Active, op.Slot, op.Link)
	}
	c.count++
	c.ended = !op.More
	if op.Code == ring.Accept && op.Result >= 0 {
		c.fds = append(c.fds, ring.FD(op.Result))
	}
	if op.Code == ring.Recv && op.Flags&ring.Pick != 0 && op.Result > 0 {
		if int(op.Result) != len(op.Chunk.Bytes) {
			r.Errorf("recv of %d bytes with a chunk of %d", op.Result, len(op.Chunk.Bytes))
		}
		c.got = append(c.got, op.Chunk.Bytes...)
		if c.hold {
			c.held = append(c.held, op.Chunk)
		} else {
			r.io.ReturnChunk(op.Chunk)
		}
	}
	if c.thenDo != nil {
		c.thenDo(c)
	}
}

// wait drives until the call has ended.
func (c *call) wait() *call {
	c.r.Helper()
	c.r.until(c.Code.String()+" ends", func() bool { return c.ended })
	return c
}

// want waits, and fails unless the result is this.
func (c *call) want(result int32) *call {
	c.r.Helper()
	if c.wait(); c.Result != result {
		c.r.Fatalf("%v: result %s, want %s", c.Code, resultString(c.Result), resultString(result))
	}
	return c
}

// wantErr waits, and fails unless the result is one of these.
func (c *call) wantErr(oneOf ...syscall.Errno) *call {
	c.r.Helper()
	c.wait()
	for _, e := range oneOf {
		if c.Result == -int32(e) {
			if c.Op.Error() == nil {
				c.r.Fatalf("%v: result %s, but Error() is nil", c.Code, resultString(c.Result))
			}
			return c
		}
	}
	c.r.Fatalf("%v: result %s, want one of %v", c.Code, resultString(c.Result), oneOf)
	return c
}

func resultString(n int32) string {
	if n >= 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d (%v)", n, syscall.Errno(-n))
}

// prepare makes a call that has not been submitted.
func (r *rig) prepare(op ring.Op) *call {
	c := &call{Op: op, r: r}
	c.Done = c
	return c
}

// start submits c, which may be one that has ended.
func (r *rig) start(c *call) *call {
	c.ended = false
	was := r.inside
	r.inside = "Submit"
	r.io.Submit(&c.Op)
	r.inside = was
	return c
}

func (r *rig) submit(op ring.Op) *call { return r.start(r.prepare(op)) }

// do submits and waits.
func (r *rig) do(op ring.Op) *call {
	r.Helper()
	return r.submit(op).wait()
}

func (r *rig) cancel(c *call) {
	r.inside = "Cancel"
	r.io.Cancel(&c.Op)
	r.inside = ""
}

func (r *rig) until(what string, done func() bool) {
	r.Helper()
	if !r.Drive(done) {
		r.Fatalf("gave up waiting: %s", what)
	}
}

// settle gives whatever is on its way time to arrive.
func (r *rig) settle() {
	r.Helper()
	for range 5 {
		r.do(ring.Op{Code: ring.Nop}).want(0)
	}
}

// bytes is n bytes of off-heap memory.
func (r *rig) bytes(n int) []byte {
	r.Helper()
	if n == 0 {
		return nil
	}
	b := r.io.Pool().Get(n)
	if b == nil {
		r.Fatalf("the pool of %d bytes has no room for %d: %d are in use", r.io.Pool().Size(), n, r.io.Pool().Used())
	}
	return b
}

// text is s in off-heap memory.
func (r *rig) text(s string) []byte {
	b := r.bytes(len(s))
	copy(b, s)
	return b
}

// noise is n off-heap bytes that depend on the seed.
func (r *rig) noise(n int, seed uint64) []byte {
	b := r.bytes(n)
	fillNoise(b, seed, 0)
	return b
}

// fillNoise writes the bytes of the seed's stream from position at on.
func fillNoise(b []byte, seed uint64, at int) {
	for i := range b {
		b[i] = noiseAt(seed, at+i)
	}
}

func noiseAt(seed uint64, at int) byte {
	x := (seed+uint64(at>>3))*0x9e3779b97f4a7c15 + seed
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return byte(x >> (8 * (at & 7)))
}

// file makes an empty file.
func (r *rig) file() (ring.FD, string) {
	r.Helper()
	r.files++
	path := fmt.Sprintf("%s/file-%d", r.Dir(), r.files)
	fd, err := r.host.Open(path, ring.CreateNew)
	if err != nil {
		r.Fatal(err)
	}
	return fd, path
}

// content is what the file has, read through the Host.
func (r *rig) content(path string) []byte {
	r.Helper()
	b, err := ring.ReadFile(r.host, path)
	if err != nil {
		r.Fatal(err)
	}
	return b
}

func (r *rig) size(fd ring.FD) int64 {
	r.Helper()
	n, err := r.host.Size(fd)
	if err != nil {
		r.Fatal(err)
	}
	return n
}

// listen opens a listener on a port that nobody has.
func (r *rig) listen() (ring.FD, netip.AddrPort) {
	r.Helper()
	fd, at, err := r.host.Listen("127.0.0.1:0", true)
	if err != nil {
		r.Fatal(err)
	}
	if at.Port() == 0 {
		r.Fatalf("listening on %s: no port", at)
	}
	return fd, at
}

// socket is one that can connect to at.
func (r *rig) socket(at netip.AddrPort) ring.FD {
	r.Helper()
	fd, err := r.host.Socket(at)
	if err != nil {
		r.Fatal(err)
	}
	return fd
}

// pair is a connection: the client's end and the server's.
func (r *rig) pair() (client, server ring.FD) {
	r.Helper()
	listener, at := r.listen()
	client, server = r.connect(listener, at)
	r.do(ring.Op{Code: ring.Close, FD: listener}).want(0)
	return client, server
}

func (r *rig) connect(listener ring.FD, at netip.AddrPort) (client, server ring.FD) {
	r.Helper()
	client = r.socket(at)
	accept := r.submit(ring.Op{Code: ring.Accept, FD: listener})
	connect := r.submit(ring.Op{Code: ring.Connect, FD: client, Addr: at})
	connect.want(0)
	if accept.wait(); accept.Result < 0 {
		r.Fatalf("accept: %v", accept.Op.Error())
	}
	return client, ring.FD(accept.Result)
}

// sendAll sends all of b, however short the sends come out.
func (r *rig) sendAll(fd ring.FD, b []byte) {
	r.Helper()
	for len(b) > 0 {
		c := r.do(ring.Op{Code: ring.Send, FD: fd, Buf: b})
		if c.Result <= 0 {
			r.Fatalf("send of %d bytes: result %s", len(b), resultString(c.Result))
		}
		b = b[c.Result:]
	}
}

// recvAll fills b.
func (r *rig) recvAll(fd ring.FD, b []byte) {
	r.Helper()
	for len(b) > 0 {
		c := r.do(ring.Op{Code: ring.Recv, FD: fd, Buf: b})
		if c.Result <= 0 {
			r.Fatalf("recv with %d bytes to come: result %s", len(b), resultString(c.Result))
		}
		b = b[c.Result:]
	}
}

func (r *rig) closeAll(fds ...ring.FD) {
	r.Helper()
	for _, fd := range fds {
		r.do(ring.Op{Code: ring.Close, FD: fd}).want(0)
	}
}

// panics fails unless f panics: a mistake of the caller, not of the world.
func (r *rig) panics(what string, f func()) {
	r.Helper()
	defer func() {
		r.inside = ""
		if recover() == nil {
			r.Errorf("%s: no panic", what)
		}
	}()
	f()
}
