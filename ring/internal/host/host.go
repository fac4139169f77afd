// Package host is the real machine: [ring.Host] on Linux system calls, and the
// few calls that the backends on real kernels share (see calls.go).
//
// A Host has no state of its own: everything it knows is in the kernel, so any
// number of goroutines may use it at once. Every verb retries EINTR.
package host

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// filePerm is what Open and Lock create files with, before the umask.
const filePerm = 0o644

// start is where Monotonic counts from: one clock for the whole process, so
// that stamps of different cores compare.
var start = time.Now()

type host struct{}

// New is the machine that this process runs on.
func New() ring.Host { return host{} }

// Monotonic reads CLOCK_MONOTONIC (through the vDSO), counted from the start of
// the process. It is positive.
func (host) Monotonic() int64  { return int64(time.Since(start)) + 1 }
func (host) WallMillis() int64 { return time.Now().UnixMilli() }
func (host) Random() uint64    { return rand.Uint64() }

func (host) Open(path string, mode ring.OpenMode) (ring.FD, error) {
	flags := unix.O_CLOEXEC
	switch mode &^ ring.Direct {
	case ring.ReadOnly:
		flags |= unix.O_RDONLY
	case ring.ReadWrite:
		flags |= unix.O_RDWR
	case ring.Create:
		flags |= unix.O_RDWR | unix.O_CREAT
	case ring.CreateNew:
		flags |= unix.O_RDWR | unix.O_CREAT | unix.O_EXCL
	default:
		panic(fmt.Sprintf("BUG: open %s with mode %#x", path, uint8(mode)))
	}
	if mode&ring.Direct != 0 {
		flags |= unix.O_DIRECT
	}
	return open(path, flags)
}

func open(path string, flags int) (ring.FD, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Open(path, flags, filePerm)
		return err
	})
	if err != nil {
		return ring.NoFD, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return ring.FD(fd), nil
}

// Close does not retry EINTR: Linux has freed the descriptor by then.
func (host) Close(fd ring.FD) error {
	err := unix.Close(int(fd))
	if err != nil && err != unix.EINTR {
		return &fs.PathError{Op: "close", Path: name(fd), Err: err}
	}
	return nil
}

func (host) ReadAt(fd ring.FD, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(int(fd), p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, &fs.PathError{Op: "read", Path: name(fd), Err: err}
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

func (host) WriteAt(fd ring.FD, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(int(fd), p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, &fs.PathError{Op: "write", Path: name(fd), Err: err}
		case n == 0:
			return done, &fs.PathError{Op: "write", Path: name(fd), Err: io.ErrShortWrite}
		default:
			done += n
		}
	}
	return done, nil
}

func (host) Sync(fd ring.FD) error {
	return onFile("sync", fd, again(func() error { return unix.Fdatasync(int(fd)) }))
}

func (host) Truncate(fd ring.FD, size int64) error {
	return onFile("truncate", fd, again(func() error { return unix.Ftruncate(int(fd), size) }))
}

func (host) Allocate(fd ring.FD, off, n int64) error {
	return onFile("allocate", fd, again(func() error { return Allocate(fd, off, n) }))
}

func (host) Size(fd ring.FD) (int64, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstat(int(fd), &st) })
	return st.Size, onFile("stat", fd, err)
}

// Stat follows symbolic links.
func (host) Stat(path string) (ring.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return ring.FileInfo{}, err
	}
	return fileInfo(info), nil
}

// ReadDir does not follow symbolic links: a link to a directory is no Dir.
func (host) ReadDir(path string) ([]ring.FileInfo, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	infos := make([]ring.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if os.IsNotExist(err) { // removed since the directory was read
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, fileInfo(info))
	}
	return infos, nil
}

func fileInfo(info fs.FileInfo) ring.FileInfo {
	return ring.FileInfo{Name: info.Name(), Size: info.Size(), Dir: info.IsDir()}
}

func (host) MkdirAll(path string) error { return os.MkdirAll(path, 0o755) }
func (host) Remove(path string) error   { return os.Remove(path) }

func (host) Rename(from, to string) error {
	err := again(func() error { return unix.Rename(from, to) })
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (h host) SyncDir(path string) error {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	err = again(func() error { return unix.Fsync(int(fd)) })
	if err != nil {
		err = &fs.PathError{Op: "sync", Path: path, Err: err}
	}
	if closed := h.Close(fd); err == nil {
		err = closed
	}
	return err
}

// Lock is flock(2): the kernel drops it when the process ends, however it ends.
func (h host) Lock(path string) (ring.FD, error) {
	fd, err := h.Open(path, ring.Create)
	if err != nil {
		return ring.NoFD, err
	}
	err = again(func() error { return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return fd, nil
	}
	h.Close(fd)
	if err == unix.EWOULDBLOCK {
		err = ring.ErrLocked
	}
	return ring.NoFD, &fs.PathError{Op: "lock", Path: path, Err: err}
}

// Map refuses to map more than the file has: touching what is behind its end
// would kill the process (SIGBUS).
func (h host) Map(fd ring.FD, n int64) ([]byte, error) {
	size, err := h.Size(fd)
	if err != nil {
		return nil, err
	}
	if n <= 0 || n > size {
		return nil, &fs.PathError{Op: "map", Path: name(fd), Err: fmt.Errorf("%d bytes of a file of %d: %w", n, size, unix.EINVAL)}
	}
	b, err := unix.Mmap(int(fd), 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return b, onFile("map", fd, err)
}

func (host) Unmap(b []byte) error {
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("unmap %d bytes: %w", len(b), err)
	}
	return nil
}

func (host) Free(path string) (int64, error) {
	var st unix.Statfs_t
	err := again(func() error { return unix.Statfs(path, &st) })
	if err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * int64(st.Frsize), nil
}

// again repeats a call that a signal interrupted. Go's own signals (SIGURG, to
// preempt goroutines) are frequent enough to matter.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func onFile(op string, fd ring.FD, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name(fd), Err: err}
}

// name is the path behind a descriptor, for errors.
func name(fd ring.FD) string {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
	if err != nil {
		return "fd " + strconv.Itoa(int(fd))
	}
	return path
}
