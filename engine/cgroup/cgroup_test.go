package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func fake(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCPUs(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  float64
		from  string
	}{
		{"none", nil, 0, ""},
		{"v2, the parent's is smaller", map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"},
			1.5, "/sys/fs/cgroup/a/cpu.max"},
		{"v2, max", map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 0, ""},
		{"v2, own namespace", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, "/sys/fs/cgroup/cpu.max"},
		{"v1", map[string]string{"proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/d\n", "sys/fs/cgroup/cpu/d/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/d/cpu.cfs_period_us": "100000\n"},
			2.5, "/sys/fs/cgroup/cpu/d/cpu.cfs_quota_us"},
		{"v1, none", map[string]string{"proc/self/cgroup": "3:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 0, ""},
	} {
		if got, from := CPUs(fake(t, c.files)); got != c.want || from != c.from {
			t.Errorf("%s: %v from %q, want %v from %q", c.name, got, from, c.want, c.from)
		}
	}
}

func TestMemory(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name        string
		files       map[string]string
		limit, left int64
	}{
		{"none", nil, math.MaxInt64, math.MaxInt64},
		{"v2, the parent's is smaller", map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "1048576\n",
			"sys/fs/cgroup/a/memory.max": "209715200\n", "sys/fs/cgroup/a/memory.current": "104857600\n"}, 200 * mib, 100 * mib},
		{"v2, the larger one leaves less", map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "104857600\n", "sys/fs/cgroup/a/memory.current": "0\n",
			"sys/fs/cgroup/memory.max": "209715200\n", "sys/fs/cgroup/memory.current": "208666624\n"}, 100 * mib, mib},
		{"v2, over its limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n", "sys/fs/cgroup/memory.current": "2097152\n"}, mib, -mib},
		{"v1", map[string]string{"proc/self/cgroup": "4:memory:/x\n3:cpu:/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "209715200\n", "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1048576\n"},
			200 * mib, 199 * mib},
		{"v1, none", map[string]string{"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1048576\n"},
			math.MaxInt64, math.MaxInt64},
	} {
		if limit, left := Memory(fake(t, c.files)); limit != c.limit || left != c.left {
			t.Errorf("%s: %d and %d, want %d and %d", c.name, limit, left, c.limit, c.left)
		}
	}
}
