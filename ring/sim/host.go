package sim

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/netip"
	"strings"
	"syscall"
	"unsafe"

	"github.com/millrace/millrace/ring"
)

// Host is one simulated machine with one disk and one address. It implements
// ring.Host; its verbs take no virtual time.
type Host struct {
	world *World
	id    int
	name  string
	addr  netip.Addr
	skew  int64 // of the wall clock, ms

	down      bool
	powerless bool  // down, and nothing answers at its address
	ios       []*IO // of this life
	pools     []*ring.Pool

	fds       []*descriptor // fds[0] is descriptor firstFD
	listeners []*listener
	maps      []mapping
	lastPort  uint16

	root        *file
	files       int          // how many have been made: their ids
	pending     []nameChange // not durable yet
	changes     uint64       // of files' content: see change.seq
	completions uint64       // see change.done
	capacity    int64
	used        int64

	diskEvents int
	crashAt    int // the disk event that crashes; 0: none
	crashMode  Crash
}

var _ ring.Host = (*Host)(nil)

const (
	firstFD        = 3
	ephemeralPorts = 32768 // the first port that is given to who asks for none
)

// NewHost adds a machine with an empty disk. Names and addresses are unique.
func (w *World) NewHost(name string, ip netip.Addr) *Host {
	for _, h := range w.hosts {
		if h.name == name || h.addr == ip {
			panic(fmt.Sprintf("BUG: sim: host %s at %s exists, asked for %s at %s", h.name, h.addr, name, ip))
		}
	}
	h := &Host{
		world:    w,
		id:       len(w.hosts),
		name:     name,
		addr:     ip,
		root:     newDir(0),
		capacity: math.MaxInt64 / 2,
		lastPort: ephemeralPorts,
	}
	if skew := w.Config.ClockSkew.Milliseconds(); skew > 0 {
		h.skew = w.random.below(2*skew+1) - skew
	}
	w.hosts = append(w.hosts, h)
	return h
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Addr is the host's address.
func (h *Host) Addr() netip.Addr { return h.addr }

// SetFree sets how much space is left on the disk, bytes.
func (h *Host) SetFree(bytes int64) { h.capacity = h.used + bytes }

// FailedSync has the page cache treat a file as kernels do after a sync of it that failed: what was not on the
// disk is in memory only, is called clean, and no later sync writes it. (Make the sync itself fail by a rule of ring/fault.)
func (h *Host) FailedSync(path string) {
	if _, _, f, errno := h.lookup(path); errno == 0 && f != nil {
		f.forget()
	}
}

// OpenFiles lists the descriptors that are open, by number, for a test to find leaks.
func (h *Host) OpenFiles() []string {
	var list []string
	for i, d := range h.fds {
		if d != nil {
			list = append(list, fmt.Sprintf("%d: %s", i+firstFD, d.name()))
		}
	}
	return list
}

// descriptor is an open file, listener or socket.
type descriptor struct {
	host     *Host
	closed   bool
	path     string // of a file or listener
	mode     ring.OpenMode
	file     *file
	listener *listener
	socket   bool
	end      *endpoint // of a connected socket
	connect  *flight   // of a socket that is being connected
}

func (d *descriptor) name() string {
	switch {
	case d.file != nil:
		return "file " + d.path
	case d.listener != nil:
		return "listener " + d.listener.addr.String()
	case d.end != nil:
		return fmt.Sprintf("socket %s to %s", d.end.local, d.end.remote)
	}
	return "socket"
}

func (h *Host) install(d *descriptor) ring.FD {
	d.host = h
	for i, old := range h.fds {
		if old == nil {
			h.fds[i] = d
			return ring.FD(i + firstFD)
		}
	}
	h.fds = append(h.fds, d)
	return ring.FD(len(h.fds) - 1 + firstFD)
}

// descriptor is nil for an fd that is not open.
func (h *Host) descriptor(fd ring.FD) *descriptor {
	if i := int(fd) - firstFD; i >= 0 && i < len(h.fds) {
		return h.fds[i]
	}
	return nil
}

// openFile is the descriptor of a file, for the blocking verbs.
func (h *Host) openFile(verb string, fd ring.FD) (*descriptor, error) {
	if h.down {
		return nil, fmt.Errorf("%s fd %d: %w", verb, fd, ErrCrashed)
	}
	d := h.descriptor(fd)
	if d == nil {
		return nil, fmt.Errorf("%s fd %d: %w", verb, fd, syscall.EBADF)
	}
	if d.file == nil {
		return nil, fmt.Errorf("%s fd %d (%s): %w", verb, fd, d.name(), syscall.EINVAL)
	}
	return d, nil
}

func failed(verb, path string, err error) error {
	return &fs.PathError{Op: verb, Path: path, Err: err}
}

// reclaim gives back the space of a file that nothing leads to.
func (h *Host) reclaim(f *file) {
	if !f.dir && f.links == 0 && f.opens == 0 {
		h.used -= f.used
		f.used, f.blocks = 0, nil
	}
}

// Open opens a file. See ring.Host.
func (h *Host) Open(path string, mode ring.OpenMode) (ring.FD, error) {
	f, err := h.open("open", path, mode)
	if err != nil {
		return ring.NoFD, err
	}
	f.opens++
	return h.install(&descriptor{path: path, mode: mode, file: f}), nil
}

func (h *Host) open(verb, path string, mode ring.OpenMode) (*file, error) {
	if h.down {
		return nil, failed(verb, path, ErrCrashed)
	}
	dir, name, f, errno := h.lookup(path)
	want := mode &^ ring.Direct
	switch {
	case errno != 0:
		return nil, failed(verb, path, errno)
	case f != nil && want == ring.CreateNew:
		return nil, failed(verb, path, syscall.EEXIST)
	case f != nil && f.dir:
		return nil, failed(verb, path, syscall.EISDIR)
	case f != nil:
		return f, nil
	case want != ring.Create && want != ring.CreateNew:
		return nil, failed(verb, path, syscall.ENOENT)
	}
	if !h.diskEvent("create", dir.id, 0, 0, checksum([]byte(name))) {
		return nil, failed(verb, path, ErrCrashed)
	}
	h.files++
	f = newFile(h.files)
	h.changeName(nameChange{toDir: dir, to: name, file: f})
	return f, nil
}

// Close closes a file or socket. See ring.Host.
func (h *Host) Close(fd ring.FD) error {
	if h.down {
		return fmt.Errorf("close fd %d: %w", fd, ErrCrashed)
	}
	if errno := h.closeFD(fd); errno != 0 {
		return fmt.Errorf("close fd %d: %w", fd, errno)
	}
	return nil
}

func (h *Host) closeFD(fd ring.FD) syscall.Errno {
	d := h.descriptor(fd)
	if d == nil {
		return syscall.EBADF
	}
	h.fds[int(fd)-firstFD] = nil
	d.closed = true
	switch {
	case d.file != nil:
		if d.file.lock == d {
			d.file.lock = nil
		}
		d.file.opens--
		h.reclaim(d.file)
	case d.listener != nil:
		d.listener.close()
	case d.end != nil:
		d.end.close()
	case d.connect != nil:
		d.connect.io.Cancel(d.connect.op)
	}
	return 0
}

// ReadAt reads from a file. See ring.Host.
func (h *Host) ReadAt(fd ring.FD, p []byte, off int64) (int, error) {
	d, err := h.openFile("read", fd)
	if err != nil {
		return 0, err
	}
	if errno := d.check(ring.Read, off, p); errno != 0 {
		return 0, failed("read", d.path, errno)
	}
	n := d.file.read(off, p)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes to a file. See ring.Host.
func (h *Host) WriteAt(fd ring.FD, p []byte, off int64) (int, error) {
	d, err := h.openFile("write", fd)
	if err != nil {
		return 0, err
	}
	if errno := d.check(ring.Write, off, p); errno != 0 {
		return 0, failed("write", d.path, errno)
	}
	if !h.diskEvent("write", d.file.id, off, int64(len(p)), checksum(p)) {
		return 0, failed("write", d.path, ErrCrashed)
	}
	c := h.newChange()
	n := h.write(d.file, c, off, p)
	h.complete(c)
	if n < len(p) {
		return n, failed("write", d.path, syscall.ENOSPC)
	}
	return n, nil
}

// write writes as much of p as there is space for.
func (h *Host) write(f *file, c *change, off int64, p []byte) int {
	end, took := f.take(off, int64(len(p)), h.capacity-h.used)
	h.used += took
	p = p[:end-off]
	f.write(c, off, p)
	return len(p)
}

func (h *Host) newChange() *change {
	h.changes++
	return &change{seq: h.changes}
}

// complete notes that a change has completed: a later Sync covers it.
func (h *Host) complete(c *change) {
	if c != nil && c.done == 0 {
		h.completions++
		c.done = h.completions
	}
}

// check is what the kernel checks of a file operation.
func (d *descriptor) check(code ring.Code, off int64, p []byte) syscall.Errno {
	switch {
	case off < 0:
		return syscall.EINVAL
	case code == ring.Write && d.mode&^ring.Direct == ring.ReadOnly:
		return syscall.EBADF
	case off+int64(len(p)) > fileMax:
		return syscall.EFBIG
	}
	if d.mode&ring.Direct != 0 && (off|int64(len(p))|int64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))))%sectorBytes != 0 {
		return syscall.EINVAL
	}
	return 0
}

// Sync makes durable what has completed. See ring.Host.
func (h *Host) Sync(fd ring.FD) error {
	d, err := h.openFile("sync", fd)
	if err != nil {
		return err
	}
	if !h.diskEvent("sync", d.file.id, 0, 0, 0) {
		return failed("sync", d.path, ErrCrashed)
	}
	d.file.syncFile(h.completions)
	return nil
}

// Truncate sets a file's size. See ring.Host.
func (h *Host) Truncate(fd ring.FD, size int64) error {
	d, err := h.openFile("truncate", fd)
	if err != nil {
		return err
	}
	if size < 0 || size > fileMax || d.mode&^ring.Direct == ring.ReadOnly {
		return failed("truncate", d.path, syscall.EINVAL)
	}
	if !h.diskEvent("truncate", d.file.id, size, 0, 0) {
		return failed("truncate", d.path, ErrCrashed)
	}
	c := h.newChange()
	h.truncate(d.file, c, size)
	h.complete(c)
	return nil
}

func (h *Host) truncate(f *file, c *change, size int64) {
	before := f.used
	f.truncate(c, size)
	h.used += f.used - before
}

// Allocate takes space on the disk. See ring.Host.
func (h *Host) Allocate(fd ring.FD, off, n int64) error {
	d, err := h.openFile("allocate", fd)
	if err != nil {
		return err
	}
	if off < 0 || n <= 0 || off+n > fileMax || d.mode&^ring.Direct == ring.ReadOnly {
		return failed("allocate", d.path, syscall.EINVAL)
	}
	if !h.diskEvent("allocate", d.file.id, off, n, 0) {
		return failed("allocate", d.path, ErrCrashed)
	}
	if !h.allocate(d.file, off, n) {
		return failed("allocate", d.path, syscall.ENOSPC)
	}
	return nil
}

// allocate takes the space or, when there is not enough, as much as there is.
func (h *Host) allocate(f *file, off, n int64) bool {
	end, took := f.take(off, n, h.capacity-h.used)
	h.used += took
	return end == off+n
}

// Size is a file's size. See ring.Host.
func (h *Host) Size(fd ring.FD) (int64, error) {
	d, err := h.openFile("size", fd)
	if err != nil {
		return 0, err
	}
	return d.file.size, nil
}

// Stat describes what path names. See ring.Host.
func (h *Host) Stat(path string) (ring.FileInfo, error) {
	_, name, f, err := h.find("stat", path)
	if err != nil {
		return ring.FileInfo{}, err
	}
	return ring.FileInfo{Name: name, Size: f.size, Dir: f.dir}, nil
}

// find is lookup for a verb that needs the file.
func (h *Host) find(verb, path string) (dir *file, name string, f *file, err error) {
	if h.down {
		return nil, "", nil, failed(verb, path, ErrCrashed)
	}
	dir, name, f, errno := h.lookup(path)
	if errno == 0 && f == nil {
		errno = syscall.ENOENT
	}
	if errno != 0 {
		return nil, "", nil, failed(verb, path, errno)
	}
	return dir, name, f, nil
}

// ReadDir lists a directory. See ring.Host.
func (h *Host) ReadDir(path string) ([]ring.FileInfo, error) {
	_, _, dir, err := h.find("readdir", path)
	if err != nil {
		return nil, err
	}
	if !dir.dir {
		return nil, failed("readdir", path, syscall.ENOTDIR)
	}
	list := make([]ring.FileInfo, 0, len(dir.names))
	for _, name := range sortedNames(dir.names) {
		f := dir.names[name]
		list = append(list, ring.FileInfo{Name: name, Size: f.size, Dir: f.dir})
	}
	return list, nil
}

// MkdirAll makes a directory and those above it. See ring.Host.
func (h *Host) MkdirAll(path string) error {
	if h.down {
		return failed("mkdir", path, ErrCrashed)
	}
	dir := h.root
	for _, name := range split(path) {
		next := dir.names[name]
		if next == nil {
			if !h.diskEvent("mkdir", dir.id, 0, 0, checksum([]byte(name))) {
				return failed("mkdir", path, ErrCrashed)
			}
			h.files++
			next = newDir(h.files)
			h.changeName(nameChange{toDir: dir, to: name, file: next})
		}
		if !next.dir {
			return failed("mkdir", path, syscall.ENOTDIR)
		}
		dir = next
	}
	return nil
}

// Rename moves a file or directory, replacing what is there. See ring.Host.
func (h *Host) Rename(from, to string) error {
	fromDir, fromName, f, err := h.find("rename", from)
	if err != nil {
		return err
	}
	toDir, toName, old, errno := h.lookup(to)
	switch {
	case errno != 0:
	case f == old:
		return nil
	case f == h.root || old == h.root || f.dir && strings.HasPrefix(strings.Join(split(to), "/")+"/", strings.Join(split(from), "/")+"/"):
		errno = syscall.EINVAL
	case old == nil:
	case old.dir && !f.dir:
		errno = syscall.EISDIR
	case !old.dir && f.dir:
		errno = syscall.ENOTDIR
	case len(old.names) > 0:
		errno = syscall.ENOTEMPTY
	}
	if errno != 0 {
		return failed("rename", from+" to "+to, errno)
	}
	if !h.diskEvent("rename", f.id, int64(fromDir.id), int64(toDir.id), checksum([]byte(toName))) {
		return failed("rename", from, ErrCrashed)
	}
	h.changeName(nameChange{fromDir: fromDir, from: fromName, toDir: toDir, to: toName, file: f})
	return nil
}

// Remove removes a file or an empty directory. See ring.Host.
func (h *Host) Remove(path string) error {
	dir, name, f, err := h.find("remove", path)
	if err != nil {
		return err
	}
	if f == h.root {
		return failed("remove", path, syscall.EBUSY)
	}
	if len(f.names) > 0 {
		return failed("remove", path, syscall.ENOTEMPTY)
	}
	if !h.diskEvent("remove", f.id, 0, 0, 0) {
		return failed("remove", path, ErrCrashed)
	}
	h.changeName(nameChange{fromDir: dir, from: name, file: f})
	return nil
}

// SyncDir makes the names of a directory durable. See ring.Host.
func (h *Host) SyncDir(path string) error {
	_, _, dir, err := h.find("syncdir", path)
	if err != nil {
		return err
	}
	if !dir.dir {
		return failed("syncdir", path, syscall.ENOTDIR)
	}
	if !h.diskEvent("syncdir", dir.id, 0, 0, 0) {
		return failed("syncdir", path, ErrCrashed)
	}
	h.settleNames(func(i int) bool { return h.pending[i].in(dir) })
	return nil
}

// Lock takes the lock of a file. See ring.Host.
func (h *Host) Lock(path string) (ring.FD, error) {
	f, err := h.open("lock", path, ring.Create)
	if err != nil {
		return ring.NoFD, err
	}
	if f.lock != nil {
		return ring.NoFD, failed("lock", path, ring.ErrLocked)
	}
	d := &descriptor{path: path, mode: ring.ReadWrite, file: f}
	f.lock = d
	f.opens++
	return h.install(d), nil
}

// Map maps a file. What is mapped of a file cannot grow while it is mapped. See ring.Host.
func (h *Host) Map(fd ring.FD, n int64) ([]byte, error) {
	d, err := h.openFile("map", fd)
	if err != nil {
		return nil, err
	}
	if n <= 0 || n > d.file.size {
		return nil, failed("map", d.path, fmt.Errorf("%d bytes of %d: %w", n, d.file.size, syscall.EINVAL))
	}
	b := d.file.mapping(n)
	if b == nil {
		return nil, failed("map", d.path, fmt.Errorf("%d bytes while less is mapped: %w", n, syscall.ENOMEM))
	}
	h.maps = append(h.maps, mapping{unsafe.SliceData(b), d.file})
	return b, nil
}

// mapping is one Map that has not been unmapped.
type mapping struct {
	at   *byte
	file *file
}

// Unmap ends a Map. See ring.Host.
func (h *Host) Unmap(b []byte) error {
	if h.down {
		return fmt.Errorf("unmap: %w", ErrCrashed)
	}
	for i, m := range h.maps {
		if m.at == unsafe.SliceData(b) {
			m.file.mapped--
			h.maps = append(h.maps[:i], h.maps[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("unmap of %d bytes that are not mapped: %w", len(b), syscall.EINVAL)
}

// Free is the space left. See ring.Host.
func (h *Host) Free(path string) (int64, error) {
	if _, _, _, err := h.find("free", path); err != nil {
		return 0, err
	}
	return max(0, h.capacity-h.used), nil
}

// Monotonic is the world's clock, ns.
func (h *Host) Monotonic() int64 { return h.world.now }

// WallMillis is this host's wall clock, ms since 1970.
func (h *Host) WallMillis() int64 { return epochMillis + h.skew + h.world.now/1e6 }

// Random is from the seed.
func (h *Host) Random() uint64 { return h.world.random.next() }
