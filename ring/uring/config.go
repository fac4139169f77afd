// Package uring is ring.IO on io_uring: one ring per core, used by one goroutine
// that is locked to its thread.
//
// It is built with the tag uring, and because the library that it stands on
// (giouring) pulls two symbols out of the syscall package, linked with
// -ldflags=-checklinkname=0. Without the tag the package still compiles, and
// [Available] and [New] say how to build it.
//
// The rings are set up with SINGLE_ISSUER and DEFER_TASKRUN: completions appear
// only while the owner is inside Wait, so nothing interrupts it. That, and
// multishot receive into a ring of provided buffers, need Linux 6.1. What later
// kernels add (waking a ring from any thread, truncate, cachestat) is used where
// [Probe] finds it and replaced where it does not.
//
// An op costs one SQE, with these exceptions:
//
//   - Write with Inline is pwrite by the caller. On ext4 a buffered write through
//     the ring goes to a kernel worker, which costs more than the write.
//   - Task, and Truncate before Linux 6.9, run on goroutines of ours.
//   - SendFile is sendfile(2) by the caller when the range is in the page cache
//     and ChooseSendFile allows it, else two linked splices through a pipe (see sendfile.go).
//   - NoReadahead is fadvise(2) by the caller, and so is the question of a Prefetch whether there
//     is anything to read.
//   - A chain of plain file ops (Op.Next) is linked in the kernel; any other chain
//     is submitted op by op as each completes.
//
// Files are registered only where the owner asks for it ([Ring.RegisterFile]), and
// so is memory ([Ring.RegisterBuffer]). BenchmarkRegister could not tell a
// registered file from a plain one on Linux 6.18: best of four runs, 64 in flight,
// a busy 2-core machine, ns per op: send and recv of 64 bytes 2840 plain, 3310
// registered; read of 4 KiB from the page cache 690 and 610; with the buffer
// registered as well 2990 and 670; spread from run to run 40 %.
//
// Three rules of io_uring shaped the code. A descriptor that a worker of the
// kernel's needs is looked up when the worker gets to it, so Close waits for file
// ops in flight. The kernel stops a multishot when it cannot post a completion, so
// it is armed again behind the owner's back. And completions of a ring that sleeps
// are not delivered by signal, so whatever blocks the thread elsewhere blocks the
// ring: nothing does, but Write with Inline and SendFile, which are asked for.
package uring

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config sizes a ring. The zero value of each field takes the default.
type Config struct {
	Entries        uint32        // submission queue, rounded up to a power of two; default 1024. A full one is handed to the kernel early.
	CQEntries      uint32        // completion queue, at least Entries; default 8 x Entries. What does not fit waits in the kernel.
	PoolBytes      int           // size of IO.Pool, virtual until used; default 64 MiB
	RecvBuffers    int           // receive buffers for Recv with Pick, rounded up to a power of two, at most 4096; default 256
	RecvBufferSize int           // bytes of each; default 16 KiB
	Spin           time.Duration // how long Wait watches the completion queue before it blocks; 0 never
}

const recvBuffersMax = 4096 // giouring computes offsets in 16 bits: 4096 entries of 16 bytes

func (c Config) withDefaults() (Config, error) {
	if c.Entries == 0 {
		c.Entries = 1024
	}
	if c.CQEntries == 0 {
		c.CQEntries = 8 * c.Entries
	}
	if c.PoolBytes == 0 {
		c.PoolBytes = 64 << 20
	}
	if c.RecvBuffers == 0 {
		c.RecvBuffers = 256
	}
	if c.RecvBufferSize == 0 {
		c.RecvBufferSize = 16 << 10
	}
	switch {
	case c.CQEntries < c.Entries:
		return c, fmt.Errorf("uring: %d completion entries for %d submission entries: there must be as many", c.CQEntries, c.Entries)
	case c.PoolBytes < 0 || c.RecvBufferSize < 0 || c.Spin < 0:
		return c, fmt.Errorf("uring: negative size: pool %d, receive buffer %d, spin %v", c.PoolBytes, c.RecvBufferSize, c.Spin)
	case c.RecvBuffers < 0 || c.RecvBuffers > recvBuffersMax:
		return c, fmt.Errorf("uring: %d receive buffers; at most %d", c.RecvBuffers, recvBuffersMax)
	}
	return c, nil
}

// ErrNotBuilt is the answer of Available, Probe and New in a binary without the backend.
var ErrNotBuilt = errors.New("uring: not built in: build with -tags=uring -ldflags=-checklinkname=0")

// Features is what the kernel lets us do, one Check for each thing that this
// package uses, in a fixed order.
type Features struct {
	Kernel string // release, as uname -r prints it
	Checks []Check
}

// Check is one facility.
type Check struct {
	Name     string // "setup", "accept multishot", "wake by msg_ring" ...
	OK       bool
	Required bool   // New fails without it
	Why      string // not OK: the reason, and what is done instead; OK: a detail or nothing
}

// OK says whether the named check passed. An unknown name is not OK.
func (f Features) OK(name string) bool {
	for _, c := range f.Checks {
		if c.Name == name {
			return c.OK
		}
	}
	return false
}

// String is one line, for the log at start: what is missing, and why.
func (f Features) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "io_uring on Linux %s", f.Kernel)
	sep := ": "
	for _, c := range f.Checks {
		if !c.OK {
			fmt.Fprintf(&b, "%sno %s (%s)", sep, c.Name, c.Why)
			sep = "; "
		}
	}
	if sep == ": " {
		b.WriteString(", every facility")
	}
	return b.String()
}
