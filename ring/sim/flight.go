package sim

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/millrace/millrace/ring"
)

// flight is one op from Submit to its last Complete. A flight has at most one
// event ahead of it, but for a Multi op that has completed several times.
type flight struct {
	io    *IO
	slot  int32
	op    *ring.Op
	state state
	next  *flight // what follows it in its chain

	desc      *descriptor
	change    *change // what a Write or Truncate did
	mark      uint64  // Sync: it covers what had completed by then
	sum       uint32  // of the bytes of a Write or Send as they were submitted
	endAt     int64   // a disk op's completion
	since     int64   // Connect: when it began
	cancelled bool

	results []result // completions that are scheduled
	lastAt  int64    // the time of the latest of them
}

type state uint8

const (
	stateQueued  state = iota // in a chain, its turn has not come
	stateDisk                 // a disk op that has not taken effect
	stateSocket               // in the queue of a socket or listener
	stateConnect              // a Connect without an answer
	stateDone                 // its end is known
)

// What an event of a flight is.
const (
	flightEffect   = iota // a disk op takes effect
	flightComplete        // the first of results arrives
	flightConnect         // a Connect reaches the other host
)

func (f *flight) fire(kind int) {
	if f.io.dead {
		return
	}
	switch kind {
	case flightEffect:
		f.effect()
	case flightConnect:
		f.reach()
	case flightComplete:
		res := f.results[0]
		f.results = f.results[:copy(f.results, f.results[1:])]
		f.arrive(res)
	}
}

// post schedules a completion. Those of one flight arrive in order.
func (f *flight) post(res result, at int64) {
	at = max(at, f.lastAt+1)
	f.lastAt = at
	f.results = append(f.results, res)
	f.io.host.world.schedule(at, f, flightComplete)
}

// finish schedules the last completion, shortly from now.
func (f *flight) finish(n int32) {
	f.state = stateDone
	w := f.io.host.world
	f.post(result{n: n}, w.now+w.draw(w.Config.Reap))
}

func (f *flight) fail(errno syscall.Errno) { f.finish(-int32(errno)) }

// arrive hands a completion to Wait, and starts what follows in the chain.
func (f *flight) arrive(res result) {
	op := f.op
	if f.change != nil && op.Code == ring.Write && op.Flags&ring.DSync != 0 {
		f.desc.file.syncChange(f.change, op.Off, int64(res.n))
	}
	f.io.host.world.note(op.Code.String(), f.io.host.id, int64(op.FD), int64(res.n), checksum(res.chunk.Bytes))
	f.io.ready = append(f.io.ready, completion{f, res})
	if !res.more && op.Code != ring.Task { // a Task has yet to run
		f.advance(res.n)
	}
}

// advance goes on to the next op of the chain, or cancels the rest.
func (f *flight) advance(n int32) {
	next := f.next
	if next == nil {
		return
	}
	f.next = nil
	whole := n >= 0
	switch f.op.Code {
	case ring.Read, ring.Write, ring.Send:
		whole = int(n) == f.op.Size()
	case ring.SendFile:
		whole = int64(n) == f.op.Len
	}
	if whole {
		f.io.host.complete(f.change)
		next.start()
		return
	}
	for ; next != nil; next = next.next {
		next.state = stateDone
		f.io.ready = append(f.io.ready, completion{next, result{n: -int32(syscall.ECANCELED)}})
	}
}

// start begins an op whose turn has come.
func (f *flight) start() {
	io, op := f.io, f.op
	h := io.host
	w := h.world
	if f.cancelled {
		f.fail(syscall.ECANCELED)
		return
	}
	switch op.Code {
	case ring.Nop:
		f.finish(0)
		return
	case ring.Task:
		f.state = stateDone
		io.stats.Punted++
		f.post(result{}, w.now+w.draw(w.Config.Task))
		return
	}
	f.desc = h.descriptor(op.FD)
	if f.desc == nil {
		f.fail(syscall.EBADF)
		return
	}
	switch op.Code {
	case ring.Read:
		f.startDisk(w.Config.DiskRead)
	case ring.Prefetch, ring.Forget, ring.NoReadahead: // no disk here has a cache
		f.finish(0)
	case ring.Write, ring.Truncate, ring.Allocate, ring.SyncRange:
		f.startDisk(w.Config.DiskWrite)
	case ring.Sync:
		f.mark = h.completions
		f.startDisk(w.Config.DiskSync)
	case ring.Close:
		f.finish(-int32(h.closeFD(op.FD)))
	case ring.Accept, ring.Recv, ring.Send, ring.SendFile, ring.Connect, ring.Shutdown:
		f.startSocket()
	default:
		panic(fmt.Sprintf("BUG: sim: %v", op.Code))
	}
}

func (f *flight) startDisk(r Range) {
	w, op := f.io.host.world, f.op
	if errno := f.checkDisk(); errno != 0 {
		f.fail(errno)
		return
	}
	f.state = stateDisk
	took := w.draw(r)
	if op.Code == ring.Write {
		f.sum = f.checksum()
	}
	f.endAt = w.now + took
	w.schedule(w.now+w.random.below(took+1), f, flightEffect)
}

func (f *flight) checkDisk() syscall.Errno {
	op, d := f.op, f.desc
	if d.file == nil {
		return syscall.EINVAL
	}
	switch op.Code {
	case ring.Read:
		return d.check(op.Code, op.Off, op.Buf)
	case ring.Write:
		off := op.Off
		for _, b := range f.pieces() {
			if errno := d.check(op.Code, off, b); errno != 0 {
				return errno
			}
			off += int64(len(b))
		}
	case ring.Truncate, ring.Allocate:
		if op.Off < 0 || op.Len < 0 || op.Code == ring.Allocate && op.Len == 0 || d.mode&^ring.Direct == ring.ReadOnly {
			return syscall.EINVAL
		}
		if op.Off+op.Len > fileMax {
			return syscall.EFBIG
		}
	}
	return 0
}

// pieces is what a Write or Send writes.
func (f *flight) pieces() [][]byte {
	if f.op.Bufs != nil {
		return f.op.Bufs
	}
	return [][]byte{f.op.Buf}
}

func (f *flight) checksum() uint32 {
	sum := uint32(0)
	for _, b := range f.pieces() {
		sum = sum*31 + checksum(b)
	}
	return sum
}

// unchanged panics when the bytes have been touched in flight.
func (f *flight) unchanged() {
	if sum := f.checksum(); sum != f.sum {
		panic(fmt.Sprintf("BUG: the %d bytes of a %v to %s changed while it was in flight (sum %08x, then %08x)",
			f.op.Size(), f.op.Code, f.desc.name(), f.sum, sum))
	}
}

// effect is the moment at which a disk op happens.
func (f *flight) effect() {
	w, h, op := f.io.host.world, f.io.host, f.op
	if f.cancelled && w.happens(2) {
		f.fail(syscall.ECANCELED)
		return
	}
	if op.Code != ring.Read && !h.diskEvent(op.Code.String(), f.desc.file.id, op.Off, int64(op.Size())+op.Len, f.sum) {
		return
	}
	n := f.apply()
	if op.Code == ring.Write && op.Flags&ring.DSync != 0 {
		f.endAt += w.draw(w.Config.DSync)
	}
	f.state = stateDone
	f.post(result{n: n}, f.endAt)
}

// apply does to the disk what the op asks, and returns its result.
func (f *flight) apply() int32 {
	h, op, file := f.io.host, f.op, f.desc.file
	switch op.Code {
	case ring.Read:
		return int32(file.read(op.Off, op.Buf))
	case ring.Write:
		return f.applyWrite()
	case ring.Sync:
		file.syncFile(f.mark)
	case ring.Truncate:
		f.change = h.newChange()
		h.truncate(file, f.change, op.Len)
	case ring.Allocate:
		if !h.allocate(file, op.Off, op.Len) {
			return -int32(syscall.ENOSPC)
		}
	}
	return 0
}

func (f *flight) applyWrite() int32 {
	f.unchanged()
	h, op := f.io.host, f.op
	want := op.Size()
	if want > 1 && h.world.happens(h.world.Config.ShortWriteOneIn) {
		want = 1 + int(h.world.random.below(int64(want-1)))
		if f.desc.mode&ring.Direct != 0 {
			want = (want + sectorBytes - 1) / sectorBytes * sectorBytes
		}
	}
	f.change = h.newChange()
	done := 0
	for _, b := range f.pieces() {
		b = b[:min(len(b), want-done)]
		n := h.write(f.desc.file, f.change, op.Off+int64(done), b)
		done += n
		if n < len(b) {
			break
		}
	}
	if done == 0 && want > 0 {
		return -int32(syscall.ENOSPC)
	}
	return int32(done)
}

// detach takes an op out of the queue that it waits in.
func (f *flight) detach() {
	queue := f.queue()
	if i := slices.Index(*queue, f); i >= 0 {
		*queue = slices.Delete(*queue, i, i+1)
	}
}
