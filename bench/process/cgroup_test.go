package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestStatCPU(t *testing.T) {
	d, err := StatCPU("42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 9 0 100 1 2")
	if err != nil || d != 3*time.Second {
		t.Errorf("%v, %v; want 3s", d, err)
	}
	if d, err := CPU(os.Getpid()); err != nil || d < 0 || d > time.Hour {
		t.Errorf("own process: %v, %v", d, err)
	}
	if d, err := groupCPU("usage_usec 1500\nuser_usec 1000\n"); err != nil || d != 1500*time.Microsecond {
		t.Errorf("%v, %v", d, err)
	}
	for _, bad := range []string{"", "usage_usec x\n"} {
		if _, err := groupCPU(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// What a child's own children use is counted, they end with it, and no control group is left.
func TestGroup(t *testing.T) {
	probe := newGroup()
	if probe == nil {
		t.Log("no control group may be made here: CPUs are counted by process")
	} else {
		endGroup(probe)
	}
	if probe != nil { // one of another bench that runs is left alone, one of a bench that is gone is not
		parent := filepath.Dir(probe.Name())
		theirs, dead := filepath.Join(parent, groupPrefix+"1-1"), filepath.Join(parent, groupPrefix+"99999999-1")
		for _, path := range []string{theirs, dead} {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		endGroup(newGroup())
		if err := os.Remove(theirs); err != nil {
			t.Error(err)
		}
		if err := os.Remove(dead); !os.IsNotExist(err) {
			t.Errorf("%s was left: %v", dead, err)
		}
	}
	p := Process{Path: "/bin/sh", Args: []string{"-c", "(while :; do :; done) & echo there; wait"}}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	pid := p.PID()
	used := func(context.Context) error {
		if d, err := CPU(pid); err != nil || probe != nil && d < 20*time.Millisecond {
			return exec.ErrNotFound // not yet
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Poll(ctx, time.Millisecond, used); err != nil {
		t.Error(err)
	}
	group := ""
	if probe != nil {
		if group = p.group.Name(); filepath.Base(own("self")) == filepath.Base(group) {
			t.Error("the bench is in the child's group")
		}
	}
	p.Kill()
	if _, err := CPU(pid); err == nil {
		t.Error("the child is still there")
	}
	if group != "" {
		if _, err := os.Stat(group); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", group, err)
		}
	}
}
