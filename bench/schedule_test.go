package bench

import (
	"testing"
	"time"
)

func TestScheduleIsExact(t *testing.T) {
	for _, c := range []struct {
		rate  int64
		batch int
		i     int64
		at    time.Duration
	}{
		{1000, 1, 0, 0},
		{1000, 1, 1, time.Millisecond},
		{1000, 10, 3, 30 * time.Millisecond},
		{3, 1, 1, 333_333_333},
		{3, 1, 3, time.Second},                      // a third of a second three times does not drift
		{7, 1, 7 * 3600, time.Hour},                 // nor an hour of sevenths
		{5_000_000, 1, 5_000_000 * 3600, time.Hour}, // records times nanoseconds exceed 64 bits
	} {
		if at := (Schedule{c.rate, c.batch}).At(c.i); at != c.at {
			t.Errorf("rate %d batch %d: send %d at %v, want %v", c.rate, c.batch, c.i, at, c.at)
		}
	}
}

func TestScheduleCount(t *testing.T) {
	for _, c := range []struct {
		rate  int64
		batch int
		end   time.Duration
		want  int64
	}{
		{1000, 1, time.Second, 1000},
		{1000, 16, time.Second, 63}, // sends at 0, 16, .., 992 ms
		{3, 1, time.Second, 3},
		{1, 1, time.Nanosecond, 1}, // the send at 0
		{1, 1, 0, 0},
	} {
		s := Schedule{c.rate, c.batch}
		n := s.Count(c.end)
		if n != c.want {
			t.Errorf("rate %d batch %d: %d sends before %v, want %d", c.rate, c.batch, n, c.end, c.want)
		}
		if n > 0 && (s.At(n-1) >= c.end || s.At(n) < c.end) {
			t.Errorf("rate %d batch %d: send %d at %v and %d at %v are not on both sides of %v", c.rate, c.batch, n-1, s.At(n-1), n, s.At(n), c.end)
		}
	}
}
