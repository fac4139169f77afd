// Package process runs a child of the bench: a broker, of our own or of another make.
//
// A child is confined to CPUs from its first instruction, is a process group of its own (a Ctrl-C
// at the terminal does not reach it), is killed by the kernel when the bench is killed, and is ended
// by its process id, never by its name.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one child. Its fields are set before Start; one goroutine uses it.
type Process struct {
	Path   string
	Args   []string  // without the program itself
	Env    []string  // NAME=value, beside and above the bench's own
	CPUs   []int     // what it may run on; empty: what the bench may run on
	Output io.Writer // is given what it prints as well; may be nil

	cmd    *exec.Cmd
	group  *os.File // its control group; nil: none
	exited chan struct{}
	tail   tail
}

// Start starts the child.
func (p *Process) Start() error { return p.start(newGroup()) }

// command is the child, in a control group unless that is nil.
func (p *Process) command(group *os.File) *exec.Cmd {
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout = &p.tail
	if p.Output != nil {
		cmd.Stdout = io.MultiWriter(&p.tail, p.Output)
	}
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	cmd.WaitDelay = time.Second // what the child has started may hold its output, and outlive it
	return cmd
}

func (p *Process) start(group *os.File) error {
	p.tail = tail{}
	cmd := p.command(group)
	exited := make(chan struct{})
	// The death signal belongs to the thread that started the child: keep it.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := startConfined(cmd, p.CPUs)
		if err != nil && group != nil && cmd.Process == nil { // where a group may be made, no child may be let into it
			endGroup(group)
			group = nil
			cmd = p.command(nil)
			err = startConfined(cmd, p.CPUs)
		}
		started <- err
		if err != nil {
			return // and the thread, locked, ends too: it may be confined still
		}
		_ = cmd.Wait() // how it ended is in ProcessState
		close(exited)
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		endGroup(group)
		return fmt.Errorf("start %s: %w", p.Path, err)
	}
	p.cmd, p.exited, p.group = cmd, exited, group
	return nil
}

// startConfined starts the child with the CPUs that it is to keep: a child
// has the affinity of the thread that forked it.
func startConfined(cmd *exec.Cmd, cpus []int) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read affinity: %w", err)
	}
	for _, c := range cpus {
		set.Set(c)
	}
	if err := startBetween(cmd, &set, &before); err != nil {
		return fmt.Errorf("on CPUs %v: %w", cpus, err)
	}
	return nil
}

// startBetween starts the child with one affinity, and leaves the thread with another. Where that fails no child is left.
func startBetween(cmd *exec.Cmd, set, after *unix.CPUSet) error {
	if err := unix.SchedSetaffinity(0, set); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	err := cmd.Start()
	if back := unix.SchedSetaffinity(0, after); back != nil {
		if err == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
			_ = cmd.Wait()
		}
		return errors.Join(err, fmt.Errorf("restore affinity: %w", back))
	}
	return err
}

// PID is the child's process id; 0 when there is none.
func (p *Process) PID() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Exited is closed when the child has ended. Only between Start and Stop.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// State says how the child ended, once Exited is closed.
func (p *Process) State() string { return p.cmd.ProcessState.String() }

// Tail is the last part of what the child printed.
func (p *Process) Tail() string { return p.tail.String() }

// Poll calls ready until it succeeds. It ends early, with an error that says what the child printed,
// when the child ends or ctx does.
func (p *Process) Poll(ctx context.Context, every time.Duration, ready func(context.Context) error) error {
	var last error // of a call that ctx did not cut short
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended before it was ready: %s\n%s", p.Path, p.State(), p.Tail())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) { // it was not asked to be ready any more
				return ctx.Err()
			}
			return fmt.Errorf("%s was not ready in time: %w\n%s", p.Path, errors.Join(ctx.Err(), last), p.Tail())
		case <-time.After(every):
		}
	}
}

// Wait waits until the child ends by itself; when ctx ends first it is killed. It fails unless the child ends with
// exit code 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.exited:
		state := p.cmd.ProcessState
		p.forget()
		if !state.Success() {
			return fmt.Errorf("%s %s: %s\n%s", p.Path, strings.Join(p.Args, " "), state, p.Tail())
		}
		return nil
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
}

// Stop ends the child with SIGTERM, and with SIGKILL after within, which is an error, as it is when the child had ended by
// itself. Without a child it does nothing.
func (p *Process) Stop(within time.Duration) error {
	if p.cmd == nil {
		return nil
	}
	select {
	case <-p.exited:
		pid, state := p.PID(), p.State()
		p.forget()
		return fmt.Errorf("%s, process %d, had ended by itself: %s\n%s", p.Path, pid, state, p.Tail())
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be ending by itself
	select {
	case <-p.exited:
		p.forget()
		return nil
	case <-time.After(within):
	}
	pid := p.PID()
	p.Kill()
	return fmt.Errorf("%s, process %d, did not end within %v of SIGTERM: killed\n%s", p.Path, pid, within, p.Tail())
}

// Kill ends the child and all that it started with SIGKILL.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
	<-p.exited
	p.forget()
}

// forget ends what the child has left behind, and its control group.
func (p *Process) forget() {
	p.cmd = nil
	endGroup(p.group)
	p.group = nil
}

// tail keeps the last part of what a child wrote.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// TailMax is how much of a child's output, or of a log, is kept to be shown, bytes.
const TailMax = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - TailMax; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// FileTail is the last part of a file; of one that cannot be read it says so.
func FileTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > TailMax {
		_, _ = f.Seek(-TailMax, io.SeekEnd) // from the start then
	}
	b, err := io.ReadAll(io.LimitReader(f, TailMax))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
