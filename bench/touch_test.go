package bench

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/cgroup"
)

func TestTouchMemory(t *testing.T) {
	const asked = touchPiece + touchPiece/2 // the last piece is not whole
	got, err := touchMemory(t.Context(), asked+1)
	if err != nil {
		t.Fatal(err)
	}
	_, left := cgroup.Memory("/")
	if min(freeMemory(readFile("/proc/meminfo")), left) > 2*(touchSpare+asked) && (got.Bytes != asked || got.Seconds <= 0) {
		t.Errorf("touched %+v, not %d bytes", got, asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := touchMemory(ctx, asked); err == nil && got.Bytes > 0 || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("after an interrupt: %+v, %v", got, err)
	}
	if got, err := touchMemory(t.Context(), 0); err != nil || *got != (Touched{}) {
		t.Errorf("nothing to touch: %+v, %v", got, err)
	}
}

// A run that could touch nothing, or less than was asked, says so.
func TestRunTouchesLess(t *testing.T) {
	w := short1s()
	w.Warmup, w.Duration = 0, 10*time.Millisecond
	r, err := Run(t.Context(), &memory{}, w, Options{Touch: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r.Touched == nil || r.Touched.Bytes != 0 || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, "less memory was touched") }) {
		t.Errorf("%+v, %q", r.Touched, r.Notes)
	}
}

func TestFreeMemory(t *testing.T) {
	for _, c := range []struct {
		meminfo string
		want    int64
	}{
		{"MemTotal:       24683824 kB\nMemFree:        14104156 kB\nMemAvailable:   22941336 kB\n", 14104156 << 10},
		{"MemTotal:       24683824 kB\n", 0},
		{"", 0},
	} {
		if got := freeMemory(c.meminfo); got != c.want {
			t.Errorf("%q: %d, not %d", c.meminfo, got, c.want)
		}
	}
}

// A run that touched memory says so in its result and its table.
func TestTouchedIsTold(t *testing.T) {
	if s := (Touched{Bytes: 4 << 30, Seconds: 5}).String(); s != "4096 MiB in 5.0 s, 4.8 µs a page of 4 KiB" {
		t.Error(s)
	}
	if s := (Touched{}).String(); s != "none: too little was free" {
		t.Error(s)
	}
	all := []*Result{{Touched: &Touched{Bytes: 4 << 30, Seconds: 5}}, {Touched: &Touched{Bytes: 2 << 30, Seconds: 1}}, {Touched: &Touched{}}, {}}
	for n, want := range map[int]string{2: "before each run, 2,048 to 4,096 MiB, which took 1.9 to 4.8 µs", 3: "before 2 of 3 runs, 2,048", 4: "before 2 of 4 runs, 2,048"} {
		if text := touchedText(all[:n]); !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	if text := touchedText(all[2:]); !strings.HasSuffix(text, "before none: too little was free") {
		t.Error(text)
	}
	if text := touchedText(all[3:]); text != "" {
		t.Error(text)
	}
}

func TestFreeHuge(t *testing.T) {
	for buddyinfo, want := range map[string]float64{
		"": -1, "Node 0, zone Normal x\n": -1, "Node 0, zone   Normal      0      0\n": -1,
		"Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 \nNode 0, zone   Normal    256      0      0      0      0      0      0      0      0      1      0 \n": 4096.0 / 4608,
	} {
		got := freeHuge(buddyinfo)
		if (got == nil) != (want < 0) || got != nil && *got != want {
			t.Errorf("%q: %v, want %v", buddyinfo, got, want)
		}
	}
}
