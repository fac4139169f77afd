package journal

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace/ring"
)

// The measurement leaves nothing behind: no file, no memory, no figure.
func TestMeasure(t *testing.T) {
	runtime.LockOSThread()
	f, io := realFiles(t)
	w, told, err := f.Measure(io)
	t.Logf("%v: %s", w, told)
	if err != nil || !strings.Contains(told, "4 KiB: RWF_DSYNC ") || !strings.Contains(told, "; 64 KiB: ") {
		t.Errorf("%q, %v", told, err)
	}
	if n := io.Pool().Used(); n > 0 {
		t.Errorf("%d bytes of the pool are left", n)
	}
	if n := io.Stats().Count(ring.Write); n > 0 {
		t.Errorf("%d writes are counted", n)
	}
	left, err := os.ReadDir(f.cfg.Dir)
	for _, e := range left {
		if e.Name() == measureName {
			t.Error("the file is left")
		}
	}
	if err != nil {
		t.Error(err)
	}
	f.cfg.Dir += "/none"
	if w, _, err := f.Measure(io); w != DSync || err == nil || io.Pool().Used() > 0 {
		t.Errorf("without a directory: %v, %v, %d bytes of the pool", w, err, io.Pool().Used())
	}
}

// Two calls have to be cheaper at both sizes.
func TestChooseWay(t *testing.T) {
	for _, c := range []struct {
		one, two [2]int64 // µs
		want     Way
	}{
		{[2]int64{500, 800}, [2]int64{700, 1000}, DSync},
		{[2]int64{500, 800}, [2]int64{500, 800}, DSync},
		{[2]int64{500, 800}, [2]int64{300, 790}, DSync},
		{[2]int64{500, 800}, [2]int64{460, 700}, DSync},
		{[2]int64{500, 800}, [2]int64{449, 719}, Linked},
	} {
		var m measure
		for size := range measured {
			m.took[DSync][size] = []int64{9e9, c.one[size] * 1e3, 1, 9e9}
			m.took[Linked][size] = []int64{1, 9e9, c.two[size] * 1e3, 9e9}
		}
		if w, told := m.choose(); w != c.want {
			t.Errorf("%v: %s", w, told)
		}
	}
}
