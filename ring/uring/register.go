//go:build uring

package uring

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// regionsMax is how many buffers can be registered, filesMax how many files.
const (
	regionsMax = 16
	filesMax   = 1024
)

type region struct{ from, to uintptr }

var (
	_ ring.BufferRegistrar = (*Ring)(nil)
	_ ring.FileRegistrar   = (*Ring)(nil)
	_ ring.PeerWaker       = (*Ring)(nil)
)

// RegisterBuffer implements ring.BufferRegistrar: it pins b (off heap, at most
// 1 GiB) so that a Read or Write of a Buf inside it need not. Pinned memory counts
// against RLIMIT_MEMLOCK (ENOMEM). At most 16 regions; for as long as the ring lives.
func (r *Ring) RegisterBuffer(b []byte) error {
	if len(b) == 0 || len(r.regions) == regionsMax {
		return fmt.Errorf("uring: register a buffer of %d bytes: %d of %d are registered", len(b), len(r.regions), regionsMax)
	}
	if len(r.regions) == 0 {
		table := giouring.RsrcRegister{Nr: regionsMax, Flags: giouring.RsrcRegisterSparse}
		errno := register(r.kernel, giouring.RegisterBuffers2, unsafe.Pointer(&table), uint32(unsafe.Sizeof(table)))
		if errno != 0 && errno != unix.EBUSY { // EBUSY: an earlier call got this far
			return fmt.Errorf("uring: register a table of %d buffers: %w", regionsMax, errno)
		}
	}
	vec := &r.inline.iov[0] // off heap: its address goes through an integer
	*vec = iovec{address(b), uintptr(len(b))}
	update := giouring.RsrcUpdate2{Offset: uint32(len(r.regions)), Data: uint64(uintptr(unsafe.Pointer(vec))), Nr: 1}
	if errno := register(r.kernel, giouring.RegisterBuffersUpdate, unsafe.Pointer(&update), uint32(unsafe.Sizeof(update))); errno != 0 {
		return fmt.Errorf("uring: register a buffer of %d bytes: %w", len(b), errno)
	}
	r.regions = append(r.regions, region{vec.base, vec.base + vec.len})
	return nil
}

// useRegion makes e a fixed read or write if b is registered.
func (r *Ring) useRegion(e *giouring.SubmissionQueueEntry, b []byte, opcode uint8) {
	from := address(b)
	for i := range r.regions {
		if g := &r.regions[i]; from >= g.from && from+uintptr(len(b)) <= g.to {
			e.OpCode = opcode
			e.BufIG = uint16(i)
			return
		}
	}
}

// RegisterFile implements ring.FileRegistrar: ops on fd then find the file in a
// table of the ring's instead of the process's. At most 1024 files. A Close op
// takes fd out of the table; until then the file stays open, so fd must not be
// closed in any other way.
func (r *Ring) RegisterFile(fd ring.FD) error {
	if f := r.fd(fd); f.fixed > 0 {
		return nil
	}
	if r.files == nil {
		table := giouring.RsrcRegister{Nr: filesMax, Flags: giouring.RsrcRegisterSparse}
		if errno := register(r.kernel, giouring.RegisterFiles2, unsafe.Pointer(&table), uint32(unsafe.Sizeof(table))); errno != 0 {
			return fmt.Errorf("uring: register a table of %d files: %w", filesMax, errno)
		}
		r.files = make([]int32, filesMax)
		for i := range r.files {
			r.files[i] = int32(filesMax - 1 - i)
		}
	}
	if len(r.files) == 0 {
		return fmt.Errorf("uring: register fd %d: all %d places are taken", fd, filesMax)
	}
	place := r.files[len(r.files)-1]
	if errno := r.setFile(place, fd); errno != 0 {
		return fmt.Errorf("uring: register fd %d: %w", fd, errno)
	}
	r.files = r.files[:len(r.files)-1]
	r.fd(fd).fixed = place + 1
	return nil
}

func (r *Ring) unregisterFile(fd ring.FD) {
	r.poll() // queued entries that name its place come first
	f := r.fd(fd)
	place := f.fixed - 1
	if errno := r.setFile(place, ring.NoFD); errno != 0 {
		panic(fmt.Sprintf("BUG: uring: take fd %d from place %d of the registered files: %v", fd, place, errno))
	}
	f.fixed = 0
	r.files = append(r.files, place)
}

// setFile goes round giouring, which passes descriptors as 64 bits where the
// kernel reads 32.
func (r *Ring) setFile(place int32, fd ring.FD) syscall.Errno {
	value := (*int32)(unsafe.Pointer(&r.inline.iov[0]))
	*value = int32(fd)
	update := giouring.FilesUpdate{Offset: uint32(place), Fds: uint64(uintptr(unsafe.Pointer(value)))}
	n, errno := r.kernel.Register(r.kernel.RingFd(), giouring.RegisterFilesUpdate, unsafe.Pointer(&update), 1)
	if errno == 0 && n != 1 {
		return unix.EBADF
	}
	return errno
}

// useFixed makes e use fd's place in the table, if it has one.
func (r *Ring) useFixed(e *giouring.SubmissionQueueEntry, fd ring.FD) {
	if f := r.fd(fd); f.fixed > 0 {
		e.Fd = f.fixed - 1
		e.Flags |= giouring.SqeFixedFile
	}
}
