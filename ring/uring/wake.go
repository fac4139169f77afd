//go:build uring

package uring

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Ring.state. Wake stores notified and rings the bell only if it found asleep; the
// owner goes to sleep only by changing running to asleep. No wake is lost:
//
//   - Wake comes before the change: the owner finds notified, does not sleep.
//   - Wake comes after it: Wake finds asleep and rings. The bell is a completion
//     in the owner's queue, and the owner waits in the kernel for a completion, or
//     will, since it does nothing else between the change and io_uring_enter. A
//     completion that is there first makes the wait return at once.
//   - Another Wake finds notified: the first one has rung, or is about to.
//
// The owner changes notified back to running at the end of a Wait (hear). A Wake
// that came before that instant is answered by this return, one that comes after
// it by the next Wait. A bell that is heard late, after another completion had
// woken the owner, is a completion that means nothing.
const (
	running uint32 = iota
	notified
	asleep
)

// Wake implements ring.IO.
func (r *Ring) Wake() {
	if r.state.Swap(notified) == asleep {
		r.bell.ring()
	}
}

// fallAsleep is false when there was a Wake.
func (r *Ring) fallAsleep() bool { return r.state.CompareAndSwap(running, asleep) }

// awake leaves notified for hear.
func (r *Ring) awake() { r.state.CompareAndSwap(asleep, running) }

// hear ends a Wait: the Wakes so far are answered by its return.
func (r *Ring) hear() {
	// Load first: the line is written only when there was a Wake. Swap and not
	// Store, so that what the waker wrote before Wake is seen after Wait.
	if r.state.Load() == notified {
		r.state.Swap(running)
		r.stats.Wakes++
	}
}

// WakePeer wakes the ring peer from this ring's own goroutine, cheaper than
// peer.Wake: if peer sleeps, the message travels with the next system call of
// this ring, which is its next Wait. Coalesced as Wake is. Any other kind of ring
// is woken by its Wake.
func (r *Ring) WakePeer(peer ring.IO) {
	p, ok := peer.(*Ring)
	if !ok || p == r {
		peer.Wake()
		return
	}
	if p.state.Swap(notified) != asleep {
		return
	}
	e := r.sqe()
	e.PrepareMsgRing(int(p.fdRing), 0, userData(kindDoorbell, 0, 0), 0)
	e.Flags = giouring.SqeCQESkipSuccess
	e.UserData = userData(kindPeer, 0, r.peer(p))
}

func (r *Ring) peer(p *Ring) int32 {
	for i, known := range r.peers {
		if known == p {
			return int32(i)
		}
	}
	r.peers = append(r.peers, p)
	return int32(len(r.peers) - 1)
}

// peerMissed: the message to a peer failed, for want of memory or because the
// peer has been closed. state says notified already, so ring without asking it.
func (r *Ring) peerMissed(i uint32, result int32) {
	if result < 0 && int(i) < len(r.peers) {
		r.peers[i].bell.ring()
	}
}

// bell makes a sleeping ring return from the kernel: a message that any thread can
// post (Linux 6.13), or before that an eventfd that the ring keeps a read on.
type bell struct {
	mu      sync.Mutex // held while ringing, so that no descriptor is used after Close
	muted   bool
	sqe     *giouring.SubmissionQueueEntry // the message; nil: eventfd
	event   int
	hanging bool   // event is open
	count   []byte // what the ring reads from it: 8 bytes, off heap
}

func (r *Ring) hangBell(byMessage bool) error {
	if byMessage {
		r.bell.sqe = new(giouring.SubmissionQueueEntry)
		r.bell.sqe.PrepareMsgRing(int(r.fdRing), 0, userData(kindDoorbell, 0, 0), 0)
		return nil
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("uring: eventfd: %w", err)
	}
	r.bell.event, r.bell.hanging = event, true
	r.bell.count = r.small[32:40]
	r.bell.rearm(r)
	return nil
}

func (b *bell) rearm(r *Ring) {
	if r.closing {
		return
	}
	e := r.sqe()
	e.PrepareRead(b.event, address(b.count), 8, 0)
	e.UserData = userData(kindEventFD, 0, 0)
	r.inKernel++
}

// ring may be called by any goroutine.
func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.muted {
		var errno syscall.Errno
		if b.sqe != nil {
			errno = sendMessage(b.sqe)
		} else {
			one := uint64(1)
			_, _, errno = unix.Syscall(unix.SYS_WRITE, uintptr(b.event), uintptr(unsafe.Pointer(&one)), 8)
		}
		switch errno {
		case 0:
			return
		case unix.EINTR, unix.EAGAIN, unix.ENOMEM:
			runtime.Gosched() // a ring that sleeps for ever is worse than a busy waker
		default:
			panic(fmt.Sprintf("BUG: uring: wake: %v", errno))
		}
	}
}

// sendMessage posts a MSG_RING without a ring of one's own.
func sendMessage(sqe *giouring.SubmissionQueueEntry) syscall.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, ^uintptr(0), registerSendMsgRing, uintptr(unsafe.Pointer(sqe)), 1, 0, 0)
	return errno
}

func (b *bell) mute() {
	b.mu.Lock()
	b.muted = true
	b.mu.Unlock()
}

func (b *bell) close() {
	if b.hanging {
		unix.Close(b.event)
		b.hanging = false
	}
}
