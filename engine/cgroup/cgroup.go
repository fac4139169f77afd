// Package cgroup tells what control groups, of either version, leave to this process. What they do not tell is no limit.
package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// CPUs is the smallest quota, in cores, of this process's group and those above it, and the file that says so; 0: none. root is
// where the file system begins: "/", but for tests.
func CPUs(root string) (cores float64, file string) {
	walk(root, "cpu", func(dir string, second bool) {
		from := filepath.Join(dir, "cpu.max")
		got := ratio(read(root, from))
		if !second {
			from = filepath.Join(dir, "cpu.cfs_quota_us")
			got = ratio(read(root, from) + " " + read(root, filepath.Join(dir, "cpu.cfs_period_us")))
		}
		if got > 0 && (cores == 0 || got < cores) {
			cores, file = got, from
		}
	})
	return cores, file
}

// Memory is the smallest limit on memory of this process's group and those above it, and how much they leave of theirs, bytes: what the
// page cache has counts as used, so that may be negative. Both are MaxInt64 where there is no limit.
func Memory(root string) (limit, left int64) {
	limit, left = math.MaxInt64, math.MaxInt64
	walk(root, "memory", func(dir string, second bool) {
		most, usage := "memory.max", "memory.current"
		if !second {
			most, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
		}
		n, err := strconv.ParseInt(read(root, filepath.Join(dir, most)), 10, 64) // "max" is none
		used, failed := strconv.ParseInt(read(root, filepath.Join(dir, usage)), 10, 64)
		if err == nil && failed == nil && n < unlimited {
			limit, left = min(limit, n), min(left, n-used)
		}
	})
	return limit, left
}

// unlimited is what version 1 has for no limit: the largest number of whole pages, of whatever size.
const unlimited = math.MaxInt64 &^ (1<<16 - 1)

// walk visits the directory of this process's group, and of those above it, in which a controller's files may be; second: of version 2.
func walk(root, controller string, visit func(dir string, second bool)) {
	for line := range strings.Lines(read(root, "/proc/self/cgroup") + "\n") {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id:controllers:path
		if len(parts) != 3 {
			continue
		}
		mount, second := "/sys/fs/cgroup", parts[1] == ""
		if !second {
			if !slices.Contains(strings.Split(parts[1], ","), controller) {
				continue
			}
			mount = filepath.Join(mount, controller)
		}
		for at := filepath.Clean("/" + parts[2]); ; at = filepath.Dir(at) {
			if visit(filepath.Join(mount, at), second); at == "/" {
				break
			}
		}
	}
}

// read is a small file without white space around it, or "".
func read(root, path string) string {
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
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
