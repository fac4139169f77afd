// Package posix is the fallback backend of ring.IO, for machines where io_uring
// is blocked: edge-triggered epoll for sockets, and a few worker threads for
// calls on files that may wait for the disk. It needs nothing newer than
// Linux 4.14; on later kernels it uses more of them.
//
// Everything is tried at Submit, by the calling thread. What would block waits
// in a list at its file until epoll says more; what may wait for the disk goes
// to a worker. Outcomes gather in Ring.ready, and only Wait delivers them. All
// lists run through Op.Link, so that none of them can be full and none of them
// allocates: an op is in one list at a time, and Op.Slot says which.
//
// "In full", for Op.Next: a Read, Write, Send or SendFile has moved all that it
// asked for; any other op has not failed.
package posix

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"golang.org/x/sys/unix"
)

// Host is the machine that this process runs on.
func Host() ring.Host { return host.New() }

// Config sizes a Ring. A zero field has the default.
type Config struct {
	PoolBytes      int // memory of this core, bytes: 64 MiB
	Workers        int // threads for calls that may wait for the disk: 4
	RecvBuffers    int // buffers for Recv with Pick, at most 65536: 256
	RecvBufferSize int // bytes of each: 16 KiB
	Events         int // most events taken from epoll at once: 256
}

// Where an op is: Op.Slot between Submit and its last Complete.
const (
	nowhere          int32 = iota
	held                   // its predecessor in the chain has not succeeded yet
	heldCancelled          // the same, and it will be cancelled in its turn
	polling                // in file.in or file.out, until the socket is ready
	armed                  // Multi, with a result to deliver; file.armed
	armedCancelled         // the same, and that result is its last
	working                // with the workers
	workingCancelled       // the same, and if it has to be tried again it will not be
	closing                // a Close that waits for the workers: file.closing
	ready                  // in Ring.ready
)

// A ring's state, for Wake.
const (
	running uint32 = iota // the loop is at work; it looks at the state before it blocks
	asleep                // it blocks, or is about to: wakeFD ends that
	woken                 // Wake has been called since the last Wait
)

// Ring is a ring.IO on epoll. All but Wake belongs to the goroutine that made it.
type Ring struct {
	host    ring.Host
	pool    *ring.Pool
	stats   ring.Stats
	now     int64
	wall    int64
	files   []*file // by descriptor
	fileMax ring.FD // no descriptor is as large
	ready   opList  // outcomes to be delivered by the next Wait
	picks   picks
	turns   turns
	workers workers

	epollFD  int
	events   []unix.EpollEvent
	coarse   bool // the kernel has no epoll_pwait2: deadlines are in ms, rounded up
	wakeFD   int  // an eventfd in epoll, edge-triggered: it is written, and never read
	state    atomic.Uint32
	wakers   atomic.Int32            // who may be writing to wakeFD
	returned atomic.Pointer[ring.Op] // what workers have done; a stack through Link

	call call // arguments of the calls that this thread makes
}

// New makes a ring for the calling goroutine, which is locked to its thread.
func New(h ring.Host, cfg Config) (ring.IO, error) {
	def := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	def(&cfg.PoolBytes, 64<<20)
	def(&cfg.Workers, 4)
	def(&cfg.RecvBuffers, 256)
	def(&cfg.RecvBufferSize, 16<<10)
	def(&cfg.Events, 256)
	if cfg.RecvBuffers > 1<<16 {
		return nil, fmt.Errorf("posix ring: %d receive buffers are more than %d", cfg.RecvBuffers, 1<<16)
	}

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("posix ring: limit of open files: %w", err)
	}
	r := &Ring{
		host:    h,
		fileMax: ring.FD(min(limit.Cur, 1<<24)),
		events:  make([]unix.EpollEvent, cfg.Events),
		epollFD: -1,
		turns:   turns{inlineMax: math.MaxInt64, left: ring.SendFileTurn},
		wakeFD:  -1,
	}
	if err := r.open(cfg); err != nil {
		r.Close()
		return nil, err
	}
	r.workers.start(r, cfg.Workers)
	r.readClock()
	return r, nil
}

func (r *Ring) open(cfg Config) (err error) {
	if r.pool, err = ring.NewPool(cfg.PoolBytes); err != nil {
		return err
	}
	if err = r.picks.open(cfg.RecvBuffers, cfg.RecvBufferSize); err != nil {
		return err
	}
	if r.epollFD, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("posix ring: epoll_create1: %w", err)
	}
	if r.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("posix ring: eventfd: %w", err)
	}
	wake := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(r.wakeFD)}
	if err = unix.EpollCtl(r.epollFD, unix.EPOLL_CTL_ADD, r.wakeFD, &wake); err != nil {
		return fmt.Errorf("posix ring: epoll_ctl of the eventfd: %w", err)
	}
	return nil
}

// Close waits for what the workers are doing right now; what they have not begun
// is dropped. Files and sockets stay open: they are the owner's.
func (r *Ring) Close() error {
	r.workers.end()
	// From here a Wake finds the ring woken, and does not write. One that found
	// it asleep may still be writing: the number must not be another file's then.
	r.state.Store(woken)
	for r.wakers.Load() > 0 {
		runtime.Gosched()
	}
	var first error
	keep := func(err error) {
		if first == nil && err != nil {
			first = fmt.Errorf("posix ring: close: %w", err)
		}
	}
	for _, fd := range []*int{&r.epollFD, &r.wakeFD} {
		if *fd >= 0 {
			keep(unix.Close(*fd))
			*fd = -1
		}
	}
	keep(r.picks.close())
	if r.pool != nil {
		keep(r.pool.Close())
		r.pool = nil
	}
	return first
}

func (r *Ring) Now() int64               { return r.now }
func (r *Ring) Stamp() int64             { return r.host.Monotonic() }
func (r *Ring) WallMillis() int64        { return r.wall }
func (r *Ring) Random() uint64           { return r.host.Random() }
func (r *Ring) Pool() *ring.Pool         { return r.pool }
func (r *Ring) Host() ring.Host          { return r.host }
func (r *Ring) Stats() *ring.Stats       { return &r.stats }
func (r *Ring) Name() string             { return "posix" }
func (r *Ring) ReturnChunk(c ring.Chunk) { r.picks.put(c.ID) }

func (r *Ring) readClock() {
	r.now = r.host.Monotonic()
	r.wall = r.host.WallMillis()
}

// Submit tries op at once, or gives it to a worker.
func (r *Ring) Submit(op *ring.Op) {
	r.admit(op)
	for next := op.Next; next != nil; next = next.Next {
		r.admit(next)
		next.Slot = held
	}
	r.begin(op)
}

// admit takes the op from its owner.
func (r *Ring) admit(op *ring.Op) {
	switch {
	case op.Active:
		panic(fmt.Sprintf("BUG: %v on %d submitted while it is active", op.Code, op.FD))
	case op.Done == nil:
		panic(fmt.Sprintf("BUG: %v on %d submitted without Done", op.Code, op.FD))
	case op.Code > ring.Task:
		panic(fmt.Sprintf("BUG: submitted %v", op.Code))
	case len(op.Bufs) > ring.IOVMax:
		panic(fmt.Sprintf("BUG: %v of %d pieces, more than %d", op.Code, len(op.Bufs), ring.IOVMax))
	case op.Code == ring.Recv && op.Flags&(ring.Multi|ring.Pick) == ring.Multi:
		panic(fmt.Sprintf("BUG: recv on %d with Multi and without Pick", op.FD))
	}
	op.Result, op.More, op.Chunk, op.Err = 0, false, ring.Chunk{}, nil
	op.Active, op.Slot, op.Link = true, nowhere, nil
	r.stats.Submitted[op.Code]++
}

func (r *Ring) begin(op *ring.Op) {
	switch op.Code {
	case ring.Nop:
		r.finish(op, 0)
	case ring.Read:
		r.read(op)
	case ring.Write:
		r.write(op)
	case ring.NoReadahead:
		r.finish(op, host.NoReadahead(op.FD))
	case ring.Prefetch:
		if host.Missing(op.FD, op.Off, min(op.Len, ring.PrefetchMax)) == 0 {
			r.finish(op, 0)
			return
		}
		r.punt(op)
	case ring.Accept, ring.Recv:
		r.receive(op)
	case ring.Connect, ring.Send, ring.SendFile:
		r.transmit(op)
	case ring.Shutdown:
		r.finish(op, result(unix.Shutdown(int(op.FD), unix.SHUT_RDWR)))
	case ring.Close:
		r.closeFile(op)
	default: // Sync, SyncRange, Forget, Allocate, Truncate, Task
		r.punt(op)
	}
}

// finish is the outcome of op, for the next Wait to deliver. What follows it in
// its chain begins, or ends with it.
func (r *Ring) finish(op *ring.Op, result int32) {
	op.Result, op.More = result, false
	if result < 0 {
		op.Chunk = ring.Chunk{}
	}
	op.Slot = ready
	r.ready.push(op)
	switch next := op.Next; {
	case next == nil:
	case next.Slot == heldCancelled || !succeeded(op):
		r.finish(next, -int32(unix.ECANCELED))
	default:
		next.Slot = nowhere
		r.begin(next)
	}
}

// succeeded says whether op has done all that it was asked to.
func succeeded(op *ring.Op) bool {
	switch op.Code {
	case ring.Read, ring.Write, ring.Send:
		return int(op.Result) == op.Size()
	case ring.SendFile:
		return int64(op.Result) == op.Len
	}
	return op.Result >= 0
}

// Cancel ends an op that waits for a socket, for its turn in a chain or for a
// worker. What a worker has begun runs to its end.
func (r *Ring) Cancel(op *ring.Op) {
	if !op.Active {
		return
	}
	switch op.Slot {
	case held:
		op.Slot = heldCancelled
	case polling:
		f := r.files[op.FD]
		if !f.in.remove(op) {
			f.out.remove(op)
		}
		r.finish(op, -int32(unix.ECANCELED))
	case armed:
		op.Slot = armedCancelled
	case working:
		r.cancelWork(op)
	}
}

// Wait blocks in epoll only: everything else that can happen makes it return.
func (r *Ring) Wait(until int64) int {
	r.stats.Waits++
	r.newTurn()
	for {
		r.collect()
		timeout := int64(0)
		if now := r.host.Monotonic(); r.ready.head == nil && now < until && r.fallAsleep() {
			timeout = until - now
			if until == ring.Forever {
				timeout = ring.Forever
			}
		}
		r.poll(timeout)
		wake := r.wakeUp()
		r.collect()
		if r.ready.head != nil || wake || r.host.Monotonic() >= until {
			break
		}
	}
	r.readClock()
	return r.deliver()
}

// deliver completes what is ready now. What its completers submit is for the next
// Wait, however quickly it is done: so a Wait always ends.
func (r *Ring) deliver() int {
	n := 0
	batch := r.ready
	r.ready = opList{}
	for op := batch.pop(); op != nil; op = batch.pop() {
		n++
		r.stats.Completed++
		if op.More {
			op.Done.Complete(op)
			r.rearm(op)
			continue
		}
		op.Active, op.Slot = false, nowhere
		op.Done.Complete(op)
	}
	return n
}

// fallAsleep announces that this thread is about to block, and says whether it
// may: whoever has something for it either comes before this and is seen here,
// or comes after and sees the ring asleep.
func (r *Ring) fallAsleep() bool {
	return r.state.CompareAndSwap(running, asleep) && r.returned.Load() == nil
}

// wakeUp ends that, and says whether there has been a Wake.
func (r *Ring) wakeUp() bool {
	if r.state.Swap(running) != woken {
		return false
	}
	r.stats.Wakes++
	return true
}

// Wake writes to the eventfd only if the ring is asleep, and only the first of
// several does.
func (r *Ring) Wake() {
	for {
		switch r.state.Load() {
		case woken:
			return
		case running:
			if r.state.CompareAndSwap(running, woken) {
				return
			}
		case asleep:
			r.wakers.Add(1) // before the swap: see Close
			won := r.state.CompareAndSwap(asleep, woken)
			if won {
				r.ringBell()
			}
			r.wakers.Add(-1)
			if won {
				return
			}
		}
	}
}

// one is what an eventfd is written with.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// ringBell makes epoll_wait return. Nobody reads the eventfd: each write is an
// edge of its own, and its counter has room for 2^64 of them.
func (r *Ring) ringBell() {
	for {
		_, err := unix.Write(r.wakeFD, one)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			panic(fmt.Sprintf("BUG: write to eventfd %d: %v", r.wakeFD, err))
		}
	}
}

// opList is a queue of ops through Op.Link.
type opList struct{ head, tail *ring.Op }

func (l *opList) push(op *ring.Op) {
	op.Link = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.Link = op
	}
	l.tail = op
}

func (l *opList) pushFront(op *ring.Op) {
	op.Link = l.head
	l.head = op
	if l.tail == nil {
		l.tail = op
	}
}

func (l *opList) pop() *ring.Op {
	op := l.head
	if op == nil {
		return nil
	}
	l.head = op.Link
	if l.head == nil {
		l.tail = nil
	}
	op.Link = nil
	return op
}

// remove says whether op was in the list.
func (l *opList) remove(op *ring.Op) bool {
	var before *ring.Op
	for at := l.head; at != nil; before, at = at, at.Link {
		if at != op {
			continue
		}
		if before == nil {
			l.head = op.Link
		} else {
			before.Link = op.Link
		}
		if l.tail == op {
			l.tail = before
		}
		op.Link = nil
		return true
	}
	return false
}

func result(err error) int32 {
	if err == nil {
		return 0
	}
	return -int32(err.(unix.Errno))
}
