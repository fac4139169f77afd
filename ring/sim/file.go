package sim

import (
	"maps"
	"slices"
)

const (
	sectorBytes = 512      // what the disk writes whole or not at all
	blockBytes  = 4 << 10  // what space is counted in
	chunkBytes  = 64 << 10 // what content is kept in
	versionsMax = 8        // contents kept of a sector; beyond that the oldest becomes durable by itself
	sizesMax    = 64       // likewise of a size
	fileMax     = 1 << 40  // the largest file
)

// change is one Write or Truncate of a file: what its effects are known by until
// they are durable.
type change struct {
	seq    uint64 // changes of a disk in the order of their effects
	done   uint64 // when it completed, by the disk's count of completions; 0: it has not
	shrink bool   // a Truncate that made the file shorter
}

// version is what a sector held after a change. The first of a sector is durable,
// the last is the file's content. A nil data is zeros.
type version struct {
	change *change
	data   []byte // not used in the last version
}

// sizeVersion is a file's size after a change. The first of a file is durable.
type sizeVersion struct {
	size   int64
	change *change
}

// file is a file or a directory. It lives while a name, durable or not, or a
// descriptor leads to it.
type file struct {
	id    int
	links int // names that lead to it now
	opens int
	lock  *descriptor // who holds its lock

	// Of a directory. names is what it holds now, durable what a crash leaves.
	dir     bool
	names   map[string]*file
	durable map[string]*file

	size   int64
	sizes  []sizeVersion // sizes[len-1].size == size
	chunks [][]byte      // nil is zeros; bytes beyond size are zero
	dirty  map[int64][]version
	stale  map[int64][]byte // sectors that the page cache calls clean, and what the disk has instead: see forget
	blocks []uint64         // bitmap of the blocks that take space
	used   int64            // bytes that they take
	slab   []byte           // holds the first chunks while the file is mapped
	mapped int
}

func newFile(id int) *file {
	return &file{id: id, sizes: []sizeVersion{{}}, dirty: map[int64][]version{}}
}

func newDir(id int) *file {
	return &file{id: id, dir: true, names: map[string]*file{}, durable: map[string]*file{}}
}

// sector is the sector's content now, nil for zeros.
func (f *file) sector(s int64) []byte {
	c := s * sectorBytes / chunkBytes
	if c >= int64(len(f.chunks)) || f.chunks[c] == nil {
		return nil
	}
	at := s * sectorBytes % chunkBytes
	return f.chunks[c][at : at+sectorBytes]
}

// touch keeps the sector's content of now as a version, and begins the one of c.
func (f *file) touch(s int64, c *change) {
	v := f.dirty[s]
	if len(v) > 0 && v[len(v)-1].change == c { // two pieces of one write: the sector is still written whole
		return
	}
	old := slices.Clone(f.sector(s))
	if v == nil {
		v = make([]version, 1, 2)
		if disk, ok := f.stale[s]; ok {
			old = disk
			delete(f.stale, s)
		}
	}
	v[len(v)-1].data = old
	v = append(v, version{change: c})
	if len(v) > versionsMax { // the kernel writes back when it likes
		if c := v[1].change; c.shrink {
			f.syncSizes(c.seq)
		}
		v = slices.Delete(v, 0, 1)
	}
	f.dirty[s] = v
}

func (f *file) setSize(c *change, size int64) {
	if size == f.size {
		return
	}
	f.size = size
	f.sizes = append(f.sizes, sizeVersion{size, c})
	if len(f.sizes) > sizesMax {
		f.sizes = slices.Delete(f.sizes, 0, 1)
	}
	for int64(len(f.chunks))*chunkBytes < size {
		f.chunks = append(f.chunks, nil)
	}
}

// write puts p at off, in the page cache.
func (f *file) write(c *change, off int64, p []byte) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	for s := off / sectorBytes; s*sectorBytes < end; s++ {
		f.touch(s, c)
	}
	if end > f.size {
		f.setSize(c, end)
	}
	f.store(off, p)
}

// store copies p into the chunks. The size covers it.
func (f *file) store(off int64, p []byte) {
	for len(p) > 0 {
		c, at := off/chunkBytes, off%chunkBytes
		if f.chunks[c] == nil {
			f.chunks[c] = make([]byte, chunkBytes)
		}
		n := copy(f.chunks[c][at:], p)
		p, off = p[n:], off+int64(n)
	}
}

// read copies what is at off into p and returns how much there was.
func (f *file) read(off int64, p []byte) int {
	if off >= f.size {
		return 0
	}
	p = p[:min(int64(len(p)), f.size-off)]
	for rest := p; len(rest) > 0; {
		c, at := off/chunkBytes, off%chunkBytes
		n := int(min(int64(len(rest)), chunkBytes-at))
		if f.chunks[c] == nil {
			clear(rest[:n])
		} else {
			copy(rest[:n], f.chunks[c][at:])
		}
		rest, off = rest[n:], off+int64(n)
	}
	return len(p)
}

func (f *file) truncate(c *change, size int64) {
	if size < f.size {
		c.shrink = true
		for s := size / sectorBytes; s*sectorBytes < f.size; s++ {
			if f.sector(s) != nil {
				f.touch(s, c)
			}
		}
		f.zero(size)
		f.freeBlocks(size)
	}
	f.setSize(c, size)
}

// zero clears all content from off on.
func (f *file) zero(off int64) {
	for i := off / chunkBytes; i < int64(len(f.chunks)); i++ {
		switch from := off - i*chunkBytes; {
		case f.chunks[i] == nil:
		case from > 0:
			clear(f.chunks[i][from:])
		case (i+1)*chunkBytes <= int64(len(f.slab)): // it is mapped: it stays where it is
			clear(f.chunks[i])
		default:
			f.chunks[i] = nil
		}
	}
}

// take counts the blocks of [off, off+n) as used, as far as free bytes allow. It
// returns how far it got, and how many bytes of space that took.
func (f *file) take(off, n, free int64) (end, took int64) {
	end = off + n
	for b := off / blockBytes; b*blockBytes < end; b++ {
		for b/64 >= int64(len(f.blocks)) {
			f.blocks = append(f.blocks, 0)
		}
		if f.blocks[b/64]&(1<<(b%64)) != 0 {
			continue
		}
		if took+blockBytes > free {
			end = max(off, b*blockBytes)
			break
		}
		f.blocks[b/64] |= 1 << (b % 64)
		took += blockBytes
	}
	f.used += took
	return end, took
}

// freeBlocks gives back the blocks that begin at or after size.
func (f *file) freeBlocks(size int64) {
	for b := (size + blockBytes - 1) / blockBytes; b < int64(len(f.blocks))*64; b++ {
		if f.blocks[b/64]&(1<<(b%64)) != 0 {
			f.blocks[b/64] &^= 1 << (b % 64)
			f.used -= blockBytes
		}
	}
}

// syncFile makes durable every change that had completed by mark, in the disk's
// count of completions, and the size as it was after the last of them.
func (f *file) syncFile(mark uint64) {
	covered := func(c *change) bool { return c.done != 0 && c.done <= mark }
	upTo := uint64(0)
	for s, v := range f.dirty { // each sector by itself: the order does not show
		for i := len(v) - 1; i > 0; i-- {
			if covered(v[i].change) {
				upTo = max(upTo, v[i].change.seq)
				f.syncSector(s, i)
				break
			}
		}
	}
	for _, v := range f.sizes[1:] {
		if covered(v.change) {
			upTo = max(upTo, v.change.seq)
		}
	}
	f.syncSizes(upTo)
}

// syncChange makes durable what one Write did, with the size as it was then.
func (f *file) syncChange(c *change, off, n int64) {
	for s := off / sectorBytes; s*sectorBytes < off+n; s++ {
		for i, v := range f.dirty[s] {
			if i > 0 && v.change.seq >= c.seq {
				f.syncSector(s, i)
				break
			}
		}
	}
	f.syncSizes(c.seq)
}

// syncSector makes version i of sector s the durable one.
func (f *file) syncSector(s int64, i int) {
	if v := f.dirty[s]; i == len(v)-1 {
		delete(f.dirty, s)
	} else {
		f.dirty[s] = slices.Delete(v, 0, i)
	}
}

// syncSizes makes the size durable as it was after change upTo.
func (f *file) syncSizes(upTo uint64) {
	for i := len(f.sizes) - 1; i > 0; i-- {
		if f.sizes[i].change.seq <= upTo {
			f.sizes = slices.Delete(f.sizes, 0, i)
			return
		}
	}
}

// forget is what a kernel may do when it could not write a file back: it tells who syncs, once, and from then
// on calls the pages clean. Readers see them as they were, no sync writes them, and a power loss takes them.
func (f *file) forget() {
	if f.stale == nil {
		f.stale = map[int64][]byte{}
	}
	for s, v := range f.dirty {
		f.stale[s] = v[0].data
	}
	clear(f.dirty)
	f.sizes = []sizeVersion{{size: f.size}}
}

// settle makes what a crash leaves of the file its content, durable from now on.
func (f *file) settle(r *random, mode Crash) {
	f.unslab()
	if mode != ProcessKill {
		f.lose(r, mode)
	}
	clear(f.dirty)
	f.sizes = []sizeVersion{{size: f.size}}
	f.opens, f.lock = 0, nil
}

// How the unsynced changes of one file fare in a power loss.
const (
	fateKept = iota
	fateLost
	fateWrites  // each write is kept or lost
	fateSectors // each sector is any of the contents it has had
	fates
	fateTorn // all but some sectors, or the end, of the last write; never drawn
)

// lastWrite is the number of the last change that is not synced, if it is a Write; 0: there is none.
func (f *file) lastWrite() uint64 {
	last := f.sizes[len(f.sizes)-1].change
	for _, v := range f.dirty { // the greatest: the order does not show
		if c := v[len(v)-1].change; last == nil || c.seq > last.seq {
			last = c
		}
	}
	if last == nil || last.shrink {
		return 0
	}
	return last.seq
}

// lose chooses, for the size and then for each dirty sector, one of its versions.
// Sizes survive in order, as a journaling file system has it; so what followed a
// Truncate survives only with the Truncate.
func (f *file) lose(r *random, mode Crash) {
	fate, torn := r.below(fates), uint64(0)
	switch mode {
	case PowerLossClean, PowerLossNames:
		fate = fateLost
	case PowerLossWhole, PowerLossContents:
		fate = fateKept
	case PowerLossSectors:
		fate = fateSectors
	case PowerLossTorn:
		fate, torn = fateTorn, f.lastWrite()
	}
	pick := int64(0)
	switch fate {
	case fateTorn:
		pick = int64(len(f.sizes) - 1)
		if torn != 0 && pick > 0 && f.sizes[pick].change.seq == torn {
			pick -= r.below(2)
		}
	case fateKept:
		pick = int64(len(f.sizes) - 1)
	case fateWrites, fateSectors:
		pick = r.below(int64(len(f.sizes)))
	}
	size, upTo := f.sizes[pick].size, uint64(0)
	if c := f.sizes[pick].change; c != nil {
		upTo = c.seq
	}
	if pick > 0 && (fate == fateSectors || fate == fateTorn && upTo == torn) { // a growth may have come half of the way
		if before := f.sizes[pick-1].size; size > before+sectorBytes && r.below(2) == 0 {
			size = (before + r.below(size-before)) / sectorBytes * sectorBytes
			size = max(size, before)
		}
	}
	salt := r.next()
	for _, s := range slices.Sorted(maps.Keys(f.dirty)) {
		v := f.dirty[s]
		from, to := 0, len(v) // the versions that go with the chosen size
		for i := 1; i < len(v); i++ {
			if c := v[i].change; c.shrink && c.seq <= upTo {
				from = i
			} else if c.shrink {
				to = i
				break
			}
		}
		chosen := from
		switch fate {
		case fateKept:
			chosen = to - 1
		case fateTorn:
			chosen = to - 1
			if chosen > from && v[chosen].change.seq == torn && mix(uint64(s)^salt)&1 == 0 {
				chosen--
			}
		case fateWrites:
			for i := to - 1; i > from; i-- {
				if mix(v[i].change.seq^salt)&1 == 0 {
					chosen = i
					break
				}
			}
		case fateSectors:
			chosen = from + int(r.below(int64(to-from)))
		}
		if chosen < len(v)-1 {
			f.restore(s, v[chosen].data)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(f.stale)) {
		f.restore(s, f.stale[s])
	}
	clear(f.stale)
	for int64(len(f.chunks))*chunkBytes < size {
		f.chunks = append(f.chunks, nil)
	}
	f.zero(size)
	f.size = size
}

// restore makes data the content of sector s.
func (f *file) restore(s int64, data []byte) {
	if data == nil {
		clear(f.sector(s))
		return
	}
	for int64(len(f.chunks))*chunkBytes <= s*sectorBytes {
		f.chunks = append(f.chunks, nil)
	}
	f.store(s*sectorBytes, data)
}

// mapping returns the first n bytes as one slice that stays the file's content,
// or nil when less is mapped already and cannot grow.
func (f *file) mapping(n int64) []byte {
	chunks := (n + chunkBytes - 1) / chunkBytes
	if chunks*chunkBytes > int64(len(f.slab)) {
		if f.mapped > 0 {
			return nil
		}
		f.slab = make([]byte, chunks*chunkBytes)
		for i := range chunks {
			part := f.slab[i*chunkBytes : (i+1)*chunkBytes : (i+1)*chunkBytes]
			copy(part, f.chunks[i])
			f.chunks[i] = part
		}
	}
	f.mapped++
	return f.slab[:n:n]
}

// unslab parts the content from mappings that a crash has left behind.
func (f *file) unslab() {
	for i := range len(f.slab) / chunkBytes {
		f.chunks[i] = slices.Clone(f.chunks[i])
	}
	f.slab, f.mapped = nil, 0
}
