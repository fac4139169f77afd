package host

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// A second core joins the exclusive listener of the first, and each gets some of
// the connections.
func TestListenExclusiveThenShared(t *testing.T) {
	h := New()
	first, at, err := h.Listen("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(first)
	second, _, err := h.Listen(at.String(), false)
	if err != nil {
		t.Fatal("a listener of our own next to an exclusive one:", err)
	}
	defer h.Close(second)

	if fd, _, err := h.Listen(at.String(), true); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), at.String()) {
		t.Fatalf("a second exclusive listener: fd %d, error %v; want EADDRINUSE that names %s", fd, err, at)
	}

	got := map[ring.FD]int{}
	for range 100 {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		polls := []unix.PollFd{{Fd: int32(first), Events: unix.POLLIN}, {Fd: int32(second), Events: unix.POLLIN}}
		if _, err := unix.Poll(polls, 5000); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		for _, fd := range []ring.FD{first, second} {
			if n, _, err := unix.Accept(int(fd)); err == nil {
				got[fd]++
				unix.Close(n)
			}
		}
	}
	if got[first] == 0 || got[second] == 0 {
		t.Fatalf("of 100 connections the first listener got %d and the second %d", got[first], got[second])
	}
}

func TestListenOnEveryAddress(t *testing.T) {
	h := New()
	fd, at, err := h.Listen(":0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(fd)
	if !at.Addr().IsUnspecified() || at.Port() == 0 {
		t.Fatalf("listening on %s", at)
	}
	c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port()).String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestPutSockaddr(t *testing.T) {
	var raw unix.RawSockaddrInet6
	if n := PutSockaddr(&raw, netip.MustParseAddrPort("127.0.0.1:9092")); n != 16 {
		t.Fatalf("an IPv4 address takes %d bytes", n)
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&raw)), 28)
	if got, want := string(b[:8]), "\x02\x00\x23\x84\x7f\x00\x00\x01"; got != want {
		t.Fatalf("sockaddr_in % x, want % x", got, want)
	}
	if n := PutSockaddr(&raw, netip.MustParseAddrPort("[fe80::1%3]:9092")); n != 28 {
		t.Fatalf("an IPv6 address takes %d bytes", n)
	}
	if raw.Family != unix.AF_INET6 || raw.Scope_id != 3 || raw.Addr[0] != 0xfe || raw.Addr[15] != 1 || string(b[2:4]) != "\x23\x84" {
		t.Fatalf("sockaddr_in6 % x", b)
	}
}

func TestResidentAndSendFileDoNotAllocate(t *testing.T) {
	h := New()
	path := filepath.Join(t.TempDir(), "f")
	fd, err := h.Open(path, ring.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(fd)
	if _, err := h.WriteAt(fd, make([]byte, 10000), 0); err != nil {
		t.Fatal(err)
	}
	var probe unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &unix.CachestatRange{Len: 1}, &probe, 0); err == nil {
		if !Resident(fd, 0, 10000) || !Resident(fd, 5000, 5000) {
			t.Error("bytes that were just written are not resident")
		}
		if !Resident(fd, 5000, 20000) || !Resident(fd, 20000, 1) {
			t.Error("what is behind the end of the file is not resident")
		}
		if Resident(ring.NoFD, 0, 1) {
			t.Error("no file is resident")
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	sink := make([]byte, 16<<10)
	allocs := testing.AllocsPerRun(100, func() {
		Resident(fd, 0, 10000)
		if n := SendFile(ring.FD(pair[0]), fd, 0, 10000); n != 10000 {
			t.Fatalf("sendfile moved %d", n)
		}
		for left := 10000; left > 0; {
			n, err := unix.Read(pair[1], sink)
			if err != nil {
				t.Fatal(err)
			}
			left -= n
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if n := SendFile(ring.FD(pair[0]), fd, 10000, 1); n != 0 {
		t.Errorf("sendfile at the end of the file: %d", n)
	}
	for n := int32(1); n > 0; {
		if n = SendFile(ring.FD(pair[0]), fd, 0, 10000); n <= 0 && n != -int32(unix.EAGAIN) {
			t.Errorf("sendfile to a full socket: %d", n)
		}
	}
}

// A file descriptor's verb fails with the file's name.
func TestErrorsNameTheFile(t *testing.T) {
	h := New()
	path := filepath.Join(t.TempDir(), "read-only")
	fd, err := h.Open(path, ring.Create)
	if err != nil {
		t.Fatal(err)
	}
	h.Close(fd)
	if fd, err = h.Open(path, ring.ReadOnly); err != nil {
		t.Fatal(err)
	}
	defer h.Close(fd)
	_, err = h.WriteAt(fd, []byte("x"), 0)
	if !errors.Is(err, syscall.EBADF) || !strings.Contains(err.Error(), path) {
		t.Errorf("write to a read-only file: %v", err)
	}
	if _, err = h.Map(fd, 1); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), path) {
		t.Errorf("map more than there is: %v", err)
	}
}

// Two brokers that start at the same moment: one of them at most gets the port.
func TestListenExclusiveRace(t *testing.T) {
	h := New()
	for range 50 {
		fd, at, err := h.Listen("127.0.0.1:0", true)
		if err != nil {
			t.Fatal(err)
		}
		h.Close(fd)
		got := make(chan ring.FD, 2)
		for range 2 {
			go func() {
				fd, _, _ := h.Listen(at.String(), true)
				got <- fd
			}()
		}
		a, b := <-got, <-got
		if a != ring.NoFD && b != ring.NoFD {
			t.Fatalf("both got %s", at)
		}
		for _, fd := range []ring.FD{a, b} {
			if fd != ring.NoFD {
				h.Close(fd)
			}
		}
	}
}

// What has been evicted is missing, and not resident; what is on its way is not missing.
func TestMissing(t *testing.T) {
	const size = 1 << 20
	h := New()
	fd, err := h.Open(filepath.Join(t.TempDir(), "f"), ring.CreateNew)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(fd)
	if _, err := h.WriteAt(fd, make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(fd); err != nil {
		t.Fatal(err)
	}
	if n := Missing(fd, 0, size); n != 0 || !Resident(fd, 0, size) {
		t.Fatalf("%d bytes are missing just after they were written", n)
	}
	var known Known
	for _, at := range []struct{ off, n, all int64 }{{0, 4096, size}, {4096, 8192, size - 4096}, {size - 100, 5000, 5000}, {0, size, size}, {size, 1, 1}} {
		if !known.Resident(fd, at.off, at.n, at.all, 1) {
			t.Errorf("%+v is not resident just after it was written", at)
		}
	}
	if known.next != 1 || known.ranges[0] != (knownRange{fd, 0, size, 1 + knownFor}) { // the first asked for all, and the others knew
		t.Errorf("%d ranges: %+v", known.next, known.ranges)
	}
	if !known.Resident(fd, 4096, 4096, 8192, 1+knownFor) || known.next != 2 || known.ranges[1].from != 4096 || known.ranges[1].to != 4096+8192 {
		t.Errorf("when it is too long ago it is to be asked again: %+v", known.ranges)
	}
	if n := Advise(fd, 0, size, unix.FADV_DONTNEED); n != 0 {
		t.Fatal(n)
	}
	if Missing(fd, 0, size) == 0 {
		t.Log("this file system keeps its files in memory: nothing more to be seen here")
		return
	}
	if n := Missing(fd, 0, size); n != size || Resident(fd, 4096, 1) || known.Resident(fd, 0, 4096, size, 3) {
		t.Errorf("%d of %d bytes are missing after they were evicted", n, size)
	}
	if n := Missing(fd, 4095, 2); n != 2 {
		t.Errorf("%d of 2 bytes are missing", n)
	}
	if n := Advise(fd, 0, size, unix.FADV_WILLNEED); n != 0 {
		t.Fatal(n)
	}
	if n := Missing(fd, 0, size); n != 0 {
		t.Errorf("%d bytes are missing after they were asked for", n)
	}
	for !Resident(fd, 0, size) { // the disk's time
		time.Sleep(100 * time.Microsecond)
	}
	var b [1]byte
	var use unix.Rusage
	reads := func() int64 {
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &use); err != nil {
			t.Fatal(err)
		}
		return use.Inblock
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := reads()
	for off := int64(0); off < size; off += 4096 {
		if _, err := h.ReadAt(fd, b[:], off); err != nil {
			t.Fatal(err)
		}
	}
	if n := reads() - before; n != 0 {
		t.Errorf("reading what is resident took %d blocks from the disk", n)
	}
	if n := Missing(ring.NoFD, 0, 10); n != 10 {
		t.Errorf("of no file %d bytes of 10 are missing", n)
	}
	if n := Advise(ring.NoFD, 0, 10, unix.FADV_WILLNEED); n != -int32(unix.EBADF) {
		t.Error(n)
	}
}
