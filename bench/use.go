package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// StealMax is the share of CPU time, in percent, that the hypervisor may take
// during a run before the run counts as disturbed.
const StealMax = 3.0

// Use is what a run cost, from the kernel's counters over the measured time.
// A counter that could not be read is nil.
type Use struct {
	Steal       float64  `json:"stealPercent"` // of all CPUs' time
	Idle        float64  `json:"idlePercent"`  // of all CPUs' time, waiting for disks included
	ClientCPU   float64  `json:"clientCPUSeconds"`
	OthersCPU   *float64 `json:"othersCPUSeconds,omitempty"` // neither client nor broker: other programs, and the kernel for all
	BrokerCPU   *float64 `json:"brokerCPUSeconds,omitempty"` // its process, kernel workers of its own ring included
	BrokerRSS   *int64   `json:"brokerResidentBytes,omitempty"`
	Disk        string   `json:"disk,omitempty"` // the data's whole disk: others' use of it is in the counts
	DiskFlushes *int64   `json:"diskFlushes,omitempty"`
	DiskWrites  *int64   `json:"diskWrites,omitempty"`
	DiskBytes   *int64   `json:"diskBytesWritten,omitempty"`
}

// OthersMax is how many CPUs other programs may use during a run before its result says so.
const OthersMax = 0.2

// tick is the kernel's unit of CPU time: USER_HZ is 100 on every Linux that Go
// runs on.
const tick = 10 * time.Millisecond

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
type diskCount struct{ writes, bytes, flushes int64 }

// parseDisk reads /sys/block/*/stat (Documentation/block/stat.rst): writes are
// field 5, written 512-byte sectors field 7, flushes field 16 (Linux 5.5 on).
func parseDisk(stat string) (diskCount, error) {
	f := strings.Fields(stat)
	if len(f) < 16 {
		return diskCount{}, fmt.Errorf("block device stat has %d fields, flushes are the 16th", len(f))
	}
	var d diskCount
	for i, to := range map[int]*int64{4: &d.writes, 6: &d.bytes, 15: &d.flushes} {
		v, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return diskCount{}, fmt.Errorf("block device stat: %w", err)
		}
		*to = v
	}
	d.bytes *= 512
	return d, nil
}

// processCPU reads user and system time of a process, dead threads included.
func processCPU(stat string) (time.Duration, error) {
	after := stat[strings.LastIndexByte(stat, ')')+1:] // the name may hold blanks
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0, fmt.Errorf("process stat %q is short", stat)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process stat: %w", err)
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process stat: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// sample is one reading of all counters.
type sample struct {
	cpu    cpuTimes
	client time.Duration
	broker time.Duration
	disk   diskCount

	hasBroker, hasDisk bool

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

func (m meter) read() (s sample, err error) {
	if s.cpu, err = parseCPU(readFile("/proc/stat")); err != nil {
		return s, err
	}
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return s, fmt.Errorf("getrusage: %w", err)
	}
	s.client = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	if m.pid != 0 {
		if s.broker, err = processCPU(readFile(fmt.Sprintf("/proc/%d/stat", m.pid))); err == nil {
			s.hasBroker = true
		}
	}
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
	if from.hasBroker && to.hasBroker {
		cpu := (to.broker - from.broker).Seconds()
		u.BrokerCPU = &cpu
		busy := float64(to.cpu.total-from.cpu.total) - float64(to.cpu.idle-from.cpu.idle) - float64(to.cpu.steal-from.cpu.steal)
		others := max(0, busy*tick.Seconds()-u.ClientCPU-cpu)
		u.OthersCPU = &others
		if rss := residentBytes(m.pid); rss > 0 {
			u.BrokerRSS = &rss
		}
	}
	if from.hasDisk && to.hasDisk {
		flushes, writes, bytes := to.disk.flushes-from.disk.flushes, to.disk.writes-from.disk.writes, to.disk.bytes-from.disk.bytes
		u.Disk = filepath.Base(m.disk)
		u.DiskFlushes, u.DiskWrites, u.DiskBytes = &flushes, &writes, &bytes
	}
	return u
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
