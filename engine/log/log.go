package log

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// Owner is told what happened to a log, always from a completion or a deadline and
// never from inside a call of the log's own methods.
type Owner interface {
	// Advanced: written, flushed, stable, logStart or the end (by truncation)
	// moved, or an append refused with ErrPressure may be tried again.
	Advanced(l *Log)
	// Failed: the log is fenced. Called once.
	Failed(l *Log, err error)
	// CleaningFailed: the log could not be compacted. It lacks nothing and goes on. again:
	// the disk was full, and it is tried again later; of the logs of a core one is told in a minute. Else
	// it is not tried before a restart.
	CleaningFailed(l *Log, err error, again bool)
}

// Done is told when something asked of a log is done. A nil Done is allowed.
type Done interface {
	LogDone(l *Log, err error)
}

// DoneFunc is a Done for cold work.
type DoneFunc func(l *Log, err error)

// LogDone calls f.
func (f DoneFunc) LogDone(l *Log, err error) { f(l, err) }

// Log is one partition's log. Always
//
//	logStart <= lastStable <= highWatermark <= logEnd
//	synced <= written <= logEnd
//	synced <= flushed <= logEnd
//
// From Create or OpenDir until Attach it belongs to nobody; then to its core's
// goroutine. What other goroutines may see is in Published.
type Log struct {
	topic       string
	partition   int32
	topicID     [16]byte
	nameless    error // why topicID is not known
	incarnation uint64
	dir         *Dir
	path        string // of the partition's directory

	core   *Core
	owner  Owner
	cfg    Config
	limits record.Limits

	segments []*segment // by base; the last one is active
	tail     tail
	epochs   epochs
	producer producers
	cursors  cursors

	logStart      int64
	logEnd        int64 // offset the next record will get
	written       int64 // records below are in the segments' files, at least in the page cache
	synced        int64 // records below are in the segments' files on disk
	flushed       int64 // records below survive power loss: synced, or in the journal
	stable        int64 // an acknowledgement of what is below is true under the policy
	highWatermark int64
	size          int64 // bytes of all segments, unwritten ones included

	bytesIn, bytesWritten, bytesSynced int64 // appended, written, synced since the start

	syncWanted int64 // synced is to reach this
	gap        int64 // stable does not pass flushed before flushed has reached this
	journalGap int64 // flushed moves by the journal only once synced has reached this

	write       writeOp
	sync        syncOp
	back        rangeOp
	turnOf      uint32 // see turn
	indexWrite  indexOp
	indexBefore timeEntry
	entry       entryOp
	stake       journal.Stake
	journalEnd  int64 // what lies below is on disk in the files, or in the journal
	age         flushAge
	flight      flight

	spare      spare
	jobs       []*job
	jobOp      jobOp
	lookups    int // worker tasks that look something up
	parked     []parked
	flushes    []flushWait
	doomed     []doomed
	removing   int64 // segments below are being removed
	unremoved  int64 // segments below are to be removed once there is space for it; 0: none
	metaFrom   int64 // what is derived from records at or above is not in the epoch and transaction files yet; -1: all is
	metaBusy   bool
	metaNext   int64 // the same, of what came in while that is being written
	starting   bool  // an epoch is being started: nothing is appended
	snapshotAt int64 // bytesIn when the last producer snapshot was taken

	cleaned     int64     // the first dirty offset: what is below has been compacted
	cleaning    *cleaning // in progress
	cleanable   bool      // it is in the cleaner's list
	cleanAfter  int64     // not cleaned before that, ring's clock: the disk had no room
	uncleanable error     // why it is not cleaned any more
	swapping    bool      // compacted segments take the place of others: no lookup may start

	fence    *ErrFenced
	damaged  bool // recovery fenced it: it is to go on beyond logEnd
	noSpace  bool
	cutting  bool // a truncation waits or runs: nothing is appended
	cuts     int  // how many
	cutTo    int64
	frozen   bool // a truncation's job runs: no sync may start
	closing  bool
	deleting bool
	ended    bool  // closed or deleted: no job touches the files any more
	removeAt int64 // deleted: when the directory goes, ring's clock; 0: not, or gone
	closed   bool

	due       int64 // next deadline, ring's clock
	heapAt    int   // in the core's heap, from 1
	retainAt  int64
	retryAt   int64
	behindAt  int64 // under Journal: what has gathered is written then
	published Published
}

var errShort = errors.New("write: nothing was written")

// Topic, Partition, TopicID and Path name the log.
func (l *Log) Topic() string { return l.topic }

// Partition is the number of the partition.
func (l *Log) Partition() int32 { return l.partition }

// TopicID is the topic's id; zero for directories that have none.
func (l *Log) TopicID() [16]byte { return l.topicID }

// Incarnation is new at each creation of the directory, and where what the journal holds
// of the log must not come back.
func (l *Log) Incarnation() uint64 { return l.incarnation }

// Path is the partition's directory.
func (l *Log) Path() string { return l.path }

// Config is the settings in force.
func (l *Log) Config() Config { return l.cfg }

// LogStart is the first offset that can be read.
func (l *Log) LogStart() int64 { return l.logStart }

// LogEnd is the offset the next record will get.
func (l *Log) LogEnd() int64 { return l.logEnd }

// Written is the end of what is in the files, at least in the page cache.
func (l *Log) Written() int64 { return l.written }

// Flushed is the end of what survives power loss.
func (l *Log) Flushed() int64 { return l.flushed }

// Stable is the offset below which an acknowledgement is true under the policy:
// flushed under synchronous ones, written under the others. It goes back only by
// Truncate.
func (l *Log) Stable() int64 { return l.stable }

// Size is the bytes of all segments, unwritten ones included.
func (l *Log) Size() int64 { return l.size }

// Err is why the log is fenced, or nil.
func (l *Log) Err() error {
	if l.fence == nil {
		return nil
	}
	return l.fence
}

// HighWatermark is what SetHighWatermark set last; after a start, what the
// checkpoint says, within the log.
func (l *Log) HighWatermark() int64 { return l.highWatermark }

// SetHighWatermark moves the high watermark. It only moves forward, and not past the end.
func (l *Log) SetHighWatermark(to int64) {
	if to < l.highWatermark || to > l.logEnd {
		panic(fmt.Sprintf("BUG: log %s-%d: high watermark %d -> %d with log end %d", l.topic, l.partition, l.highWatermark, to, l.logEnd))
	}
	l.highWatermark = to
	l.producer.replicated(to)
	l.published.HighWatermark.Store(to)
}

// LastStable is the end of what a read_committed consumer may see: the first offset
// of the oldest transaction that is open, or whose marker is not below the high
// watermark; else the high watermark.
func (l *Log) LastStable() int64 {
	return max(min(l.producer.firstUnstable(), l.highWatermark), l.logStart)
}

// AppendAborted appends the aborted transactions that a read_committed consumer
// must know of for batches from offset from up to offset upper, to dst: those that
// end at or above from and start below upper, by their start.
func (l *Log) AppendAborted(dst []AbortedTxn, from, upper int64) []AbortedTxn {
	n := len(dst)
	for _, s := range l.segments {
		if s.end <= from {
			continue
		}
		for _, t := range s.aborted {
			if t.LastOffset >= from && t.FirstOffset < upper {
				dst = append(dst, t)
			}
		}
	}
	slices.SortStableFunc(dst[n:], func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return dst
}

// Attach gives the log to a core: from here on it is that core's goroutine's.
// owner is told what happens. It fails for policy Journal on a core without one.
func (l *Log) Attach(c *Core, owner Owner) error {
	if l.core != nil {
		panic(fmt.Sprintf("BUG: log %s-%d: attached twice", l.topic, l.partition))
	}
	if err := l.checkPolicy(c, l.cfg.Policy); err != nil {
		return err
	}
	l.core, l.owner = c, owner
	l.limits.Decompressor = c.decompressor
	l.retainAt = c.io.Now() + int64(c.io.Random()%uint64(retainEvery))
	l.journalGap, l.journalEnd = l.synced, l.synced
	c.unscanned += l.bytesIn - l.snapshotAt
	l.listCleanable()
	if c.journal != nil {
		c.journal.Attach(l, &l.stake)
		if l.fence != nil {
			c.journal.Fence(&l.stake)
		}
	}
	l.setDue()
	return nil
}

func (l *Log) checkPolicy(c *Core, p Policy) error {
	if p == Journal && c.journal == nil {
		return fmt.Errorf("%s-%d: flush.policy=journal, but this broker has no journal", l.topic, l.partition)
	}
	return nil
}

// SetConfig replaces the settings. With another policy, what is in the log is
// synced before Stable moves again; Stable does not go back. Before Attach any
// goroutine that has the log may call it.
func (l *Log) SetConfig(cfg Config) error {
	if err := cfg.normal(); err != nil {
		return fmt.Errorf("%s-%d: %w", l.topic, l.partition, err)
	}
	if l.core == nil {
		l.setConfig(cfg)
		return nil
	}
	if err := l.checkPolicy(l.core, cfg.Policy); err != nil {
		return err
	}
	changed := cfg.Policy != l.cfg.Policy
	l.setConfig(cfg)
	l.listCleanable()
	if changed {
		l.gap = l.logEnd
		l.journalGap, l.journalEnd = l.logEnd, l.logEnd
		l.syncWanted = l.logEnd
		for i := range l.tail.len() { // these go round the journal
			k := l.tail.at(i)
			k.journaled = len(k.buf)
		}
		l.tail.fresh = l.tail.len()
		l.kick()
	}
	l.setDue()
	return nil
}

func (l *Log) setConfig(cfg Config) {
	l.cfg = cfg
	l.limits.MaxBytes = cfg.MaxMessageBytes
	l.limits.Compacted = cfg.Compacted
	l.limits.BeforeMax, l.limits.AfterMax = cfg.TimestampBeforeMax, cfg.TimestampAfterMax
	l.limits.LogAppendTime = cfg.LogAppendTime
	l.limits.InspectCompressed = cfg.InspectCompressed
}

// active is the segment that appends go to.
func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

// kick starts whatever the log can do now: it never calls the owner.
func (l *Log) kick() {
	l.kickWrite()
	l.kickJournal()
	l.kickSync()
	l.kickIndex()
	l.kickMeta()
	l.kickJobs()
}

// step ends every completion.
func (l *Log) step() {
	l.forsake()
	l.kickSnapshot()
	l.kick()
	l.setDue()
	l.core.ease()
}

// fail fences the log: once, naming the file. Nothing is retried and nothing more
// is acknowledged. Called from completions only.
func (l *Log) fail(file string, cause error) {
	if l.fence != nil || l.ended {
		return
	}
	l.fence = &ErrFenced{File: file, Cause: cause}
	l.published.Fenced.Store(l.fence)
	if l.core.journal != nil {
		l.core.journal.Fence(&l.stake)
	}
	l.failFlushes()
	l.listCleanable()
	l.owner.Failed(l, l.fence)
}

// failSync fences the log because of a sync of a segment, and has it noted for the next start: also where something else
// has fenced it before, on the same device perhaps.
func (l *Log) failSync(file string, err error) {
	if !l.ended {
		d, what := l.dir, fmt.Sprintf("%s: sync: %v", file, err)
		d.failedSync.CompareAndSwap(nil, &what) // a stop that comes before the job finds it
		l.enqueueFirst(&job{name: "note a failed sync", always: true, run: func() error { d.noteFailedSync(what); return nil }})
	}
	l.fail(file, fmt.Errorf("sync: %w", err))
}

// advanceSynced: everything below end is on disk in the segments' files.
func (l *Log) advanceSynced(end int64) {
	if end > l.written {
		panic(fmt.Sprintf("BUG: log %s-%d: synced %d -> %d with written %d", l.topic, l.partition, l.synced, end, l.written))
	}
	if end <= l.synced {
		return
	}
	l.synced = end
	if l.core.journal != nil {
		l.core.journal.Cut(&l.stake, end)
	}
	l.advanceFlushed(end)
	l.publishRecoveryPoint()
	l.completeFlushes()
}

func (l *Log) advanceFlushed(end int64) {
	if end > l.logEnd {
		panic(fmt.Sprintf("BUG: log %s-%d: flushed %d -> %d with log end %d", l.topic, l.partition, l.flushed, end, l.logEnd))
	}
	if end <= l.flushed { // a later flush finished first
		return
	}
	l.flushed = end
	l.published.Flushed.Store(end)
	l.advanceStable()
}

func (l *Log) advanceStable() {
	if l.fence != nil { // nothing more is acknowledged
		return
	}
	to := l.flushed
	if !l.cfg.Policy.Synchronous() && l.flushed >= l.gap {
		to = l.written
	}
	if to > l.stable {
		l.stable = to
		l.published.Stable.Store(to)
	}
}

// JournalKey is the log's name in a journal.
func (l *Log) JournalKey() journal.Key {
	return journal.Key{TopicID: l.topicID, Partition: l.partition, Incarnation: l.incarnation}
}

// host is the machine; for workers and before Attach.
func (l *Log) host() ring.Host { return l.dir.host }
