//go:build uring

package uring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// Names of the checks that decide how a ring works.
const (
	checkSetup    = "setup"
	checkTruncate = "truncate"
	checkMsgRing  = "wake by msg_ring"
)

// Probe asks the kernel what it supports, on a ring made for that and closed
// again. The error is nil if New can work: everything required is there.
// Otherwise it gives the kernel's reason. Any goroutine may call it.
func Probe() (Features, error) {
	runtime.LockOSThread() // the probing ring belongs to this thread
	defer runtime.UnlockOSThread()

	f := Features{Kernel: kernelRelease()}
	k, p, _, err := newKernelRing(8, 64)
	if err != nil {
		err = setupError(err)
		f.add(checkSetup, true, err)
		return f, err
	}
	defer k.QueueExit()
	f.add(checkSetup, true, nil)
	f.add("timeout of a wait", true, feature(p, giouring.FeatExtArg))
	f.add("no dropped completions", true, feature(p, giouring.FeatNoDrop))
	f.add("silent success", true, feature(p, giouring.FeatCQESkip))
	f.addOpcodes(k)
	f.add("receive buffers, multishot", true, probeReceive(k))
	f.add(checkMsgRing, false, instead(probeMsgRing(k), "an eventfd instead"))
	f.add("registered buffers", false, instead(probeBuffers(k), "plain reads and writes instead"))
	f.add("registered files", false, instead(probeFiles(k), "plain descriptors instead"))
	f.add("cachestat", false, instead(probeCachestat(), "SendFile always splices"))

	for _, c := range f.Checks {
		if c.Required && !c.OK {
			return f, fmt.Errorf("uring: Linux %s has no %s: %s", f.Kernel, c.Name, c.Why)
		}
	}
	return f, nil
}

func (f *Features) add(name string, required bool, err error) {
	c := Check{Name: name, OK: err == nil, Required: required}
	if err != nil {
		c.Why = err.Error()
	}
	f.Checks = append(f.Checks, c)
}

// instead adds to a failure what is done about it.
func instead(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; %s", err, what)
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "(unknown release)"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// setupError explains why io_uring_setup said no.
func setupError(err error) error {
	disabled, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	status, _ := os.ReadFile("/proc/self/status")
	var memlock unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_MEMLOCK, &memlock)
	return fmt.Errorf("uring: io_uring_setup: %w: %s", err,
		setupReason(err, strings.TrimSpace(string(disabled)), string(status), memlock.Cur))
}

// setupReason: disabled is sysctl kernel.io_uring_disabled, status is
// /proc/self/status, memlock is in bytes.
func setupReason(err error, disabled, status string, memlock uint64) string {
	filtered := false
	for line := range strings.Lines(status) {
		if name, value, _ := strings.Cut(line, ":"); name == "Seccomp" {
			filtered = strings.TrimSpace(value) != "0"
		}
	}
	switch {
	case errors.Is(err, unix.ENOSYS) && filtered:
		return "a seccomp filter hides it (container runtimes do by default), or the kernel is built without it"
	case errors.Is(err, unix.ENOSYS):
		return "the kernel is built without it"
	case errors.Is(err, unix.EPERM) && disabled == "2":
		return "sysctl kernel.io_uring_disabled=2 turns it off"
	case errors.Is(err, unix.EPERM) && disabled == "1":
		return "sysctl kernel.io_uring_disabled=1 allows it only with CAP_SYS_ADMIN or in the group kernel.io_uring_group"
	case errors.Is(err, unix.EPERM) && filtered:
		return "a seccomp filter refuses it (container runtimes do by default)"
	case errors.Is(err, unix.EPERM):
		return "a security module refuses it"
	case errors.Is(err, unix.ENOMEM):
		return fmt.Sprintf("no memory; RLIMIT_MEMLOCK is %d KiB, which the rings must fit in on older kernels", memlock>>10)
	case errors.Is(err, unix.EINVAL):
		return "the kernel does not know the flags SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1), or refuses the sizes"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "too many open files"
	}
	return "unexpected"
}

func feature(p *params, bit uint32) error {
	if p.features&bit == 0 {
		return fmt.Errorf("feature bit %#x is missing of %#x", bit, p.features)
	}
	return nil
}

// opcodes are those that we use. All but truncate are older than the setup flags.
var opcodes = []struct {
	name     string
	opcode   uint8
	required bool
}{
	{"nop", giouring.OpNop, true},
	{"read", giouring.OpRead, true},
	{"write", giouring.OpWrite, true},
	{"writev", giouring.OpWritev, true},
	{"read fixed", giouring.OpReadFixed, true},
	{"write fixed", giouring.OpWriteFixed, true},
	{"fsync", giouring.OpFsync, true},
	{"sync_file_range", giouring.OpSyncFileRange, true},
	{"fallocate", giouring.OpFallocate, true},
	{"close", giouring.OpClose, true},
	{"accept", giouring.OpAccept, true},
	{"connect", giouring.OpConnect, true},
	{"recv", giouring.OpRecv, true},
	{"send", giouring.OpSend, true},
	{"sendmsg", giouring.OpSendmsg, true},
	{"splice", giouring.OpSplice, true},
	{"poll", giouring.OpPollAdd, true},
	{"shutdown", giouring.OpShutdown, true},
	{"cancel", giouring.OpAsyncCancel, true},
	{"msg_ring", giouring.OpMsgRing, true},
	{checkTruncate, opTruncate, false},
}

func (f *Features) addOpcodes(k *giouring.Ring) {
	var probe giouring.Probe
	failed := register(k, giouring.RegisterProbe, unsafe.Pointer(&probe), uint32(len(probe.Ops)))
	for _, o := range opcodes {
		var err error
		switch {
		case failed != 0:
			err = fmt.Errorf("IORING_REGISTER_PROBE: %w", failed)
		case !probe.IsSupported(o.opcode):
			err = fmt.Errorf("opcode %d is unknown, the last known one is %d", o.opcode, probe.LastOp)
		}
		if !o.required {
			err = instead(err, "a worker thread instead")
		}
		f.add(o.name, o.required, err)
	}
}

// await is the next completion, within a second.
func await(k *giouring.Ring) (giouring.CompletionQueueEvent, error) {
	mem, err := mapMemory(4096)
	if err != nil {
		return giouring.CompletionQueueEvent{}, err
	}
	defer unix.Munmap(mem)
	ts := (*syscall.Timespec)(unsafe.Pointer(unsafe.SliceData(mem)))
	for try := 0; try < 100; try++ {
		*ts = syscall.NsecToTimespec(10e6)
		_, err = k.SubmitAndWaitTimeout(1, ts, nil)
		if k.CQReady() > 0 {
			c, _ := k.PeekCQE()
			got := *c
			k.CQAdvance(1)
			return got, nil
		}
		if err != nil && err != syscall.ETIME && err != syscall.EINTR && err != syscall.EAGAIN {
			return giouring.CompletionQueueEvent{}, err
		}
	}
	return giouring.CompletionQueueEvent{}, errors.New("no completion within a second")
}

// probeReceive receives a byte by multishot into a provided buffer.
func probeReceive(k *giouring.Ring) error {
	r := &Ring{kernel: k}
	if err := r.addReceiveBuffers(1, 4096); err != nil {
		return err
	}
	defer unix.Munmap(r.recv.mem)
	defer unix.Munmap(r.recv.ringMem)
	defer k.UnregisterBufferRing(receiveGroup)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[1])
	_, err = unix.Write(pair[0], []byte{1})
	unix.Close(pair[0]) // the end of the stream ends the multishot
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	e := k.GetSQE()
	*e = giouring.SubmissionQueueEntry{}
	e.PrepareRecvMultishot(pair[1], 0, 0, 0)
	e.Flags = giouring.SqeBufferSelect
	e.BufIG = receiveGroup
	c, err := await(k)
	switch {
	case err != nil:
		return err
	case c.Res < 0:
		return syscall.Errno(-c.Res)
	case c.Res != 1 || c.Flags&giouring.CQEFBuffer == 0 || c.Flags&giouring.CQEFMore == 0:
		return fmt.Errorf("multishot receive: result %d, flags %#x", c.Res, c.Flags)
	}
	for c.Flags&giouring.CQEFMore != 0 {
		if c, err = await(k); err != nil {
			return err
		}
	}
	return nil
}

func probeMsgRing(k *giouring.Ring) error {
	var e giouring.SubmissionQueueEntry
	e.PrepareMsgRing(k.RingFd(), 0, userData(kindDoorbell, 0, 0), 0)
	if errno := sendMessage(&e); errno != 0 {
		return fmt.Errorf("IORING_REGISTER_SEND_MSG_RING: %w", errno)
	}
	c, err := await(k)
	if err == nil && c.UserData>>56 != kindDoorbell {
		err = fmt.Errorf("the message came as %#x", c.UserData)
	}
	return err
}

func probeBuffers(k *giouring.Ring) error {
	mem, err := mapMemory(4096)
	if err != nil {
		return err
	}
	inline, err := mapMemory(4096)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	defer unix.Munmap(inline)
	r := &Ring{kernel: k, inline: (*scratch)(unsafe.Pointer(unsafe.SliceData(inline)))}
	return r.RegisterBuffer(mem)
}

func probeFiles(k *giouring.Ring) error {
	table := giouring.RsrcRegister{Nr: 1, Flags: giouring.RsrcRegisterSparse}
	if errno := register(k, giouring.RegisterFiles2, unsafe.Pointer(&table), uint32(unsafe.Sizeof(table))); errno != 0 {
		return fmt.Errorf("IORING_REGISTER_FILES2: %w", errno)
	}
	return nil
}

func probeCachestat() error {
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	defer unix.Close(fd)
	var stat unix.Cachestat_t
	return unix.Cachestat(uint(fd), &unix.CachestatRange{Len: 1}, &stat, 0)
}
