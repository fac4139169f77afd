package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A child is put into a control group of its own (version 2) where the bench may make one: what
// its CPUs were used for is then counted to the microsecond, with all processes that it starts. Where there is none,
// nothing is lost but that: see [CPU].

// groupPrefix begins the names of the bench's control groups.
const groupPrefix = "millrace-bench-"

// mounts are where version 2 is mounted, alone or beside version 1.
var mounts = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

var groups atomic.Int64 // made by this process

// hierarchy is where version 2 is; "" where it is not.
func hierarchy() string {
	for _, at := range mounts {
		var st unix.Statfs_t
		if unix.Statfs(at, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return at
		}
	}
	return ""
}

// own is the control group of a process, as a path in the hierarchy; "/" is its root.
func own(pid string) string {
	b, _ := os.ReadFile("/proc/" + pid + "/cgroup") // where it cannot be read there is none
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path
		}
	}
	return ""
}

// newGroup makes a control group below the bench's own: nil where that may not be.
func newGroup() *os.File {
	at := hierarchy()
	if at == "" {
		return nil
	}
	parent := filepath.Join(at, own("self"))
	stale, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
	for _, path := range stale { // of a bench that was killed; one with a process in it stays
		var pid, n int
		if _, err := fmt.Sscanf(filepath.Base(path), groupPrefix+"%d-%d", &pid, &n); err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			_ = unix.Rmdir(path)
		}
	}
	path := filepath.Join(parent, fmt.Sprintf("%s%d-%d", groupPrefix, os.Getpid(), groups.Add(1)))
	if os.Mkdir(path, 0o755) != nil {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		_ = unix.Rmdir(path)
		return nil
	}
	return f
}

// endGroup ends all that is left in a control group, and removes it.
func endGroup(f *os.File) {
	if f == nil {
		return
	}
	defer f.Close()
	_ = os.WriteFile(filepath.Join(f.Name(), "cgroup.kill"), []byte("1"), 0) // Linux 5.14 on
	for range 100 {
		if unix.Rmdir(f.Name()) != unix.EBUSY {
			return
		}
		time.Sleep(time.Millisecond) // the killed are on their way
	}
}

// CPU is the user and system time of a process, in whole 10 ms; of one that a bench has started in a control group, that of all
// processes in it, in microseconds. Dead threads are included. It fails where pid is no process.
func CPU(pid int) (time.Duration, error) {
	if group := own(strconv.Itoa(pid)); strings.HasPrefix(filepath.Base(group), groupPrefix) {
		b, err := os.ReadFile(filepath.Join(hierarchy(), group, "cpu.stat"))
		if err != nil {
			return 0, err
		}
		return groupCPU(string(b))
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return StatCPU(string(b))
}

func groupCPU(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	usec, err := strconv.ParseInt(strings.TrimPrefix(line, "usage_usec "), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cpu.stat: %w", err)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// Tick is the kernel's unit of CPU time: USER_HZ is 100 on every Linux that Go runs on.
const Tick = 10 * time.Millisecond

// StatCPU reads user and system time of a process, dead threads included, from /proc/PID/stat.
func StatCPU(stat string) (time.Duration, error) {
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
	return time.Duration(user+system) * Tick, nil
}
