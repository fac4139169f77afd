package forgetfs

import (
	"maps"
	"slices"
)

// nameChange is a create (no fromDir), a remove (no toDir) or a rename that is
// not durable yet. It is atomic.
type nameChange struct {
	fromDir, toDir *node
	from, to       string
	node           *node
	seq            uint64 // counts all changes of names
}

func (c *nameChange) in(dir *node) bool { return c.fromDir == dir || c.toDir == dir }

func (c *nameChange) names(dir *node, name string) bool {
	return dir != nil && (c.fromDir == dir && c.from == name || c.toDir == dir && c.to == name)
}

// needs says whether c cannot survive without the earlier d: they are about the
// same name, or c removes the directory that d emptied.
func (c *nameChange) needs(d *nameChange) bool {
	return c.names(d.fromDir, d.from) || c.names(d.toDir, d.to) || c.toDir == nil && d.in(c.node)
}

// rename does c now; it is durable later.
func (d *Disk) rename(c nameChange) {
	if c.fromDir != nil {
		delete(c.fromDir.names, c.from)
	}
	if c.toDir != nil {
		c.toDir.names[c.to] = c.node
		c.node.parent = c.toDir
	}
	d.nameSeq++
	c.seq = d.nameSeq
	d.pending = append(d.pending, c)
}

// settle makes the wanted pending changes of names durable, with the earlier ones
// that they build on, and keeps the rest pending.
func (d *Disk) settle(want func(i int) bool) {
	wanted := make([]bool, len(d.pending))
	for i := len(d.pending) - 1; i >= 0; i-- {
		wanted[i] = want(i)
		for j := i + 1; j < len(d.pending) && !wanted[i]; j++ {
			wanted[i] = wanted[j] && d.pending[j].needs(&d.pending[i])
		}
	}
	rest := d.pending[:0]
	for i, c := range d.pending {
		if !wanted[i] {
			rest = append(rest, c)
			continue
		}
		if c.fromDir != nil {
			delete(c.fromDir.durableNames, c.from)
		}
		if c.toDir != nil {
			c.toDir.durableNames[c.to] = c.node
		}
	}
	clear(d.pending[len(rest):])
	d.pending = rest
}

// syncNames is fsync of a directory that began after the change number mark.
func (d *Disk) syncNames(dir *node, mark uint64) {
	d.settle(func(i int) bool { return d.pending[i].seq <= mark && d.pending[i].in(dir) })
}

// syncNamesOf is what fsync of a file does to names on a journaling file system:
// those changed up to the file's own are durable with it.
func (d *Disk) syncNamesOf(n *node) {
	upTo := -1
	for i := range d.pending {
		if d.pending[i].node == n {
			upTo = i
		}
	}
	d.settle(func(i int) bool { return i <= upTo })
}

// loseNames decides which names a power loss leaves.
func (d *Disk) loseNames(random *rng, clean bool) (lost int) {
	switch fate := random.below(4); {
	case clean || fate == 0:
	case fate == 1:
		d.settle(func(int) bool { return true })
	case fate == 2: // in order
		upTo := int(random.below(int64(len(d.pending) + 1)))
		d.settle(func(i int) bool { return i < upTo })
	default:
		keep := make([]bool, len(d.pending))
		for i := range keep {
			keep[i] = random.below(2) == 0
		}
		d.settle(func(i int) bool { return keep[i] })
	}
	lost = len(d.pending)
	d.pending = nil
	return lost
}

// reach walks what the durable names lead to, in the order of names, and makes it
// what there is.
func (d *Disk) reach(visit func(n *node)) {
	nodes := map[uint64]*node{}
	var walk func(n *node)
	walk = func(n *node) {
		if nodes[n.id] != nil {
			panic("BUG: forgetfs: a file has two names after a cut")
		}
		nodes[n.id] = n
		visit(n)
		if !n.isDir() {
			return
		}
		n.names = maps.Clone(n.durableNames)
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			child := n.names[name]
			child.parent = n
			walk(child)
		}
	}
	walk(d.root)
	d.nodes = nodes
}
