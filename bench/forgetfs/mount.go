package forgetfs

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Device is what a mount needs.
const Device = "/dev/fuse"

// Available says why a Disk cannot be mounted here; nil when it can.
func Available() error {
	fd, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", Device, err)
	}
	return unix.Close(fd)
}

// Mount is a Disk at a directory.
type Mount struct {
	dir    string
	server *fuse.Server
}

// writeMax is the largest write that arrives in one piece, bytes.
const writeMax = 1 << 20

// Mount shows the disk at dir, an empty directory, until Unmount. One mount at a
// time. The process that mounts must not itself touch memory mapped from there: Go
// stops the world to wait for such a page, and the page waits for Go.
func (d *Disk) Mount(dir string) (*Mount, error) {
	s := &server{RawFileSystem: fuse.NewDefaultRawFileSystem(), Disk: d, gone: d.Dark()}
	fs, err := fuse.NewServer(s, dir, &fuse.MountOptions{
		FsName: "forgetfs", Name: "forgetfs",
		MaxWrite:                 writeMax,
		MaxBackground:            64,
		DirectMount:              true,
		ExplicitDataCacheControl: true, // nobody changes files behind the kernel's back
		DisableReadDirPlus:       true,
		DisableXAttrs:            true,
		DisabledCapabilities:     fuse.CAP_WRITEBACK_CACHE,
		Logger:                   log.New(io.Discard, "", 0),
	})
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	keepFromChildren()
	go fs.Serve()
	m := &Mount{dir: dir, server: fs}
	if err := fs.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", dir, err), m.Unmount())
	}
	return m, nil
}

// keepFromChildren closes the device on exec: a broker that held it would keep the
// mount alive, with nobody to answer it, when this process is gone.
func keepFromChildren() {
	entries, _ := os.ReadDir("/proc/self/fd") // where it is missing nothing can be done
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && to == Device {
			fd := 0
			if _, err := fmt.Sscan(e.Name(), &fd); err == nil {
				unix.CloseOnExec(fd)
			}
		}
	}
}

// Unmount takes the mount away, also while somebody has files open there: they get
// errors. It may be called twice.
func (m *Mount) Unmount() error {
	if m.server == nil {
		return nil
	}
	err := m.server.Unmount()
	if err != nil {
		err = errors.Join(err, unix.Unmount(m.dir, unix.MNT_DETACH|unix.MNT_FORCE))
		if !mounted(m.dir) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	m.server = nil
	return nil
}

func mounted(dir string) bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	return err != nil || strings.Contains(string(text), " "+dir+" ")
}
