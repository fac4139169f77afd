package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// picks are the receive buffers that Recv with Pick takes from: one mapping, cut
// into equal parts. When all are out the answer is ENOBUFS.
type picks struct {
	slab []byte
	size int
	free []uint16 // a stack, so that warm buffers are used first
	lent []bool
}

func (p *picks) open(count, size int) (err error) {
	p.slab, err = unix.Mmap(-1, 0, count*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("posix ring: map %d receive buffers of %d bytes: %w", count, size, err)
	}
	p.size = size
	p.lent = make([]bool, count)
	p.free = make([]uint16, count)
	for i := range p.free {
		p.free[i] = uint16(count - 1 - i)
	}
	return nil
}

func (p *picks) close() error {
	slab := p.slab
	p.slab = nil
	if slab == nil {
		return nil
	}
	return unix.Munmap(slab)
}

func (p *picks) get() (id uint16, ok bool) {
	last := len(p.free) - 1
	if last < 0 {
		return 0, false
	}
	id = p.free[last]
	p.free = p.free[:last]
	p.lent[id] = true
	return id, true
}

func (p *picks) put(id uint16) {
	if int(id) >= len(p.lent) || !p.lent[id] {
		panic(fmt.Sprintf("BUG: receive buffer %d of %d returned, which is not lent", id, len(p.lent)))
	}
	p.lent[id] = false
	p.free = append(p.free, id)
}

func (p *picks) buffer(id uint16) []byte {
	at := int(id) * p.size
	return p.slab[at : at+p.size : at+p.size]
}
