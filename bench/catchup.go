package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/millrace/millrace/bench/process"
	"golang.org/x/sys/unix"
)

// A catch-up reader takes one partition from an offset to another as fast as it gets it,
// by Fetch version 4, and looks at the headers of batches only: the rest the kernel
// throws away (MSG_TRUNC). It is a process of its own that yields to the other
// clients (nice +10): what is measured is what the broker does to its other readers,
// and not what two clients do to each other on one CPU.

// catchUpName is the command by which this program runs as such a reader.
const catchUpName = "catch-up"

// fetchMax is what it asks for at once, bytes: a consumer's default for a partition.
const fetchMax = 1 << 20

// catchUp starts a reader, and returns how many bytes of batches it took.
func catchUp(ctx context.Context, binary, address, topic string, to int64) (int64, error) {
	reader := process.Process{Path: binary, Args: []string{"bench", catchUpName, address, topic, strconv.FormatInt(to, 10)}}
	err := reader.Start()
	if err == nil {
		err = reader.Wait(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("catch-up reader: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(reader.Tail()), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("catch-up reader: what it took: %w", err)
	}
	return n, nil
}

// mainCatchUp is the reader: ADDRESS TOPIC END. It prints the bytes that it took.
func mainCatchUp(args []string) (int64, error) {
	if len(args) != 3 {
		return 0, errors.New("not ADDRESS TOPIC END")
	}
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return 0, err
	}
	end, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return 0, err
	}
	runtime.LockOSThread() // it is the thread that gets the priority
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil { // the system call answers 20 - nice
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: int32(min(20-nice+10, 19))}, 0)
	}
	if err != nil {
		return 0, fmt.Errorf("priority: %w", err)
	}
	r := &catchUpReader{topic: args[1], buf: make([]byte, 4<<10)}
	if r.fd, err = dialRaw(at); err != nil {
		return 0, fmt.Errorf("%v: %w", at, err)
	}
	defer unix.Close(r.fd)
	for r.offset < end {
		before := r.offset
		if err := r.fetch(); err != nil {
			return r.bytes, fmt.Errorf("at offset %d: %w", before, err)
		}
		if r.offset == before {
			return r.bytes, fmt.Errorf("nothing at offset %d below %d", before, end)
		}
	}
	return r.bytes, nil
}

func dialRaw(at netip.AddrPort) (int, error) {
	domain, addr := unix.AF_INET, unix.Sockaddr(nil)
	if ip := at.Addr().Unmap(); ip.Is4() {
		addr = &unix.SockaddrInet4{Addr: ip.As4(), Port: int(at.Port())}
	} else {
		domain, addr = unix.AF_INET6, &unix.SockaddrInet6{Addr: ip.As16(), Port: int(at.Port())}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, addr)
	}
	return fd, err
}

type catchUpReader struct {
	fd     int
	topic  string
	offset int64 // the next one
	bytes  int64
	buf    []byte
	left   int // bytes of the reply that have not been read
}

// fetch asks once, and takes what comes.
func (r *catchUpReader) fetch() error {
	b := r.buf[:4]
	b = binary.BigEndian.AppendUint16(b, 1) // Fetch
	b = binary.BigEndian.AppendUint16(b, 4)
	b = binary.BigEndian.AppendUint32(b, 7)      // correlation
	b = binary.BigEndian.AppendUint16(b, 0xffff) // no client id
	b = binary.BigEndian.AppendUint32(b, 0xffffffff)
	b = binary.BigEndian.AppendUint32(b, 500) // wait, ms
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 50<<20)
	b = append(b, 0) // read uncommitted
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.topic)))
	b = append(b, r.topic...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.offset))
	b = binary.BigEndian.AppendUint32(b, fetchMax)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	for sent := b; len(sent) > 0; {
		n, err := unix.Write(r.fd, sent)
		if err != nil {
			return err
		}
		sent = sent[n:]
	}
	r.left = 4
	size, err := r.take(4)
	if err != nil {
		return err
	}
	r.left = int(binary.BigEndian.Uint32(size))
	// correlation, throttle, topics, name; partitions, partition; error, high watermark, last stable
	head, err := r.take(4 + 4 + 4 + 2 + len(r.topic) + 4 + 4 + 2 + 8 + 8)
	if err != nil {
		return err
	}
	if code := binary.BigEndian.Uint16(head[len(head)-18:]); code != 0 {
		return fmt.Errorf("error code %d", int16(code))
	}
	n, err := r.take(4)
	if err != nil {
		return err
	}
	if aborted := int32(binary.BigEndian.Uint32(n)); aborted > 0 {
		if err := r.skip(int(aborted) * 16); err != nil {
			return err
		}
	}
	if _, err := r.take(4); err != nil { // size of the records
		return err
	}
	return r.batches()
}

// batches walks over the records of a reply. The last batch may be cut off.
func (r *catchUpReader) batches() error {
	const header = 61
	for r.left >= header {
		h, err := r.take(header)
		if err != nil {
			return err
		}
		base, size := int64(binary.BigEndian.Uint64(h)), int(binary.BigEndian.Uint32(h[8:]))+12
		last := int64(binary.BigEndian.Uint32(h[23:]))
		if size < header || base+last < r.offset {
			return fmt.Errorf("a batch of %d bytes at offset %d", size, base)
		}
		if size-header > r.left {
			break
		}
		if err := r.skip(size - header); err != nil {
			return err
		}
		r.bytes += int64(size)
		r.offset = base + last + 1
	}
	return r.skip(r.left)
}

// take reads the next n bytes of the reply, at most 4 KiB.
func (r *catchUpReader) take(n int) ([]byte, error) {
	if n > r.left {
		return nil, fmt.Errorf("a reply that is %d bytes short", n-r.left)
	}
	r.left -= n
	for got := 0; got < n; {
		m, _, err := unix.Recvfrom(r.fd, r.buf[got:n], unix.MSG_WAITALL)
		if err != nil {
			return nil, err
		}
		if m == 0 {
			return nil, errors.New("the broker closed the connection")
		}
		got += m
	}
	return r.buf[:n], nil
}

// skip has the kernel throw the next n bytes away.
func (r *catchUpReader) skip(n int) error {
	r.left -= n
	for n > 0 {
		m, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(r.fd), 0, uintptr(n), unix.MSG_TRUNC, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case m == 0:
			return errors.New("the broker closed the connection")
		default:
			n -= int(m)
		}
	}
	return nil
}

// evict writes a topic's segments back and drops them from the page cache. It returns
// how many bytes they have.
func evict(dir, topic string) (total int64, err error) {
	names, err := filepath.Glob(filepath.Join(dir, topic+"-*", "*.log"))
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return total, err
		}
		size, err := f.Seek(0, 2)
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		f.Close()
		if err != nil {
			return total, fmt.Errorf("%s: %w", name, err)
		}
		total += size
	}
	return total, nil
}
