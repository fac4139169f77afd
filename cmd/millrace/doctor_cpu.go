package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/engine/cgroup"
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
	if quota, path := cgroup.CPUs(m.root); quota > 0 {
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

// memoryThere is how much memory this process may still use, bytes: what is available on the machine, and to its cgroups. 0 where
// that is not told.
func (m machine) memoryThere() (bytes int64) {
	kib, _ := strconv.ParseInt(strings.TrimSuffix(m.field("proc/meminfo", "MemAvailable"), " kB"), 10, 64)
	bytes = kib << 10
	_, left := cgroup.Memory(m.root)
	return min(bytes, left)
}
