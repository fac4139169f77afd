package netio

import (
	"math"
	"os"
	"runtime"
	"testing"

	"github.com/millrace/millrace/ring"
)

const maxInt = math.MaxInt64

// lockedRing is a ring for this goroutine, which keeps its thread.
func lockedRing(t *testing.T, backend string) ring.IO {
	t.Helper()
	runtime.LockOSThread()
	io := newRing(t, backend)
	t.Cleanup(func() { io.Close() })
	return io
}

// The measurement leaves nothing behind: no file, no memory, no op.
func TestMeasurePaths(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			io, dir := lockedRing(t, backend), t.TempDir()
			p, told, err := MeasurePaths(io, dir)
			t.Logf("%+v: %s %v", p, told, err)
			if err != nil && p != DefaultPaths || err == nil && told == "" {
				t.Errorf("%+v %q %v", p, told, err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || io.Pool().Used() > 0 {
				t.Errorf("left: %v, %v, %d bytes of the pool", left, err, io.Pool().Used())
			}
			before := io.Stats().Completed
			io.Wait(io.Stamp() + 2e6)
			if n := io.Stats().Completed - before; n > 1 { // a Close of the server's, at most
				t.Errorf("%d ops were left on the ring", n)
			}
		})
	}
}

// What cannot be measured has the defaults, and a reason.
func TestMeasurePathsFails(t *testing.T) {
	r := simRig(t, 1, Config{}, "")
	if p, _, err := MeasurePaths(r.io, "/data"); p != DefaultPaths || err == nil {
		t.Errorf("%+v, %v", p, err)
	}
	for _, backend := range backends() {
		io := lockedRing(t, backend)
		if p, _, err := MeasurePaths(io, t.TempDir()+"/none"); p != DefaultPaths || err == nil || io.Pool().Used() > 0 {
			t.Errorf("%s: %+v, %v", backend, p, err)
		}
	}
}

// What is chosen from what was measured.
func TestChoosePaths(t *testing.T) {
	for _, c := range []struct {
		name                   string
		copy, sendfile, splice [4]int64
		want                   Paths
	}{
		{"copies of small ranges", [4]int64{10, 30, 90, 350}, [4]int64{15, 35, 80, 300}, [4]int64{50, 60, 90, 400}, Paths{32 << 10, maxInt}},
		{"always a copy", [4]int64{10, 30, 70, 320}, [4]int64{15, 35, 80, 300}, [4]int64{50, 60, 90, 400}, Paths{maxInt, maxInt}},
		{"never a copy", [4]int64{20, 30, 70, 350}, [4]int64{15, 35, 80, 300}, [4]int64{50, 60, 90, 200}, Paths{0, 128 << 10}},
		{"always a splice", [4]int64{20, 70, 90, 350}, [4]int64{15, 65, 80, 300}, [4]int64{10, 60, 70, 200}, Paths{0, 0}},
	} {
		m := &measure{}
		for way, all := range [][4]int64{c.copy, c.sendfile, c.splice} {
			for size, took := range all {
				m.took[way][size] = []int64{took * 3000, took * 1000, took * 2000}
			}
		}
		if p, told := m.choose(); p != c.want || told == "" {
			t.Errorf("%s: %+v, %s", c.name, p, told)
		}
	}
}
