package bench

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/millrace/millrace/bench/process"
	"golang.org/x/sys/unix"
)

// A catch-up reader takes one partition from its start to an offset as fast as it gets it, by Fetch version 4, and looks at the
// headers of batches only: the rest the kernel throws away (MSG_TRUNC). It is a process of its own.
//
// For "bench consume" it yields to the other clients (nice +10): what is measured there is what the broker does to its other
// readers, and not what two clients do to each other on one CPU. For "bench catchup" a first reader notes where batches begin; the
// readers that are measured know by that what a reply holds, and look at its first batch only: with all headers looked at, what
// would be measured is the reader.

// catchUpName is the command by which this program runs as such a reader.
const catchUpName = "catch-up"

// fetchMax is what it asks for at once, bytes: a consumer's default for a partition.
const fetchMax = 1 << 20

// catchUpJob is what a reader is asked; it travels as JSON in its command line.
type catchUpJob struct {
	Address string
	Topic   string
	End     int64         // the offset after the last; then it begins again, or ends
	Fetch   int           // bytes asked for at once
	For     time.Duration // it goes on for so long, and ends anywhere; with Note or 0: at an end
	Yield   bool          // nice +10
	Note    string        // file in which it notes the batches
	Batches string        // file of such notes: it looks at first headers only
	Stream  bool          // no requests, no headers: it takes what comes
}

// catchUpReport is what it prints.
type catchUpReport struct {
	Bytes   int64 // of whole batches
	Records int64
	Fetches int64
	Passes  int   // times that the end was reached
	From    int64 // CLOCK_MONOTONIC, ns: from its first request
	To      int64 // to its last answer
	CPU     time.Duration
}

// catchUp runs a reader. It uses the CPUs that this process may use.
func catchUp(ctx context.Context, binary string, job catchUpJob) (r catchUpReport, err error) {
	arg, err := json.Marshal(job)
	if err != nil {
		return r, err
	}
	reader := process.Process{Path: binary, Args: []string{"bench", catchUpName, string(arg)}}
	if err = reader.Start(); err == nil {
		err = reader.Wait(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("catch-up reader: %w", err)
	}
	if err := json.Unmarshal([]byte(reader.Tail()), &r); err != nil {
		return r, fmt.Errorf("catch-up reader: what it took: %w", err)
	}
	return r, nil
}

// mainCatchUp is the reader.
func mainCatchUp(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("a job in JSON is its one argument")
	}
	var job catchUpJob
	if err := json.Unmarshal([]byte(args[0]), &job); err != nil {
		return err
	}
	r, err := job.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

func (job catchUpJob) run() (report catchUpReport, err error) {
	at, err := netip.ParseAddrPort(job.Address)
	if err != nil {
		return report, err
	}
	runtime.LockOSThread() // it is the thread that gets the priority
	if job.Yield {
		nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err == nil { // the system call answers 20 - nice
			err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: int32(min(20-nice+10, 19))}, 0)
		}
		if err != nil {
			return report, fmt.Errorf("priority: %w", err)
		}
	}
	r := &catchUpReader{job: job, buf: make([]byte, 4<<10)}
	if job.Batches != "" {
		if r.batch, err = readBatches(job.Batches); err != nil {
			return report, err
		}
	}
	if r.fd, err = dialRaw(at); err != nil {
		return report, fmt.Errorf("%v: %w", at, err)
	}
	defer unix.Close(r.fd)
	used, from := ownCPU(), monotonic()
	if err := r.read(from + int64(job.For)); err != nil {
		return report, err
	}
	r.report.From, r.report.To, r.report.CPU = from, monotonic(), ownCPU()-used
	if job.Note != "" {
		err = writeBatches(job.Note, append(r.batch, batchAt{r.offset, r.noted}))
	}
	return r.report, err
}

// read goes on until a time.
func (r *catchUpReader) read(until int64) error {
	if r.job.Stream {
		return r.stream(until)
	}
	again := r.job.For > 0
	for {
		before := r.offset
		if err := r.fetch(); err != nil {
			return fmt.Errorf("at offset %d: %w", before, err)
		}
		if r.offset == before {
			return fmt.Errorf("nothing at offset %d below %d", before, r.job.End)
		}
		r.report.Records += r.offset - before
		r.report.Fetches++
		ended := again && monotonic() >= until
		if r.offset < r.job.End {
			if ended && r.job.Note == "" {
				return nil
			}
			continue
		}
		r.report.Passes++
		if !again || ended {
			return nil
		}
		r.offset, r.at = 0, 0
	}
}

// streamBytes is what a reader of a stream has thrown away by one call.
const streamBytes = 1 << 20

// stream takes what comes.
func (r *catchUpReader) stream(until int64) error {
	for monotonic() < until {
		r.left = streamBytes
		if err := r.skip(streamBytes, unix.MSG_WAITALL); err != nil {
			return err
		}
		r.report.Bytes += streamBytes
	}
	return nil
}

func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("BUG: CLOCK_MONOTONIC: %v", err))
	}
	return t.Nano()
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("BUG: getrusage of this process: %v", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// batchAt is where a batch begins: its base offset, and how many bytes of batches are before it.
type batchAt struct{ offset, bytes int64 }

// writeBatches notes where batches begin; the last is the end.
func writeBatches(path string, all []batchAt) error {
	b := make([]byte, 0, 16*len(all))
	for _, one := range all {
		b = binary.LittleEndian.AppendUint64(b, uint64(one.offset))
		b = binary.LittleEndian.AppendUint64(b, uint64(one.bytes))
	}
	return os.WriteFile(path, b, 0o600)
}

func readBatches(path string) (all []batchAt, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) < 32 || len(b)%16 != 0 {
		return nil, fmt.Errorf("%s: %d bytes are no notes of batches", path, len(b))
	}
	all = make([]batchAt, 0, len(b)/16)
	for ; len(b) > 0; b = b[16:] {
		all = append(all, batchAt{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))})
	}
	return all, nil
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
	job    catchUpJob
	fd     int
	offset int64 // the next one
	buf    []byte
	left   int // bytes of the reply that have not been read
	report catchUpReport

	batch []batchAt // noted: until now, or by an earlier reader
	noted int64     // bytes of those that were noted here
	at    int       // with Batches: the next one
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
	b = binary.BigEndian.AppendUint32(b, uint32(max(50<<20, r.job.Fetch)))
	b = append(b, 0) // read uncommitted
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.job.Topic)))
	b = append(b, r.job.Topic...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.offset))
	b = binary.BigEndian.AppendUint32(b, uint32(r.job.Fetch))
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
	head, err := r.take(4 + 4 + 4 + 2 + len(r.job.Topic) + 4 + 4 + 2 + 8 + 8)
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
		if err := r.skip(int(aborted)*16, 0); err != nil {
			return err
		}
	}
	if _, err := r.take(4); err != nil { // size of the records
		return err
	}
	if r.job.Batches != "" {
		return r.known()
	}
	return r.batches()
}

// known takes a reply of which it is known where its batches begin.
func (r *catchUpReader) known() error {
	size := int64(r.left)
	h, err := r.take(min(batchHeader, r.left))
	if err != nil {
		return err
	}
	if len(h) < batchHeader {
		return r.skip(r.left, 0)
	}
	from := r.batch[r.at]
	if base, bytes := int64(binary.BigEndian.Uint64(h)), int64(binary.BigEndian.Uint32(h[8:]))+12; base != from.offset || bytes != r.batch[r.at+1].bytes-from.bytes {
		return fmt.Errorf("a batch of %d bytes at offset %d, where one of %d at offset %d was noted", bytes, base, r.batch[r.at+1].bytes-from.bytes, from.offset)
	}
	after, whole := slices.BinarySearchFunc(r.batch, from.bytes+size, func(b batchAt, bytes int64) int { return cmp.Compare(b.bytes, bytes) })
	if !whole { // the last batch is cut off
		after--
	}
	r.at, r.offset = after, r.batch[after].offset
	r.report.Bytes += r.batch[after].bytes - from.bytes
	return r.skip(r.left, unix.MSG_WAITALL)
}

// batchHeader is how long the header of a batch is, bytes.
const batchHeader = 61

// batches walks over the records of a reply. The last batch may be cut off.
func (r *catchUpReader) batches() error {
	for r.left >= batchHeader {
		h, err := r.take(batchHeader)
		if err != nil {
			return err
		}
		base, size := int64(binary.BigEndian.Uint64(h)), int(binary.BigEndian.Uint32(h[8:]))+12
		last := int64(binary.BigEndian.Uint32(h[23:]))
		if size < batchHeader || base+last < r.offset {
			return fmt.Errorf("a batch of %d bytes at offset %d", size, base)
		}
		if size-batchHeader > r.left {
			break
		}
		if err := r.skip(size-batchHeader, 0); err != nil {
			return err
		}
		if r.job.Note != "" && r.report.Passes == 0 {
			r.batch = append(r.batch, batchAt{base, r.noted})
			r.noted += int64(size)
		}
		r.report.Bytes += int64(size)
		r.offset = base + last + 1
	}
	return r.skip(r.left, 0)
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

// skip has the kernel throw the next n bytes away; with MSG_WAITALL it comes back when all have come.
func (r *catchUpReader) skip(n, flags int) error {
	r.left -= n
	for n > 0 {
		m, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(r.fd), 0, uintptr(n), uintptr(unix.MSG_TRUNC|flags), 0, 0)
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

// evict writes a topic's segments back and drops them from the page cache.
func evict(dir, topic string) error {
	return segments(dir, topic, func(f *os.File) error {
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// segments opens each segment of a topic for do.
func segments(dir, topic string, do func(*os.File) error) error {
	names, err := filepath.Glob(filepath.Join(dir, topic+"-*", "*.log"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err = do(f); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
