package fault

import (
	"io"
	"io/fs"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/ring"
)

// Host is a ring.Host whose verbs fail by rule.
type Host struct {
	ring.Host
	rules *Rules
}

var _ ring.Host = (*Host)(nil)

// WrapHost wraps h. Rules are those of one machine: do not share them between two.
func WrapHost(h ring.Host, rules *Rules) *Host { return &Host{h, rules} }

// sleep is the delay of a verb, if it has one.
func (r *Rules) sleep(d time.Duration) {
	switch {
	case d == 0:
	case r.Sleep != nil:
		r.Sleep(d)
	default:
		time.Sleep(d)
	}
}

// before is asked by a verb that either fails or is done. A lie is: not done, no error.
func (h *Host) before(v verb, size int64, path, other string) (skip bool, err error) {
	e, fires := h.rules.decide(v, size, path, other)
	if !fires {
		return false, nil
	}
	return h.apply(e, v, path)
}

func (h *Host) beforeFD(v verb, size int64, fd ring.FD) (skip bool, err error) {
	e, path, fires := h.rules.decideFD(v, size, fd)
	if !fires {
		return false, nil
	}
	return h.apply(e, v, path)
}

func (h *Host) apply(e effect, v verb, path string) (skip bool, err error) {
	h.rules.sleep(e.delay)
	if e.errno != 0 {
		return true, failed(v, path, e.errno)
	}
	return e.lie, nil
}

func failed(v verb, path string, err error) error {
	return &fs.PathError{Op: strings.ToLower(verbNames[v]), Path: path, Err: err}
}

// Open opens a file.
func (h *Host) Open(path string, mode ring.OpenMode) (ring.FD, error) {
	if _, err := h.before(vOpen, 0, path, ""); err != nil {
		return ring.NoFD, err
	}
	if m := mode &^ ring.Direct; m == ring.Create || m == ring.CreateNew {
		if _, err := h.before(vCreate, 0, path, ""); err != nil {
			return ring.NoFD, err
		}
	}
	fd, err := h.Host.Open(path, mode)
	if err == nil {
		h.rules.opened(fd, path)
	}
	return fd, err
}

// Lock takes the lock of a file.
func (h *Host) Lock(path string) (ring.FD, error) {
	if _, err := h.before(vLock, 0, path, ""); err != nil {
		return ring.NoFD, err
	}
	fd, err := h.Host.Lock(path)
	if err == nil {
		h.rules.opened(fd, path)
	}
	return fd, err
}

// Close closes a file or socket. One that fails by rule stays open.
func (h *Host) Close(fd ring.FD) error {
	if _, err := h.beforeFD(vClose, 0, fd); err != nil {
		return err
	}
	h.rules.closed(fd)
	return h.Host.Close(fd)
}

// ReadAt reads; one that is short by rule ends with io.ErrUnexpectedEOF.
func (h *Host) ReadAt(fd ring.FD, p []byte, off int64) (int, error) {
	e, path, fires := h.rules.decideFD(vRead, int64(len(p)), fd)
	if !fires {
		return h.Host.ReadAt(fd, p, off)
	}
	if _, err := h.apply(e, vRead, path); err != nil {
		return 0, err
	}
	if e.short < 0 || e.short >= int64(len(p)) {
		return h.Host.ReadAt(fd, p, off)
	}
	n, err := h.Host.ReadAt(fd, p[:e.short], off)
	if err == nil {
		err = failed(vRead, path, io.ErrUnexpectedEOF)
	}
	return n, err
}

// WriteAt writes; one that is short by rule ends with io.ErrShortWrite.
func (h *Host) WriteAt(fd ring.FD, p []byte, off int64) (int, error) {
	e, path, fires := h.rules.decideFD(vWrite, int64(len(p)), fd)
	if !fires {
		return h.Host.WriteAt(fd, p, off)
	}
	switch skip, err := h.apply(e, vWrite, path); {
	case err != nil:
		return 0, err
	case skip:
		return len(p), nil
	}
	part, why := p, error(nil)
	switch {
	case e.torn != -1:
		part, why = p[:e.tornBytes(int64(len(p)))], failed(vWrite, path, syscall.EIO)
	case e.short >= 0 && e.short < int64(len(p)):
		part, why = p[:e.short], failed(vWrite, path, io.ErrShortWrite)
	}
	n, err := h.Host.WriteAt(fd, part, off)
	if err != nil {
		return n, err
	}
	return n, why
}

// Sync makes a file durable.
func (h *Host) Sync(fd ring.FD) error {
	if skip, err := h.beforeFD(vSync, 0, fd); skip {
		return err
	}
	return h.Host.Sync(fd)
}

// Truncate sets a file's size.
func (h *Host) Truncate(fd ring.FD, size int64) error {
	if _, err := h.beforeFD(vTruncate, 0, fd); err != nil {
		return err
	}
	return h.Host.Truncate(fd, size)
}

// Allocate reserves space.
func (h *Host) Allocate(fd ring.FD, off, n int64) error {
	if _, err := h.beforeFD(vAllocate, n, fd); err != nil {
		return err
	}
	return h.Host.Allocate(fd, off, n)
}

// Size is a file's size.
func (h *Host) Size(fd ring.FD) (int64, error) {
	if _, err := h.beforeFD(vSize, 0, fd); err != nil {
		return 0, err
	}
	return h.Host.Size(fd)
}

// Stat describes what path names.
func (h *Host) Stat(path string) (ring.FileInfo, error) {
	if _, err := h.before(vStat, 0, path, ""); err != nil {
		return ring.FileInfo{}, err
	}
	return h.Host.Stat(path)
}

// ReadDir lists a directory.
func (h *Host) ReadDir(path string) ([]ring.FileInfo, error) {
	if _, err := h.before(vReadDir, 0, path, ""); err != nil {
		return nil, err
	}
	return h.Host.ReadDir(path)
}

// MkdirAll makes a directory and those above it.
func (h *Host) MkdirAll(path string) error {
	if _, err := h.before(vMkdirAll, 0, path, ""); err != nil {
		return err
	}
	return h.Host.MkdirAll(path)
}

// Rename moves a file. A rule's path may be either of the two.
func (h *Host) Rename(from, to string) error {
	if _, err := h.before(vRename, 0, from, to); err != nil {
		return err
	}
	err := h.Host.Rename(from, to)
	if err == nil {
		h.rules.renamed(from, to)
	}
	return err
}

// Remove removes a file or an empty directory.
func (h *Host) Remove(path string) error {
	if _, err := h.before(vRemove, 0, path, ""); err != nil {
		return err
	}
	return h.Host.Remove(path)
}

// SyncDir makes the names of a directory durable.
func (h *Host) SyncDir(path string) error {
	if skip, err := h.before(vSyncDir, 0, path, ""); skip {
		return err
	}
	return h.Host.SyncDir(path)
}

// Map maps a file.
func (h *Host) Map(fd ring.FD, n int64) ([]byte, error) {
	if _, err := h.beforeFD(vMap, n, fd); err != nil {
		return nil, err
	}
	return h.Host.Map(fd, n)
}

// Free is the space left.
func (h *Host) Free(path string) (int64, error) {
	if _, err := h.before(vFree, 0, path, ""); err != nil {
		return 0, err
	}
	return h.Host.Free(path)
}

// Listen opens a listener. Its path is its address.
func (h *Host) Listen(addr string, exclusive bool) (ring.FD, netip.AddrPort, error) {
	if _, err := h.before(vListen, 0, addr, ""); err != nil {
		return ring.NoFD, netip.AddrPort{}, err
	}
	return h.Host.Listen(addr, exclusive)
}

// Socket makes a socket. Its path is the address that it will connect to.
func (h *Host) Socket(addr netip.AddrPort) (ring.FD, error) {
	if h.rules.some.Load() {
		if _, err := h.before(vSocket, 0, addr.String(), ""); err != nil {
			return ring.NoFD, err
		}
	}
	return h.Host.Socket(addr)
}
