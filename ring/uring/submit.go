//go:build uring

package uring

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Submit implements ring.IO.
func (r *Ring) Submit(op *ring.Op) {
	n := 0
	for o := op; o != nil; o = o.Next {
		r.admit(o)
		n++
	}
	if n > 1 && r.linkable(op, n) {
		r.startLinked(op, n)
		return
	}
	r.start(op)
}

func (r *Ring) admit(op *ring.Op) {
	switch {
	case op.Active:
		panic(fmt.Sprintf("BUG: uring: submit of a %v op on fd %d that is active", op.Code, op.FD))
	case op.Done == nil:
		panic(fmt.Sprintf("BUG: uring: submit of a %v op on fd %d without Done", op.Code, op.FD))
	case len(op.Bufs) > ring.IOVMax:
		panic(fmt.Sprintf("BUG: uring: submit of a %v op with %d pieces, at most %d", op.Code, len(op.Bufs), ring.IOVMax))
	case op.Flags&ring.Multi != 0 && (op.Next != nil || op.Code == ring.Recv && op.Flags&ring.Pick == 0):
		panic(fmt.Sprintf("BUG: uring: submit of a %v op with Multi: next %v, flags %#x", op.Code, op.Next != nil, uint8(op.Flags)))
	case r.closing:
		panic("BUG: uring: submit on a closed ring")
	}
	r.stats.Submitted[op.Code]++
	op.Active = true
	op.Slot = slotWaiting - int32(r.fd(op.FD).epoch&epochMask)
	op.Result, op.More, op.Chunk, op.Err, op.Link = 0, false, ring.Chunk{}, nil, nil
}

// linkable says whether the kernel can run the whole chain by itself. Socket ops
// are not linked: a short send does not break the kernel's chain.
func (r *Ring) linkable(op *ring.Op, n int) bool {
	if n > int(*r.sq.entries) {
		return false
	}
	for ; op != nil; op = op.Next {
		switch op.Code {
		case ring.Nop, ring.Read, ring.Sync, ring.SyncRange, ring.Allocate:
		case ring.Write:
			if op.Flags&ring.Inline != 0 {
				return false
			}
		case ring.Truncate:
			if !r.canTruncate {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func (r *Ring) startLinked(op *ring.Op, n int) {
	r.room(n) // a chain ends where a submission ends
	for ; op != nil; op = op.Next {
		i, s := r.take(op)
		s.linked = true
		if e := r.push(i, s); op.Next != nil {
			e.Flags |= giouring.SqeIOLink
		}
	}
}

// start begins one op whose turn has come.
func (r *Ring) start(op *ring.Op) {
	if op.Slot == slotCancelled || op.Slot != slotWaiting-int32(r.fd(op.FD).epoch&epochMask) {
		// Cancelled in its chain; or its FD was closed meanwhile, and the number
		// may belong to another file by now.
		r.finish(op, -int32(unix.ECANCELED))
		return
	}
	switch op.Code {
	case ring.Write:
		if op.Flags&ring.Inline != 0 {
			r.finish(op, r.writeInline(op))
			return
		}
	case ring.Task:
		r.punt(op)
		return
	case ring.Truncate:
		if !r.canTruncate {
			r.punt(op)
			return
		}
	case ring.Close:
		r.close(op)
		return
	case ring.SendFile:
		i, s := r.take(op)
		s.file = transfer{}
		r.sendFile(i, s)
		return
	case ring.NoReadahead:
		r.finish(op, host.NoReadahead(op.FD))
		return
	case ring.Prefetch:
		missing := host.Missing(op.FD, op.Off, min(op.Len, ring.PrefetchMax))
		if missing == 0 {
			r.finish(op, 0)
			return
		}
		i, s := r.take(op)
		s.file = transfer{asked: uint32(missing)}
		r.push(i, s)
		return
	}
	i, s := r.take(op)
	r.push(i, s)
}

// finish is the end of an op outside the kernel: the next Wait delivers it.
func (r *Ring) finish(op *ring.Op, result int32) {
	op.Slot = slotDone
	op.Result = result
	op.Link = nil
	if r.doneTail == nil {
		r.doneHead = op
	} else {
		r.doneTail.Link = op
	}
	r.doneTail = op
	r.advance(op)
}

// advance starts what follows op in its chain, or ends it with ECANCELED.
func (r *Ring) advance(op *ring.Op) {
	switch {
	case op.Next == nil:
	case full(op):
		r.start(op.Next)
	default:
		r.finish(op.Next, -int32(unix.ECANCELED))
	}
}

// full says whether op has succeeded so that its chain goes on.
func full(op *ring.Op) bool {
	switch op.Code {
	case ring.Read, ring.Write, ring.Send:
		return op.Result >= 0 && int(op.Result) == op.Size()
	case ring.SendFile:
		return op.Result >= 0 && int64(op.Result) == op.Len
	}
	return op.Result >= 0
}

// writeInline is pwrite by the calling thread, through Syscall: it may block, and
// the other goroutines must go on then.
func (r *Ring) writeInline(op *ring.Op) int32 {
	for {
		var n uintptr
		var errno syscall.Errno
		if op.Bufs == nil && op.Flags&ring.DSync == 0 {
			n, _, errno = unix.Syscall6(unix.SYS_PWRITE64, uintptr(op.FD), address(op.Buf), uintptr(length(op.Buf)), uintptr(op.Off), 0, 0)
		} else {
			flags := uintptr(0)
			if op.Flags&ring.DSync != 0 {
				flags = unix.RWF_DSYNC
			}
			pieces := r.inline.pieces(op)
			n, _, errno = unix.Syscall6(unix.SYS_PWRITEV2, uintptr(op.FD), uintptr(unsafe.Pointer(&r.inline.iov)), uintptr(pieces), uintptr(op.Off), 0, flags)
		}
		switch errno {
		case 0:
			return int32(n)
		case unix.EINTR:
		default:
			return -int32(errno)
		}
	}
}

// pieces fills iov with what op writes or sends, and returns how many there are.
func (x *scratch) pieces(op *ring.Op) uint32 {
	if op.Bufs == nil {
		x.iov[0] = iovec{address(op.Buf), uintptr(length(op.Buf))}
		return 1
	}
	for i, b := range op.Bufs {
		x.iov[i] = iovec{address(b), uintptr(len(b))}
	}
	return uint32(len(op.Bufs))
}

// push writes the SQE of a slot's op.
func (r *Ring) push(i int32, s *slot) *giouring.SubmissionQueueEntry {
	e := r.sqe()
	r.prepare(e, s)
	e.UserData = userData(kindOp, s.gen, i)
	r.inKernel++
	return e
}

func (r *Ring) prepare(e *giouring.SubmissionQueueEntry, s *slot) {
	op := s.op
	fd := int(op.FD)
	switch op.Code {
	case ring.Nop:
		e.PrepareNop()
		return
	case ring.Read:
		e.PrepareRead(fd, address(op.Buf), length(op.Buf), uint64(op.Off))
		r.useRegion(e, op.Buf, giouring.OpReadFixed)
	case ring.Write:
		if op.Bufs == nil {
			e.PrepareWrite(fd, address(op.Buf), length(op.Buf), uint64(op.Off))
			r.useRegion(e, op.Buf, giouring.OpWriteFixed)
		} else {
			e.PrepareWritev(fd, uintptr(unsafe.Pointer(&s.scratch.iov)), s.scratch.pieces(op), uint64(op.Off))
		}
		if op.Flags&ring.DSync != 0 {
			e.OpcodeFlags = unix.RWF_DSYNC
		}
	case ring.Sync:
		e.PrepareFsync(fd, giouring.FsyncDatasync)
	case ring.SyncRange:
		if op.Len <= 0 { // to the kernel 0 is "to the end"
			e.PrepareNop()
			return
		}
		// The SQE has 32 bits for the length. What is behind 4 GiB is not started:
		// the op makes no promise.
		e.PrepareSyncFileRange(fd, uint32(min(op.Len, 1<<32-1)), uint64(op.Off), unix.SYNC_FILE_RANGE_WRITE)
	case ring.Prefetch: // both are always done by a worker of the kernel's
		e.PrepareFadvise(fd, uint64(op.Off), int(min(op.Len, ring.PrefetchMax)), unix.FADV_WILLNEED)
	case ring.Forget: // 0 would be "to the end", and the SQE has 32 bits
		if op.Len <= 0 {
			e.PrepareNop()
			return
		}
		e.PrepareFadvise(fd, uint64(op.Off), int(min(op.Len, 1<<32-pageBytes)), unix.FADV_DONTNEED)
	case ring.Allocate:
		e.PrepareFallocate(fd, unix.FALLOC_FL_KEEP_SIZE, uint64(op.Off), uint64(op.Len))
	case ring.Truncate:
		e.OpCode, e.Fd, e.Off = opTruncate, int32(op.FD), uint64(op.Len)
	case ring.Close:
		e.PrepareClose(fd)
		return // a registered file is closed by its number, too
	case ring.Accept:
		e.PrepareAccept(fd, 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if op.Flags&ring.Multi != 0 {
			e.IoPrio = giouring.AcceptMultishot
		}
	case ring.Connect:
		n := host.PutSockaddr(&s.scratch.addr, op.Addr)
		e.OpCode, e.Fd = giouring.OpConnect, int32(op.FD)
		e.Addr, e.Off = uint64(uintptr(unsafe.Pointer(&s.scratch.addr))), uint64(n)
	case ring.Recv:
		if op.Flags&ring.Pick == 0 {
			e.PrepareRecv(fd, address(op.Buf), length(op.Buf), 0)
			break
		}
		e.PrepareRecv(fd, 0, 0, 0)
		e.Flags = giouring.SqeBufferSelect
		e.BufIG = receiveGroup
		if op.Flags&ring.Multi != 0 {
			e.IoPrio = giouring.RecvMultishot
		}
	case ring.Send:
		flags := unix.MSG_NOSIGNAL
		if op.Flags&ring.MsgMore != 0 {
			flags |= unix.MSG_MORE
		}
		if op.Bufs == nil {
			e.PrepareSend(fd, address(op.Buf), length(op.Buf), flags)
			break
		}
		s.scratch.msg = msghdr{iov: uintptr(unsafe.Pointer(&s.scratch.iov)), iovLen: uint64(s.scratch.pieces(op))}
		e.OpCode, e.Fd = giouring.OpSendmsg, int32(op.FD)
		e.Addr, e.Len = uint64(uintptr(unsafe.Pointer(&s.scratch.msg))), 1
		e.OpcodeFlags = uint32(flags)
	case ring.Shutdown:
		e.PrepareShutdown(fd, unix.SHUT_RDWR)
	default:
		panic(fmt.Sprintf("BUG: uring: submit of %v", op.Code))
	}
	r.useFixed(e, op.FD)
}

// close begins a Close. Socket ops are cancelled: the kernel would keep the socket
// open for them. File ops and splices are waited for. The kernel looks their
// descriptor up when a worker gets to them, not when they are submitted; once it is
// closed the number may belong to another file, and they would sync, cut or send
// to that one. They wait for disks and not for peers, so this ends.
func (r *Ring) close(op *ring.Op) {
	f := r.fd(op.FD)
	f.epoch++
	if f.sockets > 0 {
		e := r.sqe()
		e.PrepareCancelFd(int(op.FD), giouring.AsyncCancelAll)
		e.Flags = giouring.SqeCQESkipSuccess
		e.UserData = userData(kindIgnore, 0, 0)
	}
	switch {
	case f.users == 0:
		r.closeNow(op)
	case f.close == nil:
		f.close = op
		op.Slot = slotDone // too late to cancel
	default:
		r.finish(op, -int32(unix.EBADF)) // closed twice
	}
}

func (r *Ring) closeNow(op *ring.Op) {
	if r.fd(op.FD).fixed > 0 {
		r.unregisterFile(op.FD)
	}
	i, s := r.take(op)
	r.push(i, s)
}

// unuse ends a file op's or a splice's use of fd.
func (r *Ring) unuse(fd ring.FD) {
	f := r.fd(fd)
	if f.users--; f.users == 0 && f.close != nil {
		op := f.close
		f.close = nil
		r.closeNow(op)
	}
}

// Cancel implements ring.IO.
func (r *Ring) Cancel(op *ring.Op) {
	switch {
	case !op.Active || op.Slot == slotDone || op.Slot == slotCancelled:
	case op.Slot <= slotWaiting:
		op.Slot = slotCancelled
	default:
		s := r.slot(op.Slot)
		if s.op != op {
			panic(fmt.Sprintf("BUG: uring: cancel of a %v op on fd %d that is not in its slot %d", op.Code, op.FD, op.Slot))
		}
		s.cancelled = true
		kind := uint64(kindOp)
		if op.Code == ring.SendFile {
			kind = kindPoll // its splices do not wait for the peer
		}
		e := r.sqe()
		e.PrepareCancel64(userData(kind, s.gen, op.Slot), 0)
		e.Flags = giouring.SqeCQESkipSuccess
		e.UserData = userData(kindIgnore, 0, 0)
	}
}

// sqe is the next free entry of the submission queue, zeroed: giouring leaves
// rw_flags, addr3 and padding of the entry's last user in place.
func (r *Ring) sqe() *giouring.SubmissionQueueEntry {
	e := r.kernel.GetSQE()
	if e == nil {
		r.room(1)
		e = r.kernel.GetSQE()
	}
	*e = giouring.SubmissionQueueEntry{}
	return e
}

// roomTries bounds how often a full submission queue is handed to a kernel that
// has no memory for its requests.
const roomTries = 10000

// room makes sure that n entries are free, so that they reach the kernel together.
func (r *Ring) room(n int) {
	for try := 0; int(r.kernel.SQSpaceLeft()) < n; try++ {
		r.stats.Enters++
		_, err := r.kernel.Submit()
		r.checkEnter(err)
		if try > roomTries {
			panic(fmt.Sprintf("uring: the kernel does not take requests: %d queued, last answer: %v", r.kernel.SQReady(), err))
		}
	}
}
