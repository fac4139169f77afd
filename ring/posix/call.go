package posix

import (
	"net/netip"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"golang.org/x/sys/unix"
)

// call has the arguments of system calls that x/sys/unix has only in forms which
// allocate. Each thread has one of its own. Every verb retries EINTR and returns
// a result as Op.Result has it: bytes, or a negative errno.
type call struct {
	iov  [ring.IOVMax]unix.Iovec
	msg  unix.Msghdr
	addr unix.RawSockaddrInet6
	time unix.Timespec
	peek [1]byte
}

// outcome is what a call returned, and whether a signal interrupted it.
func outcome(n uintptr, errno unix.Errno) (result int32, interrupted bool) {
	if errno != 0 {
		return -int32(errno), errno == unix.EINTR
	}
	return int32(n), false
}

func (c *call) recv(fd ring.FD, b []byte, flags int) int32 {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags), 0, 0)
		if n, interrupted := outcome(n, errno); !interrupted {
			return n
		}
	}
}

func (c *call) send(op *ring.Op) int32 {
	flags := unix.MSG_NOSIGNAL
	if op.Flags&ring.MsgMore != 0 {
		flags |= unix.MSG_MORE
	}
	c.msg.Iov = &c.iov[0]
	c.msg.SetIovlen(c.vector(op))
	for {
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(op.FD), uintptr(unsafe.Pointer(&c.msg)), uintptr(flags))
		if n, interrupted := outcome(n, errno); !interrupted {
			return n
		}
	}
}

// vector points iov at what op writes, and returns how many pieces that is.
func (c *call) vector(op *ring.Op) int {
	if op.Bufs == nil {
		c.piece(0, op.Buf)
		return 1
	}
	for i, b := range op.Bufs {
		c.piece(i, b)
	}
	return len(op.Bufs)
}

func (c *call) piece(i int, b []byte) {
	c.iov[i].Base = unsafe.SliceData(b)
	c.iov[i].SetLen(len(b))
}

func (c *call) accept(listener ring.FD) int32 {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if n, interrupted := outcome(n, errno); !interrupted {
			return n
		}
	}
}

// connect begins to connect, or says how far it has come: -EAGAIN is not yet.
// The kernel gives the outcome to the first who asks once it is there.
func (c *call) connect(fd ring.FD, to netip.AddrPort) int32 {
	size := host.PutSockaddr(&c.addr, to)
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&c.addr)), uintptr(size))
	switch errno {
	case 0, unix.EISCONN:
		return 0
	case unix.EINPROGRESS, unix.EALREADY, unix.EINTR: // EINTR: it goes on in the kernel
		return -int32(unix.EAGAIN)
	case unix.EAGAIN: // no local port is free
		return -int32(unix.EADDRNOTAVAIL)
	}
	return -int32(errno)
}

func (c *call) pread(fd ring.FD, b []byte, off int64, flags int) int32 {
	c.piece(0, b)
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&c.iov[0])), 1, uintptr(off), uintptr(uint64(off)>>32), uintptr(flags))
		if n, interrupted := outcome(n, errno); !interrupted {
			return n
		}
	}
}

func (c *call) pwrite(op *ring.Op) int32 {
	flags := 0
	if op.Flags&ring.DSync != 0 {
		flags = unix.RWF_DSYNC
	}
	pieces := c.vector(op)
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(op.FD), uintptr(unsafe.Pointer(&c.iov[0])), uintptr(pieces), uintptr(op.Off), uintptr(uint64(op.Off)>>32), uintptr(flags))
		if n, interrupted := outcome(n, errno); !interrupted {
			return n
		}
	}
}

// epollWait returns how many events there are, none when a signal came first. It
// is a Syscall, which lets go of the thread's P: blocking in a RawSyscall would
// stop the garbage collector.
func (r *Ring) epollWait(timeout int64) int {
	if r.coarse {
		n, err := unix.EpollWait(r.epollFD, r.events, millis(timeout))
		return r.epolled(n, result(err))
	}
	c := &r.call
	c.time = unix.NsecToTimespec(timeout)
	limit := &c.time
	if timeout == ring.Forever {
		limit = nil
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(r.epollFD), uintptr(unsafe.Pointer(&r.events[0])), uintptr(len(r.events)), uintptr(unsafe.Pointer(limit)), 0, 0)
	if errno == unix.ENOSYS || errno == unix.EPERM { // before Linux 5.11, or a filter that does not know it
		r.coarse = true
		return 0
	}
	return r.epolled(int(n), -int32(errno))
}

func (r *Ring) epolled(n int, failed int32) int {
	if failed == 0 {
		return n
	}
	if failed != -int32(unix.EINTR) {
		panic("BUG: epoll_wait: " + unix.Errno(-failed).Error())
	}
	return 0
}

// millis is for epoll_wait: rounded up, so that it does not return early; -1 is
// for ever.
func millis(timeout int64) int {
	const most = 1 << 30 // ms; Wait asks again
	switch {
	case timeout == ring.Forever:
		return -1
	case timeout > most*1_000_000:
		return most
	}
	return int((timeout + 999_999) / 1_000_000)
}
