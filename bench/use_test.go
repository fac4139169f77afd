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

// A thread that ended between two readings is not counted, one that began is.
func TestGrown(t *testing.T) {
	from := map[int]time.Duration{3: 10, 4: 20, 5: 100}
	to := map[int]time.Duration{3: 15, 5: 7, 6: 1}
	if got := grown(from, to); got != 5+7+1 {
		t.Errorf("%d", got)
	}
	if n := len(kernelThreads()); n == 0 {
		t.Error("the kernel has no threads")
	}
}

func TestCPUOfASecond(t *testing.T) {
	now := time.Now()
	from := sample{at: now, cpu: cpuTimes{total: 1000, idle: 500, steal: 10}, client: time.Second, broker: 2 * time.Second, hasBroker: true}
	to := sample{at: now.Add(2 * time.Second), cpu: cpuTimes{total: 1400, idle: 600, steal: 30}, client: 1500 * time.Millisecond, broker: 3 * time.Second, hasBroker: true}
	// 400 ticks of 10 ms passed, of which 100 were idle and 20 stolen: 2.8 s of work, 0.5 s the client's and 1 s the broker's.
	c := from.cpuUntil(to)
	if c == nil || c.Broker == nil || math.Abs(c.Steal-0.1) > 1e-9 || math.Abs(c.Client-0.25) > 1e-9 || math.Abs(*c.Broker-0.5) > 1e-9 || math.Abs(*c.Others-0.65) > 1e-9 {
		t.Errorf("%+v", c)
	}
	to.hasBroker = false
	if c := from.cpuUntil(to); c.Broker != nil || c.Others != nil {
		t.Errorf("without the broker's figures: %+v", c)
	}
	if c := from.cpuUntil(from); c != nil {
		t.Errorf("of no time: %+v", c)
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
