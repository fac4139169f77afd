package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/millrace/millrace/engine/cgroup"
	"golang.org/x/sys/unix"
)

// Machine is where a run was made.
type Machine struct {
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	Governor   string `json:"governor,omitempty"`
	Hypervisor bool   `json:"hypervisor"`
	Memory     int64  `json:"memoryBytes"`
	Go         string `json:"go"`
	Tool       string `json:"tool"` // version of this binary
	Disk       Disk   `json:"disk"`

	Limits    map[string]string `json:"limits,omitempty"`    // of this process, which what it starts inherits
	PageCache string            `json:"pageCache,omitempty"` // when the kernel writes back, by its vm.dirty_ settings
}

// Disk is what lies under a directory.
type Disk struct {
	Directory  string `json:"directory,omitempty"`
	FileSystem string `json:"fileSystem,omitempty"`
	Mount      string `json:"mountOptions,omitempty"`
	Device     string `json:"device,omitempty"`     // block device; "" when there is none (tmpfs)
	WriteCache string `json:"writeCache,omitempty"` // as the kernel has it
	Scheduler  string `json:"scheduler,omitempty"`
	BlockBytes string `json:"logicalBlockBytes,omitempty"`

	Stacked       bool   `json:"stacked,omitempty"` // on several devices (RAID): flushes are not counted
	PhysicalBytes string `json:"physicalBlockBytes,omitempty"`
	FUA           string `json:"fua,omitempty"`                     // "1": a single write can be made durable without a flush
	Rotational    string `json:"rotational,omitempty"`              // "1": a disk that turns, or says so
	AtomicBytes   string `json:"atomicWriteUnitMaxBytes,omitempty"` // Linux 6.11 on; "0": none stated

	Writes []DiskRow `json:"durableWrites,omitempty"` // measured before the first run; see probeWrites
}

func (m Machine) String() string {
	s := fmt.Sprintf("Linux %s, %d CPUs (%s%s), %d MiB memory, %s", m.Kernel, m.CPUs, m.CPU, map[bool]string{true: ", virtual"}[m.Hypervisor], m.Memory>>20, m.Go)
	if m.Governor != "" {
		s += ", governor " + m.Governor
	}
	if d := m.Disk; d.FileSystem != "" {
		s += fmt.Sprintf("; data on %s (%s)", d.FileSystem, d.Mount)
		if d.Device != "" {
			s += fmt.Sprintf(", %s, %s, scheduler %s, %s-byte blocks", d.Device, d.WriteCache, d.Scheduler, d.BlockBytes)
		}
	}
	return s
}

// ReadMachine gathers the facts. dataDir may be "": then nothing is said about
// the disk. What cannot be read is left empty.
func ReadMachine(dataDir string) Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Tool: toolVersion(), Disk: diskUnder(dataDir), Limits: limits(), PageCache: writeBack()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		m.Memory = int64(si.Totalram) * int64(si.Unit)
	}
	for line := range strings.Lines(readFile("/proc/cpuinfo")) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags":
			m.Hypervisor = strings.Contains(value, " hypervisor")
		}
	}
	m.Governor = readFile("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
	return m
}

// limits are those that a broker may run into, by name.
func limits() map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(readFile("/proc/self/limits")) {
		for name, as := range map[string]string{"Max open files": "open files", "Max locked memory": "locked memory", "Max address space": "address space"} {
			rest, ok := strings.CutPrefix(line, name)
			if f := strings.Fields(rest); ok && len(f) > 2 {
				soft, hard, unit := f[0], f[1], f[2]
				all[as] = soft + " " + unit
				if hard != soft {
					all[as] += ", could be " + hard
				}
			}
		}
	}
	if limit, _ := cgroup.Memory("/"); limit < math.MaxInt64 {
		all["memory, control group"] = fmt.Sprintf("%d MiB", limit>>20)
	}
	if cores, _ := cgroup.CPUs("/"); cores > 0 {
		all["CPUs, control group"] = fmt.Sprintf("%.2f", cores)
	}
	return all
}

// writeBack is when the kernel writes back what is in the page cache only; of a ratio and its bytes one is 0.
func writeBack() string {
	var all []string
	for _, name := range []string{"dirty_background_ratio", "dirty_background_bytes", "dirty_ratio", "dirty_bytes", "dirty_expire_centisecs"} {
		if v := readFile("/proc/sys/vm/" + name); v != "" && v != "0" {
			all = append(all, name+" "+v)
		}
	}
	return strings.Join(all, ", ")
}

// readFile returns a small file without its last newline, or "".
func readFile(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n")
}

func toolVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
			v += " " + s.Value
		}
	}
	return v
}

func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == path {
				return d.Version
			}
		}
	}
	return ""
}

// device returns the /sys directory of the whole disk under dir, or "". Under
// a volume that lies on one disk (LVM, dm-crypt) it is that disk: the layers
// between do not count flushes.
func device(dir string) string {
	var st unix.Stat_t
	if dir == "" || unix.Stat(dir, &st) != nil {
		return ""
	}
	path, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return "" // tmpfs, overlay: no block device of its own
	}
	for {
		if _, err := os.Stat(filepath.Join(path, "partition")); err == nil {
			path = filepath.Dir(path) // flushes are counted on the whole disk only
		}
		below, err := filepath.Glob(filepath.Join(path, "slaves", "*"))
		if err != nil || len(below) != 1 {
			return path
		}
		if path, err = filepath.EvalSymlinks(below[0]); err != nil {
			return ""
		}
	}
}

func diskUnder(dir string) Disk {
	if dir == "" {
		return Disk{}
	}
	d := Disk{Directory: dir}
	if path, err := filepath.EvalSymlinks(dir); err == nil {
		dir = path
	}
	best := ""
	scan := bufio.NewScanner(bytes.NewReader([]byte(readFile("/proc/self/mounts"))))
	for scan.Scan() {
		f := strings.Fields(scan.Text())
		if len(f) < 4 || len(f[1]) < len(best) || !within(dir, f[1]) {
			continue
		}
		best, d.FileSystem, d.Mount = f[1], f[2], f[3]
	}
	if dev := device(dir); dev != "" {
		d.Device = filepath.Base(dev)
		d.WriteCache = readFile(filepath.Join(dev, "queue/write_cache"))
		d.BlockBytes = readFile(filepath.Join(dev, "queue/logical_block_size"))
		below, err := filepath.Glob(filepath.Join(dev, "slaves", "*"))
		d.Stacked = err == nil && len(below) > 0
		d.PhysicalBytes = readFile(filepath.Join(dev, "queue/physical_block_size"))
		d.FUA = readFile(filepath.Join(dev, "queue/fua"))
		d.Rotational = readFile(filepath.Join(dev, "queue/rotational"))
		d.AtomicBytes = readFile(filepath.Join(dev, "queue/atomic_write_unit_max_bytes"))
		d.Scheduler = readFile(filepath.Join(dev, "queue/scheduler"))
		if _, after, ok := strings.Cut(d.Scheduler, "["); ok {
			d.Scheduler, _, _ = strings.Cut(after, "]")
		}
	}
	return d
}

func within(dir, mount string) bool {
	return mount == "/" || dir == mount || strings.HasPrefix(dir, mount+"/")
}

// confine moves every thread of a process to the CPUs given; threads that it
// starts later inherit them.
func confine(pid int, cpus []int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	// A second pass catches threads born of one not yet moved in the first.
	for range 2 {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return fmt.Errorf("confine process %d: %w", pid, err)
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("confine thread %d of process %d to CPUs %v: %w", tid, pid, cpus, err)
			}
		}
	}
	return nil
}

// allowedCPUs returns the CPUs that a process may run on.
func allowedCPUs(pid int) []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(pid, &set) != nil {
		return nil
	}
	var cpus []int
	for c := range len(set) * 64 {
		if set.IsSet(c) {
			cpus = append(cpus, c)
		}
	}
	return cpus
}

// listenerPID finds the process of this machine that listens on the first
// address, or 0. It reads /proc and may need the rights of that process.
func listenerPID(address string) int {
	if !isLocal(address) {
		return 0
	}
	first := strings.Split(address, ",")[0]
	port, err := strconv.Atoi(first[strings.LastIndex(first, ":")+1:])
	if err != nil {
		return 0
	}
	socket := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for line := range strings.Lines(readFile(table)) {
			f := strings.Fields(line) // sl local rem state tx:rx tr:when retrnsmt uid timeout inode
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				socket = "socket:[" + f[9] + "]"
			}
		}
	}
	if socket == "" {
		return 0
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == socket {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			return pid
		}
	}
	return 0
}
