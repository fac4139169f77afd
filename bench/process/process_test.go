package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTailKeepsTheEnd(t *testing.T) {
	var b tail
	for i := range 2000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	if s := b.String(); len(s) > TailMax || !strings.HasSuffix(s, "line 1999\n") {
		t.Errorf("%d bytes, ends %q", len(s), s[max(0, len(s)-20):])
	}
}

func TestFileTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := FileTail(path); !strings.Contains(got, "no such file") {
		t.Errorf("a file that is not there: %q", got)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", TailMax)+"end"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := FileTail(path); len(got) != TailMax || !strings.HasSuffix(got, "xend") {
		t.Errorf("%d bytes, ends %q", len(got), got[max(0, len(got)-20):])
	}
}

// Where a child is not let into a control group it runs without one.
func TestStartWithoutItsGroup(t *testing.T) {
	none, err := os.Open(t.TempDir()) // a directory that is no control group
	if err != nil {
		t.Fatal(err)
	}
	p := Process{Path: "/bin/sh", Args: []string{"-c", "echo ran"}}
	if err := p.start(none); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Wait(ctx); err != nil || p.Tail() != "ran\n" {
		t.Errorf("%v, printed %q", err, p.Tail())
	}
}

// Where the thread does not get its affinity back, the child that was started does not stay.
func TestStartWithoutTheAffinityBack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var own, none unix.CPUSet
	if err := unix.SchedGetaffinity(0, &own); err != nil {
		t.Fatal(err)
	}
	p := Process{Path: "/bin/sleep", Args: []string{"1000"}}
	cmd := p.command(nil)
	if err := startBetween(cmd, &own, &none); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if cmd.ProcessState == nil || unix.Kill(cmd.Process.Pid, 0) != unix.ESRCH {
		t.Errorf("the child is there: %v", cmd.ProcessState)
	}
}

// A grandchild that has left the group and holds the output does not keep Kill from ending.
func TestKillWithAGrandchild(t *testing.T) {
	p := Process{Path: "/bin/sh", Args: []string{"-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait"}}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Poll(ctx, time.Millisecond, func(context.Context) error {
		if !strings.HasSuffix(p.Tail(), "\n") {
			return errors.New("it is not there yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(p.Tail()))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.Kill()
	took := time.Since(began)
	_ = unix.Kill(grandchild, unix.SIGKILL) // its control group may have taken it along
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
}
