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

// mincoreStep is how much one mincore(2) asks about at most, bytes. What it costs is the mapping: 1 MiB takes little longer than 128 KiB.
const mincoreStep = 1 << 20

// Resident says whether all of [off, off+n) of a file is in the page cache, read and
// done with, or behind its end, so that moving it need not wait for the disk.
// cachestat(2) (Linux 6.5) is asked first, which is cheap and says no to what is cold; a
// page that is being read counts there, and not with mincore(2), which therefore has
// the last word (1.5 µs and 9 µs for 128 KiB). Pages may still be evicted
// before they are used. False where the kernel cannot tell.
func Resident(fd ring.FD, off, n int64) bool {
	n, ok := present(fd, off, n)
	for end := off + n; ok && off < end; {
		step := min(mincoreStep-off%pageSize, end-off)
		ok = read(fd, off, step) == step
		off += step
	}
	return ok
}

// Known remembers for a while what Resident's last word was about, for a range that goes out piece by piece: mincore(2) is asked once
// for many pieces, and cachestat(2), which sees what was evicted meanwhile, for each. The zero value knows nothing.
type Known struct {
	ranges [8]knownRange
	next   int
}

type knownRange struct {
	fd       ring.FD
	from, to int64
	until    int64 // monotonic ns
}

// knownFor is how long it is remembered, ns. What is evicted and asked for again within that time, by the kernel's read-ahead or under the same
// descriptor by another file, is waited for.
const knownFor = 10e6

// Resident is Resident of [off, off+n); of what follows, as far as off+all, it learns too, at most 1 MiB.
func (k *Known) Resident(fd ring.FD, off, n, all, now int64) bool {
	n, ok := present(fd, off, n)
	if !ok || n <= 0 {
		return ok
	}
	for i := range k.ranges {
		if r := &k.ranges[i]; r.fd == fd && r.from <= off && off+n <= r.to && now < r.until {
			return true
		}
	}
	m := read(fd, off, min(mincoreStep-off%pageSize, max(n, all)))
	if m > n {
		k.ranges[k.next%len(k.ranges)] = knownRange{fd, off, off + m, now + knownFor}
		k.next++
	}
	return m >= n
}

// present says whether all of [off, off+n) is in the page cache, read or not, and how much of it there is before the end of the file.
func present(fd ring.FD, off, n int64) (int64, bool) {
	if missing(fd, off, n) == 0 {
		return n, true
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil || st.Size >= off+n {
		return n, false
	}
	n = st.Size - off
	return n, missing(fd, off, n) == 0
}

// Missing is how many bytes of [off, off+n) are not in the page cache, nor on the way
// there: whole pages, n at most; n where the kernel cannot tell.
func Missing(fd ring.FD, off, n int64) int64 { return min(missing(fd, off, n)*pageSize, n) }

// missing is the same in pages.
func missing(fd ring.FD, off, n int64) int64 {
	if n <= 0 {
		return 0
	}
	span := unix.CachestatRange{Off: uint64(off), Len: uint64(n)}
	var stat unix.Cachestat_t
	pages := (off+n-1)/pageSize - off/pageSize + 1
	if err := unix.Cachestat(uint(fd), &span, &stat, 0); err != nil {
		return pages
	}
	return max(pages-int64(stat.Cache), 0)
}

// read says how far from off all pages of [off, off+n) have been read, n at most mincoreStep, less what off has of its page. It
// maps them and touches none. The mapping does not outlast the call: one that is
// kept would keep the blocks of a removed file.
func read(fd ring.FD, off, n int64) int64 {
	first := off / pageSize * pageSize
	length := uintptr(off + n - first)
	at, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, length, unix.PROT_READ, unix.MAP_SHARED, uintptr(fd), uintptr(first))
	if errno != 0 {
		return 0
	}
	var pages [mincoreStep/4096 + 1]byte
	_, _, errno = unix.Syscall(unix.SYS_MINCORE, at, length, uintptr(unsafe.Pointer(&pages)))
	unix.Syscall(unix.SYS_MUNMAP, at, length, 0)
	if errno != 0 {
		return 0
	}
	for i, page := range pages[:(int64(length)+pageSize-1)/pageSize] {
		if page&1 == 0 {
			return max(first+int64(i)*pageSize-off, 0)
		}
	}
	return n
}

// NoReadahead is posix_fadvise(2) with POSIX_FADV_RANDOM, which sets a flag of the open file and
// nothing more: 0 or an errno.
func NoReadahead(fd ring.FD) int32 {
	if err := unix.Fadvise(int(fd), 0, 0, unix.FADV_RANDOM); err != nil {
		return -int32(err.(unix.Errno))
	}
	return 0
}

// Advise is posix_fadvise(2) of [off, off+n), n above 0: 0 or an errno.
func Advise(fd ring.FD, off, n int64, advice int) int32 {
	if n <= 0 { // 0 would be "to the end"
		return 0
	}
	for {
		switch err := unix.Fadvise(int(fd), off, n, advice); err {
		case nil:
			return 0
		case unix.EINTR:
		default:
			return -int32(err.(unix.Errno))
		}
	}
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
