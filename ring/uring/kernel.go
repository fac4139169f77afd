//go:build uring

package uring

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// What giouring (liburing 2.5) lacks, and what it keeps private. Its version is
// fixed by go.sum, and the checks below break the build, or newKernelRing, if its
// types are ever laid out otherwise.

const (
	opTruncate          = 55 // IORING_OP_FTRUNCATE, Linux 6.9
	registerSendMsgRing = 31 // IORING_REGISTER_SEND_MSG_RING, Linux 6.13

	setupFlags = giouring.SetupSingleIssuer | giouring.SetupDeferTaskrun | giouring.SetupCoopTaskrun |
		giouring.SetupTaskrunFlag | giouring.SetupSubmitAll | giouring.SetupClamp
)

// params mirrors struct io_uring_params: giouring.Params has only unexported fields.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sqOff, cqOff                                                           [10]uint32
}

const paramsBytes = 120

var (
	_ [paramsBytes - unsafe.Sizeof(giouring.Params{})]byte
	_ [unsafe.Sizeof(giouring.Params{}) - paramsBytes]byte
	_ [paramsBytes - unsafe.Sizeof(params{})]byte
	_ [unsafe.Sizeof(params{}) - paramsBytes]byte
)

// sqView mirrors the beginning of giouring.SubmissionQueue. It is for flags: the
// kernel raises SQTaskrun there, and giouring does not show it.
type sqView struct {
	head, tail, mask, entries, flags *uint32
}

// newKernelRing sets up a ring that belongs to the calling thread. Never pass
// NO_SQARRAY: giouring would write its index array over the ring's header.
func newKernelRing(entries, cqEntries uint32) (*giouring.Ring, *params, *sqView, error) {
	var p giouring.Params
	view := (*params)(unsafe.Pointer(&p))
	view.flags = setupFlags | giouring.SetupCQSize
	view.cqEntries = cqEntries
	k := giouring.NewRing()
	if err := k.QueueInitParams(entries, &p); err != nil {
		return nil, view, nil, err
	}
	sq := *(**sqView)(unsafe.Pointer(k)) // the first field of giouring.Ring
	if *sq.entries != view.sqEntries || *sq.mask != view.sqEntries-1 {
		panic(fmt.Sprintf("BUG: giouring's queue is laid out otherwise: %d entries, mask %#x, want %d", *sq.entries, *sq.mask, view.sqEntries))
	}
	return k, view, sq, nil
}

// register is io_uring_register(2) on a ring. giouring's own wrappers get the
// width of descriptors wrong and swallow errors.
func register(k *giouring.Ring, opcode uint32, arg unsafe.Pointer, n uint32) syscall.Errno {
	_, errno := k.Register(k.RingFd(), opcode, arg, n)
	return errno
}

// iovec and msghdr are unix.Iovec and unix.Msghdr without pointers: they live in
// memory that the garbage collector does not know.
type iovec struct{ base, len uintptr }

type msghdr struct {
	name       uintptr
	nameLen    uint32
	_          uint32
	iov        uintptr
	iovLen     uint64
	control    uintptr
	controlLen uint64
	flags      int32
	_          uint32
}

var (
	_ [unsafe.Sizeof(msghdr{}) - unsafe.Sizeof(unix.Msghdr{})]byte
	_ [unsafe.Sizeof(unix.Msghdr{}) - unsafe.Sizeof(msghdr{})]byte
)

func mapMemory(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("uring: map %d bytes: %w", n, err)
	}
	return b, nil
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// moveMax is the most that one read, write or send moves (the kernel's MAX_RW_COUNT).
const moveMax = 0x7ffff000

func length(b []byte) uint32 { return uint32(min(len(b), moveMax)) }
