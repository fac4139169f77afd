package log

import (
	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
)

// CoreConfig is what the logs of one core share.
type CoreConfig struct {
	// TailBytes bounds the memory in which recent batches are kept, unwritten
	// ones included, bytes. Default 64 MiB. It comes out of the ring's pool.
	TailBytes int
	// Inline makes writes in the calling thread where the backend can.
	Inline bool
	// Readahead is how far files are read ahead for one who reads them on and on, bytes; 0: not.
	Readahead int64
	// DropBehind lets the kernel drop what was read ahead once its reader has passed it.
	DropBehind bool
	// Journal is the core's journal; nil where there is none.
	Journal journal.Journal
	// Cleaner is what compaction may take. The zero value: it does not run.
	Cleaner CleanerConfig
	// Space is the room on the disk; nil: it is not looked at.
	Space *Space
}

// Core is what the logs of one core share: the memory for tails, their deadlines,
// the journal. It belongs to the core's goroutine.
type Core struct {
	io      ring.IO
	pool    *ring.Pool
	journal journal.Journal
	inline  ring.Flags
	space   allowance

	tailMax   int   // bytes of blocks that tails may hold
	held      int   // bytes of blocks that tails hold
	pinned    int   // of these, bytes that reads look at
	unwritten int   // bytes appended and not yet in a file
	unscanned int64 // bytes appended since each log's last producer snapshot
	spares    int   // files made, or being made, for segments to come

	oldest, newest *chunk // every chunk of every tail, by age
	spare          *chunk

	pressed  bool
	returned bool // under pressure, and a read gave memory back: Expire tells
	relief   []Relief

	readahead  int64
	dropBehind bool
	aheads     *aheadOp // free
	lookups    *lookup  // free
	cleaner    cleaner

	due          deadlines
	decompressor *record.Decompressor
	stats        CoreStats
}

// CoreStats counts what the logs of a core did.
type CoreStats struct {
	Batches, Bytes uint64 // appended
	Duplicates     uint64
	Writes, Syncs  uint64 // ops submitted for segments
	Ranges         uint64 // write-backs started
	Rolls          uint64 // segments begun
	Spares         uint64 // of these, with a file that had been made ahead
	TailReads      uint64
	FileReads      uint64
	Prefetches     uint64 // of pieces of files, for those who read on
	// PrefetchedBytes were not in memory then; ForgottenBytes of them were let go again.
	PrefetchedBytes, ForgottenBytes uint64

	Lookups   uint64 // file reads and timestamp queries that needed a worker
	Evictions uint64
	Refused   uint64 // appends answered with ErrPressure

	Cleanings       uint64 // passes of compaction that were finished
	CleaningsFailed uint64 // passes that ended otherwise than by a change of the log
	CleanedBytes    uint64 // bytes of segments that compaction has freed
}

// Relief is told when appends can be tried again.
type Relief interface{ Relieved() }

// NewCore makes a core. io's pool should have twice TailBytes: blocks are powers of two.
func NewCore(io ring.IO, cfg CoreConfig) *Core {
	if cfg.TailBytes <= 0 {
		cfg.TailBytes = 64 << 20
	}
	c := &Core{
		io: io, pool: io.Pool(), journal: cfg.Journal, tailMax: cfg.TailBytes, space: allowance{of: cfg.Space},
		decompressor: record.NewDecompressor(record.DecompressedMaxDefault),
	}
	if c.cleaner = (cleaner{CleanerConfig: cfg.Cleaner, at: ring.Forever}); c.cleaner.BytesPerSecond <= 0 {
		c.cleaner.BytesPerSecond = Never
	}
	if cfg.Inline {
		c.inline = ring.Inline
	}
	c.readahead, c.dropBehind = cfg.Readahead, cfg.DropBehind
	ops := make([]aheadOp, aheadOps)
	for i := range ops {
		ops[i].next, c.aheads = c.aheads, &ops[i]
	}
	if c.journal != nil {
		c.journal.OnRoom(c.ease)
	}
	return c
}

// NextDeadline is when Expire wants to be called, on the ring's clock, or ring.Forever.
func (c *Core) NextDeadline() int64 {
	if c.returned {
		return 0
	}
	if len(c.due) == 0 {
		return c.cleaner.at
	}
	return min(c.due[0].due, c.cleaner.at)
}

// Expire does what has fallen due by now (the ring's clock, ns): flush timers,
// retention, the expiry of producers, another try on a full disk, compaction.
func (c *Core) Expire(now int64) {
	if c.returned {
		c.returned = false
		c.ease()
	}
	for len(c.due) > 0 && c.due[0].due <= now {
		l := c.due[0]
		c.due.set(l, ring.Forever)
		l.expire(now)
	}
	if c.cleaner.at <= now {
		c.clean(now)
	}
}

// Pressure says that no more produces should be read: unwritten bytes are at three
// quarters of the bound, or the journal is full.
func (c *Core) Pressure() bool {
	if c.unwritten >= c.tailMax/4*3 || c.journal != nil && c.journal.Full() {
		c.press()
	}
	return c.pressed
}

// press: there is no room. What has gathered unwritten in the oldest chunks is written now.
func (c *Core) press() {
	if c.pressed {
		return
	}
	c.pressed = true
	c.writeOldest()
}

func (c *Core) writeOldest() {
	for k, look := c.oldest, 0; k != nil && look < evictLook; k, look = k.newer, look+1 {
		if k.written < len(k.buf) && !k.dropped {
			k.log.kickWrite()
		}
	}
}

// OnRelief has r told each time that Pressure is over, or that memory came back
// after an append was refused with ErrPressure.
func (c *Core) OnRelief(r Relief) { c.relief = append(c.relief, r) }

// Stats is what the core's logs did.
func (c *Core) Stats() *CoreStats { return &c.stats }

// TailBytes is the memory that tails hold, bytes.
func (c *Core) TailBytes() int { return c.held }

// ease ends the pressure once half of the bound is free again.
func (c *Core) ease() {
	if !c.pressed {
		return
	}
	if c.unwritten > c.tailMax/2 {
		c.writeOldest()
		return
	}
	if c.journal != nil && c.journal.Full() {
		return
	}
	c.pressed = false
	for _, r := range c.relief {
		r.Relieved()
	}
}

// deadlines is a heap of logs by their next deadline. Logs without one are not in it.
type deadlines []*Log

// set moves l to its place for a deadline; ring.Forever takes it out.
func (h *deadlines) set(l *Log, due int64) {
	if l.due == due {
		return
	}
	l.due = due
	switch {
	case due == ring.Forever:
		h.remove(l.heapAt - 1)
		l.heapAt = 0
	case l.heapAt == 0:
		*h = append(*h, l)
		l.heapAt = len(*h)
		h.up(l.heapAt - 1)
	default:
		h.fix(l.heapAt - 1)
	}
}

func (h deadlines) put(i int, l *Log) {
	h[i] = l
	l.heapAt = i + 1
}

func (h *deadlines) remove(i int) {
	a := *h
	last := len(a) - 1
	moved := a[last]
	a[last] = nil
	*h = a[:last]
	if i != last {
		h.put(i, moved)
		h.fix(i)
	}
}

func (h deadlines) fix(i int) {
	l := h[i]
	h.up(i)
	if h[i] == l {
		h.down(i)
	}
}

func (h deadlines) up(i int) {
	l := h[i]
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].due <= l.due {
			break
		}
		h.put(i, h[parent])
		i = parent
	}
	h.put(i, l)
}

func (h deadlines) down(i int) {
	l := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].due < h[child].due {
			child++
		}
		if l.due <= h[child].due {
			break
		}
		h.put(i, h[child])
		i = child
	}
	h.put(i, l)
}
