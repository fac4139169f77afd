//go:build uring

package uring

import (
	"fmt"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// SendFile has two ways. A range that is in the page cache, and not larger than
// ChooseSendFile says, goes by sendfile(2), on this thread: SendFileTurn bytes
// between two Waits, all ops together, and who finds them used up waits for the next.
// Anything else would make this thread wait for the disk, or costs less elsewhere, so it goes as two
// linked splices, file -> pipe -> socket, which the kernel runs on workers of its own.
//
// Nothing is lost or sent twice, because nothing is carried over: the op's result
// is what the second splice gave to the socket, and what a slow reader left in
// the pipe is thrown away with the pipe; the owner asks for it again, by offset.
//
// A pipe is held only between "the socket has room" and the end of the second
// splice, which does not wait for the reader (sockets are non-blocking). So slow
// readers hold none, and whoever waits for one waits only for disks.

const (
	pipesMax  = 16
	pipeBytes = 256 << 10 // what we ask for; the kernel may give less
	pageBytes = 4096
)

// transfer is what a slot knows of its SendFile.
type transfer struct {
	pipe  *pipe
	asked uint32 // bytes that the splices in flight were asked to move
	in    int32  // result of file -> pipe
	retry bool   // pipe -> socket was submitted again, on its own
	room  bool   // the socket was found to have room
	next  int32  // the next slot that waits for a pipe, or for its turn; -1 ends
	begun bool   // it has been found not to be for this thread
}

// slotQueue is slots that wait, first come first served, by their file.next.
type slotQueue struct{ head, tail int32 } // -1: none

func (q *slotQueue) push(r *Ring, i int32) {
	r.slot(i).file.next = -1
	if q.head < 0 {
		q.head = i
	} else {
		r.slot(q.tail).file.next = i
	}
	q.tail = i
}

func (q *slotQueue) pop(r *Ring) int32 {
	i := q.head
	q.head = r.slot(i).file.next
	return i
}

// turns is what SendFile ops may still move on this thread before the next Wait.
type turns struct {
	inlineMax int64 // a larger range is spliced
	left      int64 // bytes
	waiting   slotQueue
	known     host.Known
}

// ChooseSendFile implements ring.SendFileChooser. What is known of files is forgotten: who compares ways pays for all of each.
func (r *Ring) ChooseSendFile(inlineMax int64) {
	r.turns.inlineMax, r.turns.known = inlineMax, host.Known{}
}

// newTurn begins a Wait. What it lets go on ends now or waits for something else.
func (r *Ring) newTurn() {
	t := &r.turns
	t.left = ring.SendFileTurn
	for t.waiting.head >= 0 && t.left >= ring.SendFileTurnMin {
		i := t.waiting.pop(r)
		s := r.slot(i)
		r.sendFile(i, s)
	}
}

type pipe struct {
	r, w int
	size int64
}

// pipes are made when they are needed, kept while they are empty.
type pipes struct {
	idle    []*pipe
	count   int
	limit   int
	waiting slotQueue
}

func (p *pipes) closeAll() {
	for _, one := range p.idle {
		one.close()
	}
	p.idle = nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// sendFile begins an op, or begins it anew.
func (r *Ring) sendFile(i int32, s *slot) {
	op := s.op
	if s.cancelled || !r.sameFile(s) {
		r.finish(r.release(i, s), -int32(unix.ECANCELED))
		return
	}
	t := &r.turns
	if op.Len <= t.inlineMax {
		if t.left < min(op.Len, ring.SendFileTurnMin) {
			r.stats.SendTurns++
			t.waiting.push(r, i)
			return
		}
		n := min(op.Len, t.left)
		if t.known.Resident(op.From, op.Off, n, op.Len, r.now) {
			r.sendInline(i, s, n)
			return
		}
		if !s.file.begun {
			r.stats.SendFileCold++
		}
	}
	s.file.begun = true
	if !s.file.room {
		r.awaitRoom(i, s)
		return
	}
	r.splice(i, s)
}

// sendInline sends n bytes, which are in memory.
func (r *Ring) sendInline(i int32, s *slot, n int64) {
	op := s.op
	result := host.SendFile(op.FD, op.From, op.Off, int(n))
	if result == -int32(unix.EAGAIN) {
		r.awaitRoom(i, s)
		return
	}
	if result > 0 {
		r.turns.left -= int64(result)
		r.stats.SendFileIn += uint64(result)
	}
	r.finish(r.release(i, s), result)
}

// awaitRoom waits until the socket can take more, or has failed.
func (r *Ring) awaitRoom(i int32, s *slot) {
	e := r.sqe()
	e.PreparePollAdd(int(s.op.FD), unix.POLLOUT)
	e.UserData = userData(kindPoll, s.gen, i)
	r.useFixed(e, s.op.FD)
	r.inKernel++
}

// writable takes the answer to awaitRoom.
func (r *Ring) writable(i int32, s *slot, result int32) {
	if result < 0 && result != -int32(unix.EINTR) && result != -int32(unix.EAGAIN) {
		r.settle(i, s, result)
		return
	}
	s.file.room = result > 0
	r.sendFile(i, s)
}

// splice submits the pair of splices, as soon as there is a pipe.
func (r *Ring) splice(i int32, s *slot) {
	p, err := r.takePipe()
	if err != nil {
		r.settle(i, s, -int32(err.(unix.Errno)))
		return
	}
	if p == nil {
		r.pipes.waiting.push(r, i)
		return
	}
	op := s.op
	r.fd(op.FD).users++
	r.fd(op.From).users++
	s.file.pipe = p
	s.file.retry = false
	// A pipe holds pages, not bytes: one that is partly used counts in full.
	s.file.asked = uint32(min(op.Len, p.size-op.Off%pageBytes))
	r.room(2) // a link must not be cut by a full queue
	e := r.sqe()
	e.PrepareSplice(int(op.From), op.Off, p.w, -1, s.file.asked, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	e.Flags = giouring.SqeIOLink
	e.UserData = userData(kindIn, s.gen, i)
	r.inKernel++
	r.spliceOut(i, s)
}

func (r *Ring) spliceOut(i int32, s *slot) {
	e := r.sqe()
	e.PrepareSplice(s.file.pipe.r, -1, int(s.op.FD), -1, s.file.asked, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	e.UserData = userData(kindOut, s.gen, i)
	r.useFixed(e, s.op.FD)
	r.inKernel++
}

// spliced takes the outcome of the pair; s.file.in is that of the first.
func (r *Ring) spliced(i int32, s *slot, out int32) {
	t := &s.file
	switch {
	case t.in > 0 && out == -int32(unix.ECANCELED) && uint32(t.in) < t.asked && !t.retry && !s.cancelled && r.sameFile(s):
		// The file ended early, or a page was not to be had: a short first
		// splice breaks the link, with its bytes in the pipe.
		t.asked, t.retry = uint32(t.in), true
		r.spliceOut(i, s)
		return
	case t.in > 0 && out > 0:
		r.stats.SendFileSpl += uint64(out)
		r.freePipe(s, out < t.in)
		r.settle(i, s, out)
	case t.in > 0 && (out == -int32(unix.EAGAIN) || out == -int32(unix.EINTR)): // full after all
		r.freePipe(s, true)
		t.room = false
		r.sendFile(i, s)
	case t.in > 0:
		r.freePipe(s, true)
		if out == 0 { // a stream socket takes some or fails
			out = -int32(unix.EIO)
		}
		r.settle(i, s, out)
	case t.in == -int32(unix.EAGAIN) || t.in == -int32(unix.EINTR):
		r.freePipe(s, false)
		r.sendFile(i, s)
	default: // the end of the file, or an error of the disk
		r.freePipe(s, false)
		r.settle(i, s, t.in)
	}
	r.serveQueue()
}

// settle ends a SendFile.
func (r *Ring) settle(i int32, s *slot, result int32) {
	if s.cancelled && result == -int32(unix.EINTR) {
		result = -int32(unix.ECANCELED)
	}
	r.finish(r.release(i, s), result)
}

// takePipe is nil when all are in use.
func (r *Ring) takePipe() (*pipe, error) {
	p := &r.pipes
	if n := len(p.idle); n > 0 {
		one := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return one, nil
	}
	if p.count == p.limit {
		return nil, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		if p.count > 0 { // out of descriptors: share those that we have
			return nil, nil
		}
		return nil, err
	}
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeBytes)
	if err != nil { // over the user's limit (pipe-user-pages-soft)
		size, err = unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0)
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: uring: size of a pipe: %v", err))
	}
	p.count++
	return &pipe{r: fds[0], w: fds[1], size: int64(size)}, nil
}

// freePipe ends a pair of splices and gives its pipe back; one with bytes in it is
// thrown away.
func (r *Ring) freePipe(s *slot, dirty bool) {
	r.unuse(s.op.FD)
	r.unuse(s.op.From)
	t := &s.file
	if dirty {
		t.pipe.close()
		r.pipes.count--
	} else {
		r.pipes.idle = append(r.pipes.idle, t.pipe)
	}
	t.pipe = nil
}

// serveQueue lets those who wait for a pipe go on, as long as there is one.
func (r *Ring) serveQueue() {
	p := &r.pipes
	for p.waiting.head >= 0 {
		one, err := r.takePipe()
		switch {
		case one != nil:
			p.idle = append(p.idle, one) // for whoever comes next in the queue and still needs one
		case err == nil:
			return
		}
		i := p.waiting.pop(r)
		r.sendFile(i, r.slot(i))
	}
}
