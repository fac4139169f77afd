package sim

import (
	"slices"
	"syscall"

	"github.com/millrace/millrace/ring"
)

const econnreset = syscall.ECONNRESET

// endpoint is one end of a connection.
type endpoint struct {
	host          *Host
	peer          *endpoint
	local, remote addrPort
	in, out       *pipe
	recvs, sends  []*flight // waiting, first in, first out

	closed bool          // no descriptor leads to it
	shut   bool          // Shutdown
	lost   bool          // its machine lost power: it sends nothing any more
	broken bool          // reset or timed out
	errno  syscall.Errno // why, until the first op has been told

	recvAt, sendAt int64 // the latest completions, so that they arrive in order
}

// queue is where a waiting op waits.
func (f *flight) queue() *[]*flight {
	switch f.op.Code {
	case ring.Accept:
		return &f.desc.listener.accepts
	case ring.Recv:
		return &f.desc.end.recvs
	}
	return &f.desc.end.sends
}

// startSocket begins an op of a socket or listener.
func (f *flight) startSocket() {
	d, op := f.desc, f.op
	switch {
	case d.file != nil:
		f.fail(syscall.ENOTSOCK)
	case op.Code == ring.Connect:
		f.startConnect()
	case op.Code == ring.Accept && d.listener == nil:
		f.fail(syscall.EINVAL)
	case op.Code == ring.Accept:
		f.wait()
		d.listener.pump()
	case d.end == nil:
		f.fail(syscall.ENOTCONN)
	case op.Code == ring.Recv:
		f.wait()
		d.end.pumpRecv()
	case op.Code == ring.Shutdown:
		d.end.shutdown()
		f.finish(0)
	default:
		if op.Code == ring.Send {
			f.sum = f.checksum()
		}
		f.wait()
		d.end.pumpSend()
	}
}

func (f *flight) wait() {
	f.state = stateSocket
	q := f.queue()
	*q = append(*q, f)
}

// told posts what became of the first op of a queue; without more it leaves the queue.
func told(queue *[]*flight, lastAt *int64, res result) {
	f := (*queue)[0]
	w := f.io.host.world
	*lastAt = max(*lastAt+1, w.now+w.draw(w.Config.Reap))
	if !res.more {
		f.state = stateDone
		*queue = slices.Delete(*queue, 0, 1)
	}
	f.post(res, *lastAt)
}

// pumpRecv gives what has arrived to who waits for it.
func (e *endpoint) pumpRecv() {
	for len(e.recvs) > 0 {
		f := e.recvs[0]
		res := result{}
		switch {
		case len(e.in.arrived) > 0 && f.op.Flags&ring.Pick != 0:
			chunk, ok := f.io.lend()
			if !ok {
				res.n = -int32(syscall.ENOBUFS)
				break
			}
			chunk.Bytes = chunk.Bytes[:e.in.take(chunk.Bytes)]
			res = result{n: int32(len(chunk.Bytes)), more: f.op.Flags&ring.Multi != 0, chunk: chunk}
		case len(e.in.arrived) > 0:
			res.n = int32(e.in.take(f.op.Buf))
		case e.errno != 0:
			res.n = -int32(e.errno)
			e.errno = 0
		case !e.in.ended && !e.shut && !e.broken:
			return
		}
		told(&e.recvs, &e.recvAt, res)
	}
}

// pumpSend takes from who sends as much as the connection can hold.
func (e *endpoint) pumpSend() {
	w := e.host.world
	for len(e.sends) > 0 {
		f := e.sends[0]
		res := result{}
		switch {
		case e.errno != 0:
			res.n = -int32(e.errno)
			e.errno = 0
		case e.broken || e.shut:
			res.n = -int32(syscall.EPIPE)
		default:
			room := e.out.room()
			if room == 0 {
				return
			}
			if f.op.Next == nil && w.happens(w.Config.ShortSendOneIn) {
				room = 1 + int(w.random.below(int64(room)))
			}
			var data []byte
			data, res.n = f.gather(room)
			e.out.send(data)
			if f.op.Code == ring.SendFile {
				f.io.stats.SendFileIn += uint64(len(data))
			}
		}
		told(&e.sends, &e.sendAt, res)
	}
}

// gather copies what a Send or SendFile sends, at most n bytes.
func (f *flight) gather(n int) ([]byte, int32) {
	op := f.op
	if op.Code == ring.SendFile {
		from := f.io.host.descriptor(op.From)
		if from == nil || from.file == nil {
			return nil, -int32(syscall.EBADF)
		}
		if op.Off < 0 || op.Len < 0 {
			return nil, -int32(syscall.EINVAL)
		}
		data := make([]byte, min(int64(n), op.Len))
		data = data[:from.file.read(op.Off, data)]
		return data, int32(len(data))
	}
	f.unchanged()
	data := make([]byte, 0, min(n, op.Size()))
	for _, b := range f.pieces() {
		data = append(data, b[:min(len(b), n-len(data))]...)
	}
	return data, int32(len(data))
}

// abandon ends the ops that wait at a socket which is being closed.
func (e *endpoint) abandon() {
	w := e.host.world
	errno := func() result {
		if w.happens(2) {
			return result{n: -int32(syscall.ECANCELED)}
		}
		return result{n: -int32(econnreset)}
	}
	for len(e.recvs) > 0 {
		told(&e.recvs, &e.recvAt, errno())
	}
	for len(e.sends) > 0 {
		told(&e.sends, &e.sendAt, errno())
	}
}

// close is what the kernel does when the last descriptor goes: the peer sees the
// end, or a reset if bytes were left unread.
func (e *endpoint) close() {
	e.closed = true
	e.abandon()
	switch {
	case e.broken:
	case len(e.in.arrived) > 0:
		e.in.arrived = nil
		e.out.push(segment{kind: segmentReset})
	case !e.shut:
		e.out.push(segment{kind: segmentEnd})
	}
}

// refuse closes what nobody has accepted.
func (e *endpoint) refuse() {
	e.closed = true
	if !e.broken {
		e.out.push(segment{kind: segmentReset})
	}
}

func (e *endpoint) shutdown() {
	if !e.shut && !e.broken {
		e.out.push(segment{kind: segmentEnd})
	}
	e.shut = true
	e.pumpRecv()
	e.pumpSend()
}

// reset breaks this end. What has arrived can still be read.
func (e *endpoint) reset(errno syscall.Errno) {
	if e.broken || e.closed {
		return
	}
	e.host.world.note("reset "+errno.Error(), e.host.id, int64(e.local.Port()), int64(e.remote.Port()), 0)
	e.broken, e.errno = true, errno
	e.out.drop()
	e.pumpRecv()
	e.pumpSend()
}

// crash is what happens to a connection when its machine crashes.
func (e *endpoint) crash(mode Crash) {
	if mode == ProcessKill { // the kernel lives and closes it
		e.close()
		return
	}
	w := e.host.world
	e.closed, e.lost = true, true
	w.schedule(w.now+w.draw(w.Config.ResetAfter), e, 0)
}

// fire is the reset that a peer sees some time after a power loss.
func (e *endpoint) fire(int) {
	w := e.host.world
	switch {
	case e.out.silent || e.peer.closed || e.peer.broken:
	case w.cuts[[2]int{e.host.id, e.peer.host.id}]:
		w.schedule(w.now+int64(retryMax), e, 0)
	default:
		e.peer.reset(econnreset)
	}
}
