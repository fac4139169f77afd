package main

import (
	"math"
	"testing"
)

func TestConnectionsMax(t *testing.T) {
	for _, x := range []struct{ limit, inUse, want int64 }{
		{1024, 24, 750},
		{1 << 20, 40, 1<<20 - 40 - segmentDescriptors},
		{4*segmentDescriptors + 100, 100, 3 * segmentDescriptors},
		{64, 60, 3},
		{64, 70, 1}, // somebody lowered the limit: still somebody can look what is wrong
		{math.MaxInt64, 10, math.MaxInt64 - 10 - segmentDescriptors},
	} {
		if got := connectionsMax(x.limit, x.inUse); got != x.want {
			t.Errorf("limit %d, %d in use: %d, want %d", x.limit, x.inUse, got, x.want)
		}
	}
	limit, inUse, ok := descriptors()
	if !ok || inUse < 3 || inUse > limit {
		t.Errorf("%d of %d in use, %v", inUse, limit, ok)
	}
}
