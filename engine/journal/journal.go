package journal

// Key names one incarnation of a partition. A partition's directory gets a new
// Incarnation whenever it is created, and before its log is cut, so that what was
// removed or cut away cannot be replayed.
type Key struct {
	TopicID     [16]byte
	Partition   int32
	Incarnation uint64
}

// Entry is one request: whole batches, contiguous in the partition's log. It is embedded in
// the state that waits for it: asking allocates nothing. From Submit to Durable the
// entry and the bytes that Bufs shows belong to the journal; only Grow may add to them.
type Entry struct {
	Key
	LeaderEpoch int32    // of the leader that the batches are appended under
	Base        int64    // offset of the first batch
	End         int64    // offset that the next batch after the last would have
	Prev        int64    // what lies below is in the partition's files, durable, or in entries before this one
	Bufs        [][]byte // the batches, in pieces; a batch may be cut between two
	Size        int      // bytes in Bufs

	Began int64 // when the write that made it durable was submitted, ring's clock; 0: none was needed

	Stake *Stake // of the partition; not in a replay
	Done  Completer

	// Damage, in a replay, is why the batches cannot be had: Bufs is empty.
	Damage error

	next *Entry // in the journal's queue
}

// Completer is the partition's side of an entry, on the core's goroutine.
type Completer interface {
	// Grow may add to the entry, which is about to be written, what its partition has appended
	// since: whole batches that follow, at most max bytes. It may come again before Durable does.
	Grow(e *Entry, max int)
	// Durable tells, once, that the entry is durable, or with an error that it never will
	// be. It may submit again, the same entry included.
	Durable(e *Entry, err error)
}

// Journal is one core's journal.
type Journal interface {
	// Submit queues an entry. It never blocks and never refuses: at most one
	// entry of each log is queued, which bounds the queue. It may have at
	// most EntryMax bytes.
	Submit(e *Entry)

	// EntryMax is how large an entry may be, bytes. What is larger goes round
	// the journal: into its segment, which is then synced.
	EntryMax() int

	// Full says that the journal wants no more produced data for now. Entries
	// that are submitted all the same wait for the cut.
	Full() bool

	// OnRoom has f called each time that Full is over. f belongs to the core's goroutine.
	OnRoom(f func())

	// Attach makes a partition known by its stake, which its entries name. Detach
	// forgets it with all that it has here: there are no entries on their way, there will be no
	// more, and nothing of it is replayed that matters.
	Attach(p Partition, s *Stake)
	Detach(s *Stake)

	// Cut says that everything of the partition below offset is durable in its
	// own files: of the entries submitted so far, those that end at or below it
	// are not needed.
	Cut(s *Stake, offset int64)

	// Fence says that the partition will make nothing durable any more: nobody
	// waits for it, and what it has in the journal is kept for the next start.
	Fence(s *Stake)
}

// Partition is a log as the journal sees it.
type Partition interface {
	JournalKey() Key
	// WriteBack asks that everything up to offset become durable in the
	// partition's own files soon; the answer is Journal.Cut. Asking again is harmless.
	WriteBack(offset int64)
}

// Replayer gives back what journals held at the last stop, before any core runs.
type Replayer interface {
	// Replay calls apply with every entry that was not cut, of every core's
	// journal, in order for each partition. The entry and its bytes are valid
	// during the call. It stops at the first error of apply and returns it. The journals
	// must be those of the directory of logs with that id.
	Replay(directory [16]byte, apply func(*Entry) error) error
}

// Stake is what a partition has in a journal: the journal's, embedded in the log.
// Positions are -1 for none.
type Stake struct {
	partition Partition
	index     int   // in Core.stakes
	first     int64 // position of the oldest frame that the partition needs
	later     int64 // during a cut: position of the first frame after the mark
	last      int64 // where its last entry in a frame ends, in offsets
	lastAt    int64 // position of that frame
	target    int64 // during a cut: what has to be durable
	durable   int64 // in its own files
	awaited   bool  // the cut waits for it
	asked     bool  // WriteBack was called
	fenced    bool
	ask       *Stake // the next one to be asked
}
