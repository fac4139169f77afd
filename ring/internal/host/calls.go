package host

import (
	"encoding/binary"
	"net/netip"
	"os"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// What backends on a real kernel share. None of it allocates.

var pageSize = int64(os.Getpagesize())

// SendFileMax is the most that one inline SendFile moves, bytes: the call keeps
// its thread, and so every other connection of the core, for as long as the copy
// takes.
const SendFileMax = 128 << 10

// Resident says whether all of [off, off+n) of a file is in the page cache
// (cachestat(2), Linux 6.5), or behind its end, so that moving it need not wait
// for the disk. It is a hint: pages may be evicted before they are used, and a
// page counts as soon as its read has been started. False where the kernel
// cannot tell.
func Resident(fd ring.FD, off, n int64) bool {
	if cached(fd, off, n) {
		return true
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil || st.Size >= off+n {
		return false
	}
	return cached(fd, off, st.Size-off)
}

func cached(fd ring.FD, off, n int64) bool {
	if n <= 0 {
		return true
	}
	span := unix.CachestatRange{Off: uint64(off), Len: uint64(n)}
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &span, &stat, 0); err != nil {
		return false
	}
	pages := (off+n-1)/pageSize - off/pageSize + 1
	return stat.Cache >= uint64(pages)
}

// SendFile moves up to n bytes of the file from, at off, to the socket to. It
// goes on until all is moved, the file ends or the socket is full. It returns
// what was moved; 0 is the end of the file; -EAGAIN or another negative errno
// only when nothing was moved.
func SendFile(to, from ring.FD, off int64, n int) int32 {
	done := 0
	for done < n {
		moved, err := unix.Sendfile(int(to), int(from), &off, n-done)
		if err == unix.EINTR {
			continue
		}
		if err != nil && done == 0 {
			return -int32(err.(unix.Errno))
		}
		if err != nil || moved <= 0 {
			break
		}
		done += moved
	}
	return int32(done)
}

// Allocate is fallocate(2) that keeps the size. A file system that cannot is
// no error: the space is then simply not reserved.
func Allocate(fd ring.FD, off, n int64) error {
	err := unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return nil
	}
	return err
}

// NoDelay sets TCP_NODELAY on an accepted socket; 0 or an errno.
func NoDelay(fd ring.FD) unix.Errno {
	if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err.(unix.Errno)
	}
	return 0
}

// PutSockaddr writes addr to dst as connect(2) takes it, and returns its length
// in bytes. An IPv4 address uses the first 16 of dst.
func PutSockaddr(dst *unix.RawSockaddrInet6, addr netip.AddrPort) uint32 {
	*dst = unix.RawSockaddrInet6{}
	port := (*[2]byte)(unsafe.Pointer(&dst.Port)) // the same place in both families
	binary.BigEndian.PutUint16(port[:], addr.Port())
	ip := addr.Addr().Unmap()
	if ip.Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(dst))
		v4.Family = unix.AF_INET
		v4.Addr = ip.As4()
		return unix.SizeofSockaddrInet4
	}
	dst.Family = unix.AF_INET6
	dst.Addr = ip.As16()
	dst.Scope_id = zone(ip)
	return unix.SizeofSockaddrInet6
}
