package bench

import (
	"errors"
	"strings"
	"testing"
)

// A run with half of the best speed of memory is disturbed, by what had been seen when it was over, and by all in the end.
func TestMemoryWatch(t *testing.T) {
	speeds := []float64{4e9, 4e9, 10e9, 8e9, 3e9, 5e9, 5e9, 5e9}
	m := &memoryWatch{copy: func(cpu int) (float64, error) {
		if cpu != 3 {
			t.Errorf("CPU %d", cpu)
		}
		v := speeds[0]
		speeds = speeds[1:]
		return v, nil
	}}
	c := Confinement{Broker: []int{3}, Generator: []int{4}}
	var runs []*Result
	for i, want := range []bool{false, false, true, false} {
		r := &Result{Row: "a", RecordsPerSecond: float64(i)}
		m.judge(r, MemorySpeed{m.speed(c), m.speed(c)})
		if r.Disturbed != want {
			t.Errorf("run %d: disturbed %v", i, r.Disturbed)
		}
		choose([]*Result{r})
		runs = append(runs, r)
	}
	if m.settle(runs); !runs[0].Disturbed || !runs[0].Left || runs[1].Left || runs[3].Left {
		t.Errorf("in the end: %+v", runs)
	}
	if s := Summarize("a", 1, runs); s.Runs != 2 || s.RecordsPerSecond != 2 || s.Marked {
		t.Errorf("%+v", s)
	}
	if s := runs[0].disturbance(); s != "steal 0.0 %  memory 4.0 GB/s  disturbed" {
		t.Error(s)
	}
	if s := memoryText(runs); !strings.Contains(s, "at 4.0 to 9.0 GB/s") {
		t.Error(s)
	}
}

// Where the speed cannot be measured nothing is said of it.
func TestNoMemoryWatch(t *testing.T) {
	broken := &memoryWatch{copy: func(int) (float64, error) { return 0, errors.New("not allowed") }}
	for _, m := range []*memoryWatch{nil, broken, {}} {
		c := Confinement{Broker: []int{0}}
		if m != broken && m != nil {
			c = Confinement{}
		}
		r := &Result{}
		if s := (MemorySpeed{m.speed(c), m.speed(c)}); s != (MemorySpeed{}) {
			t.Errorf("%+v", s)
		} else if m != nil {
			m.judge(r, s)
		}
		if m.settle([]*Result{r}); r.Memory != nil || r.Disturbed || memoryText([]*Result{r}) != "" {
			t.Errorf("%+v", r)
		}
	}
}

// The CPU that is asked for is where it is measured, and this thread stays where it was.
func TestCopySpeed(t *testing.T) {
	cpus := allowedCPUs(0)
	if thp := readFile("/sys/kernel/mm/transparent_hugepage/enabled"); thp == "" || strings.Contains(thp, "[never]") {
		if _, err := copySpeed(cpus[0]); err == nil {
			t.Error("without huge pages there was a speed")
		}
		return
	}
	for _, cpu := range cpus {
		if v, err := copySpeed(cpu); err != nil || v < 1e7 || v > 1e12 {
			t.Errorf("CPU %d: %.0f bytes/s, %v", cpu, v, err)
		}
	}
	if _, err := copySpeed(len(cpus) + 500); err == nil {
		t.Error("a CPU that is not there was no error")
	}
}
