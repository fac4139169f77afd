// Package ring is the only door to the kernel. Everything above it (sockets,
// logs, the journal, the broker) asks for work with an [Op] and is told the
// outcome through a [Completer]; nothing above it makes a system call.
//
// There are two halves:
//
//   - [IO] is one core's ring: asynchronous, allocation-free, owned by one
//     goroutine that is locked to its thread. All of the way of a record
//     goes through it.
//   - [Host] is the machine: blocking verbs for directories, files and
//     listeners. It is for start-up, for recovery and for functions run by
//     a [Task] op, never for a running loop.
//
// Backends: ring/uring (io_uring), ring/posix (epoll and a few worker
// threads), ring/sim (clock, disk and network from one seed) and ring/fault
// (wraps any of them and breaks things by rule). ring/ringtest holds all of
// them to this text.
//
// # What a completion means
//
// Submission order is not completion order: two ops submitted together may
// complete either way round, and a Sync covers only those writes of its file
// that had completed before the Sync was submitted, or that it follows by
// [Op.Next]. Complete is called from [IO.Wait] and never from inside Submit
// or Cancel. Every submitted op completes, exactly once, unless it has Multi
// set, in which case it completes any number of times with More true and
// exactly once with More false.
package ring

import (
	"fmt"
	"math"
	"net/netip"
	"syscall"
)

// FD is an open file or socket of a [Host]. On Linux it is the descriptor.
type FD int32

// NoFD is no file.
const NoFD FD = -1

// PrefetchMax is the most that one Prefetch asks for, bytes: a worker is busy for as
// long as it takes to hand that to the disk.
const PrefetchMax = 1 << 20

// Forever is a deadline that never comes, for [IO.Wait].
const Forever = math.MaxInt64

// IOVMax is the most pieces that Op.Bufs may have.
const IOVMax = 32

// Code says what an Op asks for. The fields of Op that each code reads are
// listed with it; results are bytes where nothing else is said.
type Code uint8

const (
	// Nop completes with 0.
	Nop Code = iota
	// Read reads into Buf from FD at Off. Result 0 is the end of the file.
	Read
	// Write writes Buf (or Bufs) to FD at Off. A short write is not an error.
	// Flags: Inline, DSync.
	Write
	// Sync makes the data of FD durable (fdatasync: with the size, without
	// times). Result 0.
	Sync
	// SyncRange starts write-back of FD's dirty pages in [Off, Off+Len)
	// without waiting for it (sync_file_range). It makes no promise. Result 0.
	SyncRange
	// Prefetch starts to read [Off, Off+Len) of FD, at most PrefetchMax bytes, into
	// the page cache, and does not wait for it. It makes no promise. Result: how many
	// of the bytes were not in memory, as far as the kernel tells, else Len.
	Prefetch
	// Forget lets the kernel drop the pages of FD that lie in [Off, Off+Len) and
	// that are clean and in nobody's hands. It makes no promise. Result 0.
	Forget
	// NoReadahead has the kernel read nothing ahead of what is read from FD from now
	// on: Prefetch does. It takes effect in Submit. Result 0.
	NoReadahead
	// Allocate reserves [Off, Off+Len) of FD on the disk without changing
	// its size. Result 0.
	Allocate
	// Truncate sets the size of FD to Len. Result 0.
	Truncate
	// Close closes FD (file or socket). Ops in flight on a socket complete,
	// most with ECANCELED or ECONNRESET. Result 0.
	Close
	// Accept takes a connection from the listener FD; Result is the new FD.
	// With Multi it goes on until cancelled or an error.
	Accept
	// Connect connects the socket FD (from Host.Socket) to Addr. Result 0.
	Connect
	// Recv reads from the socket FD into Buf; Result 0 is the peer's end.
	// With flag Pick there is no Buf: the ring picks one of its receive
	// buffers when data is there, and Chunk holds it until ReturnChunk.
	// ENOBUFS: all receive buffers are out; submit again later. Multi needs Pick.
	Recv
	// Send writes Buf (or Bufs) to the socket FD. The result may be short.
	// Flags: MsgMore.
	Send
	// SendFile moves Len bytes of the file From at Off to the socket FD,
	// without the bytes passing through this process. The result may be
	// short; 0 is the end of the file.
	SendFile
	// Shutdown ends both directions of the socket FD. Result 0.
	Shutdown
	// Task runs Func on a worker thread. Result 0, or -EIO with Err set.
	// It is for cold work (open the next segment, remove a directory) and
	// may allocate.
	Task

	codeEnd
)

var codeNames = [...]string{"nop", "read", "write", "sync", "sync-range", "prefetch", "forget", "no-readahead", "allocate", "truncate", "close",
	"accept", "connect", "recv", "send", "send-file", "shutdown", "task"}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// Flags change how an op is done.
type Flags uint8

const (
	// Inline asks that a Write be made by the calling thread at Submit, where
	// the backend can: cheaper for small writes into the page cache, but it may
	// block under write-back. Completion is still delivered by Wait.
	Inline Flags = 1 << iota
	// DSync makes a Write durable before it completes (RWF_DSYNC).
	DSync
	// Multi keeps an Accept or Recv armed: see More.
	Multi
	// Pick makes the ring choose the buffer of a Recv: see Chunk.
	Pick
	// MsgMore tells the kernel that more follows this Send (MSG_MORE).
	MsgMore
)

// Op is one request to the kernel. It is embedded in (or a field of) the state
// that waits for it, so that asking allocates nothing. The owner fills the
// fields, calls Submit, and touches neither the op nor its buffers until
// Complete. Memory that the kernel touches (Buf, Bufs' pieces) is off heap: from
// IO.Pool, a Chunk, or Host.Map; the Bufs slice itself may be on the heap but
// must stay unchanged.
type Op struct {
	Code  Code
	Flags Flags
	FD    FD
	From  FD             // SendFile: the file
	Buf   []byte         // Read, Write, Recv, Send
	Bufs  [][]byte       // Write, Send: used instead of Buf when not nil; at most IOVMax pieces
	Off   int64          // position in the file
	Len   int64          // SendFile, SyncRange, Prefetch, Forget, Allocate, Truncate
	Addr  netip.AddrPort // Connect
	Func  func() error   // Task

	// Done is told. It must be set.
	Done Completer
	// Next, where set, is submitted once this op has succeeded in full (a Read,
	// Write, Send or SendFile with all its bytes); otherwise Next, and all that follows it,
	// completes with ECANCELED. The chain is submitted by submitting its
	// head, and completes in order.
	Next *Op

	Result int32 // bytes or a new FD; negative: an errno
	More   bool  // Multi: this was not the last completion
	Chunk  Chunk // Recv with Pick: what arrived, when Result > 0
	Err    error // Task: what Func returned

	// For the backend, from Submit to the last Complete. Zero otherwise.
	Slot   int32
	Active bool
	Link   *Op
}

// Error is the op's outcome as an error: nil, a syscall.Errno, or the error of
// its Func.
func (op *Op) Error() error {
	if op.Result >= 0 {
		return nil
	}
	if op.Err != nil {
		return op.Err
	}
	return syscall.Errno(-op.Result)
}

// Size is the number of bytes that the op asks to move.
func (op *Op) Size() int {
	if op.Bufs == nil {
		return len(op.Buf)
	}
	n := 0
	for _, b := range op.Bufs {
		n += len(b)
	}
	return n
}

// Completer is told when an op has completed. Complete runs on the ring's
// thread, inside Wait; it may submit further ops, the same one included (unless
// More is set).
type Completer interface {
	Complete(op *Op)
}

// Chunk is a receive buffer lent by the ring. It goes back by ReturnChunk.
type Chunk struct {
	Bytes []byte
	ID    uint16
}

// IO is one core's ring. All its methods but Wake belong to the goroutine that
// made it, which is locked to its thread.
type IO interface {
	// Submit queues op; the kernel sees it at the latest in the next Wait.
	// It panics when op is already active or lacks Done. There is always room:
	// when the submission queue is full it is handed to the kernel first.
	Submit(op *Op)

	// Cancel asks that op end early. op still completes: with ECANCELED, or
	// as if it had not been cancelled. An op that is not active is ignored.
	Cancel(op *Op)

	// Wait hands queued ops to the kernel, then delivers completions. If there
	// are none it blocks until there is one, until Wake, or until the clock
	// (see Now) reaches until; 0 never blocks. It returns how many it delivered.
	// In ring/sim it never blocks.
	Wait(until int64) int

	// Wake makes the current or the next Wait return. Any goroutine may call
	// it; calls coalesce; a ring that is not blocked costs one atomic operation.
	Wake()

	// Now is the monotonic clock in ns as it was when the last Wait returned.
	Now() int64
	// Stamp reads the monotonic clock, ns.
	Stamp() int64
	// WallMillis is the wall clock in ms since 1970, as of the last Wait.
	WallMillis() int64
	// Random is the next random number: in ring/sim from the seed.
	Random() uint64

	// Pool is the memory of this core.
	Pool() *Pool
	// ReturnChunk gives a receive buffer back.
	ReturnChunk(c Chunk)

	// Host is the machine this ring belongs to.
	Host() Host
	// Stats is what this ring has done. Owner's goroutine only.
	Stats() *Stats
	// Name is the backend's: uring, posix, sim.
	Name() string
	// Close ends the ring. Ops in flight do not complete.
	Close() error
}

// Stats counts what a ring did.
type Stats struct {
	Submitted    [codeEnd]uint64 // ops by code
	Completed    uint64
	Waits        uint64 // calls of Wait
	Enters       uint64 // system calls made to submit or wait
	Wakes        uint64 // wakes received
	Punted       uint64 // ops given to a worker thread of ours
	NoBuffers    uint64 // Recv with Pick that found no buffer
	SendFileIn   uint64 // bytes by sendfile on the ring's thread
	SendFileSpl  uint64 // bytes by splice, or by sendfile on a worker
	SendFileCold uint64 // SendFile ops that began with a range that was not in memory
	SendTurns    uint64 // SendFile ops that had to wait for the next turn
}

// Count is how many ops of a code have been submitted.
func (s *Stats) Count(c Code) uint64 { return s.Submitted[c] }

// What follows is optional: a backend that can do better than IO says.

// BufferRegistrar is an IO that can pin memory once, so that each Read or Write
// with a Buf inside it is cheaper. b is off heap and stays mapped until Close. An
// error (ENOMEM: over RLIMIT_MEMLOCK) costs speed only.
type BufferRegistrar interface {
	RegisterBuffer(b []byte) error
}

// FileRegistrar is an IO that can look a file up once, so that each op on it is
// cheaper. A registered file is closed by a Close op on the same IO, and by
// nothing else. An error costs speed only.
type FileRegistrar interface {
	RegisterFile(fd FD) error
}

// SendFileChooser is an IO whose SendFile has two ways: by the ring's own thread, which
// keeps everything else waiting, or away from it.
type SendFileChooser interface {
	// ChooseSendFile sets up to which size a range that is in memory goes by the
	// ring's thread, bytes; 0: none does. What is not in memory never does. However
	// large the range, the thread moves at most SendFileTurn bytes between two Waits.
	ChooseSendFile(inlineMax int64)
}

// SendFileTurn is the most that SendFile ops move on the ring's thread between two
// Waits, all together, bytes.
const SendFileTurn = 128 << 10

// SendFileTurnMin is what must be left of a turn for another SendFile to begin in it, bytes,
// unless it needs less.
const SendFileTurnMin = 32 << 10

// PeerWaker is an IO that wakes another core's IO more cheaply than its Wake
// does. It is called by its owner; the wake leaves with its next Wait at the latest.
type PeerWaker interface {
	WakePeer(peer IO)
}
