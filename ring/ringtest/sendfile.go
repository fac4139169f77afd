package ringtest

import (
	"bytes"
	"math"
	"syscall"

	"github.com/millrace/millrace/ring"
)

var sendFileCases = []testCase{
	{"SendFile", 0, sendFile},
	{"SendFileEnd", 0, sendFileEnd},
	{"SendFileSlowReader", 0, sendFileSlowReader},
	{"SendFileBroken", 0, sendFileBroken},
	{"SendFileAfterHeader", 0, sendFileAfterHeader},
	{"SendFileTurns", 0, sendFileTurns},
}

func sendFile(r *rig) {
	client, server := r.pair()
	fd, _ := r.file()
	data := r.noise(20_000, 9)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data}).want(int32(len(data)))
	for _, span := range [][2]int{{0, 1}, {0, 20_000}, {777, 4096}, {19_999, 1}} {
		off, n := span[0], span[1]
		r.sendFileAll(server, fd, off, n)
		back := r.bytes(n)
		r.recvAll(client, back)
		if !bytes.Equal(back, data[off:off+n]) {
			r.Fatalf("%d bytes at %d differ", n, off)
		}
	}
	s := r.io.Stats()
	if s.SendFileIn+s.SendFileSpl == 0 {
		r.Error("no SendFile bytes are counted")
	}
	r.closeAll(client, server, fd)
}

// sendFileAll sends [off, off+n) of a file, however short the ops come out.
func (r *rig) sendFileAll(socket, file ring.FD, off, n int) {
	r.Helper()
	for n > 0 {
		c := r.do(ring.Op{Code: ring.SendFile, FD: socket, From: file, Off: int64(off), Len: int64(n)})
		if c.Result <= 0 || int(c.Result) > n {
			r.Fatalf("send-file with %d bytes to go: %s", n, resultString(c.Result))
		}
		off, n = off+int(c.Result), n-int(c.Result)
	}
}

// Short at the end of the file, and 0 behind it.
func sendFileEnd(r *rig) {
	client, server := r.pair()
	fd, _ := r.file()
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("0123456789")}).want(10)
	r.do(ring.Op{Code: ring.SendFile, FD: server, From: fd, Off: 6, Len: 100}).want(4)
	r.do(ring.Op{Code: ring.SendFile, FD: server, From: fd, Off: 10, Len: 100}).want(0)
	r.do(ring.Op{Code: ring.SendFile, FD: server, From: fd, Off: 1 << 20, Len: 100}).want(0)
	back := r.bytes(4)
	r.recvAll(client, back)
	if string(back) != "6789" {
		r.Fatalf("%q", back)
	}
	r.closeAll(client, server, fd)
}

// 3 MiB, four times over, to a reader that starts when the sender is stuck.
func sendFileSlowReader(r *rig) {
	client, server := r.pair()
	fd, _ := r.file()
	const total = 3 << 20
	data := r.noise(total, 11)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data}).want(total)
	const rounds = 4
	sent := 0
	send := r.prepare(ring.Op{Code: ring.SendFile, FD: server, From: fd, Len: total})
	send.thenDo = func(c *call) {
		if c.Result <= 0 {
			r.Errorf("send-file at %d: %s", sent, resultString(c.Result))
			return
		}
		if sent += int(c.Result); sent < rounds*total {
			c.Off = int64(sent % total)
			c.Len = total - c.Off
			r.start(c)
		}
	}
	r.start(send)
	r.settle()
	buf := r.bytes(50_000)
	for got := 0; got < rounds*total; {
		c := r.do(ring.Op{Code: ring.Recv, FD: client, Buf: buf})
		if c.Result <= 0 {
			r.Fatalf("after %d bytes: %s", got, resultString(c.Result))
		}
		for b := buf[:c.Result]; len(b) > 0; {
			at := got % total
			n := min(len(b), total-at)
			if !bytes.Equal(b[:n], data[at:at+n]) {
				r.Fatalf("the bytes from %d on differ", got)
			}
			b, got = b[n:], got+n
		}
	}
	r.until("the last send completes", func() bool { return send.ended })
	if sent != rounds*total {
		r.Fatalf("sent %d of %d", sent, rounds*total)
	}
	r.closeAll(client, server, fd)
}

func sendFileBroken(r *rig) {
	client, server := r.pair()
	fd, _ := r.file()
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.noise(1000, 1)}).want(1000)
	r.do(ring.Op{Code: ring.SendFile, FD: server, From: 1 << 20, Len: 10}).wantErr(syscall.EBADF)
	r.do(ring.Op{Code: ring.Shutdown, FD: server}).want(0)
	r.do(ring.Op{Code: ring.SendFile, FD: server, From: fd, Len: 10}).wantErr(syscall.EPIPE)
	r.closeAll(client, server, fd)
}

// A reply's header and then its records: one chain.
func sendFileAfterHeader(r *rig) {
	client, server := r.pair()
	fd, _ := r.file()
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("records")}).want(7)
	var order []int
	calls := r.link(&order,
		ring.Op{Code: ring.Send, FD: server, Buf: r.text("header "), Flags: ring.MsgMore},
		ring.Op{Code: ring.SendFile, FD: server, From: fd, Len: 7},
	)
	r.start(calls[0])
	calls[1].want(7)
	back := r.bytes(14)
	r.recvAll(client, back)
	if string(back) != "header records" {
		r.Fatalf("%q", back)
	}
	r.wantOrder(order, 2)
	r.closeAll(client, server, fd)
}

// However many large ranges are sent at once, the ring's thread moves no more than
// SendFileTurn of them between two Waits, and each of them gets its turn. With a bound
// of 0 it moves none.
func sendFileTurns(r *rig) {
	chooser, ok := r.io.(ring.SendFileChooser)
	if !ok {
		r.Log("this ring has one way only")
		return
	}
	const sockets, total = 6, 400_000
	fd, _ := r.file()
	data := r.noise(total, 5)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data}).want(total)
	for _, inlineMax := range []int64{math.MaxInt64, 0, 100_000} {
		chooser.ChooseSendFile(inlineMax)
		before := r.io.Stats().SendFileIn
		last, turns := before, 0
		var sends []*call
		var clients, servers []ring.FD
		got := make([]int, sockets)
		for range sockets {
			client, server := r.pair()
			clients, servers = append(clients, client), append(servers, server)
			sent := 0
			send := r.prepare(ring.Op{Code: ring.SendFile, FD: server, From: fd, Len: total})
			send.thenDo = func(c *call) {
				if c.Result <= 0 {
					r.Errorf("send-file at %d: %s", sent, resultString(c.Result))
					return
				}
				if sent += int(c.Result); sent < total {
					c.Off, c.Len = int64(sent), int64(total-sent)
					r.start(c)
				}
			}
			sends = append(sends, send)
		}
		for _, send := range sends {
			r.start(send)
		}
		for i, client := range clients {
			buf := r.bytes(50_000)
			recv := r.prepare(ring.Op{Code: ring.Recv, FD: client, Buf: buf})
			recv.thenDo = func(c *call) {
				if c.Result <= 0 || !bytes.Equal(buf[:c.Result], data[got[i]:got[i]+int(c.Result)]) {
					r.Errorf("socket %d at %d: %s, or other bytes", i, got[i], resultString(c.Result))
					return
				}
				if got[i] += int(c.Result); got[i] < total {
					r.start(c)
				}
			}
			r.start(recv)
		}
		r.until("all is received", func() bool {
			now := r.io.Stats().SendFileIn
			if now-last > ring.SendFileTurn {
				r.Errorf("bound %d: %d bytes were moved between two Waits", inlineMax, now-last)
			}
			if now > last {
				turns++
			}
			last = now
			done := true
			for i := range got {
				done = done && got[i] == total
			}
			return done || r.Failed()
		})
		r.until("the sends complete", func() bool {
			for _, send := range sends {
				if !send.ended {
					return false
				}
			}
			return true
		})
		inline := r.io.Stats().SendFileIn - before
		r.Logf("bound %d: %d bytes by the ring's thread in %d turns", inlineMax, inline, turns)
		if inlineMax == 0 && inline > 0 || inlineMax > total && inline == 0 {
			r.Errorf("bound %d: %d bytes by the ring's thread", inlineMax, inline)
		}
		r.closeAll(append(clients, servers...)...)
	}
	r.closeAll(fd)
}
