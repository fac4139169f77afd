package acceptance_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Which backend ring.backend comes to. Where io_uring cannot be had, auto takes posix,
// says so in one loud line and says why, and uring is refused; where it can, auto takes it.
func TestBackendChoice(t *testing.T) {
	if standIn() {
		t.Skip("Apache Kafka has no ring.backend")
	}
	ownProcess(t)
	const warning = "WARNING: io_uring is not used, the slower epoll backend is: "
	filtered := "a seccomp filter refuses it"
	if b, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); err == nil && strings.TrimSpace(string(b)) != "0" {
		filtered = "sysctl kernel.io_uring_disabled=" // that comes first
	}
	ours, untagged := brokerBinary(), buildWithoutRing(t)
	for _, c := range []struct {
		name    string
		binary  string
		filter  bool
		backend string
		why     string // in the warning, and in the refusal of uring
		runs    string // the backend that it comes to; "": refused
		means   string
	}{
		{"not built in/auto", untagged, false, "auto", "not built in: build with -tags=uring", "posix", ""},
		{"not built in/posix", untagged, false, "posix", "", "posix", ""},
		{"not built in/uring", untagged, false, "uring", "not built in: build with -tags=uring", "", ""},
		{"refused by the kernel/auto", ours, true, "auto", filtered, "posix", "io_uring"},
		{"refused by the kernel/posix", ours, true, "posix", "", "posix", ""},
		{"refused by the kernel/uring", ours, true, "uring", filtered, "", "io_uring"},
		{"to be had/auto", ours, false, "auto", "", "uring", "io_uring"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.means != "" {
				needs(t, c.means)
			}
			b := newBroker(t, c.backend, filepath.Join(t.TempDir(), "data"))
			b.launchAs(t, c.binary, c.filter)
			if c.runs == "" {
				select {
				case <-b.proc.done:
				case <-time.After(readyTimeout):
					t.Fatalf("still running after %v:\n%s", readyTimeout, b.log.tail())
				}
				said := b.log.String()
				equal(t, "exit code", b.proc.cmd.ProcessState.ExitCode(), 1)
				contains(t, said, "millrace: serve: ring.backend=uring: ", c.why)
				equal(t, "lines", strings.Count(said, "\n"), 1)
				equal(t, "a data directory", exists(b.dir), false)
				return
			}
			eventually(t, readyTimeout, "the broker to be ready", func() bool {
				if b.proc.ended() {
					t.Fatalf("the broker ended before it was ready (%v):\n%s", b.proc.err, b.log.tail())
				}
				return b.ready()
			})
			topic := b.topic(t, 1)
			b.produce(t, topic, 0, "v")
			equalSlices(t, "records", values(b.readAll(t, topic)[0]), []string{"v"})
			said := b.log.String()
			contains(t, said, " ring "+c.runs+", ")
			warned := 0
			for line := range strings.Lines(said) {
				if strings.Contains(line, warning) {
					contains(t, line, c.why, "millrace doctor")
					warned++
				}
			}
			want := 0
			if c.why != "" {
				want = 1
			}
			equal(t, "lines that warn of the slower backend", warned, want)
			b.stop(t)
		})
	}
}

// launchAs starts the broker as another binary, and where filter says so under a
// seccomp filter that refuses io_uring, as that of container engines does.
func (b *broker) launchAs(t *testing.T, binary string, filter bool) {
	t.Helper()
	cmd := exec.Command(binary, "serve")
	for _, override := range append([]string{"listeners=PLAINTEXT://" + b.bootstrap, "admin.listener=" + b.admin,
		"log.dirs=" + b.dir, "ring.backend=" + b.backend}, b.overrides...) {
		cmd.Args = append(cmd.Args, "--override", override)
	}
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.proc = &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The filter is this thread's and for good, and the child has it from the thread that
		// forks it. The thread is of no other use, and must not end either: with it would end
		// the children that it has started before, which are any test's (Pdeathsig).
		err := error(nil)
		if filter {
			runtime.LockOSThread()
			defer func() { select {} }()
			err = refuseRing()
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			b.proc.err = cmd.Wait()
			close(b.proc.done)
		}
	}()
	must(t, <-started)
	t.Cleanup(func() {
		b.proc.kill()
		if t.Failed() {
			t.Logf("broker's log:\n%s", b.log.tail())
		}
	})
}

// refuseRing makes io_uring_setup fail with EPERM, for this thread and its children.
func refuseRing() error {
	const load, jumpEqual, give = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: 0}, // seccomp_data.nr
		{Code: jumpEqual, K: unix.SYS_IO_URING_SETUP, Jf: 1},
		{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: give, K: unix.SECCOMP_RET_ALLOW},
	}
	header := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&header)), 0, 0); err != nil {
		return fmt.Errorf("seccomp filter: %w", err)
	}
	runtime.KeepAlive(program)
	return nil
}

// buildWithoutRing builds the broker as plain go does, without the io_uring backend.
func buildWithoutRing(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "millrace")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/millrace")
	build.Env = append(os.Environ(), "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build without the uring tag: %v\n%s", err, out)
	}
	return binary
}
