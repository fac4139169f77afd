package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// Serve is a `millrace serve` process that the harness starts on an empty
// directory and a free loopback port, and ends and clears away in Stop.
type Serve struct {
	Kafka

	Binary    string   // this program
	Parent    string   // directory in which the data directory is made
	Overrides []string // key=value, passed as --override
	CPUs      []int    // what it is confined to from its first instruction; empty: nothing

	// Dir is a data directory to keep, over all starts, with the address of the first.
	// "" makes one for each start and removes it in Stop.
	Dir string
	// Command starts another broker instead, by sh; {dir}, {address} and {port} in it
	// are replaced.
	Command string
	Output  io.Writer // is given what the process prints; may be nil

	cmd    *exec.Cmd
	exited chan struct{}
	dir    string
	output tail
}

// Start implements Target. The time from exec to the first answered metadata
// request is in Info.
func (s *Serve) Start(ctx context.Context) error {
	dir, err := s.Dir, error(nil)
	if dir == "" {
		if dir, err = os.MkdirTemp(s.Parent, "millrace-bench-"); err != nil {
			return fmt.Errorf("data directory of %s: %w", s.Name, err)
		}
		s.dir = dir
	}
	if s.Dir == "" || s.Address == "" {
		if s.Address, err = freeAddress(); err != nil {
			return err
		}
	}
	args := []string{"serve", "--override", "log.dirs=" + dir, "--override", "listeners=PLAINTEXT://" + s.Address,
		"--override", "admin.listener="} // nowhere: two brokers must not meet on one port
	for _, o := range s.Overrides {
		args = append(args, "--override", o)
	}
	binary := s.Binary
	if s.Command != "" {
		_, port, _ := strings.Cut(s.Address, ":")
		binary, args = "/bin/sh", []string{"-c", strings.NewReplacer("{dir}", dir, "{address}", s.Address, "{port}", port).Replace(s.Command)}
	}
	s.output = tail{}
	s.cmd = exec.Command(binary, args...)
	s.cmd.Stdout = &s.output
	if s.Output != nil {
		s.cmd.Stdout = io.MultiWriter(&s.output, s.Output)
	}
	s.cmd.Stderr = s.cmd.Stdout
	// A harness that is killed leaves no broker behind.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	s.exited = make(chan struct{})
	// The death signal belongs to the thread that started the child: keep it.
	started, began := make(chan error), time.Now()
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.startConfined()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // how it ended is in ProcessState
			close(s.exited)
		}
	}()
	if err := <-started; err != nil {
		s.cmd = nil
		return errors.Join(fmt.Errorf("start %s: %w", s.Binary, err), s.Stop())
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := ping(ctx, s.Address)
		if err == nil {
			break
		}
		select {
		case <-s.exited:
			err := fmt.Errorf("%s serve ended before it was ready: %v\n%s", s.Binary, s.cmd.ProcessState, s.output.String())
			return errors.Join(err, s.Stop())
		case <-ctx.Done():
			err := fmt.Errorf("%s serve was not ready after %v: %w\n%s", s.Binary, readyTimeout, err, s.output.String())
			return errors.Join(err, s.Stop())
		case <-time.After(2 * time.Millisecond):
		}
	}
	s.info = TargetInfo{PID: s.cmd.Process.Pid, DataDir: dir, Command: append([]string{"millrace"}, args...), Ready: time.Since(began).Seconds(), CPUs: cpuList(s.CPUs)}
	if err := s.Kafka.Start(ctx); err != nil {
		return errors.Join(err, s.Stop())
	}
	s.info.Version = toolVersion()
	return nil
}

// startConfined starts the child with the CPUs that it is to keep: a child
// has the affinity of the thread that forked it.
func (s *Serve) startConfined() error {
	if len(s.CPUs) == 0 {
		return s.cmd.Start()
	}
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read affinity: %w", err)
	}
	for _, c := range s.CPUs {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("confine to CPUs %v: %w", s.CPUs, err)
	}
	err := s.cmd.Start()
	if back := unix.SchedSetaffinity(0, &before); back != nil {
		return errors.Join(err, fmt.Errorf("restore affinity: %w", back))
	}
	return err
}

// Stop implements Target: SIGTERM, then SIGKILL after stopTimeout, which is an
// error; then the data directory is removed.
func (s *Serve) Stop() error {
	errs := []error{s.Kafka.Stop()}
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		select {
		case <-s.exited:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("millrace serve, process %d, did not end within %v of SIGTERM: killed\n%s", s.cmd.Process.Pid, stopTimeout, s.output.String()))
			_ = s.cmd.Process.Kill()
			<-s.exited
		}
		s.cmd = nil
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
		s.dir = ""
	}
	return errors.Join(errs...)
}

// Kill ends the process and all it started with SIGKILL, and closes the
// connections of s itself. The data directory stays; Stop clears away the rest.
func (s *Serve) Kill() error {
	if s.cmd != nil {
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
		<-s.exited
		s.cmd = nil
	}
	return s.Kafka.Stop()
}

// freeAddress finds a loopback port that nothing listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func cpuList(cpus []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(cpus), " ", ","), "[]")
}

// tail keeps the last part of what a child wrote.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailMax = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - tailMax; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
