package peer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Who waits for another process to fetch can be interrupted, and has it when that one is done.
func TestFetchWaitsForTheLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jars")
	lock, err := os.Create(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	get := func(work string) (string, error) {
		whole := filepath.Join(work, "libs")
		return whole, os.Mkdir(whole, 0o755)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*lockEvery)
	defer cancel()
	if err := fetch(ctx, dir, get); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another one has the lock: %v", err)
	}
	waits := make(chan error)
	go func() { waits <- fetch(t.Context(), dir, get) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-waits; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
