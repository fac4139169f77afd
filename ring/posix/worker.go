package posix

import (
	"sync"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/internal/host"
	"golang.org/x/sys/unix"
)

// writeMax is the largest Write that the ring's own thread makes without being
// asked to by Inline, bytes: a copy into the page cache that takes less time
// than the way to a worker and back. O_DIRECT always goes to a worker.
const writeMax = 32 << 10

// workSendMax is the most that a worker sends in one SendFile, bytes.
const workSendMax = 1 << 20

// workers are the threads for calls that may wait for the disk. Their queue runs
// through the ops in it: it has room for every op there is, and its length is
// bounded by how many its owner has made.
//
// The lock is held for a few instructions. It is the price of a punted op, which
// is followed by a system call on another thread; nothing that waits for a socket
// comes here.
type workers struct {
	mu    sync.Mutex
	more  sync.Cond // the queue is not empty, or stop
	queue opList
	stop  bool
	all   sync.WaitGroup
}

func (w *workers) start(r *Ring, n int) {
	w.more.L = &w.mu
	for range n {
		w.all.Go(func() { w.loop(r) })
	}
}

// end returns when no worker is at work any more.
func (w *workers) end() {
	w.mu.Lock()
	w.stop = true
	w.queue = opList{}
	w.mu.Unlock()
	if w.more.L != nil {
		w.more.Broadcast()
	}
	w.all.Wait()
}

func (w *workers) put(r *Ring, op *ring.Op) {
	op.Slot = working
	r.stats.Punted++
	w.mu.Lock()
	w.queue.push(op)
	w.mu.Unlock()
	w.more.Signal()
}

func (w *workers) loop(r *Ring) {
	var c call
	for {
		w.mu.Lock()
		for w.queue.head == nil && !w.stop {
			w.more.Wait()
		}
		op := w.queue.pop()
		w.mu.Unlock()
		if op == nil {
			return
		}
		op.Result = work(&c, op)
		r.giveBack(op)
	}
}

// giveBack runs on a worker: op is the ring's again.
func (r *Ring) giveBack(op *ring.Op) {
	for {
		first := r.returned.Load()
		op.Link = first
		if r.returned.CompareAndSwap(first, op) {
			break
		}
	}
	if r.state.Load() == asleep { // else the ring looks before it sleeps
		r.ringBell()
	}
}

// work does what op asks, on a worker, however long it takes.
func work(c *call, op *ring.Op) int32 {
	switch op.Code {
	case ring.Read:
		done := op.Result // what the ring's thread had found in memory
		n := c.pread(op.FD, op.Buf[done:], op.Off+int64(done), 0)
		if n < 0 && done > 0 {
			return done
		}
		return done + n
	case ring.Write:
		return c.pwrite(op)
	case ring.Sync:
		return again(func() error { return unix.Fdatasync(int(op.FD)) })
	case ring.SyncRange:
		return again(func() error {
			return unix.SyncFileRange(int(op.FD), op.Off, op.Len, unix.SYNC_FILE_RANGE_WRITE)
		})
	case ring.Prefetch:
		missing := host.Missing(op.FD, op.Off, min(op.Len, ring.PrefetchMax))
		if missing == 0 {
			return 0
		}
		if n := host.Advise(op.FD, op.Off, min(op.Len, ring.PrefetchMax), unix.FADV_WILLNEED); n < 0 {
			return n
		}
		return int32(missing)
	case ring.Forget:
		return host.Advise(op.FD, op.Off, op.Len, unix.FADV_DONTNEED)
	case ring.Allocate:
		return again(func() error { return host.Allocate(op.FD, op.Off, op.Len) })
	case ring.Truncate:
		return again(func() error { return unix.Ftruncate(int(op.FD), op.Len) })
	case ring.Close:
		return closeFD(op.FD)
	case ring.SendFile:
		return host.SendFile(op.FD, op.From, op.Off, int(min(op.Len, workSendMax)))
	default: // Task
		if op.Err = op.Func(); op.Err != nil {
			return -int32(unix.EIO)
		}
		return 0
	}
}

func again(call func() error) int32 {
	for {
		if err := call(); err != unix.EINTR {
			return result(err)
		}
	}
}

// punt gives op to the workers, and keeps its files open for them.
func (r *Ring) punt(op *ring.Op) {
	if op.Code == ring.Task {
		r.workers.put(r, op)
		return
	}
	f := r.file(op.FD)
	if f == nil || f.closing != nil {
		r.finish(op, -int32(unix.EBADF))
		return
	}
	if op.Code == ring.SendFile {
		from := r.openFile(op.From)
		if from == nil {
			f.sending, f.writable = nil, true
			r.finish(op, -int32(unix.EBADF))
			return
		}
		from.working++
	}
	f.working++
	r.workers.put(r, op)
}

// collect takes back what the workers have done, in the order in which they did.
func (r *Ring) collect() {
	var first *ring.Op
	for op := r.returned.Swap(nil); op != nil; {
		op, op.Link, first = op.Link, first, op
	}
	for op := first; op != nil; {
		next := op.Link
		op.Link = nil
		r.worked(op)
		op = next
	}
}

func (r *Ring) worked(op *ring.Op) {
	switch op.Code {
	case ring.Task, ring.Close: // these have no file
		r.finish(op, op.Result)
	case ring.SendFile:
		r.sentCold(op)
	default:
		fd := op.FD
		r.finish(op, op.Result)
		r.release(fd)
	}
}

// sendCold has a worker read from the disk and send. f is not writable until the
// worker says so; if an edge comes meanwhile, and the worker has found the socket
// full before it, the edge is not lost.
func (r *Ring) sendCold(f *file, op *ring.Op) {
	if errno := r.watch(f); errno != 0 {
		r.finish(op, errno)
		return
	}
	f.writable = false
	f.sending = op
	r.punt(op)
}

func (r *Ring) sentCold(op *ring.Op) {
	f, from, n := r.files[op.FD], op.From, op.Result
	again := n == -int32(unix.EAGAIN)
	f.sending = nil
	op.Result = 0
	switch {
	case again && op.Slot == working && f.closing == nil:
		op.Slot = polling
		f.out.pushFront(op)
	case again: // to be tried again, but nobody wants it any more
		r.finish(op, -int32(unix.ECANCELED))
	default:
		f.writable = true
		r.stats.SendFileSpl += uint64(max(n, 0))
		r.finish(op, n)
	}
	r.release(from)
	r.release(f.fd)
	r.pumpOut(f)
}

// release ends a worker's use of a descriptor.
func (r *Ring) release(fd ring.FD) {
	f := r.files[fd]
	f.working--
	if f.working == 0 && f.closing != nil {
		r.closeNow(f, f.closing)
	}
}

func (r *Ring) cancelWork(op *ring.Op) {
	if op.Code == ring.Close { // the number is no longer ours to keep
		return
	}
	r.workers.mu.Lock()
	removed := r.workers.queue.remove(op)
	r.workers.mu.Unlock()
	if !removed {
		op.Slot = workingCancelled
		return
	}
	op.Result = -int32(unix.ECANCELED)
	r.worked(op)
}

// read takes what is in memory at once, and has a worker wait for the rest.
func (r *Ring) read(op *ring.Op) {
	n := -int32(unix.EAGAIN)
	if !direct(op.FD) { // a worker's work, though RWF_NOWAIT would not say so
		n = r.call.pread(op.FD, op.Buf, op.Off, unix.RWF_NOWAIT)
	}
	switch {
	case n == -int32(unix.EAGAIN), n == -int32(unix.EOPNOTSUPP), n == -int32(unix.ENOSYS):
		r.punt(op)
	case n > 0 && int(n) < len(op.Buf):
		op.Result = n
		r.punt(op)
	default:
		r.finish(op, n)
	}
}

func (r *Ring) write(op *ring.Op) {
	inline := op.Flags&ring.Inline != 0 || op.Size() <= writeMax && !direct(op.FD)
	if op.Flags&ring.DSync != 0 || !inline {
		r.punt(op)
		return
	}
	r.finish(op, r.call.pwrite(op))
}

// direct says whether a file bypasses the page cache, so that every call on it
// waits for the disk.
func direct(fd ring.FD) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_DIRECT != 0
}
