package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cpus tells how many cores the broker may use, which is how many shards it starts.
func (m machine) cpus() []check {
	online := m.read("sys/devices/system/cpu/online")
	var set unix.CPUSet
	allowed := 0
	if err := unix.SchedGetaffinity(0, &set); err == nil {
		allowed = set.Count()
	}
	checks := []check{judge("cpus", fmt.Sprintf("%d allowed, online %s", allowed, online), allowed >= 2, statusWarn,
		"with one core the shard shares it with the garbage collector, the network and the disk's interrupts")}
	if quota, path := m.cpuQuota(); quota > 0 {
		checks = append(checks, judge("cpu quota", fmt.Sprintf("%.2f cores (%s)", quota, path), quota >= float64(allowed), statusWarn,
			"the whole process stands still when it has used up its share of a period: give whole cores with cpuset instead of a quota"))
	} else {
		checks = append(checks, check{"cpu quota", statusOK, "none", ""})
	}
	if governor := m.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); governor != "" {
		checks = append(checks, judge("cpu frequency", "governor "+governor, governor == "performance", statusWarn,
			"a core that was idle answers late: cpupower frequency-set -g performance"))
	}
	return checks
}

// cpuQuota is the smallest quota, in cores, of our cgroup and those above it, and
// the file that says so; 0: none. Both cgroup versions are read.
func (m machine) cpuQuota() (cores float64, file string) {
	m.groups("cpu", func(dir string, second bool) {
		from := filepath.Join(dir, "cpu.max")
		got := ratio(m.read(from))
		if !second {
			from = filepath.Join(dir, "cpu.cfs_quota_us")
			got = ratio(m.read(from) + " " + m.read(filepath.Join(dir, "cpu.cfs_period_us")))
		}
		if got > 0 && (cores == 0 || got < cores) {
			cores, file = got, from
		}
	})
	return cores, file
}

// groups visits the directory of our cgroup, and of those above it, in which a controller's files may be; second: of cgroup version 2.
func (m machine) groups(controller string, visit func(dir string, second bool)) {
	for line := range strings.Lines(m.read("proc/self/cgroup")) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id:controllers:path
		if len(parts) != 3 {
			continue
		}
		root, second := "/sys/fs/cgroup", parts[1] == ""
		if !second {
			if !slices.Contains(strings.Split(parts[1], ","), controller) {
				continue
			}
			root = filepath.Join(root, controller)
		}
		for at := filepath.Clean("/" + parts[2]); ; at = filepath.Dir(at) {
			if visit(filepath.Join(root, at), second); at == "/" {
				break
			}
		}
	}
}

// memoryThere is how much memory this process may still use, bytes: what is available on the machine, and to its cgroups. 0 where
// that is not told.
func (m machine) memoryThere() (bytes int64) {
	kib, _ := strconv.ParseInt(strings.TrimSuffix(m.field("proc/meminfo", "MemAvailable"), " kB"), 10, 64)
	bytes = kib << 10
	m.groups("memory", func(dir string, second bool) {
		limit, usage := "memory.max", "memory.current"
		if !second {
			limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
		}
		most, err := strconv.ParseInt(m.read(filepath.Join(dir, limit)), 10, 64) // "max" is none
		used, failed := strconv.ParseInt(m.read(filepath.Join(dir, usage)), 10, 64)
		if err == nil && failed == nil {
			bytes = min(bytes, most-used)
		}
	})
	return bytes
}

// ratio is a / b of "a b"; 0 where a is "max", negative or not a number.
func ratio(s string) float64 {
	f := strings.Fields(s)
	if len(f) != 2 {
		return 0
	}
	a, errA := strconv.ParseFloat(f[0], 64)
	b, errB := strconv.ParseFloat(f[1], 64)
	if errA != nil || errB != nil || a <= 0 || b <= 0 {
		return 0
	}
	return a / b
}
