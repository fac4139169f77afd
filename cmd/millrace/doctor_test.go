package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a machine with the given files below its root.
func fake(t *testing.T, files map[string]string) machine {
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte(content))
	}
	return machine{root}
}

// statuses is the status of each check by name.
func statuses(checks []check) map[string]string {
	all := map[string]string{}
	for _, c := range checks {
		all[c.Name] = c.Status
	}
	return all
}

func TestSettings(t *testing.T) {
	slow := fake(t, map[string]string{
		"proc/sys/kernel/osrelease": "5.15.0-91-generic\n", "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
		"proc/sys/vm/swappiness": "60\n", "proc/meminfo": "MemAvailable:   40000000 kB\nSwapTotal:      2097148 kB\n",
		"proc/sys/vm/dirty_background_ratio": "10\n", "proc/sys/vm/dirty_ratio": "20\n", "proc/sys/vm/dirty_expire_centisecs": "3000\n",
		"proc/sys/vm/dirty_background_bytes": "0\n", "proc/sys/vm/max_map_count": "65530\n",
		"proc/sys/net/core/somaxconn": "128\n", "proc/sys/net/ipv4/tcp_max_syn_backlog": "256\n",
		"proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t1048576\n", "proc/sys/net/ipv4/tcp_wmem": "4096 16384 4194304\n",
		"proc/sys/net/ipv4/tcp_slow_start_after_idle": "1\n", "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
	})
	got := statuses(slow.kernel())
	for _, part := range [][]check{slow.memory(), slow.network(), slow.cpus(), slow.limits()} {
		for name, status := range statuses(part) {
			got[name] = status
		}
	}
	for name, want := range map[string]string{"kernel": statusWarn, "huge pages": statusWarn, "swap": statusWarn, "write-back": statusWarn, "listen queue": statusWarn,
		"half-open connections": statusWarn, "tcp rmem": statusWarn, "tcp wmem": statusOK, "tcp slow start": statusWarn, "cpu frequency": statusWarn,
		"cpu quota": statusOK, "memory maps": statusWarn} {
		if got[name] != want {
			t.Errorf("%s: %q, want %s", name, got[name], want)
		}
	}
	never := fake(t, map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n"}).memory()
	if c := never[0]; c.Name != "huge pages" || c.Status != statusWarn || !strings.Contains(c.Advice, "4 KiB") {
		t.Errorf("no huge pages: %+v", c)
	}
	good := fake(t, map[string]string{
		"proc/sys/kernel/osrelease": "6.1.0\n", "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
		"proc/sys/vm/swappiness": "60\n", "proc/meminfo": "MemAvailable: 40000000 kB\nSwapTotal: 0 kB\n",
		"proc/sys/vm/dirty_background_ratio": "0\n", "proc/sys/vm/dirty_background_bytes": "268435456\n", "proc/sys/net/core/somaxconn": "4096\n",
	})
	for _, part := range [][]check{good.kernel(), good.memory(), good.network()} {
		for _, c := range part {
			if c.Status != statusOK || c.Advice != "" {
				t.Errorf("%+v on a good machine", c)
			}
		}
	}
}

func TestMemoryThere(t *testing.T) {
	const meminfo, mib = "MemTotal: 8388608 kB\nMemAvailable:    4194304 kB\n", 1 << 20
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"not told", nil, 0},
		{"no group", map[string]string{"proc/meminfo": meminfo}, 4096 * mib},
		{"v2, the parent's is smaller", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "1048576\n",
			"sys/fs/cgroup/a/memory.max": "209715200\n", "sys/fs/cgroup/a/memory.current": "104857600\n"}, 100 * mib},
		{"v2, own namespace", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "209715200\n", "sys/fs/cgroup/memory.current": "0\n"}, 200 * mib},
		{"v1", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/x\n3:cpu:/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "209715200\n", "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1048576\n"}, 199 * mib},
	} {
		if got := fake(t, c.files).memoryThere(); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

const mountinfo = `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw
50 27 8:17 / /data\040one rw,noatime shared:5 - xfs /dev/sdb1 rw
51 27 0:99 / /data\040one/ram rw - tmpfs tmpfs rw
52 27 0:98 / /ro ro - squashfs /dev/loop0 ro
`

func TestMounts(t *testing.T) {
	all := parseMounts(mountinfo)
	for path, want := range map[string]string{"/": "ext4", "/data": "ext4", "/data one": "xfs", "/data one/x": "xfs", "/data one/ram/y": "tmpfs", "/data one/ramp": "xfs", "/device": "ext4"} {
		if m, ok := mountOf(all, path); !ok || m.kind != want {
			t.Errorf("%s is on %+v, want %s", path, m, want)
		}
	}
	for path, want := range map[string]string{"/": statusOK, "/data one": statusOK, "/data one/ram": statusWarn, "/ro": statusFail} {
		m, _ := mountOf(all, path)
		if got := judgeFileSystem(m); got.Status != want {
			t.Errorf("%s: %+v, want %s", path, got, want)
		}
	}
	if got := judgeFileSystem(mount{kind: "xfs", options: "rw,sync"}); got.Status != statusWarn {
		t.Errorf("mounted with sync: %+v", got)
	}
}

func TestDisk(t *testing.T) {
	m := fake(t, map[string]string{
		"sys/devices/pci/sda/queue/write_cache": "write back\n", "sys/devices/pci/sda/queue/fua": "0\n", "sys/devices/pci/sda/queue/logical_block_size": "512\n",
		"sys/devices/pci/sda/queue/scheduler": "none mq-deadline [bfq]\n", "sys/devices/pci/sda/sda1/size": "1\n",
		"sys/devices/pci/nvme/queue/write_cache": "write through\n", "sys/devices/pci/nvme/queue/scheduler": "[none] mq-deadline\n",
	})
	if err := os.MkdirAll(filepath.Join(m.root, "sys/dev/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	for device, to := range map[string]string{"8:0": "../../devices/pci/sda", "8:1": "../../devices/pci/sda/sda1", "259:0": "../../devices/pci/nvme"} {
		if err := os.Symlink(to, filepath.Join(m.root, "sys/dev/block", device)); err != nil {
			t.Fatal(err)
		}
	}
	for device, want := range map[string]string{"8:0": statusWarn, "8:1": statusWarn, "259:0": statusOK, "0:99": statusOK} {
		got := statuses(m.disk(mount{device: device, kind: "ext4", fromDevice: "/dev/x"}))
		if got["write cache"] != want {
			t.Errorf("%s: %v, want write cache %s", device, got, want)
		}
		if s, ok := got["disk scheduler"]; ok && s != want {
			t.Errorf("%s: scheduler %s, want %s", device, s, want)
		}
	}
}

func TestDirectIO(t *testing.T) {
	dir := t.TempDir()
	if got := directIO(dir); got.Status == statusFail {
		t.Errorf("%+v", got)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if got := directIO(filepath.Join(dir, "nothing")); got.Status != statusFail {
		t.Errorf("%+v in a directory that does not exist", got)
	}
}

func TestUringSettings(t *testing.T) {
	for _, c := range []struct {
		setting, seccomp, want, blocker string
	}{
		{"0\n", "0", statusOK, "no setting"}, {"1\n", "0", statusWarn, "kernel.io_uring_disabled=0"}, {"2\n", "0", statusWarn, "kernel.io_uring_disabled=0"},
		{"0\n", "2", statusOK, "seccomp=unconfined"},
	} {
		m := fake(t, map[string]string{"proc/sys/kernel/io_uring_disabled": c.setting, "proc/self/status": "Name:\tx\nSeccomp:\t" + c.seccomp + "\n"})
		if got := m.uringSetting(); got.Status != c.want || !strings.Contains(m.uringBlocker(), c.blocker) {
			t.Errorf("%q: %+v, blocked by %q", c.setting, got, m.uringBlocker())
		}
	}
}

func TestDoctor(t *testing.T) {
	code, out, errOut := invoke("doctor", "--data", filepath.Join(t.TempDir(), "not", "yet", "made"), "--json")
	var all []check
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	failed := 0
	for _, c := range all {
		if c.Status == statusFail {
			failed++
		}
		if c.Name == "" || c.Found == "" {
			t.Errorf("an empty line: %+v", c)
		}
	}
	if len(all) < 10 || (code == 1) != (failed > 0) {
		t.Errorf("%d checks, %d failed, exit code %d, error %q", len(all), failed, code, errOut)
	}
	if _, out, _ := invoke("doctor"); !strings.Contains(out, "O_DIRECT") {
		t.Errorf("printed %s", out)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if code, out, _ := invoke("doctor", "--data", file); code != 1 || !strings.Contains(out, "FAIL") {
		t.Errorf("a file as data directory: exit code %d, printed %s", code, out)
	}
}
