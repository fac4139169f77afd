package posix

import (
	"fmt"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"golang.org/x/sys/unix"
)

// file is what the ring knows of a descriptor. It is made when a number is first
// seen and serves every file and socket that has the number later.
//
// readable and writable are false only after EAGAIN, and only while epoll watches
// the socket: then an edge will come.
type file struct {
	fd         ring.FD
	generation int32 // events that carry another are of an earlier socket
	socket     bool
	watched    bool // epoll knows it, under generation
	readable   bool
	writable   bool
	in, out    opList   // ops that wait, in their order: Accept, Recv; Connect, Send, SendFile
	armed      *ring.Op // the Multi whose result is being delivered
	sending    *ring.Op // a SendFile that a worker has; those behind it wait
	working    int      // ops on this descriptor that workers have
	closing    *ring.Op // the Close that waits until working is 0
	inTurn     bool     // among Ring.turns: its first op out waits for the next turn
	nextTurn   *file
}

// file is the entry of a descriptor, nil for a number that cannot be one. The
// table grows to the largest descriptor, which the kernel bounds (RLIMIT_NOFILE).
func (r *Ring) file(fd ring.FD) *file {
	if fd < 0 || fd >= r.fileMax {
		return nil
	}
	for int(fd) >= len(r.files) {
		r.files = append(r.files, nil)
	}
	if r.files[fd] == nil {
		r.files[fd] = &file{fd: fd, readable: true, writable: true}
	}
	return r.files[fd]
}

// openFile is the entry of a descriptor that is not being closed, else nil.
func (r *Ring) openFile(fd ring.FD) *file {
	if f := r.file(fd); f != nil && f.closing == nil {
		return f
	}
	return nil
}

// fresh forgets what was known of an earlier socket with this number: events
// that are still on their way have its generation.
func (f *file) fresh() {
	f.generation++
	f.socket = true
	f.watched = false
	f.readable, f.writable = true, true
}

func (r *Ring) receive(op *ring.Op) {
	f := r.openFile(op.FD)
	if f == nil {
		r.finish(op, -int32(unix.EBADF))
		return
	}
	// A listener's number may have been closed, and used again, by the Host.
	if op.Code == ring.Accept && f.in.head == nil && f.armed == nil {
		f.fresh()
	}
	if op.Flags&ring.Multi != 0 {
		f.oneMulti()
	}
	f.socket = true
	op.Slot = polling
	f.in.push(op)
	r.pumpIn(f)
}

// oneMulti holds the owner to one Multi on a socket: file.armed has room for one.
func (f *file) oneMulti() {
	two := f.armed != nil
	for other := f.in.head; other != nil; other = other.Link {
		two = two || other.Flags&ring.Multi != 0
	}
	if two {
		panic(fmt.Sprintf("BUG: two ops with Multi on %d", f.fd))
	}
}

func (r *Ring) transmit(op *ring.Op) {
	f := r.openFile(op.FD)
	if f == nil {
		r.finish(op, -int32(unix.EBADF))
		return
	}
	if op.Code == ring.Connect && f.in.head == nil && f.out.head == nil {
		f.fresh()
	}
	f.socket = true
	op.Slot = polling
	f.out.push(op)
	r.pumpOut(f)
}

// pumpIn does what waits for f to be readable, in order, as far as it goes.
func (r *Ring) pumpIn(f *file) {
	for f.in.head != nil && f.readable {
		op := f.in.head
		n := r.tryIn(op)
		if n == -int32(unix.EAGAIN) {
			if n = r.watch(f); n == 0 {
				f.readable = false
				return
			}
		}
		f.in.pop()
		more := op.Flags&ring.Multi != 0 && (n > 0 || n == 0 && op.Code == ring.Accept)
		if !more {
			r.finish(op, n)
			continue
		}
		f.armed = op
		op.Result, op.More, op.Slot = n, true, armed
		r.ready.push(op)
	}
}

// rearm is after the delivery of a Multi's result: one at a time, so that one
// busy socket does not keep the others waiting.
func (r *Ring) rearm(op *ring.Op) {
	if op.Slot == armedCancelled {
		if f := r.files[op.FD]; f.armed == op {
			f.armed = nil
		}
		r.finish(op, -int32(unix.ECANCELED))
		return
	}
	f := r.files[op.FD]
	f.armed = nil
	op.Slot, op.Chunk = polling, ring.Chunk{}
	f.in.push(op)
	r.pumpIn(f)
}

func (r *Ring) tryIn(op *ring.Op) int32 {
	switch {
	case op.Code == ring.Accept:
		return r.accept(op.FD)
	case op.Flags&ring.Pick == 0:
		return r.call.recv(op.FD, op.Buf, 0)
	}
	id, ok := r.picks.get()
	if !ok {
		// ENOBUFS is for data that nobody can take; no data is still no data.
		n := r.call.recv(op.FD, r.call.peek[:], unix.MSG_PEEK)
		if n > 0 {
			r.stats.NoBuffers++
			n = -int32(unix.ENOBUFS)
		}
		return n
	}
	buf := r.picks.buffer(id)
	n := r.call.recv(op.FD, buf, 0)
	if n <= 0 {
		r.picks.put(id)
		return n
	}
	op.Chunk = ring.Chunk{Bytes: buf[:n:n], ID: id}
	return n
}

// accept returns a new socket, ready for use.
func (r *Ring) accept(listener ring.FD) int32 {
	for {
		n := r.call.accept(listener)
		switch -n {
		case int32(unix.ECONNABORTED), int32(unix.EPROTO):
			continue // the peer has gone again before we came to it
		}
		if n < 0 {
			return n
		}
		f := r.file(ring.FD(n))
		if f == nil {
			unix.Close(int(n)) // the limit has been raised since New
			return -int32(unix.EMFILE)
		}
		if errno := host.NoDelay(f.fd); errno != 0 {
			unix.Close(int(n))
			continue
		}
		f.fresh()
		return n
	}
}

// pumpOut does what waits for f to be writable, in order, as far as it goes.
func (r *Ring) pumpOut(f *file) {
	for f.out.head != nil && f.writable && f.sending == nil && !f.inTurn {
		op := f.out.head
		if op.Code == ring.SendFile {
			switch r.sendWay(op) {
			case byWorker:
				f.out.pop()
				r.sendCold(f, op)
				continue
			case nextTurn:
				r.stats.SendTurns++
				r.turns.push(f)
				return
			}
		}
		n := r.tryOut(op)
		if n == -int32(unix.EAGAIN) {
			if n = r.watch(f); n == 0 {
				f.writable = false
				return
			}
		}
		f.out.pop()
		r.finish(op, n)
	}
}

// How a SendFile goes on.
const (
	byThread = iota
	byWorker
	nextTurn
)

// turns is what SendFile ops may still move on the ring's thread before the next
// Wait, and the sockets that wait for that, first come first served.
type turns struct {
	inlineMax  int64 // a larger range goes by a worker
	left       int64 // bytes
	head, tail *file
	known      host.Known
}

// push has f wait for the next turn.
func (t *turns) push(f *file) {
	f.inTurn, f.nextTurn = true, nil
	if t.tail == nil {
		t.head = f
	} else {
		t.tail.nextTurn = f
	}
	t.tail = f
}

// ChooseSendFile implements ring.SendFileChooser. What is known of files is forgotten: who compares ways pays for all of each.
func (r *Ring) ChooseSendFile(inlineMax int64) {
	r.turns.inlineMax, r.turns.known = inlineMax, host.Known{}
}

// newTurn begins a Wait. Each socket that waited goes on as far as it goes.
func (r *Ring) newTurn() {
	t := &r.turns
	t.left = ring.SendFileTurn
	for t.head != nil && t.left >= ring.SendFileTurnMin {
		f := t.head
		if t.head = f.nextTurn; t.head == nil {
			t.tail = nil
		}
		f.inTurn, f.nextTurn = false, nil
		r.pumpOut(f)
	}
}

// sendWay chooses for a SendFile.
func (r *Ring) sendWay(op *ring.Op) int {
	t := &r.turns
	switch {
	case op.Len > t.inlineMax:
		return byWorker
	case t.left < min(op.Len, ring.SendFileTurnMin):
		return nextTurn
	case !t.known.Resident(op.From, op.Off, min(op.Len, t.left), op.Len, r.now):
		r.stats.SendFileCold++
		return byWorker
	}
	return byThread
}

func (r *Ring) tryOut(op *ring.Op) int32 {
	switch op.Code {
	case ring.Connect:
		return r.call.connect(op.FD, op.Addr)
	case ring.Send:
		return r.call.send(op)
	default: // SendFile
		n := host.SendFile(op.FD, op.From, op.Off, int(min(op.Len, r.turns.left)))
		r.stats.SendFileIn += uint64(max(n, 0))
		r.turns.left -= int64(max(n, 0))
		return n
	}
}

// watch makes sure that epoll reports f's edges. The first report is of what is
// there already, so nothing is lost between EAGAIN and now.
func (r *Ring) watch(f *file) int32 {
	if f.watched {
		return 0
	}
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(f.fd),
		Pad:    f.generation,
	}
	err := unix.EpollCtl(r.epollFD, unix.EPOLL_CTL_ADD, int(f.fd), &event)
	if err == unix.EEXIST { // known under an earlier generation: see receive
		err = unix.EpollCtl(r.epollFD, unix.EPOLL_CTL_MOD, int(f.fd), &event)
	}
	f.watched = err == nil
	return result(err)
}

// poll takes events from epoll, waiting for timeout ns (Forever: without end),
// and does what had waited for them.
func (r *Ring) poll(timeout int64) {
	r.stats.Enters++
	n := r.epollWait(timeout)
	for i := range r.events[:n] {
		r.handle(&r.events[i])
	}
}

func (r *Ring) handle(event *unix.EpollEvent) {
	if event.Fd == int32(r.wakeFD) { // it has done its work: Wait looks further
		return
	}
	f := r.files[event.Fd]
	if f.generation != event.Pad {
		return
	}
	const ended = unix.EPOLLHUP | unix.EPOLLERR
	if event.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|ended) != 0 {
		f.readable = true
		r.pumpIn(f)
	}
	if event.Events&(unix.EPOLLOUT|ended) != 0 {
		f.writable = true
		r.pumpOut(f)
	}
}

// closeFile closes a descriptor once no worker uses it: else the worker might
// read from, or write to, the next file with its number. A socket's ops that wait
// are cancelled; a file's complete first.
func (r *Ring) closeFile(op *ring.Op) {
	f := r.openFile(op.FD)
	if f == nil {
		r.finish(op, -int32(unix.EBADF))
		return
	}
	for _, l := range []*opList{&f.in, &f.out} {
		for waiting := l.pop(); waiting != nil; waiting = l.pop() {
			r.finish(waiting, -int32(unix.ECANCELED))
		}
	}
	if f.armed != nil {
		f.armed.Slot = armedCancelled
		f.armed = nil
	}
	if f.working > 0 {
		if f.socket {
			unix.Shutdown(int(f.fd), unix.SHUT_RDWR) // the peer need not wait for our disk
		}
		op.Slot = closing
		f.closing = op
		return
	}
	r.closeNow(f, op)
}

// closeNow lets go of the number before it is closed: it may be another file's
// before we hear of that. The last close of a file that has been removed frees
// its blocks, which takes the disk's time, and so a worker's.
func (r *Ring) closeNow(f *file, op *ring.Op) {
	f.closing = nil
	socket := f.socket
	f.fresh()
	f.socket = false
	if !socket {
		r.workers.put(r, op)
		return
	}
	r.finish(op, closeFD(f.fd))
}

// closeFD takes EINTR for success: Linux has freed the descriptor by then.
func closeFD(fd ring.FD) int32 {
	err := unix.Close(int(fd))
	if err == unix.EINTR {
		err = nil
	}
	return result(err)
}
