//go:build !uring

package uring

import (
	"errors"
	"strings"
	"testing"
)

func TestWithoutTheTagItSaysHowToBuild(t *testing.T) {
	_, probe := Probe()
	_, made := New(nil, Config{})
	for _, err := range []error{Available(), probe, made} {
		if !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "-tags=uring -ldflags=-checklinkname=0") {
			t.Fatalf("got %v", err)
		}
	}
}
