package forgetfs

import (
	"slices"
	"time"
)

const (
	sectorBytes = 512      // what a disk writes whole or not at all
	blockBytes  = 4 << 10  // what content is kept in
	fileMax     = 1 << 40  // the largest file, bytes
	unsyncedMax = 64 << 20 // bytes of unsynced writes kept of a file; beyond that the oldest become durable by themselves, as by a kernel that writes back
)

// content is the bytes of a file, sparse. Bytes beyond size are zero.
type content struct {
	size   int64
	blocks []*[blockBytes]byte // nil is zeros
}

func (c *content) write(off int64, p []byte) {
	c.size = max(c.size, off+int64(len(p)))
	for len(p) > 0 {
		i, at := off/blockBytes, off%blockBytes
		n := min(int64(len(p)), blockBytes-at)
		for int64(len(c.blocks)) <= i {
			c.blocks = append(c.blocks, nil)
		}
		if c.blocks[i] == nil && !zeros(p[:n]) {
			c.blocks[i] = new([blockBytes]byte)
		}
		if c.blocks[i] != nil {
			copy(c.blocks[i][at:], p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (c *content) read(off int64, p []byte) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for rest := p; len(rest) > 0; {
		i, at := off/blockBytes, off%blockBytes
		n := min(int64(len(rest)), blockBytes-at)
		if i >= int64(len(c.blocks)) || c.blocks[i] == nil {
			clear(rest[:n])
		} else {
			copy(rest[:n], c.blocks[i][at:])
		}
		rest, off = rest[n:], off+n
	}
	return len(p)
}

func (c *content) truncate(size int64) {
	if size < c.size {
		keep := (size + blockBytes - 1) / blockBytes
		if keep < int64(len(c.blocks)) {
			clear(c.blocks[keep:])
			c.blocks = c.blocks[:keep]
		}
		if at := size % blockBytes; at > 0 && keep <= int64(len(c.blocks)) && c.blocks[keep-1] != nil {
			clear(c.blocks[keep-1][at:])
		}
	}
	c.size = size
}

func (c *content) clone() content {
	out := content{size: c.size, blocks: make([]*[blockBytes]byte, len(c.blocks))}
	for i, b := range c.blocks {
		if b != nil {
			copied := *b
			out.blocks[i] = &copied
		}
	}
	return out
}

func zeros(p []byte) bool { return !slices.ContainsFunc(p, func(b byte) bool { return b != 0 }) }

// change is one write or truncation that is not durable yet.
type change struct {
	off    int64
	data   []byte // nil: a truncation to size
	size   int64  // the file's after the change
	shrink bool
}

// node is a file or a directory. The disk's lock guards it.
type node struct {
	id    uint64
	mode  uint32 // with the type
	mtime time.Time

	now     content  // what is read: the page cache, as far as the broker can tell
	durable content  // what a power loss leaves for sure
	changes []change // from durable to now, in order
	bytes   int64    // of their data
	synced  uint64   // changes that have become durable, ever

	names        map[string]*node // of a directory: now
	durableNames map[string]*node
	parent       *node
}

func (n *node) isDir() bool { return n.names != nil }

// mark counts all changes there have been: a sync covers those up to the mark at
// which it began.
func (n *node) mark() uint64 { return n.synced + uint64(len(n.changes)) }

func (n *node) write(off int64, p []byte) {
	n.now.write(off, p)
	n.changes = append(n.changes, change{off: off, data: slices.Clone(p), size: n.now.size})
	n.changed(int64(len(p)))
}

func (n *node) truncate(size int64) {
	shrink := size < n.now.size
	if size == n.now.size {
		return
	}
	n.now.truncate(size)
	n.changes = append(n.changes, change{size: size, shrink: shrink})
	n.changed(0)
}

func (n *node) changed(bytes int64) {
	n.mtime = time.Now()
	n.bytes += bytes
	if n.bytes > unsyncedMax {
		n.sync(n.synced + uint64(len(n.changes)+1)/2)
	}
}

// sync makes the changes up to a mark durable.
func (n *node) sync(mark uint64) {
	if mark <= n.synced {
		return
	}
	count := int(mark - n.synced)
	for i := range n.changes[:count] {
		c := &n.changes[i]
		n.durable.apply(c)
		n.bytes -= int64(len(c.data))
	}
	n.changes = slices.Delete(n.changes, 0, count)
	n.synced = mark
}

func (c *content) apply(x *change) {
	if x.data != nil {
		c.write(x.off, x.data)
	} else {
		c.truncate(x.size)
	}
}

// How the unsynced changes of one file fare in a power loss.
const (
	fateKept    = iota
	fateLost    //
	fatePrefix  // the first ones, the last of them torn
	fateWrites  // each write is kept or lost
	fateSectors // each sector of each write is
	fates
)

// lose decides what a power loss leaves of the file. Sizes survive in order, as
// a journaling file system has it: what followed a truncation survives only with
// the truncation, and a file may have its size and zeros, or older bytes, where
// the data did not come.
func (n *node) lose(random *rng, clean bool) (dropped int64) {
	fate := int(random.below(fates))
	if clean {
		fate = fateLost
	}
	count := len(n.changes)
	sizes := count // changes whose size survives
	switch fate {
	case fateLost:
		sizes = 0
	case fatePrefix, fateWrites, fateSectors:
		sizes = int(random.below(int64(count + 1)))
	}
	size := n.durable.size
	for i := range n.changes {
		c := &n.changes[i]
		if i < sizes {
			size = c.size
		} else if c.shrink { // this did not happen, so nothing after it did
			break
		}
		last := fate == fatePrefix && i == sizes-1 && random.below(2) == 0
		switch {
		case c.data == nil:
			if i < sizes {
				n.durable.truncate(c.size)
			}
		case fate == fateKept, fate == fatePrefix && i < sizes && !last, fate == fateWrites && random.below(2) == 0:
			n.durable.write(c.off, c.data)
		case fate == fateSectors, last:
			dropped += n.tear(c, random)
		default:
			dropped += int64(len(c.data))
		}
	}
	n.durable.truncate(size) // grown with zeros, or without what lies beyond
	n.now = n.durable.clone()
	n.changes, n.bytes, n.synced = nil, 0, 0
	return dropped
}

// tear keeps some sectors of a write.
func (n *node) tear(c *change, random *rng) (dropped int64) {
	for off, p := c.off, c.data; len(p) > 0; {
		k := min(int64(len(p)), sectorBytes-off%sectorBytes)
		if random.below(2) == 0 {
			n.durable.write(off, p[:k])
		} else {
			dropped += k
		}
		off, p = off+k, p[k:]
	}
	return dropped
}
