package ring

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"unsafe"
)

func TestPoolGivesDisjointBlocksAndTakesAllBack(t *testing.T) {
	p, err := NewPool(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	held := map[uintptr][]byte{}
	for i := 0; i < 20000; i++ {
		if rng.IntN(2) == 0 {
			n := 1 + rng.IntN(1<<rng.IntN(17))
			b := p.Get(n)
			if b == nil {
				continue
			}
			if len(b) != n {
				t.Fatalf("asked for %d, got %d", n, len(b))
			}
			start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
			for s, h := range held {
				if start < s+uintptr(cap(h)) && s < start+uintptr(cap(b)) {
					t.Fatalf("blocks overlap: %x+%d and %x+%d", start, cap(b), s, cap(h))
				}
			}
			held[start] = b
		} else {
			for s, b := range held {
				p.Put(b)
				delete(held, s)
				break
			}
		}
	}
	for _, b := range held {
		p.Put(b)
	}
	if p.Used() != 0 {
		t.Fatalf("used %d after all was put back", p.Used())
	}
	if b := p.Get(1 << 20); b == nil {
		t.Fatal("the blocks were not merged again")
	}
	if b := p.Get(1); b != nil {
		t.Fatal("a full pool gave memory")
	}
}

func TestPoolAllocatesNothing(t *testing.T) {
	p, err := NewPool(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n := testing.AllocsPerRun(1000, func() {
		a, b := p.Get(700), p.Get(5000)
		p.Put(a)
		p.Put(b)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestPoolRefusesADoublePut(t *testing.T) {
	p, err := NewPool(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b := p.Get(2000)
	p.Put(b)
	defer func() {
		if recover() == nil {
			t.Fatal("a second put was accepted")
		}
	}()
	p.Put(b)
}

func TestPoolPopulate(t *testing.T) {
	p, err := NewPool(8 << 20)
	if err != nil {
		t.Fatal(err)
	}
	p.Populate(5 << 20)
	p.populating.Wait()
	resident := make([]byte, 8<<20/os.Getpagesize())
	if _, _, errno := syscall.Syscall(syscall.SYS_MINCORE, p.base, 8<<20, uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for i, r := range resident[:5<<20/os.Getpagesize()] {
		if r&1 == 0 {
			t.Fatalf("page %d of the first 5 MiB is not resident", i)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// Closing does not wait for all of it, and does not take away what is being touched.
func TestPoolClosesWhilePopulating(t *testing.T) {
	for range 20 {
		p, err := NewPool(64 << 20)
		if err != nil {
			t.Fatal(err)
		}
		p.Populate(1 << 30)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
