package sim_test

import (
	"fmt"
	"net/netip"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// ticker is a loop on an IO: it counts to five, once every millisecond, and each
// time writes the number into a file.
type ticker struct {
	ring.Op
	io    *sim.IO
	next  int64
	count int
}

func (l *ticker) Step() {
	l.io.Wait(l.next)
	if l.io.Now() >= l.next && l.count < 5 && !l.Active {
		l.count++
		l.next = l.io.Now() + 1e6
		l.Buf[0] = byte('0' + l.count)
		l.Off = int64(l.count - 1)
		l.io.Submit(&l.Op)
	}
	if l.count == 5 {
		l.next = ring.Forever
	}
}

func (l *ticker) Complete(op *ring.Op) {
	if op.Result != 1 {
		panic(op.Error())
	}
}

// Two loops on two hosts run in one goroutine, until nothing is left to happen.
func Example() {
	w := sim.NewWorld(8431)
	defer w.Close()
	var hosts []*sim.Host
	var loops []*ticker
	for i, name := range []string{"a", "b"} {
		h := w.NewHost(name, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
		fd, err := h.Open("/numbers", ring.CreateNew)
		if err != nil {
			panic(err)
		}
		l := &ticker{io: h.NewIO(sim.IOConfig{})}
		l.Op = ring.Op{Code: ring.Write, FD: fd, Buf: l.io.Pool().Get(1), Done: l}
		hosts, loops = append(hosts, h), append(loops, l)
	}
	for w.Step() {
		for _, l := range loops {
			if l.io.Due() {
				l.Step()
			}
		}
	}
	for _, h := range hosts {
		numbers, err := ring.ReadFile(h, "/numbers")
		fmt.Println(h.Name(), string(numbers), err)
	}
	// Output:
	// a 12345 <nil>
	// b 12345 <nil>
}
