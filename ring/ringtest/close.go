package ringtest

import (
	"syscall"

	"github.com/millrace/millrace/ring"
)

var closeCases = []testCase{
	{"CloseInFlight", 0, closeInFlight},
	{"CloseListenerInFlight", 0, closeListenerInFlight},
	{"CloseSendInFlight", 0, closeSendInFlight},
	{"CloseTellsThePeer", 0, closeTellsThePeer},
	{"DescriptorUsedAgain", 0, descriptorUsedAgain},
	{"CloseFromComplete", 0, closeFromComplete},
}

// All that is in flight on a socket ends when it is closed.
func closeInFlight(r *rig) {
	for _, flags := range []ring.Flags{0, ring.Pick, ring.Pick | ring.Multi} {
		client, server := r.pair()
		op := ring.Op{Code: ring.Recv, FD: server, Flags: flags}
		if flags == 0 {
			op.Buf = r.bytes(16)
		}
		recv := r.submit(op)
		r.settle()
		r.closeAll(server)
		if recv.wait(); recv.Result > 0 || recv.More {
			r.Fatalf("flags %#x: result %s, More %v", flags, resultString(recv.Result), recv.More)
		}
		if recv.Result < 0 {
			recv.wantErr(syscall.ECANCELED, syscall.ECONNRESET)
		}
		r.closeAll(client)
	}
}

func closeListenerInFlight(r *rig) {
	for _, flags := range []ring.Flags{0, ring.Multi} {
		listener, at := r.listen()
		accept := r.submit(ring.Op{Code: ring.Accept, FD: listener, Flags: flags})
		r.settle()
		r.closeAll(listener)
		if accept.wait(); accept.Result >= 0 || accept.More {
			r.Fatalf("result %s, More %v", resultString(accept.Result), accept.More)
		}
		// Nobody listens there any more.
		client := r.socket(at)
		r.do(ring.Op{Code: ring.Connect, FD: client, Addr: at}).wantErr(syscall.ECONNREFUSED)
		r.closeAll(client)
	}
}

func closeSendInFlight(r *rig) {
	client, server := r.pair()
	data := r.noise(1<<20, 1)
	send := r.prepare(ring.Op{Code: ring.Send, FD: client, Buf: data})
	send.thenDo = func(c *call) {
		if c.Result > 0 {
			r.start(c) // until the socket is full
		}
	}
	r.start(send)
	r.settle()
	shut := r.submit(ring.Op{Code: ring.Close, FD: client})
	send.thenDo = nil
	shut.want(0)
	if send.wait(); send.Result < 0 {
		send.wantErr(syscall.ECANCELED, syscall.ECONNRESET, syscall.EPIPE)
	}
	r.closeAll(server)
}

func closeTellsThePeer(r *rig) {
	client, server := r.pair()
	own := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick | ring.Multi})
	peer := r.submit(ring.Op{Code: ring.Recv, FD: client, Buf: r.bytes(16)})
	r.settle()
	r.closeAll(server)
	peer.want(0)
	own.wait()
	r.closeAll(client)
}

// A new connection has the number of an old one, and nothing else of it: neither
// its bytes, nor its end, nor its ops.
func descriptorUsedAgain(r *rig) {
	listener, at := r.listen()
	numbers := map[ring.FD]int{}
	buf := r.bytes(16)
	for round := range 50 {
		client, server := r.connect(listener, at)
		numbers[server]++
		numbers[client]++
		// Nothing has been sent on this one.
		recv := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick | ring.Multi})
		r.settle()
		if recv.count != 0 {
			r.Fatalf("round %d: a fresh connection received %s", round, resultString(recv.Result))
		}
		r.sendAll(client, r.text("fresh"))
		r.until("it arrives", func() bool { return len(recv.got) == 5 || recv.ended })
		if string(recv.got) != "fresh" {
			r.Fatalf("round %d: received %q, result %s", round, recv.got, resultString(recv.Result))
		}
		// Both ends go with bytes and ops on their way.
		mine := r.submit(ring.Op{Code: ring.Recv, FD: client, Buf: buf})
		r.submit(ring.Op{Code: ring.Send, FD: server, Buf: r.text("stale")})
		r.submit(ring.Op{Code: ring.Send, FD: client, Buf: r.text("stale")})
		a := r.submit(ring.Op{Code: ring.Close, FD: server})
		b := r.submit(ring.Op{Code: ring.Close, FD: client})
		a.want(0)
		b.want(0)
		mine.wait()
		recv.wait()
	}
	again := 0
	for _, n := range numbers {
		if n > 1 {
			again++
		}
	}
	if again == 0 && r.Traits().Threads {
		r.Errorf("no number was used again: %d sockets had %d numbers", 100, len(numbers))
	}
	r.closeAll(listener)
}

// An op's Complete closes its own socket, and other sockets of the same turn.
func closeFromComplete(r *rig) {
	listener, at := r.listen()
	for range 10 {
		a, b := r.connect(listener, at)
		c, d := r.connect(listener, at)
		shut := r.prepare(ring.Op{Code: ring.Close, FD: b})
		other := r.prepare(ring.Op{Code: ring.Close, FD: d})
		onB := r.prepare(ring.Op{Code: ring.Recv, FD: b, Flags: ring.Pick | ring.Multi})
		onD := r.prepare(ring.Op{Code: ring.Recv, FD: d, Flags: ring.Pick | ring.Multi})
		closed := false
		first := func(x *call) {
			if x.Result > 0 && !closed {
				closed = true
				r.start(shut)
				r.start(other)
			}
		}
		onB.thenDo, onD.thenDo = first, first
		r.start(onB)
		r.start(onD)
		r.submit(ring.Op{Code: ring.Send, FD: a, Buf: r.text("x")})
		r.submit(ring.Op{Code: ring.Send, FD: c, Buf: r.text("y")})
		r.until("all ends", func() bool { return shut.ended && other.ended && onB.ended && onD.ended })
		shut.want(0)
		other.want(0)
		for _, recv := range []*call{onB, onD} {
			if recv.Result != 0 {
				recv.wantErr(syscall.ECANCELED, syscall.ECONNRESET)
			}
		}
		r.closeAll(a, c)
	}
	r.closeAll(listener)
}
