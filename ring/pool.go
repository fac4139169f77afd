package ring

import (
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"syscall"
	"unsafe"
)

// Pool hands out memory that the Go heap does not know: one mapping per core,
// cut by a buddy allocator. A Pool belongs to its core's goroutine; nothing in it
// locks and nothing allocates. It is bounded: Get says no when it is full, and
// the caller must have an answer to that.
//
// Pages are touched, and so become resident, only as they are handed out, or before, by Populate.
type Pool struct {
	arena []byte
	base  uintptr
	// order[i] describes the block that starts at unit i: the low bits are its
	// order (size poolUnit<<order), poolUsed marks it handed out. It is 0xff inside a block.
	order []uint8
	next  []int32 // free lists, by unit; -1 ends
	prev  []int32
	free  [poolOrders]int32
	used  int

	populating sync.WaitGroup
	closing    chan struct{}
}

const (
	poolUnit   = 1024 // the smallest block
	poolOrders = 22   // the largest block: 2 GiB
	poolUsed   = 0x80
	poolInside = 0xff
)

// NewPool maps a pool of at least size bytes (rounded up to a power of two).
func NewPool(size int) (*Pool, error) {
	if size < poolUnit {
		size = poolUnit
	}
	order := bits.Len(uint((size - 1) / poolUnit))
	if order >= poolOrders {
		return nil, fmt.Errorf("ring: a pool of %d bytes is larger than %d", size, poolUnit<<(poolOrders-1))
	}
	size = poolUnit << order
	arena, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("ring: map a pool of %d bytes: %w", size, err)
	}
	units := size / poolUnit
	p := &Pool{
		arena: arena,
		base:  uintptr(unsafe.Pointer(unsafe.SliceData(arena))),
		order: make([]uint8, units),
		next:  make([]int32, units),
		prev:  make([]int32, units),

		closing: make(chan struct{}),
	}
	for i := range p.free {
		p.free[i] = -1
	}
	for i := range p.order {
		p.order[i] = poolInside
	}
	p.push(0, order)
	return p, nil
}

// Close unmaps the pool.
func (p *Pool) Close() error {
	close(p.closing)
	p.populating.Wait()
	return syscall.Munmap(p.arena)
}

const (
	populateWrite = 23       // MADV_POPULATE_WRITE, Linux 5.14
	populateStep  = 64 << 10 // bytes: whoever maps or unmaps memory waits for a step, or for a huge page
	nicest        = 19
)

// Populate begins to make the first n bytes resident, or all there are, on a thread of its own and of the lowest priority. They are what
// is handed out first. Without it whoever is handed a page for the first time waits until the kernel has found and cleared it,
// 5 to 12 µs on a virtual machine whose host has to find it too. They are huge pages where the kernel has them: where free memory is in
// small pieces, as after hours of files that come and go, copying into pages of 4 KiB from here and there is up to thirty times slower, for
// want of translations. A kernel that cannot do either is no error. It may be called once.
func (p *Pool) Populate(n int) {
	n = min(n, len(p.arena))
	p.populating.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with its priority
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, nicest)
		_ = syscall.Madvise(p.arena[:n], syscall.MADV_HUGEPAGE)
		for at := 0; at < n; at += populateStep {
			select {
			case <-p.closing:
				return
			default:
			}
			if syscall.Madvise(p.arena[at:min(at+populateStep, n)], populateWrite) != nil {
				return
			}
		}
	})
}

// Size is the pool's size and Used how much of it is handed out, in bytes
// (blocks are powers of two of 1 KiB).
func (p *Pool) Size() int { return len(p.arena) }

// Used is how much is handed out, in bytes, rounded up to blocks.
func (p *Pool) Used() int { return p.used }

// Get returns n bytes (their content is arbitrary, the capacity is the block's),
// or nil when the pool has no block of that size left.
func (p *Pool) Get(n int) []byte {
	if n <= 0 {
		panic(fmt.Sprintf("BUG: pool: get of %d bytes", n))
	}
	want := bits.Len(uint((n - 1) / poolUnit))
	o := want
	for o < poolOrders && p.free[o] < 0 {
		o++
	}
	if o >= poolOrders {
		return nil
	}
	u := p.free[o]
	p.pop(u, o)
	for o > want { // the upper half goes back
		o--
		p.push(u+int32(1)<<o, o)
	}
	p.order[u] = uint8(want) | poolUsed
	size := poolUnit << want
	p.used += size
	at := int(u) * poolUnit
	return p.arena[at : at+n : at+size]
}

// Put gives back what Get returned (any slice that starts where it started).
func (p *Pool) Put(b []byte) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - p.base
	if at >= uintptr(len(p.arena)) || at%poolUnit != 0 {
		panic(fmt.Sprintf("BUG: pool: put of memory at %d that it did not hand out", at))
	}
	u := int32(at / poolUnit)
	o := p.order[u]
	if o == poolInside || o&poolUsed == 0 {
		panic(fmt.Sprintf("BUG: pool: put of block %d twice (order %#x)", u, o))
	}
	order := int(o &^ poolUsed)
	p.used -= poolUnit << order
	p.order[u] = poolInside
	units := int32(len(p.order))
	for {
		buddy := u ^ int32(1)<<order
		if buddy+int32(1)<<order > units || p.order[buddy] != uint8(order) {
			break
		}
		p.pop(buddy, order)
		p.order[buddy] = poolInside
		u = min(u, buddy)
		order++
	}
	p.push(u, order)
}

// Owns says whether b starts in this pool's memory.
func (p *Pool) Owns(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))-p.base < uintptr(len(p.arena))
}

func (p *Pool) push(u int32, order int) {
	p.order[u] = uint8(order)
	p.prev[u] = -1
	p.next[u] = p.free[order]
	if n := p.free[order]; n >= 0 {
		p.prev[n] = u
	}
	p.free[order] = u
}

func (p *Pool) pop(u int32, order int) {
	if prev := p.prev[u]; prev >= 0 {
		p.next[prev] = p.next[u]
	} else {
		p.free[order] = p.next[u]
	}
	if n := p.next[u]; n >= 0 {
		p.prev[n] = p.prev[u]
	}
}
