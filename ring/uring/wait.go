//go:build uring

package uring

import (
	"fmt"
	"math"
	"sync/atomic"
	"syscall"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Wait implements ring.IO.
func (r *Ring) Wait(until int64) int {
	if r.inWait || r.closing {
		panic(fmt.Sprintf("BUG: uring: Wait called from Complete (%v) or after Close (%v)", r.inWait, r.closing))
	}
	r.inWait = true
	r.stats.Waits++
	r.newTurn()
	n := r.drain()
	if n > 0 || until <= 0 || r.state.Load() == notified {
		if r.poll() {
			n += r.drain()
		}
	} else {
		// One system call both submits and waits; what completers ask for now
		// goes to the kernel with the next Wait.
		for {
			r.block(until)
			n = r.drain()
			if n > 0 || until <= r.now || r.state.Load() == notified {
				break
			}
		}
	}
	r.hear()
	r.now = r.host.Monotonic()
	r.inWait = false
	return n
}

// block hands queued ops to the kernel and waits for a completion, a Wake or
// until. It may return early. It must not be called when results of ours wait.
func (r *Ring) block(until int64) {
	if r.spin > 0 && r.watch(until) {
		return
	}
	wait := int64(math.MaxInt64)
	if until != ring.Forever {
		r.now = r.host.Monotonic()
		if wait = until - r.now; wait <= 0 {
			r.poll()
			return
		}
	}
	if !r.fallAsleep() {
		r.poll()
		return
	}
	r.enter(wait)
	r.awake()
	r.now = r.host.Monotonic()
}

// watch spins until there is something to deliver. False: spun long enough.
func (r *Ring) watch(until int64) bool {
	r.poll()
	r.now = r.host.Monotonic()
	for end := min(until, r.now+r.spin); r.now < end; r.now = r.host.Monotonic() {
		if r.kernel.CQReady() > 0 || r.state.Load() == notified {
			return true
		}
		r.poll()
	}
	return r.kernel.CQReady() > 0
}

// poll hands queued ops to the kernel and runs its deferred work. It makes no
// system call, and returns false, when there is neither.
func (r *Ring) poll() bool {
	if r.kernel.SQReady() == 0 && atomic.LoadUint32(r.sq.flags)&(giouring.SQCQOverflow|giouring.SQTaskrun) == 0 {
		return false
	}
	r.stats.Enters++
	_, err := r.kernel.SubmitAndGetEvents()
	r.checkEnter(err)
	return true
}

// enter hands queued ops to the kernel and blocks until there is a completion, a
// signal, or wait ns have passed. All of giouring's entries go through Syscall6:
// RawSyscall here would stop the garbage collector for as long as we sleep.
func (r *Ring) enter(wait int64) {
	r.stats.Enters++
	var err error
	if wait == math.MaxInt64 {
		_, err = r.kernel.SubmitAndWait(1)
	} else {
		*r.timeout = syscall.NsecToTimespec(wait) // off heap: its address goes through an integer
		_, err = r.kernel.SubmitAndWaitTimeout(1, r.timeout, nil)
	}
	r.checkEnter(err)
}

// checkEnter lets pass what is answered by draining and entering again: EINTR
// (Go's preemption signals, nearly every wait of a busy process), ETIME, EAGAIN
// (no memory for requests just now), EBUSY (completions must be taken first).
func (r *Ring) checkEnter(err error) {
	switch err {
	case nil, syscall.EINTR, syscall.ETIME, syscall.EAGAIN, syscall.EBUSY:
	case syscall.EEXIST:
		panic("BUG: uring: a ring is used on another thread than the one that made it (is its goroutine locked to its thread?)")
	case syscall.EBADR:
		panic("uring: the kernel had no memory to keep completions and dropped some: ops in flight cannot be known any more")
	default:
		panic(fmt.Sprintf("BUG: uring: io_uring_enter: %v", err))
	}
}

// drain delivers what is there, and what is there only: completers that submit
// again and again cannot keep it.
func (r *Ring) drain() int {
	before := r.stats.Completed
	n := r.kernel.CQReady()
	r.tell() // first: of a chain that began outside the kernel, the rest may be in the queue
	for ; n > 0; n-- {
		c, _ := r.kernel.PeekCQE()
		data, result, flags := c.UserData, c.Res, c.Flags
		r.kernel.CQAdvance(1) // before the completer: it may submit, and the kernel needs room to answer
		r.dispatch(data, result, flags)
	}
	if r.returned.Load() != nil {
		r.takeReturned()
	}
	r.tell()
	return int(r.stats.Completed - before)
}

// tell delivers the results that did not come from the kernel, as many as there are.
func (r *Ring) tell() {
	op := r.doneHead
	r.doneHead, r.doneTail = nil, nil
	for op != nil {
		next := op.Link
		r.deliver(op)
		op = next
	}
}

// dispatch takes one completion of the kernel's.
func (r *Ring) dispatch(data uint64, result int32, flags uint32) {
	kind := data >> 56
	switch kind {
	case kindDoorbell, kindIgnore:
		return // what a doorbell has to say is in state
	case kindPeer:
		r.peerMissed(uint32(data), result)
		return
	}
	last := flags&giouring.CQEFMore == 0
	if last {
		r.inKernel--
	}
	if kind == kindEventFD {
		r.bell.rearm(r)
		return
	}
	i, s := r.found(data)
	if r.closing {
		r.drop(i, s, kind, result, last)
		return
	}
	switch kind {
	case kindOp:
		r.completed(i, s, result, flags, last)
	case kindPoll:
		r.writable(i, s, result)
	case kindIn:
		s.file.in = result // its kindOut follows, whatever happened
	case kindOut:
		r.spliced(i, s, result)
	default:
		panic(fmt.Sprintf("BUG: uring: completion of kind %d", kind))
	}
}

// completed takes a completion of an op that is one SQE.
func (r *Ring) completed(i int32, s *slot, result int32, flags uint32, last bool) {
	op := s.op
	op.Chunk = ring.Chunk{}
	if flags&giouring.CQEFBuffer != 0 {
		id := uint16(flags >> giouring.CQEBufferShift)
		if result > 0 {
			op.Chunk = r.recv.lend(id, result)
		} else {
			r.recv.add(id) // taken, not filled
		}
	}
	if op.Code == ring.Accept && result >= 0 {
		host.NoDelay(ring.FD(result)) // the first read says it if the peer has gone already
	}
	if op.Flags&ring.Multi != 0 && (result > 0 || result == 0 && op.Code == ring.Accept) {
		if last && !s.cancelled && r.sameFile(s) { // the kernel stopped by itself, for example when the completion queue was full
			r.push(i, s)
			last = false
		}
		op.Result, op.More = result, true
		r.stats.Completed++
		op.Done.Complete(op)
		if last {
			r.release(i, s)
			op.More, op.Chunk = false, ring.Chunk{}
			r.finish(op, -int32(unix.ECANCELED))
		}
		return
	}
	switch {
	case s.broken:
		result = -int32(unix.ECANCELED) // the chain ended before it, whatever the kernel did
	case result == -int32(unix.EINTR) && s.cancelled:
		result = -int32(unix.ECANCELED)
	case (result == -int32(unix.EAGAIN) || result == -int32(unix.EINTR)) && (op.Code == ring.Accept || op.Code == ring.Recv || op.Code == ring.Send):
		if !s.cancelled && r.sameFile(s) {
			r.push(i, s)
			return
		}
		result = -int32(unix.ECANCELED)
	case result == 0 && op.Code == ring.Prefetch:
		result = int32(s.file.asked)
	case result == -int32(unix.EOPNOTSUPP) && op.Code == ring.Allocate:
		result = 0 // the file system cannot reserve; so does Host.Allocate
	case result == -int32(unix.ENOBUFS) && op.Flags&ring.Pick != 0:
		r.stats.NoBuffers++
	}
	linked := s.linked
	r.release(i, s)
	op.Result = result
	switch {
	case !linked:
		r.advance(op)
	case op.Next != nil && !full(op):
		// The kernel ends the chain too. But it has not always taken a short
		// write for a failure, and a Sync that ran all the same must not say yes.
		r.breakChain(op.Next)
	}
	r.deliver(op)
}

func (r *Ring) breakChain(op *ring.Op) {
	for ; op != nil; op = op.Next {
		if op.Slot < 0 || r.slot(op.Slot).op != op {
			panic(fmt.Sprintf("BUG: uring: a linked %v op on fd %d is not in the kernel (slot %d)", op.Code, op.FD, op.Slot))
		}
		r.slot(op.Slot).broken = true
	}
}

// sameFile is false when the FD was closed since the op was started: the number
// may belong to another file by now.
func (r *Ring) sameFile(s *slot) bool { return r.fd(s.op.FD).epoch == s.epoch }

// deliver tells the owner. From here on the op is the owner's again.
func (r *Ring) deliver(op *ring.Op) {
	op.Active, op.More, op.Slot, op.Link = false, false, 0, nil
	r.stats.Completed++
	op.Done.Complete(op)
}

// drop takes a completion after Close has begun: nobody is told.
func (r *Ring) drop(i int32, s *slot, kind uint64, result int32, last bool) {
	if kind == kindOp && s.op.Code == ring.Accept && result >= 0 {
		unix.Close(int(result))
	}
	if last && kind != kindIn {
		if s.file.pipe != nil {
			r.freePipe(s, true)
		}
		r.release(i, s)
	}
}
