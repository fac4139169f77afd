//go:build uring

package uring

import (
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"github.com/pawelgaczynski/giouring"
)

// receiveGroup is the id of our only group of provided buffers.
const receiveGroup = 0

// receiveBuffers are the buffers that Recv with Pick picks from. The kernel takes
// them from a ring that it shares with us; they come back by add.
type receiveBuffers struct {
	ringMem []byte
	ring    *giouring.BufAndRing
	mem     []byte
	size    int
	lent    []bool
}

func (r *Ring) addReceiveBuffers(count, size int) (err error) {
	b := &r.recv
	count = 1 << bits.Len(uint(count-1))
	b.size = size
	b.lent = make([]bool, count)
	if b.mem, err = mapMemory(count * size); err != nil {
		return err
	}
	// giouring's SetupBufRing could not be unmapped again.
	if b.ringMem, err = mapMemory(count * int(unsafe.Sizeof(giouring.BufAndRing{}))); err != nil {
		return err
	}
	b.ring = (*giouring.BufAndRing)(unsafe.Pointer(unsafe.SliceData(b.ringMem)))
	reg := giouring.BufReg{RingAddr: uint64(address(b.ringMem)), RingEntries: uint32(count), Bgid: receiveGroup}
	if errno := register(r.kernel, giouring.RegisterPbufRing, unsafe.Pointer(&reg), 1); errno != 0 {
		return fmt.Errorf("uring: register %d receive buffers of %d bytes: %w", count, size, errno)
	}
	for id := range count {
		b.add(uint16(id))
	}
	return nil
}

// add gives the kernel a buffer.
func (b *receiveBuffers) add(id uint16) {
	b.ring.BufRingAdd(address(b.mem)+uintptr(id)*uintptr(b.size), uint32(b.size), id, len(b.lent)-1, 0)
	b.ring.BufRingAdvance(1)
}

// lend is a buffer that the kernel has filled with n bytes.
func (b *receiveBuffers) lend(id uint16, n int32) ring.Chunk {
	at := int(id) * b.size
	b.lent[id] = true
	return ring.Chunk{Bytes: b.mem[at : at+int(n) : at+b.size], ID: id}
}

// ReturnChunk implements ring.IO.
func (r *Ring) ReturnChunk(c ring.Chunk) {
	if int(c.ID) >= len(r.recv.lent) || !r.recv.lent[c.ID] {
		panic(fmt.Sprintf("BUG: uring: chunk %d of %d bytes returned that is not lent", c.ID, len(c.Bytes)))
	}
	r.recv.lent[c.ID] = false
	r.recv.add(c.ID)
}
