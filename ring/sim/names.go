package sim

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// nameChange is a create (no fromDir), a remove (no toDir) or a rename, until it
// is durable. It is atomic.
type nameChange struct {
	fromDir, toDir *file
	from, to       string
	file           *file
}

func (c *nameChange) in(dir *file) bool { return c.fromDir == dir || c.toDir == dir }

func (c *nameChange) names(dir *file, name string) bool {
	return dir != nil && (c.fromDir == dir && c.from == name || c.toDir == dir && c.to == name)
}

// needs says whether c cannot survive without the earlier d: they are about the
// same name, or c removes the directory that d emptied.
func (c *nameChange) needs(d *nameChange) bool {
	return c.names(d.fromDir, d.from) || c.names(d.toDir, d.to) || c.toDir == nil && d.in(c.file)
}

func (c *nameChange) applyDurable() {
	if c.fromDir != nil {
		delete(c.fromDir.durable, c.from)
	}
	if c.toDir != nil {
		c.toDir.durable[c.to] = c.file
	}
}

// changeName does c now; it is durable later.
func (h *Host) changeName(c nameChange) {
	if c.fromDir != nil {
		delete(c.fromDir.names, c.from)
		c.file.links--
	}
	if c.toDir != nil {
		if old := c.toDir.names[c.to]; old != nil {
			old.links--
			h.reclaim(old)
		}
		c.toDir.names[c.to] = c.file
		c.file.links++
	}
	h.reclaim(c.file)
	h.pending = append(h.pending, c)
}

// settleNames makes the wanted pending changes durable, with the earlier ones
// that they build on, and keeps the rest pending.
func (h *Host) settleNames(want func(i int) bool) {
	wanted := make([]bool, len(h.pending))
	for i := len(h.pending) - 1; i >= 0; i-- {
		wanted[i] = want(i)
		for j := i + 1; j < len(h.pending) && !wanted[i]; j++ {
			wanted[i] = wanted[j] && h.pending[j].needs(&h.pending[i])
		}
	}
	rest := h.pending[:0]
	for i := range h.pending {
		if wanted[i] {
			h.pending[i].applyDurable()
		} else {
			rest = append(rest, h.pending[i])
		}
	}
	clear(h.pending[len(rest):])
	h.pending = rest
}

// split returns the clean absolute path and its elements.
func split(path string) []string {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil
	}
	return strings.Split(path[1:], "/")
}

// lookup finds the directory that path is in, the name there, and the file, nil
// when there is none of that name. The root is in itself, by the name "".
func (h *Host) lookup(path string) (dir *file, name string, f *file, errno syscall.Errno) {
	parts := split(path)
	if len(parts) == 0 {
		return h.root, "", h.root, 0
	}
	dir = h.root
	for _, p := range parts[:len(parts)-1] {
		next := dir.names[p]
		if next == nil {
			return nil, "", nil, syscall.ENOENT
		}
		if !next.dir {
			return nil, "", nil, syscall.ENOTDIR
		}
		dir = next
	}
	name = parts[len(parts)-1]
	return dir, name, dir.names[name], 0
}

// sortedNames lists a directory without showing the order of a map.
func sortedNames(names map[string]*file) []string {
	list := make([]string, 0, len(names))
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}
