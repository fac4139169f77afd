package bench

import (
	"math"
	"os"
	"testing"
	"time"
)

func TestSteal(t *testing.T) {
	from, err := parseCPU("cpu  1000 0 500 8000 100 10 20 70 400 0\ncpu0 1 2 3 4 5 6 7 8\n")
	if err != nil {
		t.Fatal(err)
	}
	to, err := parseCPU("cpu  1100 0 600 8600 200 10 20 170 500 0\n")
	if err != nil {
		t.Fatal(err)
	}
	// 1000 ticks passed; guest time is in user time and does not count again.
	u := meter{}.between(sample{cpu: from}, sample{cpu: to})
	if math.Abs(u.Steal-10) > 1e-9 || math.Abs(u.Idle-70) > 1e-9 {
		t.Errorf("steal %v %%, idle %v %%; want 10 and 70", u.Steal, u.Idle)
	}
	if u.BrokerCPU != nil || u.DiskFlushes != nil {
		t.Error("a figure without a counter")
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8 9 10\n", "cpu  a 0 0 0 0 0 0 0 0 0\n"} {
		if _, err := parseCPU(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestDiskCounters(t *testing.T) {
	d, err := parseDisk("   56887     8724  3068210    32833     9426    13444  1668440    12905        0    18360    46574     4770      102   224888      782      400       52\n")
	if err != nil {
		t.Fatal(err)
	}
	if d.writes != 9426 || d.bytes != 1668440*512 || d.flushes != 400 {
		t.Errorf("%+v", d)
	}
	if _, err := parseDisk("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"); err == nil {
		t.Error("a kernel without flush counters was taken")
	}
}

func TestProcessCPU(t *testing.T) {
	d, err := processCPU("42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 9 0 100 1 2")
	if err != nil || d != 3*time.Second {
		t.Errorf("%v, %v; want 3s", d, err)
	}
	own, err := processCPU(readFile("/proc/self/stat"))
	if err != nil || own < 0 || own > time.Hour {
		t.Errorf("own process: %v, %v", own, err)
	}
}

func TestMeterReadsThisMachine(t *testing.T) {
	m := meter{pid: os.Getpid()}
	s, err := m.read()
	if err != nil {
		t.Fatal(err)
	}
	if s.cpu.total == 0 || !s.hasBroker {
		t.Errorf("%+v", s)
	}
	if residentBytes(os.Getpid()) < 1<<20 {
		t.Error("this process has less than a MiB resident")
	}
}
