//go:build uring

package uring

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// The kernel's workers keep to the CPUs that the process was confined to when the ring was made, whatever its thread is pinned to.
func TestWorkersKeepToTheProcessCPUs(t *testing.T) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &before); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !before.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(os.Getpid(), &one); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(os.Getpid(), &before); err != nil {
			t.Error(err)
		}
	}()
	g := open(t, Config{})
	file := g.file("f", 1<<20)
	in, out := g.pair()
	g.ChooseSendFile(0) // by splices
	if n := g.do(ring.Op{Code: ring.SendFile, FD: out, From: file, Len: 64 << 10}); n <= 0 {
		t.Fatal(n)
	}
	name := fmt.Sprintf("iou-wrk-%d", unix.Gettid())
	names, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil {
		t.Fatal(err)
	}
	workers := 0
	for _, path := range names {
		comm, err := os.ReadFile(path)
		if err != nil || string(comm) != name+"\n" { // a thread may end meanwhile
			continue
		}
		tid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		var of unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &of); err != nil {
			t.Fatal(err)
		}
		workers++
		if of != one {
			t.Errorf("worker %d may run on %d CPUs, the process on CPU %d", tid, of.Count(), cpu)
		}
	}
	if workers == 0 {
		t.Errorf("no thread is called %s: nothing went by a worker", name)
	}
	for _, fd := range []ring.FD{in, out} {
		g.want(g.do(ring.Op{Code: ring.Close, FD: fd}), 0)
	}
}
