//go:build uring

package uring

import (
	"fmt"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// slot holds an op while the kernel has it. Its index and generation travel as
// the user data of the SQE, so that a completion finds its op, and one that
// belongs to an earlier user of the slot is noticed.
type slot struct {
	op      *ring.Op
	scratch *scratch
	gen     uint32 // of the current user; genMask wraps it
	next    int32  // the next free slot; -1 ends
	epoch   uint32 // of op.FD when the op was started

	cancelled bool // the owner called Cancel
	linked    bool // the kernel starts op.Next by itself
	broken    bool // linked behind an op that did not succeed in full

	file transfer // SendFile
}

// scratch is what the kernel reads of an op besides its buffers. It is off heap.
type scratch struct {
	msg  msghdr
	addr unix.RawSockaddrInet6
	iov  [ring.IOVMax]iovec
}

// slotsChunk is how many slots are added at a time. Slots never move.
const slotsChunk = 512

// Op.Slot of an active op that has no slot.
const (
	slotDone      = -1 // its result is known, or a worker has it
	slotCancelled = -2 // in a chain, not yet started, cancelled
	slotWaiting   = -3 // in a chain, not yet started: slotWaiting minus the epoch of its FD
)

// User data: what completed (8 bits), generation (24), slot (32).
const (
	kindOp       = iota // a slot's op
	kindPoll            // a slot's SendFile: its socket can take more
	kindIn              // a slot's SendFile: file -> pipe
	kindOut             // a slot's SendFile: pipe -> socket
	kindDoorbell        // a message from Wake or WakePeer
	kindEventFD         // the armed read of our eventfd
	kindPeer            // a message to the peer with that index failed
	kindIgnore          // a cancel request failed: what it was for has ended already

	genMask = 1<<24 - 1
)

func userData(kind uint64, gen uint32, index int32) uint64 {
	return kind<<56 | uint64(gen)<<32 | uint64(uint32(index))
}

func (r *Ring) slot(i int32) *slot { return &r.slots[i/slotsChunk][i%slotsChunk] }

// take gives op a slot. It allocates only when more ops are in flight than ever before.
func (r *Ring) take(op *ring.Op) (int32, *slot) {
	if r.freeSlot < 0 {
		r.addSlots()
	}
	i := r.freeSlot
	s := r.slot(i)
	r.freeSlot = s.next
	s.op = op
	s.cancelled, s.linked, s.broken = false, false, false
	f := r.fd(op.FD)
	s.epoch = f.epoch
	switch useOf(op.Code) {
	case socketUse:
		f.sockets++
	case fileUse:
		f.users++
	}
	op.Slot = i
	return i, s
}

// release ends the use of a slot. op.Slot is slotDone until the op is delivered.
func (r *Ring) release(i int32, s *slot) *ring.Op {
	op := s.op
	switch useOf(op.Code) {
	case socketUse:
		r.fd(op.FD).sockets--
	case fileUse:
		r.unuse(op.FD)
	}
	op.Slot = slotDone
	s.op = nil
	s.gen = (s.gen + 1) & genMask
	s.next = r.freeSlot
	r.freeSlot = i
	return op
}

func (r *Ring) addSlots() {
	mem, err := mapMemory(slotsChunk * int(unsafe.Sizeof(scratch{})))
	if err != nil {
		panic(err) // some 300 KiB: the process cannot go on
	}
	first := int32(len(r.slots) * slotsChunk)
	chunk := new([slotsChunk]slot)
	all := unsafe.Slice((*scratch)(unsafe.Pointer(unsafe.SliceData(mem))), slotsChunk)
	for i := range chunk {
		chunk[i].scratch = &all[i]
		chunk[i].next = first + int32(i) + 1
	}
	chunk[slotsChunk-1].next = r.freeSlot
	r.freeSlot = first
	r.slots = append(r.slots, chunk)
	r.scratch = append(r.scratch, mem)
}

// found is the slot that a completion belongs to.
func (r *Ring) found(data uint64) (int32, *slot) {
	i, gen := int32(uint32(data)), uint32(data>>32)&genMask
	if int(i) >= len(r.slots)*slotsChunk {
		panic(fmt.Sprintf("BUG: uring: completion for slot %d of %d", i, len(r.slots)*slotsChunk))
	}
	s := r.slot(i)
	if s.op == nil || s.gen != gen {
		panic(fmt.Sprintf("BUG: uring: completion for slot %d generation %d, which is at %d (in use: %v)", i, gen, s.gen, s.op != nil))
	}
	return i, s
}

// fdState is what this ring knows of a descriptor.
type fdState struct {
	epoch   uint32   // how often this ring was asked to close it
	sockets int32    // socket ops in flight
	users   int32    // file ops and splices in flight
	fixed   int32    // 1 + its place among the registered files; 0: not registered
	close   *ring.Op // a Close that waits until users is 0
}

const (
	epochMask = 1<<24 - 1
	fdsChunk  = 1024
	fdsMax    = 1 << 24 // no kernel gives larger ones; whoever asks for one gets EBADF anyway
)

func (r *Ring) fd(fd ring.FD) *fdState {
	if fd < 0 || fd >= fdsMax {
		r.noFD = fdState{}
		return &r.noFD
	}
	chunk := int(fd) / fdsChunk
	for chunk >= len(r.fds) {
		r.fds = append(r.fds, nil)
	}
	if r.fds[chunk] == nil {
		r.fds[chunk] = new([fdsChunk]fdState)
	}
	return &r.fds[chunk][fd%fdsChunk]
}

// use is what an op does to a Close of its FD that comes before its end.
type use uint8

const (
	noUse     use = iota
	socketUse     // it waits for a peer: Close cancels it
	fileUse       // Close waits for it: see Ring.close
)

func useOf(c ring.Code) use {
	switch c {
	case ring.Nop, ring.NoReadahead, ring.Close, ring.Task:
		return noUse
	case ring.Accept, ring.Connect, ring.Recv, ring.Send, ring.SendFile:
		return socketUse
	}
	return fileUse
}
