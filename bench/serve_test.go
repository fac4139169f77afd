package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/kafkafake"
)

// TestMain lets the test binary be the broker that Serve starts: it answers
// what asks whether it is ready, and nothing else. It is the real null broker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(pretendToServe(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "bench" { // a NullBroker
		os.Exit(Program{Rings: testRings()}.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func pretendToServe(args []string) int {
	settings := pairs{}
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] != "--override" || settings.Set(args[i+1]) != nil {
			fmt.Fprintf(os.Stderr, "unexpected arguments %q\n", args)
			return 2
		}
	}
	if settings["flush.policy"] == "broken" {
		fmt.Fprintln(os.Stderr, "flush.policy: broken is not a policy")
		return 1
	}
	if err := os.WriteFile(settings["log.dirs"]+"/file", []byte("x"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	listener, err := net.Listen("tcp", strings.TrimPrefix(settings["listeners"], "PLAINTEXT://"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go kafkafake.Serve(listener)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	return 0
}

// started starts s. Another process may have taken its port in the moment in which
// nobody had it: then again, on another one.
func started(ctx context.Context, t *testing.T, s *Serve) {
	t.Helper()
	err := s.Start(ctx)
	for try := 1; err != nil && strings.Contains(err.Error(), "address already in use") && try < 5; try++ {
		err = s.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newServe(t *testing.T, policy string, cpus []int) *Serve {
	t.Helper()
	s := &Serve{Kafka: Kafka{Name: "test"}, Binary: os.Args[0], Parent: t.TempDir(), Overrides: []string{"flush.policy=" + policy}, CPUs: cpus}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// alive reports whether a process is there and is not a zombie.
func alive(pid int) bool {
	return syscall.Kill(pid, 0) == nil && !strings.Contains(readFile(fmt.Sprintf("/proc/%d/stat", pid)), ") Z ")
}

func TestServeStartsConfinedAndLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cpus := allowedCPUs(0)[:1]
	s := newServe(t, "os", cpus)
	for range 2 { // a target is started once for each run
		started(ctx, t, s)
		info := s.Info()
		if got := allowedCPUs(info.PID); !slices.Equal(got, cpus) {
			t.Errorf("the broker may run on CPUs %v, want %v", got, cpus)
		}
		if info.Ready <= 0 || info.Brokers != 1 || info.CPUs != cpuList(cpus) || !slices.Contains(info.Command, "flush.policy=os") {
			t.Errorf("%+v", info)
		}
		if pid := listenerPID(s.Address); pid != info.PID {
			t.Errorf("process %d listens on %s, want %d", pid, s.Address, info.PID)
		}
		if _, err := os.Stat(info.DataDir + "/file"); err != nil {
			t.Error(err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if alive(info.PID) {
			t.Errorf("process %d is still there", info.PID)
		}
		if left, _ := os.ReadDir(s.Parent); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestServeThatEndsSaysWhy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := newServe(t, "broken", nil)
	err := s.Start(ctx)
	if err == nil || !strings.Contains(err.Error(), "broken is not a policy") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(s.Parent); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestServeWithoutProgram(t *testing.T) {
	s := newServe(t, "os", nil)
	s.Binary += "-that-is-not-there"
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "that-is-not-there") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(s.Parent); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestConfineAndBack(t *testing.T) {
	s := newServe(t, "os", nil)
	started(t.Context(), t, s)
	pid, before := s.Info().PID, allowedCPUs(s.Info().PID)
	if err := confine(pid, before[:1]); err != nil {
		t.Fatal(err)
	}
	if got := allowedCPUs(pid); !slices.Equal(got, before[:1]) {
		t.Errorf("confined to %v, want %v", got, before[:1])
	}
	if err := confine(pid, before); err != nil {
		t.Fatal(err)
	}
	if got := allowedCPUs(pid); !slices.Equal(got, before) {
		t.Errorf("back on %v, want %v", got, before)
	}
	if err := confine(1<<22+1, before); err == nil { // above pid_max
		t.Error("a process that is not there was confined")
	}
}
