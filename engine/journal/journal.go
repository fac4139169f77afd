// Package journal is what a partition's log asks of one core's journal: make
// entries of all partitions of the core durable with one synchronous write each
// round. This file is the contract; it holds no journal.
//
// log drives, journal calls back: through [Completer] when an entry is durable,
// and through [Partition] when it wants room.
//
// # Rules
//
// Entries become durable in the order of Submit, and Durable is called in that
// order, never from inside Submit. An entry that was durable before a crash is
// handed to Replay at the next start, in the order of Submit within one
// partition, until it has been cut.
//
// What changes a partition other than by adding to its end (truncation, log
// start, the start of an epoch, removal) is an entry too, and takes effect in the
// partition's files only once it is durable here: otherwise a replay would put
// back what the change took away.
//
// An error is final. After the first the journal makes nothing durable any more:
// every entry, queued or new, completes with that error, and the partitions fence
// themselves.
//
// Everything here belongs to the core's goroutine, except Replay.
package journal

import "fmt"

// Kind says what an entry records.
type Kind uint8

const (
	// Append records whole batches, contiguous in the partition's log: the
	// first has offset Base, the next after the last would have offset End.
	Append Kind = iota
	// Truncate records that the log was cut at offset Base.
	Truncate
	// LogStart records that the log starts at offset Base.
	LogStart
	// EpochStart records that LeaderEpoch starts at offset Base.
	EpochStart
	// Remove records that this incarnation of the partition is gone.
	Remove
)

var kindNames = [...]string{"append", "truncate", "log-start", "epoch-start", "remove"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Key names one incarnation of a partition. A partition's directory gets a new
// Incarnation whenever it is created, so that entries of a removed partition
// cannot be replayed into its successor.
type Key struct {
	TopicID     [16]byte
	Partition   int32
	Incarnation uint64
}

// Entry is one request. It is embedded in the state that waits for it: asking
// allocates nothing. From Submit to Durable the entry and the bytes that Bufs
// shows belong to the journal.
type Entry struct {
	Key
	Kind        Kind
	LeaderEpoch int32 // of the leader that the batches are appended under, or that starts
	Base        int64
	End         int64    // Append only
	Bufs        [][]byte // Append only: the batches, in pieces; a batch may be cut between two
	Size        int      // Append only: bytes in Bufs

	Done Completer

	Next *Entry // for the journal, from Submit to Durable
}

// Completer is told, once, when an entry is durable or when it never will be.
// It runs on the core's goroutine and may submit again, the same entry included.
type Completer interface {
	Durable(e *Entry, err error)
}

// Journal is one core's journal.
type Journal interface {
	// Submit queues an entry. It never blocks and never refuses: at most one
	// entry of each log is queued, which bounds the queue. An Append may have at
	// most EntryMax bytes.
	Submit(e *Entry)

	// EntryMax is how large an Append may be, bytes. What is larger goes round
	// the journal: into its segment, which is then synced.
	EntryMax() int

	// Full says that the journal wants no more produced data for now. Entries
	// that are submitted all the same wait for the cut.
	Full() bool

	// Attach makes a partition known; its entries may follow. Detach forgets
	// it: there will be no more entries and no more WriteBack calls.
	Attach(p Partition)
	Detach(p Partition)

	// Cut says that everything of the partition below offset is durable in its
	// own files: of the entries submitted so far, appends that end at or below it
	// are not needed. (After a truncation the same offsets come again.)
	Cut(p Partition, offset int64)
}

// Partition is a log as the journal sees it.
type Partition interface {
	JournalKey() Key
	// WriteBack asks that everything up to offset become durable in the
	// partition's own files soon; the answer is Journal.Cut. It starts write-back
	// (SyncRange) where that helps, then syncs. Asking again is harmless.
	WriteBack(offset int64)
}

// Replayer gives back what journals held at the last stop, before any core runs.
type Replayer interface {
	// Replay calls apply with every entry that was not cut, of every core's
	// journal, in order for each partition. The entry and its bytes are valid
	// during the call. It stops at the first error of apply and returns it.
	Replay(apply func(*Entry) error) error
}
