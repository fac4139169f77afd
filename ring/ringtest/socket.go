package ringtest

import (
	"bytes"
	"errors"
	"syscall"

	"github.com/millrace/millrace/ring"
)

var socketCases = []testCase{
	{"ConnectAccept", 0, connectAccept},
	{"ConnectRefused", 0, connectRefused},
	{"SendRecv", 0, sendRecv},
	{"SendRecvVectored", 0, sendRecvVectored},
	{"RecvShort", 0, recvShort},
	{"MsgMore", 0, msgMore},
	{"SlowReader", 0, slowReader},
	{"EndOfStream", 0, endOfStream},
	{"Shutdown", 0, shutdown},
	{"PeerReset", 0, peerReset},
	{"CancelRecv", 0, cancelRecv},
	{"CancelAccept", 0, cancelAccept},
	{"CancelSend", 0, cancelSend},
	{"PickChunk", 0, pickChunk},
	{"PickNoBuffers", 0, pickNoBuffers},
	{"TwoWays", 0, twoWays},
}

func connectAccept(r *rig) {
	listener, at := r.listen()
	for range 3 {
		client, server := r.connect(listener, at)
		if client == server || server == listener {
			r.Fatalf("client %d, server %d, listener %d", client, server, listener)
		}
		peer, err := r.host.Peer(client)
		if err != nil || peer != at {
			r.Fatalf("the client's peer is %v (%v), want %v", peer, err, at)
		}
		back, err := r.host.Peer(server)
		if err != nil || back.Addr() != at.Addr() || back.Port() == at.Port() || back.Port() == 0 {
			r.Fatalf("the server's peer is %v (%v)", back, err)
		}
		r.closeAll(client, server)
	}
	// A connection may come before anybody accepts.
	client := r.socket(at)
	r.do(ring.Op{Code: ring.Connect, FD: client, Addr: at}).want(0)
	accept := r.do(ring.Op{Code: ring.Accept, FD: listener})
	if accept.Result < 0 {
		r.Fatalf("accept: %v", accept.Op.Error())
	}
	r.closeAll(client, ring.FD(accept.Result), listener)
}

func connectRefused(r *rig) {
	listener, at := r.listen()
	r.closeAll(listener)
	client := r.socket(at)
	c := r.do(ring.Op{Code: ring.Connect, FD: client, Addr: at}).wantErr(syscall.ECONNREFUSED)
	if !errors.Is(c.Op.Error(), syscall.ECONNREFUSED) {
		r.Fatalf("%v", c.Op.Error())
	}
	r.closeAll(client)
}

func sendRecv(r *rig) {
	client, server := r.pair()
	// The data before the Recv, and the Recv before the data.
	r.do(ring.Op{Code: ring.Send, FD: client, Buf: r.text("ping")}).want(4)
	buf := r.bytes(64)
	r.do(ring.Op{Code: ring.Recv, FD: server, Buf: buf}).want(4)
	if string(buf[:4]) != "ping" {
		r.Fatalf("%q", buf[:4])
	}
	recv := r.submit(ring.Op{Code: ring.Recv, FD: client, Buf: buf})
	r.settle()
	if recv.ended {
		r.Fatalf("a recv completed with %s while nothing was sent", resultString(recv.Result))
	}
	r.do(ring.Op{Code: ring.Send, FD: server, Buf: r.text("pong!")}).want(5)
	recv.want(5)
	if string(buf[:5]) != "pong!" {
		r.Fatalf("%q", buf[:5])
	}
	r.closeAll(client, server)
}

func sendRecvVectored(r *rig) {
	client, server := r.pair()
	var want []byte
	bufs := make([][]byte, ring.IOVMax)
	for i := range bufs {
		bufs[i] = r.noise(i*13, uint64(i)+1) // the first is empty
		want = append(want, bufs[i]...)
	}
	r.do(ring.Op{Code: ring.Send, FD: client, Bufs: bufs}).want(int32(len(want)))
	back := r.bytes(len(want))
	r.recvAll(server, back)
	if !bytes.Equal(back, want) {
		r.Fatal("the pieces did not arrive in order")
	}
	r.closeAll(client, server)
}

func recvShort(r *rig) {
	client, server := r.pair()
	r.sendAll(client, r.text("0123456789"))
	r.settle()
	buf := r.bytes(4)
	for _, want := range []string{"0123", "4567", "89"} {
		r.do(ring.Op{Code: ring.Recv, FD: server, Buf: buf}).want(int32(len(want)))
		if string(buf[:len(want)]) != want {
			r.Fatalf("%q, want %q", buf[:len(want)], want)
		}
	}
	r.closeAll(client, server)
}

func msgMore(r *rig) {
	client, server := r.pair()
	r.do(ring.Op{Code: ring.Send, FD: client, Buf: r.text("head "), Flags: ring.MsgMore}).want(5)
	r.do(ring.Op{Code: ring.Send, FD: client, Buf: r.text("body")}).want(4)
	back := r.bytes(9)
	r.recvAll(server, back)
	if string(back) != "head body" {
		r.Fatalf("%q", back)
	}
	r.closeAll(client, server)
}

// Large vectored sends to a reader that only starts when the sender is stuck:
// sends come out short, or wait, and nothing is lost or doubled.
func slowReader(r *rig) {
	client, server := r.pair()
	const pieces, piece = ring.IOVMax, 512 << 10
	const total = pieces * piece
	all := r.noise(total, 42)
	left := make([][]byte, pieces)
	for i := range left {
		left[i] = all[i*piece : (i+1)*piece]
	}
	sent, shorts := 0, 0
	send := r.prepare(ring.Op{Code: ring.Send, FD: client, Bufs: left})
	send.thenDo = func(c *call) {
		if c.Result <= 0 {
			return
		}
		sent += int(c.Result)
		if sent < total {
			shorts++
			c.Bufs = advance(c.Bufs, int(c.Result))
			r.start(c)
		}
	}
	r.start(send)
	r.settle()
	r.settle()
	if send.ended {
		r.Fatalf("%d bytes went to a reader that does not read: result %s", sent, resultString(send.Result))
	}
	buf := r.bytes(100_000)
	for got := 0; got < total; {
		c := r.do(ring.Op{Code: ring.Recv, FD: server, Buf: buf})
		if c.Result <= 0 {
			r.Fatalf("after %d of %d bytes: %s", got, total, resultString(c.Result))
		}
		if !bytes.Equal(buf[:c.Result], all[got:got+int(c.Result)]) {
			r.Fatalf("the bytes from %d on differ", got)
		}
		got += int(c.Result)
	}
	r.until("the last send completes", func() bool { return send.ended })
	if sent != total {
		r.Fatalf("sent %d of %d bytes (%d short sends)", sent, total, shorts)
	}
	r.closeAll(client, server)
}

// advance drops the first n bytes of bufs.
func advance(bufs [][]byte, n int) [][]byte {
	for n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	bufs[0] = bufs[0][n:]
	return bufs
}

func endOfStream(r *rig) {
	client, server := r.pair()
	r.sendAll(client, r.text("last words"))
	r.closeAll(client)
	buf := r.bytes(10)
	r.recvAll(server, buf)
	if string(buf) != "last words" {
		r.Fatalf("%q", buf)
	}
	for range 2 { // and it stays so
		r.do(ring.Op{Code: ring.Recv, FD: server, Buf: buf}).want(0)
	}
	r.closeAll(server)

	// The end may come to a Recv that waits.
	client, server = r.pair()
	recv := r.submit(ring.Op{Code: ring.Recv, FD: server, Buf: buf})
	pick := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick})
	r.settle()
	r.closeAll(client)
	recv.want(0)
	pick.want(0)
	r.closeAll(server)
}

func shutdown(r *rig) {
	client, server := r.pair()
	buf := r.bytes(10)
	recv := r.submit(ring.Op{Code: ring.Recv, FD: server, Buf: buf})
	mine := r.submit(ring.Op{Code: ring.Recv, FD: client, Buf: r.bytes(10)})
	r.settle()
	r.do(ring.Op{Code: ring.Shutdown, FD: client}).want(0)
	recv.want(0)
	mine.want(0)
	r.do(ring.Op{Code: ring.Send, FD: client, Buf: r.text("too late")}).wantErr(syscall.EPIPE)
	r.closeAll(client, server)
}

// Closing a socket that has unread bytes resets the connection.
func peerReset(r *rig) {
	client, server := r.pair()
	recv := r.submit(ring.Op{Code: ring.Recv, FD: client, Buf: r.bytes(10)})
	r.sendAll(client, r.text("never read"))
	r.settle()
	r.closeAll(server)
	if recv.wait(); recv.Result > 0 {
		r.Fatalf("received %d bytes from a peer that sent none", recv.Result)
	}
	if recv.Result != 0 {
		recv.wantErr(syscall.ECONNRESET)
	}
	// What is sent from now on fails, at the latest once the peer has answered.
	failed := false
	r.until("a send to a peer that is gone fails", func() bool {
		c := r.do(ring.Op{Code: ring.Send, FD: client, Buf: r.text("x")})
		if c.Result < 0 {
			c.wantErr(syscall.EPIPE, syscall.ECONNRESET)
			failed = true
		}
		return failed
	})
	r.closeAll(client)
}

func cancelRecv(r *rig) {
	client, server := r.pair()
	buf := r.bytes(10)
	for _, op := range []ring.Op{
		{Code: ring.Recv, FD: server, Buf: buf},
		{Code: ring.Recv, FD: server, Flags: ring.Pick},
		{Code: ring.Recv, FD: server, Flags: ring.Pick | ring.Multi},
	} {
		c := r.submit(op)
		r.settle()
		r.cancel(c)
		c.wantErr(syscall.ECANCELED)
		if c.More || c.count != 1 {
			r.Fatalf("More %v after %d completions", c.More, c.count)
		}
		// Cancelled at once, before the kernel has seen it.
		c = r.submit(op)
		r.cancel(c)
		r.cancel(c)
		c.wantErr(syscall.ECANCELED)
	}
	// The socket is as good as before.
	r.sendAll(client, r.text("still here"))
	r.recvAll(server, buf)
	if string(buf) != "still here" {
		r.Fatalf("%q", buf)
	}
	r.closeAll(client, server)
}

func cancelAccept(r *rig) {
	listener, at := r.listen()
	for _, flags := range []ring.Flags{0, ring.Multi} {
		c := r.submit(ring.Op{Code: ring.Accept, FD: listener, Flags: flags})
		r.settle()
		r.cancel(c)
		c.wantErr(syscall.ECANCELED)
	}
	client, server := r.connect(listener, at)
	r.closeAll(client, server, listener)
}

func cancelSend(r *rig) {
	client, server := r.pair()
	big := r.noise(16<<20, 3)
	sent := 0
	send := r.prepare(ring.Op{Code: ring.Send, FD: client, Buf: big})
	send.thenDo = func(c *call) {
		if c.Result > 0 {
			sent += int(c.Result)
			c.Buf = big[sent:]
			r.start(c)
		}
	}
	r.start(send)
	r.settle()
	r.cancel(send)
	r.until("the cancelled send ends", func() bool {
		if !send.ended {
			r.io.Cancel(&send.Op) // it had succeeded in part, and was submitted again
		}
		return send.ended
	})
	send.wantErr(syscall.ECANCELED)
	back := r.bytes(sent)
	r.recvAll(server, back)
	if !bytes.Equal(back, big[:sent]) {
		r.Fatal("what was sent before the cancel differs")
	}
	r.closeAll(client, server)
}

func pickChunk(r *rig) {
	client, server := r.pair()
	recv := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick})
	r.settle()
	r.sendAll(client, r.text("chunk"))
	recv.want(5)
	if string(recv.got) != "chunk" {
		r.Fatalf("%q", recv.got)
	}
	// A chunk keeps its bytes until it goes back, whatever arrives meanwhile.
	var held []*call
	for i := range 4 {
		r.sendAll(client, r.noise(100, uint64(i)))
		c := r.prepare(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick})
		c.hold = true
		held = append(held, r.start(c).want(100))
	}
	for i, c := range held {
		if !bytes.Equal(c.held[0].Bytes, r.noise(100, uint64(i))) {
			r.Fatalf("chunk %d changed while it was ours", i)
		}
		r.io.ReturnChunk(c.held[0])
	}
	r.closeAll(client, server)
}

// All receive buffers out: ENOBUFS, and data again once one has come back.
func pickNoBuffers(r *rig) {
	client, server := r.pair()
	var chunks []ring.Chunk
	seen := map[uint16]bool{}
	before := r.io.Stats().NoBuffers
	for {
		r.sendAll(client, r.text("x"))
		c := r.prepare(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick})
		c.hold = true
		if r.start(c).wait(); c.Result < 0 {
			c.wantErr(syscall.ENOBUFS)
			break
		}
		c.want(1)
		if id := c.held[0].ID; seen[id] {
			r.Fatalf("buffer %d is lent twice", id)
		} else {
			seen[id] = true
		}
		if chunks = append(chunks, c.held...); len(chunks) > 1<<16 {
			r.Fatal("more buffers than there are numbers")
		}
	}
	if r.io.Stats().NoBuffers == before {
		r.Error("Stats.NoBuffers did not count it")
	}
	for round := range 3 { // a Multi ends with it; and one buffer is enough to go on
		multi := r.submit(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick | ring.Multi})
		multi.wantErr(syscall.ENOBUFS)
		r.io.ReturnChunk(chunks[round])
		c := r.prepare(ring.Op{Code: ring.Recv, FD: server, Flags: ring.Pick})
		c.hold = true
		r.start(c).want(1)
		chunks[round] = c.held[0]
		r.sendAll(client, r.text("x"))
	}
	for _, c := range chunks {
		r.io.ReturnChunk(c)
	}
	r.closeAll(client, server)
}

// Recv and Send are in flight on both ends at once.
func twoWays(r *rig) {
	a, b := r.pair()
	const total = 4 << 20
	var ends int
	one := func(from, to ring.FD, seed uint64) {
		data, buf := r.noise(total, seed), r.bytes(64<<10)
		got := 0
		send := r.prepare(ring.Op{Code: ring.Send, FD: from, Buf: data})
		send.thenDo = func(c *call) {
			if c.Result <= 0 {
				r.Errorf("send: %s", resultString(c.Result))
			} else if c.Buf = c.Buf[c.Result:]; len(c.Buf) > 0 {
				r.start(c)
			}
		}
		recv := r.prepare(ring.Op{Code: ring.Recv, FD: to, Buf: buf})
		recv.thenDo = func(c *call) {
			if c.Result <= 0 || !bytes.Equal(buf[:c.Result], data[got:got+int(c.Result)]) {
				r.Errorf("recv at %d: %s", got, resultString(c.Result))
				ends++
			} else if got += int(c.Result); got < total {
				r.start(c)
			} else {
				ends++
			}
		}
		r.start(recv)
		r.start(send)
	}
	one(a, b, 1)
	one(b, a, 2)
	r.until("both streams have arrived", func() bool { return ends == 2 })
	r.closeAll(a, b)
}
