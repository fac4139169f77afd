package ringtest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NeedUring leaves a test out where the io_uring backend cannot be had, and writes that
// to the file that $MILLRACE_TEST_SKIPS names (make test lists it at the end). err is
// what uring.Available, Probe or New say; nil goes on. Under CI=true it is a failure
// when the kernel gives a ring to whoever asks: then the backend is what is wrong.
func NeedUring(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" && setupUring() == nil {
		t.Fatalf("the kernel gives a ring, but not to the backend: %v", err)
	}
	if path := os.Getenv("MILLRACE_TEST_SKIPS"); path != "" {
		if err := appendLine(path, fmt.Sprintf("%s: io_uring: %v", t.Name(), err)); err != nil {
			t.Error(err)
		}
	}
	t.Skip("io_uring:", err)
}

// NeedFUSE leaves a test out where no FUSE file system can be mounted, and writes that to the
// same file. err says why; nil goes on.
func NeedFUSE(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if path := os.Getenv("MILLRACE_TEST_SKIPS"); path != "" {
		if err := appendLine(path, fmt.Sprintf("%s: FUSE: %v", t.Name(), err)); err != nil {
			t.Error(err)
		}
	}
	t.Skip("FUSE:", err)
}

// setupUring asks the kernel for a ring of one entry.
func setupUring() error {
	var params [120]byte // struct io_uring_params
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return errno
	}
	return syscall.Close(int(fd))
}

// appendLine adds a line in one write: other test binaries add theirs at the same time.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(strings.ReplaceAll(line, "\n", "; ") + "\n"); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
