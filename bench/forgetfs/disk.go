package forgetfs

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Options of a Disk.
type Options struct {
	Bytes int64 // what statfs says there is; nothing enforces it
	// SyncTime is how long a sync takes at least, as on a disk: a cut in that time
	// meets writes that the broker waits for. 0 is 200 microseconds.
	SyncTime time.Duration
	// Ordered makes fsync of a file also make its name durable, with all changes of
	// names before it, as ext4 and XFS do. Without it only fsync of the directory
	// does, which is all that POSIX promises.
	Ordered bool
}

// Disk is a disk and its file system, in memory. It outlives its mounts, as a disk
// outlives the machine. All of it is safe for any goroutine.
type Disk struct {
	options Options

	mu      sync.Mutex
	nodes   map[uint64]*node
	root    *node
	nextID  uint64
	pending []nameChange
	nameSeq uint64 // of the last change of a name

	dark   bool
	cut    chan struct{} // closed when the power goes
	events int64         // changes and syncs, ever
	cutAt  int64         // at this event the power goes; 0: not
	stats  Stats
}

// Stats counts what reached the disk.
type Stats struct {
	Writes      int64 `json:"writes"`
	DSyncWrites int64 `json:"dsyncWrites"` // with O_DSYNC or O_SYNC in the write's flags
	CacheWrites int64 `json:"cacheWrites"` // of pages changed through a mapping
	Syncs       int64 `json:"syncs"`
	DirSyncs    int64 `json:"dirSyncs"`
}

// NewDisk makes an empty disk.
func NewDisk(o Options) *Disk {
	if o.Bytes == 0 {
		o.Bytes = 64 << 30
	}
	if o.SyncTime == 0 {
		o.SyncTime = 200 * time.Microsecond
	}
	d := &Disk{options: o, nodes: map[uint64]*node{}, nextID: fuse.FUSE_ROOT_ID, cut: make(chan struct{})}
	d.root = d.newNode(fuse.S_IFDIR | 0o755)
	return d
}

func (d *Disk) newNode(mode uint32) *node {
	n := &node{id: d.nextID, mode: mode, mtime: time.Now()}
	if mode&fuse.S_IFDIR != 0 {
		n.names, n.durableNames = map[string]*node{}, map[string]*node{}
	}
	d.nodes[n.id] = n
	d.nextID++
	return n
}

// Cut is the moment at which the power goes: every operation fails with EIO from now
// on, those that wait for a sync too, until Restore. It may be called twice.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.goDark()
}

func (d *Disk) goDark() {
	if !d.dark {
		d.dark, d.cutAt = true, 0
		close(d.cut)
	}
}

// Sync makes everything durable, as time does on a machine whose kernel writes back.
func (d *Disk) Sync() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settle(func(int) bool { return true })
	for _, n := range d.nodes {
		n.sync(n.mark())
	}
}

// CutAfter cuts the power at the nth change or sync from now. 0 takes it back.
func (d *Disk) CutAfter(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt = 0
	if n > 0 {
		d.cutAt = d.events + n
	}
}

// Events counts changes and syncs, refused ones too, since the disk was made.
func (d *Disk) Events() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.events
}

// Dark is closed when the power goes.
func (d *Disk) Dark() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cut
}

// Stats counts since the disk was made.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// event is asked before every change and sync. False: the power has gone, and
// nothing may happen.
func (d *Disk) event() bool {
	d.events++
	if d.events == d.cutAt {
		d.goDark()
	}
	return !d.dark
}

// Loss is what a cut took.
type Loss struct {
	Files int   `json:"files"`       // that had changes which were not synced
	Bytes int64 `json:"bytes"`       // of unsynced writes that are gone
	Kept  int64 `json:"bytesKept"`   // of unsynced writes that are there
	Names int   `json:"namesUndone"` // creates, removes and renames that did not happen
	Clean bool  `json:"clean"`       // everything unsynced was taken
}

func (l Loss) String() string {
	return fmt.Sprintf("%d files with unsynced writes, %d bytes of them gone and %d kept, %d changes of names undone", l.Files, l.Bytes, l.Kept, l.Names)
}

// ErrPowered is the error of Restore when the power is on.
var ErrPowered = errors.New("forgetfs: the power has not been cut")

// Restore decides by the seed what the cut has left of what was not synced, and
// lets a new mount work on it; the old one must be gone, or it shows what its
// kernel remembers. The same disk and the same seed leave the same. One in four seeds takes
// all that was not synced.
func (d *Disk) Restore(seed uint64) (Loss, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dark {
		return Loss{}, ErrPowered
	}
	random := rng(seed)
	loss := Loss{Clean: random.below(4) == 0}
	loss.Names = d.loseNames(&random, loss.Clean)
	d.reach(func(n *node) {
		if len(n.changes) == 0 {
			return
		}
		loss.Files++
		all := n.bytes
		gone := n.lose(&random, loss.Clean)
		loss.Bytes += gone
		loss.Kept += all - gone
	})
	d.dark, d.cut = false, make(chan struct{})
	return loss, nil
}

// rng is splitmix64: the same everywhere and for ever.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *rng) below(n int64) int64 { return int64(r.next() % uint64(n)) }
