package bench

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestTouchMemory(t *testing.T) {
	got, err := touchMemory(t.Context(), 2*touchPiece+1)
	if err != nil {
		t.Fatal(err)
	}
	if freeMemory(readFile("/proc/meminfo")) > 2*(touchSpare+2*touchPiece) && (got == nil || got.Bytes != 2*touchPiece || got.Seconds <= 0) {
		t.Errorf("touched %+v, not %d bytes", got, 2*touchPiece)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := touchMemory(ctx, 2*touchPiece); got != nil || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("after an interrupt: %+v, %v", got, err)
	}
	if got, err := touchMemory(t.Context(), 0); got != nil || err != nil {
		t.Errorf("nothing to touch: %+v, %v", got, err)
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
	text := touchedText([]*Result{{}, {Touched: &Touched{Bytes: 4 << 30, Seconds: 5}}, {Touched: &Touched{Bytes: 2 << 30, Seconds: 1}}})
	if !strings.Contains(text, "2,048 to 4,096 MiB") || !strings.Contains(text, "1.9 to 4.8 µs") {
		t.Error(text)
	}
	if text := touchedText([]*Result{{}}); text != "" {
		t.Error(text)
	}
}
