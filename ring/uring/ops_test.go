//go:build uring

package uring

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Far more ops than slots, entries and completion entries: the queues are handed
// over when they are full, what does not fit waits in the kernel, slots are added,
// and each op completes once.
func TestMoreInFlightThanFits(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{Entries: 4, CQEntries: 8})
	const n = 3*slotsChunk + 7
	for round := range 3 {
		calls := make([]*call, n)
		for i := range calls {
			calls[i] = g.submit(ring.Op{Code: ring.Nop})
		}
		for _, c := range calls {
			g.want(g.end(c), 0)
			if len(c.results) != 1 {
				t.Fatalf("round %d: %d completions", round, len(c.results))
			}
		}
		if len(g.slots) != 4 {
			t.Fatalf("round %d: %d chunks of slots for %d ops", round, len(g.slots), n)
		}
	}
	if g.inKernel != 0 {
		t.Fatalf("%d requests are unaccounted for", g.inKernel)
	}
}

// A completion that carries an old generation is our mistake, and is noticed.
func TestSlotsAreUsedAgainWithANewGeneration(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	seen := map[uint64]bool{}
	for range 100 {
		c := g.submit(ring.Op{Code: ring.Nop})
		data := userData(kindOp, g.slot(c.Slot).gen, c.Slot)
		if seen[data] {
			t.Fatalf("user data %#x was used before", data)
		}
		seen[data] = true
		g.want(g.end(c), 0)
	}
	defer func() {
		if p, _ := recover().(string); !strings.HasPrefix(p, "BUG: uring: completion for slot") {
			t.Fatalf("panicked with %q", p)
		}
	}()
	for data := range seen {
		g.found(data)
	}
}

// A Write that the kernel cuts short (here: a pipe with room for 64 KiB) breaks
// the kernel's chain.
func TestShortWriteBreaksALinkedChain(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	file := g.file("f", 0)
	for _, flags := range []ring.Flags{0, ring.Inline} { // linked by the kernel, and by us
		write := g.prepare(ring.Op{Code: ring.Write, FD: ring.FD(fds[1]), Buf: g.get(100_000), Flags: flags})
		if flags != 0 {
			write.Off = -1 // pwrite refuses a pipe: a failure, then
		}
		after := g.prepare(ring.Op{Code: ring.Write, FD: file, Buf: g.get(10)})
		last := g.prepare(ring.Op{Code: ring.Sync, FD: file})
		write.Next, after.Next = &after.Op, &last.Op
		g.Submit(&write.Op)
		if g.end(last); write.Result >= 100_000 || after.Result != -int32(unix.ECANCELED) || last.Result != after.Result {
			t.Fatalf("flags %d: results %d, %d, %d", flags, write.Result, after.Result, last.Result)
		}
	}
	if n, _ := g.Host().Size(file); n != 0 {
		t.Fatalf("the cancelled write wrote %d bytes", n)
	}
}

// Should a kernel go on after a short write, what it did is still not a success.
func TestAChainIsBrokenEvenIfTheKernelGoesOn(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	write := g.prepare(ring.Op{Code: ring.Write, FD: 1, Buf: g.get(100)})
	sync := g.prepare(ring.Op{Code: ring.Sync, FD: 1})
	write.Next = &sync.Op
	var slots []int32
	for _, c := range []*call{write, sync} {
		g.admit(&c.Op)
		i, s := g.take(&c.Op)
		s.linked = true
		slots = append(slots, i)
	}
	g.completed(slots[0], g.slot(slots[0]), 40, 0, true)
	g.completed(slots[1], g.slot(slots[1]), 0, 0, true)
	if write.Result != 40 || sync.Result != -int32(unix.ECANCELED) {
		t.Fatalf("results %d, %d", write.Result, sync.Result)
	}
}

// Ops of a chain whose FD was closed before their turn do not touch whoever has
// the number now.
func TestAChainDoesNotOutliveItsFD(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	a, b := g.pair()
	recv := g.prepare(ring.Op{Code: ring.Recv, FD: a, Buf: g.get(10)})
	send := g.prepare(ring.Op{Code: ring.Send, FD: b, Buf: g.get(10)})
	recv.Next = &send.Op
	g.Submit(&recv.Op)
	g.Wait(0)
	if _, err := unix.Write(int(b), make([]byte, 10)); err != nil { // its completion is not delivered before the next Wait
		t.Fatal(err)
	}
	g.submit(ring.Op{Code: ring.Close, FD: b})
	if g.end(send) != -int32(unix.ECANCELED) || recv.Result != 10 {
		t.Fatalf("results %d, %d", recv.Result, send.Result)
	}
}

// The kernel looks a descriptor up when its worker gets to the op. Had it been
// closed by then, the op would fail, or hit whoever has the number next.
func TestCloseWaitsForFileOps(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	for range 50 {
		path := g.path("f")
		fd, err := g.Host().Open(path, ring.CreateNew)
		if err != nil {
			t.Fatal(err)
		}
		buf := g.get(5000)
		var calls []*call
		for _, op := range []ring.Op{
			{Code: ring.Write, Buf: buf},
			{Code: ring.Truncate, Len: 100_000},
			{Code: ring.Allocate, Len: 1 << 20},
			{Code: ring.SyncRange, Len: 1 << 20},
			{Code: ring.Sync},
			{Code: ring.Close},
		} {
			op.FD = fd
			calls = append(calls, g.submit(op))
		}
		twice := g.submit(ring.Op{Code: ring.Close, FD: fd})
		shut := calls[len(calls)-1]
		shut.then = func(*call) {
			for _, c := range calls[:len(calls)-1] {
				if c.Active {
					t.Errorf("%v is in flight, and its file is closed", c.Code)
				}
			}
		}
		for i, want := range []int32{5000, 0, 0, 0, 0, 0} {
			if got := g.end(calls[i]); got != want {
				t.Fatalf("%v: %d", calls[i].Code, got)
			}
		}
		g.want(g.end(twice), -int32(unix.EBADF))
		g.Pool().Put(buf)
	}
}

// The kernel ends a multishot when its completion does not fit; the owner does
// not notice.
func TestMultishotIsArmedAgain(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{Entries: 4, CQEntries: 4})
	l, at := g.listen()
	accept := g.submit(ring.Op{Code: ring.Accept, FD: l, Flags: ring.Multi})
	g.Wait(0)
	const n = 60
	for range n { // connected by the kernel, before anybody accepts
		fd, err := g.Host().Socket(at)
		if err != nil {
			t.Fatal(err)
		}
		sa := &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
		if err := unix.Connect(int(fd), sa); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
		defer unix.Close(int(fd))
	}
	g.until("all are accepted", func() bool { return len(accept.results) == n })
	for _, fd := range accept.results {
		g.want(g.do(ring.Op{Code: ring.Close, FD: ring.FD(fd)}), 0)
	}
	g.Cancel(&accept.Op)
	g.want(g.end(accept), -int32(unix.ECANCELED))
	g.want(g.do(ring.Op{Code: ring.Close, FD: l}), 0)
}

func TestRegisteredBuffer(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	file := g.file("f", 10_000)
	other, mine := g.get(4096), g.get(8192)
	if err := g.RegisterBuffer(other); err != nil {
		t.Fatal(err)
	}
	if err := g.RegisterBuffer(mine); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		buf   []byte
		code  ring.Code
		op    uint8
		index uint16
	}{
		{mine[4096:], ring.Write, giouring.OpWriteFixed, 1},
		{mine, ring.Read, giouring.OpReadFixed, 1},
		{other[:1], ring.Write, giouring.OpWriteFixed, 0},
		{g.get(8192), ring.Write, giouring.OpWrite, 0},
	} {
		for i := range c.buf {
			c.buf[i] = byte(i) ^ 0x5a
		}
		want := bytes.Clone(c.buf)
		var e giouring.SubmissionQueueEntry
		g.Ring.prepare(&e, &slot{op: &ring.Op{Code: c.code, Buf: c.buf}})
		if e.OpCode != c.op || e.BufIG != c.index {
			t.Fatalf("%v of %d bytes became opcode %d with buffer %d", c.code, len(c.buf), e.OpCode, e.BufIG)
		}
		if c.code == ring.Write {
			g.want(g.do(ring.Op{Code: ring.Write, FD: file, Buf: c.buf, Off: 77}), int32(len(c.buf)))
			back := g.get(len(c.buf))
			g.want(g.do(ring.Op{Code: ring.Read, FD: file, Buf: back, Off: 77}), int32(len(back)))
			if !bytes.Equal(back, want) {
				t.Fatal("the bytes differ")
			}
		}
	}
	for len(g.regions) < regionsMax {
		if err := g.RegisterBuffer(other); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.RegisterBuffer(other); err == nil {
		t.Fatal("one region too many was accepted")
	}
}

// A registered socket is closed by Close: the peer sees the end, and its place in
// the table is used again.
func TestRegisteredFile(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	l, at := g.listen()
	for range filesMax/16 + 3 {
		for range 16 {
			a, b := g.connect(l, at)
			if err := g.RegisterFile(b); err != nil {
				t.Fatal(err)
			}
			if err := g.RegisterFile(b); err != nil { // again is no error
				t.Fatal(err)
			}
			g.want(g.do(ring.Op{Code: ring.Send, FD: b, Buf: g.small[:5]}), 5)
			g.want(g.do(ring.Op{Code: ring.Recv, FD: a, Buf: g.small[2048:2148]}), 5)
			g.want(g.do(ring.Op{Code: ring.Close, FD: b}), 0)
			g.want(g.do(ring.Op{Code: ring.Recv, FD: a, Buf: g.small[2048:2148]}), 0)
			g.want(g.do(ring.Op{Code: ring.Close, FD: a}), 0)
		}
	}
	if len(g.files) != filesMax {
		t.Fatalf("%d of %d places are free", len(g.files), filesMax)
	}
	if err := g.RegisterFile(1 << 20); err == nil {
		t.Fatal("an FD that is not open was registered")
	}
	g.want(g.do(ring.Op{Code: ring.Close, FD: l}), 0)
}

// Without what Linux 6.9 and 6.13 brought.
func TestOlderKernel(t *testing.T) {
	runtime.LockOSThread()
	g := openWith(t, Config{}, []string{checkTruncate, checkMsgRing})
	file := g.file("f", 100)
	write := g.prepare(ring.Op{Code: ring.Write, FD: file, Buf: g.get(10), Off: 200})
	cut := g.prepare(ring.Op{Code: ring.Truncate, FD: file, Len: 50})
	bad := g.prepare(ring.Op{Code: ring.Truncate, FD: 1 << 20, Len: 50})
	last := g.prepare(ring.Op{Code: ring.Nop})
	write.Next, cut.Next, bad.Next = &cut.Op, &bad.Op, &last.Op
	g.Submit(&write.Op)
	g.want(g.end(last), -int32(unix.ECANCELED))
	if write.Result != 10 || cut.Result != 0 || bad.Result != -int32(unix.EBADF) {
		t.Fatalf("results %d, %d, %d", write.Result, cut.Result, bad.Result)
	}
	if n, _ := g.Host().Size(file); n != 50 {
		t.Fatalf("size %d", n)
	}
	if g.Stats().Punted != 2 {
		t.Fatalf("%d punted", g.Stats().Punted)
	}
}

// Close with everything in flight ends it all and leaks no descriptor.
func TestCloseInFlight(t *testing.T) {
	runtime.LockOSThread()
	warm := open(t, Config{})
	warm.pair()
	before := descriptors()
	for range 3 {
		g := open(t, Config{})
		l, at := g.listen()
		a, b := g.connect(l, at)
		file := g.file("f", 1<<20)
		var calls []*call
		calls = append(calls,
			g.submit(ring.Op{Code: ring.Accept, FD: l, Flags: ring.Multi}),
			g.submit(ring.Op{Code: ring.Recv, FD: a, Flags: ring.Multi | ring.Pick}),
			g.submit(ring.Op{Code: ring.Recv, FD: b, Buf: g.get(10)}))
		for range 2 * pipesMax {
			calls = append(calls, g.submit(ring.Op{Code: ring.SendFile, FD: b, From: file, Len: 1 << 20}))
		}
		gate := make(chan struct{})
		g.submit(ring.Op{Code: ring.Task, Func: func() error { <-gate; return nil }})
		g.Wait(0)
		g.Wait(0)
		for _, c := range calls {
			c.then = func(*call) { t.Error("an op completed inside Close") }
		}
		begin := time.Now()
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 20*time.Second { // it does not wait for the task, which is held for good
			t.Fatalf("Close took %v", took)
		}
		close(gate)
		g.Wake() // is late, and harmless
		for _, fd := range []ring.FD{a, b, l} {
			unix.Close(int(fd))
		}
		unix.Close(int(file))
	}
	if after := descriptors(); after > before {
		t.Fatalf("%d descriptors before, %d after", before, after)
	}
}

// descriptors is how many the process has.
func descriptors() int {
	n := 0
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

func TestAnotherThreadIsRefused(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	said := make(chan any)
	go func() {
		runtime.LockOSThread()
		defer func() { said <- recover() }()
		g.Submit(&ring.Op{Code: ring.Nop, Done: g.prepare(ring.Op{})})
		g.Ring.Wait(0)
	}()
	if p, _ := (<-said).(string); !strings.HasPrefix(p, "BUG: uring: a ring is used on another thread") {
		t.Fatalf("panicked with %q", p)
	}
	g.inWait = false
}

// Nothing is allocated in steady state.
func TestNothingIsAllocated(t *testing.T) {
	runtime.LockOSThread()
	g := open(t, Config{})
	a, b := g.pair()
	peer := open(t, Config{})
	file := g.file("f", 1<<20)
	buf, in := g.get(1000), g.get(1000)
	done := &counter{}
	op := func(o ring.Op) *ring.Op {
		o.Done = done
		return &o
	}
	run := func(o *ring.Op) {
		g.Submit(o)
		last := o
		for last.Next != nil {
			last = last.Next
		}
		for last.Active {
			g.Wait(ring.Forever)
		}
	}
	recv := op(ring.Op{Code: ring.Recv, FD: b, Buf: in})
	pick := op(ring.Op{Code: ring.Recv, FD: b, Flags: ring.Pick})
	pieces := [][]byte{buf[:300], buf[300:]}
	linked := op(ring.Op{Code: ring.Write, FD: file, Buf: buf})
	linked.Next = op(ring.Op{Code: ring.Nop})
	software := op(ring.Op{Code: ring.Write, FD: file, Buf: buf, Flags: ring.Inline})
	software.Next = op(ring.Op{Code: ring.Write, FD: file, Bufs: pieces})
	nop := op(ring.Op{Code: ring.Nop})
	send := op(ring.Op{Code: ring.Send, FD: a, Buf: buf})
	vector := op(ring.Op{Code: ring.Send, FD: a, Bufs: pieces})
	large := op(ring.Op{Code: ring.SendFile, FD: a, From: file, Len: 200 << 10})
	small := op(ring.Op{Code: ring.SendFile, FD: a, From: file, Len: 900})
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"nop", func() { run(nop) }},
		{"send and recv", func() { run(send); run(recv) }},
		{"sendmsg and recv with pick", func() {
			run(vector)
			run(pick)
			g.ReturnChunk(pick.Chunk)
		}},
		{"linked write", func() { run(linked) }},
		{"inline write and writev", func() { run(software) }},
		{"sendfile", func() { run(small); run(recv) }},
		{"spliced", func() {
			run(large)
			for got := 0; got < int(large.Result); got += int(recv.Result) {
				run(recv)
			}
		}},
		{"wake", func() { g.Wake(); g.WakePeer(peer.Ring); g.Wait(ring.Forever); peer.Wait(0) }},
		{"wait", func() { g.Wait(g.Stamp() + 1000) }},
	} {
		for range 20 {
			c.f()
		}
		if n := testing.AllocsPerRun(100, c.f); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func TestFeatures(t *testing.T) {
	f, err := Probe()
	if (err == nil) != (Available() == nil) {
		t.Fatal(err, Available())
	}
	ringtest.NeedUring(t, err)
	names := map[string]bool{}
	for _, c := range f.Checks {
		if names[c.Name] {
			t.Errorf("two checks are named %q", c.Name)
		}
		names[c.Name] = true
		if !c.OK && c.Why == "" {
			t.Errorf("%s: no reason", c.Name)
		}
	}
	t.Log(f)
	if !f.OK(checkSetup) || f.OK("no such check") {
		t.Error("OK is wrong")
	}
	if !slices.ContainsFunc(f.Checks, func(c Check) bool { return c.Name == "splice" && c.Required }) {
		t.Error("splice is not required")
	}
}

func TestSetupReason(t *testing.T) {
	const filtered, free = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", "Name:\tx\nSeccomp:\t0\n"
	for _, c := range []struct {
		err      error
		disabled string
		status   string
		want     string
	}{
		{unix.ENOSYS, "", free, "built without it"},
		{unix.ENOSYS, "0", filtered, "seccomp"},
		{unix.EPERM, "2", free, "io_uring_disabled=2"},
		{unix.EPERM, "1", free, "io_uring_group"},
		{unix.EPERM, "0", filtered, "seccomp"},
		{unix.EPERM, "0", free, "security module"},
		{unix.ENOMEM, "0", free, "RLIMIT_MEMLOCK is 64 KiB"},
		{unix.EINVAL, "0", free, "Linux 6.1"},
		{unix.EMFILE, "0", free, "open files"},
	} {
		if got := setupReason(c.err, c.disabled, c.status, 64<<10); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q does not say %q", c.err, got, c.want)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	for _, cfg := range []Config{{Entries: 64, CQEntries: 32}, {RecvBuffers: recvBuffersMax + 1}, {RecvBuffers: -1}, {PoolBytes: -1}, {Spin: -1}} {
		if _, err := New(nil, cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
