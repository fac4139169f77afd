package ring

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path/filepath"
)

// OpenMode says how Host.Open opens a file.
type OpenMode uint8

const (
	// ReadOnly opens an existing file for reading.
	ReadOnly OpenMode = iota
	// ReadWrite opens an existing file for reading and writing.
	ReadWrite
	// Create opens a file for reading and writing and makes it if need be.
	// Its name is durable only after SyncDir of its directory.
	Create
	// CreateNew is Create, but the file must not exist (fs.ErrExist).
	CreateNew
	// Direct, added to another mode, bypasses the page cache (O_DIRECT).
	Direct OpenMode = 1 << 4
)

// FileInfo describes a directory entry.
type FileInfo struct {
	Name string // the last element of the path
	Size int64
	Dir  bool
}

// Host is the machine: blocking verbs, from any goroutine but a running loop's.
// Errors wrap fs.ErrNotExist, fs.ErrExist, syscall.ENOSPC and so on, and name
// the path. Nothing is durable before Sync (a file's bytes and size) or SyncDir
// (the names in a directory, after create, rename and remove).
type Host interface {
	Open(path string, mode OpenMode) (FD, error)
	Close(fd FD) error
	// ReadAt and WriteAt behave as io.ReaderAt and io.WriterAt.
	ReadAt(fd FD, p []byte, off int64) (int, error)
	WriteAt(fd FD, p []byte, off int64) (int, error)
	// Sync is fdatasync.
	Sync(fd FD) error
	Truncate(fd FD, size int64) error
	// Allocate reserves space without changing the size; a file system that
	// cannot is not an error.
	Allocate(fd FD, off, n int64) error
	Size(fd FD) (int64, error)
	Stat(path string) (FileInfo, error)
	// ReadDir lists a directory, sorted by name.
	ReadDir(path string) ([]FileInfo, error)
	MkdirAll(path string) error
	Rename(from, to string) error
	// Remove deletes a file or an empty directory.
	Remove(path string) error
	SyncDir(path string) error
	// Lock takes an exclusive lock on the file, creating it; it is held until
	// Close. ErrLocked if another process (or another Lock here) holds it.
	Lock(path string) (FD, error)
	// Map maps the file's first n bytes, shared and writable. n > 0; the file
	// is at least that long.
	Map(fd FD, n int64) ([]byte, error)
	Unmap(b []byte) error
	// Free is the space left for data on the file system of path, bytes.
	Free(path string) (int64, error)

	// Listen opens a TCP listener on addr ("127.0.0.1:9092"; port 0 picks one)
	// with SO_REUSEPORT, so that each core has one of its own on the same port.
	// Exclusive makes it fail with EADDRINUSE when anybody, ourselves included,
	// listens there: the first listener of a process asks for that, so that a
	// second broker is refused rather than sharing the port.
	Listen(addr string, exclusive bool) (FD, netip.AddrPort, error)
	// Socket makes a TCP socket fit to Connect to addr.
	Socket(addr netip.AddrPort) (FD, error)
	// Peer is the address at the other end of a connected socket.
	Peer(fd FD) (netip.AddrPort, error)

	// Monotonic is a clock that never goes back, ns. WallMillis is ms since 1970.
	Monotonic() int64
	WallMillis() int64
	Random() uint64
}

// ErrLocked is returned by Host.Lock.
var ErrLocked = errors.New("locked by another process")

// ReadFile reads a whole file through h. The error wraps fs.ErrNotExist where it fits.
func ReadFile(h Host, path string) ([]byte, error) {
	fd, err := h.Open(path, ReadOnly)
	if err != nil {
		return nil, err
	}
	defer h.Close(fd)
	size, err := h.Size(fd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	b := make([]byte, size)
	n, err := h.ReadAt(fd, b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b[:n], nil
}

// WriteFileAtomic replaces path by data: written to path.tmp, synced, renamed,
// the directory synced. After a crash at any point path is the old file or the
// new one, whole; path.tmp may remain and is overwritten by the next call.
func WriteFileAtomic(h Host, path string, data []byte) error {
	tmp := path + ".tmp"
	if err := h.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fd, err := h.Open(tmp, CreateNew)
	if err != nil {
		return err
	}
	if _, err := h.WriteAt(fd, data, 0); err != nil {
		h.Close(fd)
		return fmt.Errorf("%s: %w", tmp, err)
	}
	if err := h.Sync(fd); err != nil {
		h.Close(fd)
		return fmt.Errorf("%s: %w", tmp, err)
	}
	if err := h.Close(fd); err != nil {
		return fmt.Errorf("%s: %w", tmp, err)
	}
	if err := h.Rename(tmp, path); err != nil {
		return err
	}
	if err := h.SyncDir(filepath.Dir(path)); err != nil {
		return &SyncError{err}
	}
	return nil
}

// SyncError marks an error of Sync or SyncDir where others may be tried again: what was to
// be made durable is in doubt, and a sync that works the next time proves nothing.
type SyncError struct{ Err error }

func (e *SyncError) Error() string { return e.Err.Error() }

// Unwrap is the error itself.
func (e *SyncError) Unwrap() error { return e.Err }

// MkdirAll makes a directory and its parents, and their names durable.
func MkdirAll(h Host, path string) error {
	var made []string // the directories that get a new name, from below
	for at := path; ; at = filepath.Dir(at) {
		if _, err := h.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		made = append(made, filepath.Dir(at))
	}
	if err := h.MkdirAll(path); err != nil {
		return err
	}
	for i := len(made) - 1; i >= 0; i-- {
		if err := h.SyncDir(made[i]); err != nil {
			return err
		}
	}
	return nil
}

// RemoveAll removes path and what is below it. What does not exist is no error.
func RemoveAll(h Host, path string) error {
	info, err := h.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeAll(h, path, info.Dir)
}

// removeAll goes by what ReadDir says below the first: a link is removed, not followed.
func removeAll(h Host, path string, dir bool) error {
	if dir {
		entries, err := h.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := removeAll(h, filepath.Join(path, e.Name), e.Dir); err != nil {
				return err
			}
		}
	}
	return h.Remove(path)
}
