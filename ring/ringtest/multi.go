package ringtest

import (
	"bytes"
	"syscall"

	"github.com/millrace/millrace/ring"
)

var multiCases = []testCase{
	{"MultiAccept", 0, multiAccept},
	{"MultiRecv", 0, multiRecv},
	{"MultiRecvCancelledInside", 0, multiRecvCancelledInside},
	{"MultiRecvManySockets", 0, multiRecvManySockets},
}

func multiAccept(r *rig) {
	listener, at := r.listen()
	accept := r.submit(ring.Op{Code: ring.Accept, FD: listener, Flags: ring.Multi})
	var clients []ring.FD
	var connects []*call
	const n = 20
	for range n {
		client := r.socket(at)
		clients = append(clients, client)
		connects = append(connects, r.submit(ring.Op{Code: ring.Connect, FD: client, Addr: at}))
	}
	for _, c := range connects {
		c.want(0)
	}
	r.until("all are accepted", func() bool { return accept.count == n })
	if accept.ended || !accept.More || !accept.Active {
		r.Fatalf("a Multi accept has ended with %s", resultString(accept.Result))
	}
	r.cancel(accept)
	accept.wantErr(syscall.ECANCELED)
	if len(accept.fds) != n {
		r.Fatalf("%d sockets from %d connections", len(accept.fds), n)
	}
	// Each accepted socket is a connection to one of the clients.
	buf := r.bytes(4)
	for i, client := range clients {
		r.sendAll(client, r.text(string(rune('a'+i))))
	}
	seen := map[byte]bool{}
	for _, fd := range accept.fds {
		r.do(ring.Op{Code: ring.Recv, FD: fd, Buf: buf}).want(1)
		seen[buf[0]] = true
	}
	if len(seen) != n {
		r.Fatalf("%d different clients", len(seen))
	}
	r.closeAll(append(append(clients, accept.fds...), listener)...)
}

func multiRecv(r *rig) {
	client, server := r.pair()
	recv := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Multi | ring.Pick})
	var want []byte
	for i := range 10 {
		data := r.noise(1+i*5000, uint64(i))
		want = append(want, data...)
		r.sendAll(client, data)
		r.until("it arrives", func() bool { return len(recv.got) == len(want) || recv.ended })
		if recv.ended {
			r.Fatalf("after %d of %d bytes: %s", len(recv.got), len(want), resultString(recv.Result))
		}
		if !recv.More || !recv.Active {
			r.Fatalf("More %v, Active %v", recv.More, recv.Active)
		}
	}
	if !bytes.Equal(recv.got, want) {
		r.Fatal("the bytes differ")
	}
	r.closeAll(client)
	recv.want(0) // the peer's end ends it
	if recv.More {
		r.Fatal("More is set at the end of the stream")
	}
	r.closeAll(server)
}

// Cancel from inside the op's own Complete.
func multiRecvCancelledInside(r *rig) {
	client, server := r.pair()
	recv := r.prepare(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Multi | ring.Pick})
	recv.thenDo = func(c *call) {
		if c.More {
			r.io.Cancel(&c.Op)
		}
	}
	r.start(recv)
	r.settle()
	r.sendAll(client, r.text("once"))
	recv.wantErr(syscall.ECANCELED)
	if string(recv.got) != "once" {
		r.Fatalf("%q", recv.got)
	}
	// It may be used again.
	recv.thenDo = nil
	r.start(recv)
	r.sendAll(client, r.text(" more"))
	r.until("it arrives", func() bool { return len(recv.got) == 9 })
	r.cancel(recv)
	recv.wantErr(syscall.ECANCELED)
	r.closeAll(client, server)
}

func multiRecvManySockets(r *rig) {
	const n = 16
	var clients, servers []ring.FD
	var recvs []*call
	for range n {
		client, server := r.pair()
		clients, servers = append(clients, client), append(servers, server)
		recvs = append(recvs, r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Multi | ring.Pick}))
	}
	for round := range 5 {
		for i, fd := range clients {
			r.do(ring.Op{Code: ring.Send, FD: fd, Buf: r.text(string(rune('A' + i)))}).want(1)
		}
		r.until("every socket has its byte", func() bool {
			for _, c := range recvs {
				if len(c.got) != round+1 {
					return false
				}
			}
			return true
		})
	}
	for i, c := range recvs {
		if want := bytes.Repeat([]byte{byte('A' + i)}, 5); !bytes.Equal(c.got, want) {
			r.Fatalf("socket %d received %q", i, c.got)
		}
	}
	r.closeAll(clients...)
	for _, c := range recvs {
		c.want(0)
	}
	r.closeAll(servers...)
}
