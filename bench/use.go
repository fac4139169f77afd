package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/process"
	"golang.org/x/sys/unix"
)

// StealMax is the share of CPU time, in percent, that the hypervisor may take
// during a run before the run counts as disturbed; see SpeedMin, too.
const StealMax = 3.0

// Use is what a run cost, from the kernel's counters over the measured time.
// A counter that could not be read is nil.
type Use struct {
	Steal       float64  `json:"stealPercent"` // of all CPUs' time
	Idle        float64  `json:"idlePercent"`  // of all CPUs' time, waiting for disks included
	ClientCPU   float64  `json:"clientCPUSeconds"`
	OthersCPU   *float64 `json:"othersCPUSeconds,omitempty"` // neither client nor broker: other programs, and the kernel for all
	KernelCPU   *float64 `json:"kernelCPUSeconds,omitempty"` // of that, the kernel's own threads: among them those that write files back
	BrokerCPU   *float64 `json:"brokerCPUSeconds,omitempty"` // its control group, or where there is none its process; kernel workers of its own ring included
	BrokerRSS   *int64   `json:"brokerResidentBytes,omitempty"`
	Disk        string   `json:"disk,omitempty"` // the data's whole disk: others' use of it is in the counts
	DiskFlushes *int64   `json:"diskFlushes,omitempty"`
	DiskWrites  *int64   `json:"diskWrites,omitempty"`
	DiskBytes   *int64   `json:"diskBytesWritten,omitempty"`
	DiskRead    *int64   `json:"diskBytesRead,omitempty"`
}

// OthersMax is how many CPUs other programs may use during a run before its result says so.
const OthersMax = 0.2

// cpuTimes are ticks of all CPUs since boot.
type cpuTimes struct{ total, idle, steal uint64 }

// parseCPU reads the "cpu" line of /proc/stat: user nice system idle iowait
// irq softirq steal guest guest_nice. Guest time is contained in user time.
func parseCPU(stat string) (cpuTimes, error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return cpuTimes{}, fmt.Errorf("/proc/stat: first line %q has no steal column", line)
	}
	var t cpuTimes
	for i, s := range f[1:9] {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return cpuTimes{}, fmt.Errorf("/proc/stat: %w", err)
		}
		t.total += v
		switch i {
		case 3, 4:
			t.idle += v
		case 7:
			t.steal += v
		}
	}
	return t, nil
}

// diskCount are a block device's counters since boot.
type diskCount struct{ read, writes, bytes, flushes int64 }

// parseDisk reads /sys/block/*/stat (Documentation/block/stat.rst): read 512-byte sectors are field 3, writes
// field 5, written 512-byte sectors field 7, flushes field 16 (Linux 5.5 on).
func parseDisk(stat string) (diskCount, error) {
	f := strings.Fields(stat)
	if len(f) < 16 {
		return diskCount{}, fmt.Errorf("block device stat has %d fields, flushes are the 16th", len(f))
	}
	var d diskCount
	for i, to := range map[int]*int64{2: &d.read, 4: &d.writes, 6: &d.bytes, 15: &d.flushes} {
		v, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return diskCount{}, fmt.Errorf("block device stat: %w", err)
		}
		*to = v
	}
	d.read, d.bytes = d.read*512, d.bytes*512
	return d, nil
}

// sample is one reading of all counters.
type sample struct {
	at     time.Time
	cpu    cpuTimes
	client time.Duration
	broker time.Duration
	disk   diskCount

	hasBroker, hasDisk bool

	kernel map[int]time.Duration // what each of the kernel's own threads has run; empty where that is not told

	trace    *Trace // nil: the broker has none, or did not answer
	traceErr error  // why it did not
}

// meter reads the counters of one run.
type meter struct {
	pid   int    // the broker's, 0 when unknown
	admin string // the broker's admin listener, "" when unknown
	disk  string // /sys directory of the data's disk, "" when unknown
}

func newMeter(t TargetInfo) meter { return meter{pid: t.PID, admin: t.Admin, disk: device(t.DataDir)} }

// readCPU reads who used the CPUs, and nothing else: it is cheap enough for once a second.
func (m meter) readCPU() (s sample, err error) {
	if s.cpu, err = parseCPU(readFile("/proc/stat")); err != nil {
		return s, err
	}
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return s, fmt.Errorf("getrusage: %w", err)
	}
	s.client = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	if m.pid != 0 {
		if s.broker, err = process.CPU(m.pid); err == nil {
			s.hasBroker = true
		}
	}
	s.at = time.Now()
	return s, nil
}

func (m meter) read() (s sample, err error) {
	if s, err = m.readCPU(); err != nil {
		return s, err
	}
	s.kernel = kernelThreads()
	if m.disk != "" {
		if s.disk, err = parseDisk(readFile(filepath.Join(m.disk, "stat"))); err == nil {
			s.hasDisk = true
		}
	}
	if m.admin != "" { // last: it may take a while. Without it a run counts all the same
		s.trace, s.traceErr = FetchTrace(context.Background(), m.admin)
	}
	return s, nil
}

// between turns two readings into what happened between them.
func (m meter) between(from, to sample) Use {
	var u Use
	if total := float64(to.cpu.total - from.cpu.total); total > 0 {
		u.Steal = 100 * float64(to.cpu.steal-from.cpu.steal) / total
		u.Idle = 100 * float64(to.cpu.idle-from.cpu.idle) / total
	}
	u.ClientCPU = (to.client - from.client).Seconds()
	if len(to.kernel) > 0 {
		cpu := grown(from.kernel, to.kernel).Seconds()
		u.KernelCPU = &cpu
	}
	if from.hasBroker && to.hasBroker {
		cpu := (to.broker - from.broker).Seconds()
		u.BrokerCPU = &cpu
		others := from.others(to)
		u.OthersCPU = &others
		if rss := residentBytes(m.pid); rss > 0 {
			u.BrokerRSS = &rss
		}
	}
	if from.hasDisk && to.hasDisk {
		flushes, writes, bytes := to.disk.flushes-from.disk.flushes, to.disk.writes-from.disk.writes, to.disk.bytes-from.disk.bytes
		u.Disk = filepath.Base(m.disk)
		read := to.disk.read - from.disk.read
		u.DiskFlushes, u.DiskWrites, u.DiskBytes, u.DiskRead = &flushes, &writes, &bytes, &read
	}
	return u
}

// others are the CPU seconds of who is neither client nor broker, until a later reading.
func (s sample) others(to sample) float64 {
	busy := float64(to.cpu.total-s.cpu.total) - float64(to.cpu.idle-s.cpu.idle) - float64(to.cpu.steal-s.cpu.steal)
	return max(0, busy*process.Tick.Seconds()-(to.client-s.client).Seconds()-(to.broker-s.broker).Seconds())
}

// cpuUntil is who used the CPUs until a later reading; nil where no time has passed.
func (s sample) cpuUntil(to sample) *SecondCPU {
	seconds := to.at.Sub(s.at).Seconds()
	if seconds <= 0 {
		return nil
	}
	c := &SecondCPU{Steal: float64(to.cpu.steal-s.cpu.steal) * process.Tick.Seconds() / seconds, Client: (to.client - s.client).Seconds() / seconds}
	if s.hasBroker && to.hasBroker {
		broker, others := (to.broker-s.broker).Seconds()/seconds, s.others(to)/seconds
		c.Broker, c.Others = &broker, &others
	}
	return c
}

// kernelThreads is what each of the kernel's threads has run, by process id.
func kernelThreads() map[int]time.Duration {
	all := map[int]time.Duration{}
	dirs, _ := os.ReadDir("/proc") // where it cannot be read there are none
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat := readFile(fmt.Sprintf("/proc/%d/stat", pid))
		f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(f) < 2 || f[1] != "2" { // the parent of all of them
			continue
		}
		ran, _, _ := strings.Cut(readFile(fmt.Sprintf("/proc/%d/schedstat", pid)), " ")
		if ns, err := strconv.ParseInt(ran, 10, 64); err == nil {
			all[pid] = time.Duration(ns)
		}
	}
	return all
}

// grown is by how much threads have run between two readings, those that began after the first one too.
func grown(from, to map[int]time.Duration) (sum time.Duration) {
	for pid, ran := range to {
		if before := from[pid]; before <= ran { // else the number is another thread's by now
			ran -= before
		}
		sum += ran
	}
	return sum
}

// residentBytes is a process's resident memory, or 0.
func residentBytes(pid int) int64 {
	f := strings.Fields(readFile(fmt.Sprintf("/proc/%d/statm", pid)))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
