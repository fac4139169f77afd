package forgetfs

import (
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// forever is how long the kernel may remember names and attributes: it is the only
// one who changes them.
const forever = time.Hour

// server answers the kernel for one mount. After a cut it fails everything, for
// good: also when the disk has been restored.
type server struct {
	fuse.RawFileSystem
	*Disk
	gone <-chan struct{} // the power went while this was mounted
}

func (s *server) String() string { return "forgetfs" }

// enter takes the lock. False: the power has gone, and the lock is not held.
func (s *server) enter() bool {
	s.mu.Lock()
	select {
	case <-s.gone:
		s.mu.Unlock()
		return false
	default:
		return true
	}
}

// change is enter for an operation that changes something or syncs.
func (s *server) change() bool {
	if !s.enter() {
		return false
	}
	if !s.event() {
		s.mu.Unlock()
		return false
	}
	return true
}

func (n *node) attr(a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: n.id, Mode: n.mode, Nlink: 1, Blksize: blockBytes,
		Mtime: uint64(n.mtime.Unix()), Mtimensec: uint32(n.mtime.Nanosecond()),
	}
	a.Ctime, a.Ctimensec, a.Atime, a.Atimensec = a.Mtime, a.Mtimensec, a.Mtime, a.Mtimensec
	if !n.isDir() {
		a.Size, a.Blocks = uint64(n.now.size), uint64((n.now.size+511)/512)
	}
}

func (n *node) entry(out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	n.attr(&out.Attr)
}

// named finds a child. The lock is held.
func (s *server) named(parent uint64, name string) (dir, n *node, status fuse.Status) {
	dir = s.nodes[parent]
	if dir == nil {
		return nil, nil, fuse.ENOENT
	}
	if !dir.isDir() {
		return nil, nil, fuse.ENOTDIR
	}
	return dir, dir.names[name], fuse.OK
}

func (s *server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if !s.enter() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	_, n, status := s.named(in.NodeId, name)
	if status != fuse.OK {
		return status
	}
	if n == nil {
		return fuse.ENOENT
	}
	n.entry(out)
	return fuse.OK
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !s.enter() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	n := s.nodes[in.NodeId]
	if n == nil {
		return fuse.ENOENT
	}
	out.SetTimeout(forever)
	n.attr(&out.Attr)
	return fuse.OK
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	n := s.nodes[in.NodeId]
	if n == nil {
		return fuse.ENOENT
	}
	if size, ok := in.GetSize(); ok {
		if n.isDir() {
			return fuse.EISDIR
		}
		if size > fileMax {
			return fuse.Status(syscall.EFBIG)
		}
		n.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&unix.S_IFMT | mode
	}
	if at, ok := in.GetMTime(); ok {
		n.mtime = at
	}
	out.SetTimeout(forever)
	n.attr(&out.Attr)
	return fuse.OK
}

// make creates a node under a name. The lock is held.
func (s *server) make(parent uint64, name string, mode uint32, out *fuse.EntryOut) (*node, fuse.Status) {
	dir, n, status := s.named(parent, name)
	if status != fuse.OK {
		return nil, status
	}
	if n != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	n = s.newNode(mode)
	s.rename(nameChange{toDir: dir, to: name, node: n})
	n.entry(out)
	return n, fuse.OK
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	_, status := s.make(in.NodeId, name, fuse.S_IFDIR|in.Mode&0o7777, out)
	return status
}

func (s *server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&unix.S_IFMT != unix.S_IFREG {
		return fuse.EPERM
	}
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	_, status := s.make(in.NodeId, name, fuse.S_IFREG|in.Mode&0o7777, out)
	return status
}

func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	n, status := s.make(in.NodeId, name, fuse.S_IFREG|in.Mode&0o7777, &out.EntryOut)
	if status != fuse.OK {
		return status
	}
	out.Fh, out.OpenFlags = n.id, fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// remove takes a name away. dir says what is expected there.
func (s *server) remove(parent uint64, name string, wantDir bool) fuse.Status {
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	dir, n, status := s.named(parent, name)
	switch {
	case status != fuse.OK:
		return status
	case n == nil:
		return fuse.ENOENT
	case wantDir && !n.isDir():
		return fuse.ENOTDIR
	case !wantDir && n.isDir():
		return fuse.EISDIR
	case len(n.names) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	s.rename(nameChange{fromDir: dir, from: name, node: n})
	return fuse.OK
}

func (s *server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, false)
}

func (s *server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, true)
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags&^unix.RENAME_NOREPLACE != 0 {
		return fuse.EINVAL
	}
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	fromDir, n, status := s.named(in.NodeId, from)
	if status != fuse.OK {
		return status
	}
	toDir, old, status := s.named(in.Newdir, to)
	switch {
	case status != fuse.OK:
		return status
	case n == nil:
		return fuse.ENOENT
	case old == n:
		return fuse.OK
	case old != nil && in.Flags&unix.RENAME_NOREPLACE != 0:
		return fuse.Status(syscall.EEXIST)
	case old != nil && old.isDir() && len(old.names) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	case old != nil && old.isDir() && !n.isDir():
		return fuse.EISDIR
	case old != nil && !old.isDir() && n.isDir():
		return fuse.ENOTDIR
	}
	s.rename(nameChange{fromDir: fromDir, from: from, toDir: toDir, to: to, node: n})
	return fuse.OK
}

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if !s.enter() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	if s.nodes[in.NodeId] == nil {
		return fuse.ENOENT
	}
	out.Fh, out.OpenFlags = in.NodeId, fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if !s.enter() {
		return nil, fuse.EIO
	}
	defer s.mu.Unlock()
	n := s.nodes[in.NodeId]
	if n == nil || n.isDir() {
		return nil, fuse.ENOENT
	}
	buf = buf[:min(len(buf), int(in.Size))]
	return fuse.ReadResultData(buf[:n.now.read(int64(in.Offset), buf)]), fuse.OK
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if in.Offset+uint64(len(data)) > fileMax {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if !s.change() {
		return 0, fuse.EIO
	}
	n := s.nodes[in.NodeId]
	if n == nil || n.isDir() {
		s.mu.Unlock()
		return 0, fuse.ENOENT
	}
	s.stats.Writes++
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		s.stats.CacheWrites++
	}
	n.write(int64(in.Offset), data)
	dsync := in.Flags&unix.O_DSYNC != 0 // O_SYNC contains it
	if dsync {
		s.stats.DSyncWrites++
	}
	s.mu.Unlock()
	if dsync {
		if status := s.sync(in.NodeId); status != fuse.OK {
			return 0, status
		}
	}
	return uint32(len(data)), fuse.OK
}

// sync makes durable what a file holds now, after the time that a disk takes. A file
// that has nothing to sync takes none.
func (s *server) sync(id uint64) fuse.Status {
	if !s.change() {
		return fuse.EIO
	}
	n := s.nodes[id]
	if n == nil {
		s.mu.Unlock()
		return fuse.ENOENT
	}
	mark, idle := n.mark(), len(n.changes) == 0
	s.mu.Unlock()
	if !idle && !s.wait() {
		return fuse.EIO
	}
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	n.sync(mark)
	if s.options.Ordered {
		s.syncNamesOf(n)
	}
	return fuse.OK
}

// wait is the disk at work. False: the power went meanwhile.
func (s *server) wait() bool {
	t := time.NewTimer(s.options.SyncTime)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.gone:
		return false
	}
}

func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.mu.Lock()
	s.stats.Syncs++
	s.mu.Unlock()
	return s.sync(in.NodeId)
}

func (s *server) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if !s.change() {
		return fuse.EIO
	}
	s.stats.DirSyncs++
	dir, mark := s.nodes[in.NodeId], s.nameSeq
	s.mu.Unlock()
	if dir == nil {
		return fuse.ENOENT
	}
	if !s.wait() || !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	s.syncNames(dir, mark)
	return fuse.OK
}

func (s *server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	end := int64(in.Offset + in.Length)
	if in.Mode&^known != 0 || end > fileMax {
		return fuse.ENOTSUP
	}
	if !s.change() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	n := s.nodes[in.NodeId]
	if n == nil || n.isDir() {
		return fuse.ENOENT
	}
	if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		const piece = 1 << 20
		for off := int64(in.Offset); off < min(end, n.now.size); off += piece {
			n.write(off, make([]byte, min(piece, min(end, n.now.size)-off)))
		}
	}
	if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > n.now.size {
		n.truncate(end)
	}
	return fuse.OK
}

func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }
func (s *server) Release(<-chan struct{}, *fuse.ReleaseIn)         {}
func (s *server) ReleaseDir(*fuse.ReleaseIn)                       {}
func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status {
	return fuse.OK
}

func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return s.Open(nil, in, out)
}

// ReadDir takes the place in the sorted names as the offset. Names that come or go while
// somebody lists shift it; a broker lists its directory when nobody else is there.
func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if !s.enter() {
		return fuse.EIO
	}
	defer s.mu.Unlock()
	dir := s.nodes[in.NodeId]
	if dir == nil {
		return fuse.ENOENT
	}
	list := []fuse.DirEntry{{Name: ".", Ino: dir.id, Mode: dir.mode}, {Name: "..", Ino: dir.id, Mode: dir.mode}}
	for _, name := range slices.Sorted(maps.Keys(dir.names)) {
		n := dir.names[name]
		list = append(list, fuse.DirEntry{Name: name, Ino: n.id, Mode: n.mode})
	}
	for i := int(in.Offset); i < len(list); i++ {
		list[i].Off = uint64(i + 1)
		if !out.AddDirEntry(list[i]) {
			break
		}
	}
	return fuse.OK
}

func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	blocks := uint64(s.options.Bytes / blockBytes)
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 20, Ffree: 1 << 20, Bsize: blockBytes, Frsize: blockBytes, NameLen: 255}
	return fuse.OK
}
