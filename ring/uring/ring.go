//go:build uring

package uring

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Ring is ring.IO on io_uring. Everything in it but state, returned, workers and
// bell belongs to the goroutine that made it.
type Ring struct {
	kernel *giouring.Ring
	sq     *sqView
	host   ring.Host
	pool   *ring.Pool
	stats  ring.Stats
	fdRing int32 // the ring's own descriptor
	spin   int64 // ns

	slots    []*[slotsChunk]slot
	scratch  [][]byte // the memory behind slots
	freeSlot int32
	fds      []*[fdsChunk]fdState
	noFD     fdState
	inKernel int // requests that have yet to post their last completion

	doneHead, doneTail *ring.Op // results that did not come from the kernel, by Link

	now     int64
	wall    int64
	wallFor uint64 // the Wait that wall was read in
	timeout *syscall.Timespec
	inWait  bool
	closing bool

	recv    receiveBuffers
	regions []region // registered memory
	files   []int32  // registered files: the free places; nil before the first
	pipes   pipes
	turns   turns
	peers   []*Ring // whom WakePeer has woken
	small   []byte  // timeout, eventfd counter and inline: off heap
	inline  *scratch

	canTruncate bool

	// state is what Wake and Wait agree by: see wake.go.
	state    atomic.Uint32
	returned atomic.Pointer[ring.Op] // what workers have finished, newest first, by Link
	workers  workers
	bell     bell
}

var _ ring.IO = (*Ring)(nil)

// Available is nil when this binary contains the backend and the kernel lets us
// use it; otherwise the reason. The kernel is asked once per process.
func Available() error {
	_, err := probed()
	return err
}

var probed = sync.OnceValues(Probe)

// New makes a ring. It must be called on the locked thread that will use it; the
// kernel refuses any other. The error says why io_uring cannot be used.
func New(host ring.Host, cfg Config) (ring.IO, error) {
	features, err := probed()
	if err != nil {
		return nil, err
	}
	r, err := newRing(host, cfg, features)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func newRing(host ring.Host, cfg Config, features Features) (_ *Ring, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Ring{
		host:        host,
		spin:        int64(cfg.Spin),
		freeSlot:    -1,
		pipes:       pipes{waiting: slotQueue{head: -1}, limit: pipesMax},
		turns:       turns{inlineMax: ring.SendFileTurn, left: ring.SendFileTurn, waiting: slotQueue{head: -1}},
		canTruncate: features.OK(checkTruncate),
	}
	defer func() {
		if err != nil {
			r.unmap()
		}
	}()
	r.kernel, _, r.sq, err = newKernelRing(cfg.Entries, cfg.CQEntries)
	if err != nil {
		return nil, setupError(err)
	}
	r.fdRing = int32(r.kernel.RingFd())
	if r.pool, err = ring.NewPool(cfg.PoolBytes); err != nil {
		return nil, err
	}
	if err = r.addReceiveBuffers(cfg.RecvBuffers, cfg.RecvBufferSize); err != nil {
		return nil, err
	}
	if r.small, err = mapMemory(4096); err != nil {
		return nil, err
	}
	r.timeout = (*syscall.Timespec)(unsafe.Pointer(&r.small[0]))
	r.inline = (*scratch)(unsafe.Pointer(&r.small[64]))
	if err = r.hangBell(features.OK(checkMsgRing)); err != nil {
		return nil, err
	}
	r.confineWorkers()
	r.addSlots()
	r.now = host.Monotonic()
	return r, nil
}

// processCPUs are those that this process was started on, before any of its threads was pinned to one; nil where they cannot be told.
var processCPUs = func() *unix.CPUSet {
	var cpus unix.CPUSet
	if unix.SchedGetaffinity(0, &cpus) != nil {
		return nil
	}
	return &cpus
}()

// confineWorkers keeps the kernel's workers, which this thread's splices and prefetches run on, to the CPUs of the process. Else they run on
// any CPU, whatever the process was confined to. A kernel that cannot (before Linux 5.14) is no error.
func (r *Ring) confineWorkers() {
	if processCPUs != nil {
		_ = r.kernel.RegisterIOWQAff(uint64(unsafe.Sizeof(*processCPUs)), processCPUs)
	}
}

// Now is the clock as the last Wait returned. Inside Complete it is the clock as
// this Wait came back from the kernel.
func (r *Ring) Now() int64 { return r.now }

// Stamp reads the clock.
func (r *Ring) Stamp() int64 { return r.host.Monotonic() }

// WallMillis is read once per Wait, when it is first asked for.
func (r *Ring) WallMillis() int64 {
	if r.wall == 0 || r.wallFor != r.stats.Waits {
		r.wall, r.wallFor = r.host.WallMillis(), r.stats.Waits
	}
	return r.wall
}

// Random is the host's.
func (r *Ring) Random() uint64 { return r.host.Random() }

// Pool is this core's memory.
func (r *Ring) Pool() *ring.Pool { return r.pool }

// Host is the machine.
func (r *Ring) Host() ring.Host { return r.host }

// Stats is what this ring has done.
func (r *Ring) Stats() *ring.Stats { return &r.stats }

// Name is "uring".
func (r *Ring) Name() string { return "uring" }

// closeWait bounds how long Close waits for the kernel to let go of our memory.
const closeWait = 10 * time.Second

// Close cancels what is in flight, waits until the kernel has let go of it (at
// most 10 s: a write to a disk that hangs cannot be cancelled) and unmaps the
// ring, the receive buffers and the pool. If it times out the memory stays mapped
// and the error says so. Functions of Task ops that run go on to their end.
func (r *Ring) Close() error {
	if r.inWait {
		panic("BUG: uring: Close called from Complete")
	}
	r.closing = true
	r.bell.mute()
	r.state.Store(notified) // Wake has nobody to wake
	end := r.host.Monotonic() + int64(closeWait)
	for r.inKernel > 0 {
		if r.host.Monotonic() > end {
			return fmt.Errorf("uring: close: %d requests are still in the kernel after %v; their memory is not unmapped", r.inKernel, closeWait)
		}
		e := r.sqe()
		e.PrepareCancel64(0, int(giouring.AsyncCancelAny|giouring.AsyncCancelAll))
		e.Flags = giouring.SqeCQESkipSuccess
		e.UserData = userData(kindIgnore, 0, 0)
		r.enter(int64(20 * time.Millisecond))
		r.drain()
	}
	return r.unmap()
}

func (r *Ring) unmap() error {
	if r.kernel != nil && r.fdRing != 0 {
		r.kernel.QueueExit()
	}
	r.pipes.closeAll()
	r.bell.close()
	for _, mem := range append(r.scratch, r.small, r.recv.ringMem, r.recv.mem) {
		if mem != nil {
			unix.Munmap(mem)
		}
	}
	r.scratch, r.slots = nil, nil
	if r.pool != nil {
		return r.pool.Close()
	}
	return nil
}
