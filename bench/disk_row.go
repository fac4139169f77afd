package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Ways to make a write durable.
const (
	WayBuffered = "write+fdatasync"  // through the page cache
	WayDSync    = "direct RWF_DSYNC" // O_DIRECT, one call
	WayDirect   = "direct+fdatasync" // O_DIRECT, two calls
)

// Places that a write can go to.
const (
	PlaceOverwrite  = "overwrite"  // space that has been written with zeros, and synced
	PlaceFallocated = "fallocated" // space that was reserved with fallocate, for the first time
	PlaceExtend     = "extend"     // the file's end
)

var (
	diskWays   = []string{WayBuffered, WayDSync, WayDirect}
	diskPlaces = []string{PlaceOverwrite, PlaceFallocated, PlaceExtend}
)

// DiskRow is one way to write durably, measured. Its latency is that of the
// write and its sync together.
type DiskRow struct {
	Way   string `json:"way"`
	Place string `json:"place"`
	Size  int    `json:"bytes"`
	Depth int    `json:"depth"` // threads, each with one write of its own in flight

	Missing string `json:"notMeasured,omitempty"` // why; then there are no figures

	Writes          int64     `json:"writes"`
	Seconds         float64   `json:"seconds"`
	BytesPerSecond  float64   `json:"bytesPerSecond"`
	Latency         Latency   `json:"latency"`
	Rounds          []float64 `json:"roundP50Micros"`  // the median of each round that may give one
	Sync            *Latency  `json:"sync,omitempty"`  // fdatasync alone, contained in Latency
	FlushesPerWrite *float64  `json:"flushesPerWrite"` // of the whole device, others' included; nil when it does not count them
	Use             Use       `json:"use"`
	Disturbed       bool      `json:"disturbed"` // steal was over StealMax
}

// diskRow is a DiskRow in the making: its slices, one a round, are added up.
type diskRow struct {
	way, place  string
	size, depth int
	weight      float64 // its share of the time

	missing string
	elapsed time.Duration
	used    sample // counters, summed over the slices
	meter   meter

	mu            sync.Mutex
	latency, sync *hdrhistogram.Histogram
	round         *hdrhistogram.Histogram // latency of the current slice
	rounds        []float64
}

// diskPlan lists the rows: all sizes one at a time, then the smallest at depth.
// What is compared stands together. The journal's own kind of write, and what it
// is compared with, gets the time that a p99 takes.
func diskPlan() []*diskRow {
	var rows []*diskRow
	add := func(size, depth int) {
		for _, place := range diskPlaces {
			for _, way := range diskWays {
				r := &diskRow{way: way, place: place, size: size, depth: depth, weight: 1, latency: newHistogram(), sync: newHistogram(), round: newHistogram()}
				switch {
				case size == 4<<10 && depth == 1 && place == PlaceOverwrite:
					r.weight = 6
				case size == 4<<10 && depth == 1:
					r.weight = 2
				}
				rows = append(rows, r)
			}
		}
	}
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		add(size, 1)
	}
	add(4<<10, 4)
	add(4<<10, 16)
	return rows
}

func (r *diskRow) String() string {
	return fmt.Sprintf("%s, %s, %s, depth %d", binarySize(int64(r.size)), r.place, r.way, r.depth)
}

// done adds one write that was finished, of which the sync took d of it.
func (r *diskRow) done(whole, sync time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	record(r.round, whole, 1)
	if r.way != WayDSync {
		record(r.sync, sync, 1)
	}
}

// passed ends a slice: it adds the slice's latency, and what the counters said of it.
func (r *diskRow) passed(m meter, from, to sample, elapsed time.Duration) {
	if n := r.round.TotalCount(); n >= 2*SamplesAbove {
		r.rounds = append(r.rounds, float64(r.round.ValueAtPercentile(50)))
	}
	if dropped := r.latency.Merge(r.round); dropped > 0 {
		panic(fmt.Sprintf("BUG: %d samples lost between histograms of one kind", dropped))
	}
	r.round.Reset()
	r.meter = m
	r.elapsed += elapsed
	r.used.cpu.total += to.cpu.total - from.cpu.total
	r.used.cpu.idle += to.cpu.idle - from.cpu.idle
	r.used.cpu.steal += to.cpu.steal - from.cpu.steal
	r.used.client += to.client - from.client
	r.used.disk.writes += to.disk.writes - from.disk.writes
	r.used.disk.bytes += to.disk.bytes - from.disk.bytes
	r.used.disk.flushes += to.disk.flushes - from.disk.flushes
	r.used.hasDisk = from.hasDisk && to.hasDisk
}

func (r *diskRow) result() (DiskRow, error) {
	d := DiskRow{Way: r.way, Place: r.place, Size: r.size, Depth: r.depth, Missing: r.missing, Writes: r.latency.TotalCount(), Seconds: r.elapsed.Seconds(), Rounds: r.rounds}
	if d.Writes == 0 && d.Missing == "" {
		d.Missing = "the time was too short"
	}
	if d.Missing != "" {
		return d, nil
	}
	var err error
	if d.Latency, err = summarize(r.latency, 1, true); err != nil {
		return d, err
	}
	if r.way != WayDSync {
		l, err := summarize(r.sync, 1, false)
		if err != nil {
			return d, err
		}
		d.Sync = &l
	}
	d.BytesPerSecond = float64(d.Writes) * float64(r.size) / max(d.Seconds, 1e-9)
	d.Use = r.meter.between(sample{hasDisk: true}, r.used)
	d.Disturbed = d.Use.Steal > StealMax
	if n := d.Use.DiskFlushes; n != nil {
		v := float64(*n) / float64(d.Writes)
		d.FlushesPerWrite = &v
	}
	return d, nil
}

const (
	diskSpaceMax = 256 << 20 // of each of the two files
	diskSpaceMin = 16 << 20
)

// probe holds the files that the rows write to. close removes them.
type probe struct {
	meter  meter
	space  int64       // bytes of each file, whole MiB
	buf    []byte      // 1 MiB that does not compress, aligned for O_DIRECT
	zeroed scratchFile // written once, then overwritten
	fresh  scratchFile // emptied before each slice
}

// scratchFile is one file, open twice.
type scratchFile struct {
	path             string
	buffered, direct int // direct is -1 where the file system has no O_DIRECT
}

func newProbe(dir string, m meter, seconds float64) (*probe, error) {
	p := &probe{meter: m, zeroed: scratchFile{buffered: -1, direct: -1}, fresh: scratchFile{buffered: -1, direct: -1}}
	if err := p.open(dir, seconds); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare files in %s: %w", dir, err), p.close())
	}
	return p, nil
}

func (p *probe) open(dir string, seconds float64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	// A short run needs no large file; a disk that is nearly full is left its room.
	free := int64(fs.Bavail) * fs.Bsize
	p.space = min(max(int64(seconds*8)<<20, diskSpaceMin), diskSpaceMax, free/4) &^ (1<<20 - 1)
	if p.space < diskSpaceMin {
		return fmt.Errorf("%s free, %s needed", binarySize(free), binarySize(4*diskSpaceMin))
	}
	var err error
	if p.buf, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	if err := p.zeroed.open(dir, "zeroed"); err != nil {
		return err
	}
	if err := p.fresh.open(dir, "fresh"); err != nil {
		return err
	}
	// Reserved first, so that the blocks lie together; where that is not possible, they are only written.
	if err := unix.Fallocate(p.zeroed.buffered, 0, 0, p.space); err != nil && !unsupported(err) {
		return fmt.Errorf("fallocate: %w", err)
	}
	fd := p.zeroed.direct
	if fd < 0 {
		fd = p.zeroed.buffered
	}
	for at := int64(0); at < p.space; at += int64(len(p.buf)) { // buf is still zeros
		if err := writeAll(fd, p.buf, at, 0); err != nil {
			return err
		}
	}
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(p.buf) // it never fails
	return unix.Fsync(p.zeroed.buffered)
}

func (s *scratchFile) open(dir, name string) error {
	path := filepath.Join(dir, fmt.Sprintf(".millrace-bench-%d-%s", os.Getpid(), name))
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	s.path, s.buffered = path, fd
	if fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT, 0); err == nil {
		s.direct = fd
	} else if !errors.Is(err, unix.EINVAL) {
		return &os.PathError{Op: "open for O_DIRECT", Path: path, Err: err}
	}
	return nil
}

func (s *scratchFile) close() error {
	var errs []error
	for _, fd := range []int{s.buffered, s.direct} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if s.path != "" {
		errs = append(errs, os.Remove(s.path))
	}
	return errors.Join(errs...)
}

func (p *probe) close() error {
	err := errors.Join(p.zeroed.close(), p.fresh.close())
	if p.buf != nil {
		err = errors.Join(err, unix.Munmap(p.buf))
	}
	return err
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// file is where a row writes, and through which descriptor.
func (p *probe) file(r *diskRow) (f *scratchFile, fd int) {
	f = &p.fresh
	if r.place == PlaceOverwrite {
		f = &p.zeroed
	}
	if r.way == WayBuffered {
		return f, f.buffered
	}
	return f, f.direct
}

// prepare makes a row's place anew, and leaves nothing dirty. A row that is not
// possible here is marked.
func (p *probe) prepare(r *diskRow) error {
	f, fd := p.file(r)
	switch {
	case r.missing != "":
		return nil
	case fd < 0:
		r.missing = "the file system has no O_DIRECT"
		return nil
	}
	if r.place != PlaceOverwrite {
		if err := unix.Ftruncate(f.buffered, 0); err != nil {
			return fmt.Errorf("truncate: %w", err)
		}
	}
	if r.place == PlaceFallocated {
		switch err := unix.Fallocate(f.buffered, 0, 0, p.space); {
		case err != nil && unsupported(err):
			r.missing = "the file system has no fallocate"
			return nil
		case err != nil:
			return fmt.Errorf("fallocate: %w", err)
		}
	}
	if err := unix.Fsync(f.buffered); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	// Cached pages would make each direct write look for and drop them. A hint: it may fail.
	_ = unix.Fadvise(f.buffered, 0, 0, unix.FADV_DONTNEED)
	return nil
}

// slice lets a row write until the time is over, or its place is used up.
func (p *probe) slice(ctx context.Context, r *diskRow, until time.Time) error {
	if r.missing != "" {
		return nil
	}
	_, fd := p.file(r)
	buf := p.buf[:r.size]
	from, err := p.meter.read()
	if err != nil {
		return err
	}
	began := time.Now()
	var next atomic.Int64 // bytes handed out
	var wg sync.WaitGroup
	errs := make([]error, r.depth)
	for i := range r.depth {
		wg.Go(func() {
			for errs[i] == nil && ctx.Err() == nil && time.Now().Before(until) {
				at := next.Add(int64(r.size)) - int64(r.size)
				if at >= p.space && r.place != PlaceOverwrite {
					return
				}
				errs[i] = r.write(fd, buf, at%p.space)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	to, err := p.meter.read()
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	r.passed(p.meter, from, to, elapsed)
	return nil
}

// write makes one durable write.
func (r *diskRow) write(fd int, buf []byte, at int64) error {
	began := time.Now()
	if r.way == WayDSync {
		if err := writeAll(fd, buf, at, unix.RWF_DSYNC); err != nil {
			return err
		}
		r.done(time.Since(began), 0)
		return nil
	}
	if err := writeAll(fd, buf, at, 0); err != nil {
		return err
	}
	written := time.Now()
	if err := unix.Fdatasync(fd); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	r.done(time.Since(began), time.Since(written))
	return nil
}

// writeAll writes buf in one call. A write that the kernel cut short would be
// two in the figures, so it is an error.
func writeAll(fd int, buf []byte, at int64, flags int) error {
	n, err := unix.Pwritev2(fd, [][]byte{buf}, at, flags)
	if err == nil && n < len(buf) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(buf), at, err)
	}
	return nil
}
