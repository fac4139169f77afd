package main

import (
	"errors"
	"os"
	"testing"

	"github.com/millrace/millrace/ring/uring"
)

// Under make the io_uring backend must be in the binary: a build without it passes
// everything else, on the slower backend, and nobody would notice.
func TestMakeLinksTheRing(t *testing.T) {
	if err := uring.Available(); os.Getenv("MILLRACE_MAKE") != "" && errors.Is(err, uring.ErrNotBuilt) {
		t.Fatalf("GOFLAGS=%q: %v", os.Getenv("GOFLAGS"), err)
	}
}
