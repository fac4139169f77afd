package posix

import (
	"bytes"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"github.com/millrace/millrace/ring/ringtest"
	"golang.org/x/sys/unix"
)

func TestConformance(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) ringtest.World {
		return ringtest.Real(newRing(t, Config{}), t.TempDir())
	})
}

// The same on a kernel without epoll_pwait2.
func TestConformanceCoarse(t *testing.T) {
	ringtest.Run(t, func(t *testing.T) ringtest.World {
		r := newRing(t, Config{Events: 3, Workers: 1})
		r.coarse = true
		return ringtest.Real(r, t.TempDir())
	})
}

func newRing(t *testing.T, cfg Config) *Ring {
	t.Helper()
	runtime.LockOSThread()
	cfg.PoolBytes, cfg.RecvBuffers = ringtest.PoolBytes, ringtest.RecvBuffers
	io, err := New(Host(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := io.Close(); err != nil {
			t.Error(err)
		}
	})
	return io.(*Ring)
}

// task is an op that remembers its outcome.
type task struct {
	ring.Op
	done  bool
	order *[]string // gets its name as it completes
	name  string
}

func (k *task) Complete(op *ring.Op) {
	k.done = true
	if k.order != nil {
		*k.order = append(*k.order, k.name)
	}
}

func submit(r *Ring, op ring.Op) *task {
	k := &task{Op: op}
	k.Done = k
	r.Submit(&k.Op)
	return k
}

func drive(t *testing.T, r *Ring, what string, done func() bool) {
	t.Helper()
	giveUp := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(giveUp) {
			t.Fatal("gave up waiting:", what)
		}
		r.Wait(r.Stamp() + int64(10*time.Millisecond))
	}
}

func want(t *testing.T, r *Ring, k *task, result int32) {
	t.Helper()
	drive(t, r, k.Code.String(), func() bool { return k.done })
	if k.Result != result {
		t.Fatalf("%v: result %d (%v), want %d", k.Code, k.Result, k.Op.Error(), result)
	}
}

// coldFile has n bytes on the disk and, where the file system lets go of them,
// none in memory.
func coldFile(t *testing.T, n int) (ring.FD, []byte) {
	t.Helper()
	fd, err := Host().Open(filepath.Join(t.TempDir(), "cold"), ring.Create)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*7 + i>>9)
	}
	if _, err := Host().WriteAt(fd, data, 0); err != nil {
		t.Fatal(err)
	}
	evict(t, fd)
	return fd, data
}

func evict(t *testing.T, fd ring.FD) {
	t.Helper()
	if err := Host().Sync(fd); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

func pair(t *testing.T, r *Ring) (client, server ring.FD) {
	t.Helper()
	listener, at, err := Host().Listen("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer Host().Close(listener)
	client, err = Host().Socket(at)
	if err != nil {
		t.Fatal(err)
	}
	accept := submit(r, ring.Op{Code: ring.Accept, FD: listener})
	want(t, r, submit(r, ring.Op{Code: ring.Connect, FD: client, Addr: at}), 0)
	drive(t, r, "accept", func() bool { return accept.done })
	return client, ring.FD(accept.Result)
}

// gate keeps all workers busy until it is opened.
func gate(r *Ring, workers int) (open func()) {
	shut := make(chan struct{})
	var busy sync.WaitGroup
	for range workers {
		busy.Add(1)
		submit(r, ring.Op{Code: ring.Task, Func: func() error { busy.Done(); <-shut; return nil }})
	}
	busy.Wait()
	return func() { close(shut) }
}

func TestReadOfWhatIsNotInMemory(t *testing.T) {
	r := newRing(t, Config{})
	fd, data := coldFile(t, 1<<20)
	buf := r.Pool().Get(len(data))
	// A read that may not wait starts read-ahead, and a fast disk, or a CPU that is
	// taken away, lets that end before the kernel looks: such a read has not waited
	// either. So one punt in many cold reads is asked for; a ring that waits has none.
	cold := 0
	for range 50 {
		if !host.Resident(fd, 0, 1<<20) {
			cold++
		}
		clear(buf)
		want(t, r, submit(r, ring.Op{Code: ring.Read, FD: fd, Buf: buf}), int32(len(data)))
		if !bytes.Equal(buf, data) {
			t.Fatal("the bytes differ")
		}
		if r.stats.Punted > 0 {
			break
		}
		evict(t, fd)
	}
	if cold > 0 && r.stats.Punted == 0 {
		t.Errorf("the ring's own thread has waited for the disk in each of %d cold reads", cold)
	}
	punted := r.stats.Punted
	want(t, r, submit(r, ring.Op{Code: ring.Read, FD: fd, Buf: buf}), int32(len(data)))
	if r.stats.Punted != punted {
		t.Error("a worker read what was in memory")
	}

	// The first page is in memory, the rest is not: one read, in full.
	evict(t, fd)
	unix.Fadvise(int(fd), 0, 0, unix.FADV_RANDOM) // no read-ahead
	want(t, r, submit(r, ring.Op{Code: ring.Read, FD: fd, Buf: buf[:4096]}), 4096)
	clear(buf)
	want(t, r, submit(r, ring.Op{Code: ring.Read, FD: fd, Buf: buf}), int32(len(data)))
	if !bytes.Equal(buf, data) {
		t.Fatal("the bytes of a read in two parts differ")
	}
	want(t, r, submit(r, ring.Op{Code: ring.Read, FD: fd, Buf: buf, Off: 1<<20 - 10}), 10)
	want(t, r, submit(r, ring.Op{Code: ring.Close, FD: fd}), 0)
}

// A cold SendFile to a reader that is slow: workers read, and the ring waits for
// the socket.
func TestSendFileOfWhatIsNotInMemory(t *testing.T) {
	r := newRing(t, Config{})
	client, server := pair(t, r)
	fd, data := coldFile(t, 12<<20)
	cold := !host.Resident(fd, 0, 1)
	buf := r.Pool().Get(200_000)
	sent, got := 0, 0
	var send *task
	for got < len(data) {
		if sent < len(data) && send == nil {
			send = submit(r, ring.Op{Code: ring.SendFile, FD: server, From: fd, Off: int64(sent), Len: int64(len(data) - sent)})
		}
		for range 3 { // as far as the socket takes it
			r.Wait(r.Stamp() + int64(time.Millisecond))
		}
		if send != nil && send.done {
			if send.Result <= 0 {
				t.Fatalf("send-file at %d: %v", sent, send.Op.Error())
			}
			sent += int(send.Result)
			send = nil
			evict(t, fd) // what was read ahead is gone again
			continue
		}
		recv := submit(r, ring.Op{Code: ring.Recv, FD: client, Buf: buf})
		drive(t, r, "recv", func() bool { return recv.done })
		if recv.Result <= 0 || !bytes.Equal(buf[:recv.Result], data[got:got+int(recv.Result)]) {
			t.Fatalf("received %d at %d: not what was sent", recv.Result, got)
		}
		got += int(recv.Result)
	}
	if cold && r.stats.Punted == 0 {
		t.Error("no worker was asked")
	}
	if n := r.stats.SendFileIn + r.stats.SendFileSpl; n != uint64(len(data)) {
		t.Errorf("%d bytes counted, %d sent", n, len(data))
	}
}

// A SendFile that waits for a worker keeps its place: what follows on the socket
// goes after it. It may be cancelled, or lose its socket.
func TestSendFileWaitsForWorker(t *testing.T) {
	r := newRing(t, Config{Workers: 1})
	fd, data := coldFile(t, 8192)
	if host.Resident(fd, 0, 8192) {
		t.Log("this file system keeps its files in memory: only the inline way is tested")
	}
	for _, what := range []string{"send", "cancel", "close"} {
		evict(t, fd)
		client, server := pair(t, r)
		open := gate(r, 1)
		var order []string
		named := func(name string, op ring.Op) *task {
			k := &task{Op: op, order: &order, name: name}
			k.Done = k
			r.Submit(&k.Op)
			return k
		}
		cold := named("file", ring.Op{Code: ring.SendFile, FD: server, From: fd, Len: 8192})
		tail := r.Pool().Get(4)
		copy(tail, "tail")
		next := named("tail", ring.Op{Code: ring.Send, FD: server, Buf: tail})
		var shut *task
		switch what {
		case "cancel":
			r.Cancel(&cold.Op)
		case "close":
			shut = named("close", ring.Op{Code: ring.Close, FD: server})
		}
		if what != "send" {
			drive(t, r, what, func() bool { return next.done })
		}
		open()
		drive(t, r, what, func() bool { return cold.done && next.done && (shut == nil || shut.done) })
		expect := data
		if cold.Result < 0 {
			expect = nil
		}
		if next.Result == 4 {
			expect = append(bytes.Clone(expect), "tail"...)
		}
		got := r.Pool().Get(16 << 10)
		for n := 0; n < len(expect); {
			recv := submit(r, ring.Op{Code: ring.Recv, FD: client, Buf: got[n:]})
			drive(t, r, "recv", func() bool { return recv.done })
			if recv.Result <= 0 {
				t.Fatalf("%s: %d of %d bytes, then %d", what, n, len(expect), recv.Result)
			}
			if n += int(recv.Result); !bytes.Equal(got[:n], expect[:n]) {
				t.Fatalf("%s: the bytes are out of order", what)
			}
		}
		if what == "send" && (cold.Result != 8192 || next.Result != 4) {
			t.Fatalf("file %d, tail %d", cold.Result, next.Result)
		}
		if shut != nil && (shut.Result != 0 || order[len(order)-1] != "close") {
			t.Fatalf("close: result %d, order %v", shut.Result, order)
		}
		r.Pool().Put(got)
		r.Pool().Put(tail)
		if shut == nil {
			want(t, r, submit(r, ring.Op{Code: ring.Close, FD: server}), 0)
		}
		want(t, r, submit(r, ring.Op{Code: ring.Close, FD: client}), 0)
	}
}

// The number of a file stays taken until no worker uses it.
func TestCloseWaitsForWorkers(t *testing.T) {
	r := newRing(t, Config{Workers: 1})
	fd, _ := coldFile(t, 100)
	open := gate(r, 1)
	var order []string
	ops := []*task{
		{name: "truncate", Op: ring.Op{Code: ring.Truncate, FD: fd, Len: 50}},
		{name: "sync", Op: ring.Op{Code: ring.Sync, FD: fd}},
		{name: "close", Op: ring.Op{Code: ring.Close, FD: fd}},
	}
	for _, k := range ops {
		k.Done, k.order = k, &order
		r.Submit(&k.Op)
	}
	late := submit(r, ring.Op{Code: ring.Sync, FD: fd})
	want(t, r, late, -int32(unix.EBADF))
	if size, err := Host().Size(fd); err != nil || size != 100 {
		t.Fatalf("while an op waits for a worker the file is closed: size %d, %v", size, err)
	}
	open()
	want(t, r, ops[2], 0)
	if got := strings.Join(order, " "); got != "truncate sync close" || ops[0].Result != 0 || ops[1].Result != 0 {
		t.Fatalf("%s: results %d, %d", got, ops[0].Result, ops[1].Result)
	}
	if _, err := Host().Size(fd); err == nil {
		t.Fatal("the file is still open")
	}
}

// What no worker has begun can be cancelled, what one has begun cannot.
func TestCancelWork(t *testing.T) {
	r := newRing(t, Config{Workers: 1})
	fd, _ := coldFile(t, 100)
	open := gate(r, 1)
	first := submit(r, ring.Op{Code: ring.Truncate, FD: fd, Len: 10})
	second := submit(r, ring.Op{Code: ring.Truncate, FD: fd, Len: 20})
	never := submit(r, ring.Op{Code: ring.Task, Func: func() error { t.Error("a cancelled task ran"); return nil }})
	shut := submit(r, ring.Op{Code: ring.Close, FD: fd})
	r.Cancel(&second.Op)
	r.Cancel(&never.Op)
	r.Cancel(&shut.Op)
	want(t, r, second, -int32(unix.ECANCELED))
	want(t, r, never, -int32(unix.ECANCELED))
	if first.done || shut.done {
		t.Fatal("done before its turn")
	}
	open()
	want(t, r, first, 0)
	want(t, r, shut, 0)

	begun, hold := make(chan struct{}), make(chan struct{})
	k := submit(r, ring.Op{Code: ring.Task, Func: func() error { close(begun); <-hold; return nil }})
	<-begun
	r.Cancel(&k.Op)
	close(hold)
	want(t, r, k, 0)
}

// An event of a socket that has gone does not touch the next with its number.
func TestStaleEvent(t *testing.T) {
	r := newRing(t, Config{})
	client, server := pair(t, r)
	buf := r.Pool().Get(16)
	old := submit(r, ring.Op{Code: ring.Recv, FD: server, Buf: buf})
	r.Wait(0)
	f := r.files[server]
	stale := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(server), Pad: f.generation}
	want(t, r, submit(r, ring.Op{Code: ring.Close, FD: server}), 0)
	want(t, r, old, -int32(unix.ECANCELED))
	want(t, r, submit(r, ring.Op{Code: ring.Close, FD: client}), 0)

	a, b := pair(t, r)
	if a != server && b != server {
		t.Fatalf("%d is not used again, %d and %d are", server, a, b)
	}
	recv := submit(r, ring.Op{Code: ring.Recv, FD: server, Buf: buf})
	r.Wait(0)
	if f.generation == stale.Pad || f.readable || recv.done {
		t.Fatalf("generation %d after %d, readable %v, received %d", f.generation, stale.Pad, f.readable, recv.Result)
	}
	r.handle(&stale)
	if f.readable {
		t.Fatal("an event of the old socket has made the new one readable")
	}
	live := stale
	live.Pad = f.generation
	r.handle(&live) // a spurious event is harmless
	if f.readable || recv.done {
		t.Fatal("a spurious event has done something")
	}
}

// A blocked Wait stops neither the garbage collector nor other goroutines, and a
// signal does not end it.
func TestWaitGCAndSignals(t *testing.T) {
	r := newRing(t, Config{})
	thread := unix.Gettid()
	var done atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		for range 20 {
			runtime.GC()
			unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
		}
		done.Store(true)
		r.Wake()
	})
	r.Wait(ring.Forever)
	if !done.Load() {
		t.Fatal("Wait returned without a Wake")
	}
	all.Wait()
	before := r.stats.Enters
	r.Wake()
	r.Wake()
	if n := r.Wait(ring.Forever); n != 0 || r.stats.Enters != before+1 {
		t.Fatalf("delivered %d with %d calls of epoll", n, r.stats.Enters-before)
	}
}

func TestWakeAfterClose(t *testing.T) {
	io, err := New(Host(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	recv := &task{}
	recv.Done = recv
	listener, _, err := Host().Listen("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	recv.Code, recv.FD = ring.Accept, listener
	io.Submit(&recv.Op)
	if err := io.Close(); err != nil {
		t.Fatal(err)
	}
	io.Wake()
	if recv.done {
		t.Fatal("an op in flight completed when the ring was closed")
	}
	if err := Host().Close(listener); err != nil {
		t.Fatal("the ring has closed a file that is not its own:", err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Host(), Config{RecvBuffers: 1<<16 + 1}); err == nil {
		t.Error("more receive buffers than there are numbers")
	}
	if _, err := New(Host(), Config{PoolBytes: 1 << 40}); err == nil {
		t.Error("a pool of a terabyte")
	}
}

func TestMistakesPanic(t *testing.T) {
	r := newRing(t, Config{})
	client, server := pair(t, r)
	for what, f := range map[string]func(){
		"a chunk that is not lent":  func() { r.ReturnChunk(ring.Chunk{ID: 3}) },
		"a chunk that there is not": func() { r.ReturnChunk(ring.Chunk{ID: 60000}) },
		"too many pieces":           func() { submit(r, ring.Op{Code: ring.Send, FD: client, Bufs: make([][]byte, ring.IOVMax+1)}) },
		"multi recv without pick":   func() { submit(r, ring.Op{Code: ring.Recv, FD: client, Flags: ring.Multi}) },
		"a code that there is not":  func() { submit(r, ring.Op{Code: ring.Task + 1}) },
		"two multi ops on a socket": func() {
			submit(r, ring.Op{Code: ring.Recv, FD: server, Flags: ring.Multi | ring.Pick})
			submit(r, ring.Op{Code: ring.Recv, FD: server, Flags: ring.Multi | ring.Pick})
		},
		"a chain with an active op": func() { a := submit(r, ring.Op{Code: ring.Recv, FD: client}); submit(r, ring.Op{Next: &a.Op}) },
	} {
		func() {
			defer func() {
				if s, _ := recover().(string); !strings.HasPrefix(s, "BUG: ") {
					t.Errorf("%s: panic %q", what, s)
				}
			}()
			f()
		}()
	}
}

func TestMillis(t *testing.T) {
	for _, c := range []struct {
		ns int64
		ms int
	}{{0, 0}, {1, 1}, {1_000_000, 1}, {1_000_001, 2}, {ring.Forever, -1}, {ring.Forever - 1, 1 << 30}} {
		if got := millis(c.ns); got != c.ms {
			t.Errorf("%d ns are %d ms, want %d", c.ns, got, c.ms)
		}
	}
}

func TestOpList(t *testing.T) {
	var a, b, c ring.Op
	var l opList
	l.push(&a)
	l.push(&b)
	l.pushFront(&c) // c a b
	if !l.remove(&b) || l.remove(&b) || l.tail != &a {
		t.Fatal("remove of the last")
	}
	l.push(&b)
	if !l.remove(&a) || !l.remove(&c) || l.pop() != &b || l.pop() != nil || l.tail != nil {
		t.Fatal("remove of the first")
	}
	l.pushFront(&a)
	l.push(&b)
	if l.pop() != &a || l.pop() != &b || a.Link != nil || b.Link != nil {
		t.Fatal("order")
	}
}
