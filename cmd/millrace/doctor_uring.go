package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace/millrace/ring/uring"
)

// backends are the rings that are built in; the first is the default where the kernel allows it.
func backends() []string {
	if errors.Is(uring.Available(), uring.ErrNotBuilt) {
		return []string{"posix"}
	}
	return []string{"uring", "posix"}
}

// uringReport says whether the broker will run on io_uring, and which setting stops it.
func uringReport(m machine) []check {
	checks := []check{m.uringSetting()}
	features, err := uring.Probe()
	if errors.Is(err, uring.ErrNotBuilt) {
		return append(checks, check{"io_uring", statusWarn, "not built in; the broker runs on posix (epoll and worker threads)",
			"go build -tags=uring -ldflags=-checklinkname=0 ./cmd/millrace, or make"})
	}
	if err != nil {
		return append(checks, check{"io_uring", statusWarn, fmt.Sprintf("%v; the broker runs on posix (epoll and worker threads)", err), m.uringBlocker()})
	}
	missing := 0
	for _, k := range features.Checks {
		if !k.OK {
			missing++
			checks = append(checks, check{"io_uring " + k.Name, statusWarn, "missing", k.Why})
		}
	}
	found := fmt.Sprintf("%d of %d facilities that we use", len(features.Checks)-missing, len(features.Checks))
	return append(checks, check{"io_uring", statusOK, found, ""})
}

func (m machine) uringSetting() check {
	const name = "io_uring setting"
	switch v := m.sysctl("kernel.io_uring_disabled"); v {
	case "":
		return check{name, statusOK, "no sysctl kernel.io_uring_disabled: nothing forbids it there", ""}
	case "0":
		return check{name, statusOK, "kernel.io_uring_disabled=0", ""}
	case "1":
		return check{name, statusWarn, "kernel.io_uring_disabled=1: only for CAP_SYS_ADMIN and the group kernel.io_uring_group",
			"set kernel.io_uring_disabled=0, or put the broker's user into the group of kernel.io_uring_group"}
	default:
		return check{name, statusWarn, "kernel.io_uring_disabled=" + v + ": for nobody", "set kernel.io_uring_disabled=0"}
	}
}

// uringBlocker guesses what refused a ring: seccomp where a filter is on, the sysctl where it is set.
func (m machine) uringBlocker() string {
	if m.field("proc/self/status", "Seccomp") == "2" {
		return "a seccomp filter is on, and the default one of container engines refuses io_uring_setup: run with --security-opt seccomp=unconfined, or allow io_uring_setup, io_uring_enter and io_uring_register"
	}
	if v := m.sysctl("kernel.io_uring_disabled"); strings.Trim(v, "0") != "" {
		return "set kernel.io_uring_disabled=0"
	}
	return "no setting that we know of is in the way: see the error"
}
