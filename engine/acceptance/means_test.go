package acceptance_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const clientsDir = "../../testdata/clients"

// cannotFetch is install.sh's exit code for means that the machine cannot fetch.
const cannotFetch = 69

var installs sync.Map // name of the means -> func() error, run once

// needs makes sure that the machine has what a test needs: kcat, lsof, kafka, maven, confluent, io_uring, process.
// What is missing is installed. What cannot be had skips the test, and the skip is recorded.
func needs(t *testing.T, means ...string) {
	t.Helper()
	for _, name := range means {
		install, _ := installs.LoadOrStore(name, sync.OnceValue(func() error { return provide(name) }))
		err := install.(func() error)()
		if err == nil {
			continue
		}
		var exit *exec.ExitError
		if broken := errors.As(err, &exit) && exit.ExitCode() != cannotFetch; broken && os.Getenv("CI") == "true" {
			t.Fatalf("%s could be had, yet installing it failed: %v", name, err)
		}
		skip(t, fmt.Sprintf("%s: %v", name, err))
	}
}

func provide(name string) error {
	switch name {
	case "process":
		if runningBroker() != "" {
			return errors.New("the broker of MILLRACE_TEST_BOOTSTRAP is not ours to kill, configure or look into")
		}
		return nil
	case "io_uring":
		return probeRing()
	}
	out, err := exec.Command(filepath.Join(clientsDir, "install.sh"), name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(string(out)), err)
	}
	return nil
}

// probeRing asks the kernel for a ring of one entry.
func probeRing() error {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	return unix.Close(int(fd))
}

// ownProcess says that the test kills, configures or looks into the broker's process.
func ownProcess(t *testing.T) {
	t.Helper()
	needs(t, "process")
}

// skip leaves the test out and writes that to $MILLRACE_TEST_SKIPS, one line a test.
func skip(t *testing.T, why string) {
	t.Helper()
	path := cmp.Or(os.Getenv("MILLRACE_TEST_SKIPS"), filepath.Join(cacheDir(t), "skipped.txt"))
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = fmt.Fprintf(f, "%s: %s\n", t.Name(), strings.ReplaceAll(why, "\n", "; "))
	must(t, errors.Join(err, f.Close()))
	t.Skip(why)
}

// cacheDir is where install.sh keeps what is not a package of the distribution.
func cacheDir(t *testing.T) string {
	if dir := os.Getenv("MILLRACE_TEST_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	must(t, err)
	return filepath.Join(dir, "millrace-test")
}

// run runs a client to its end and returns its standard output; stderr goes into the failure message.
func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	stdout, stderr, err := tryRun(t, stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

func tryRun(t *testing.T, stdin, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(timeout(t), name, args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}
