package ringtest

import (
	"bytes"
	"errors"
	"syscall"

	"github.com/millrace/millrace/ring"
)

var fileCases = []testCase{
	{"Nop", 0, nop},
	{"SubmitMistakes", 0, submitMistakes},
	{"WriteRead", 0, writeRead},
	{"WriteReadVectored", 0, writeReadVectored},
	{"WriteInlineDSync", 0, writeInlineDSync},
	{"ReadAtTheEnd", 0, readAtTheEnd},
	{"SyncVerbs", 0, syncVerbs},
	{"CacheVerbs", 0, cacheVerbs},
	{"TruncateAllocate", 0, truncateAllocate},
	{"BadFD", 0, badFD},
	{"WritesInFlight", 0, writesInFlight},
	{"Task", 0, task},
	{"TaskError", 0, taskError},
	{"TasksDoNotBlock", threads, tasksDoNotBlock},
	{"CloseFileInFlight", 0, closeFileInFlight},
	{"ResubmitFromComplete", 0, resubmitFromComplete},
	{"Stats", 0, stats},
}

func nop(r *rig) {
	c := r.do(ring.Op{Code: ring.Nop}).want(0)
	if c.count != 1 || c.Op.Error() != nil {
		r.Fatalf("%d completions, error %v", c.count, c.Op.Error())
	}
	r.settle()
	if c.count != 1 {
		r.Fatalf("a nop completed %d times", c.count)
	}
}

func submitMistakes(r *rig) {
	c := r.submit(ring.Op{Code: ring.Nop})
	r.panics("submit of an active op", func() { r.io.Submit(&c.Op) })
	r.panics("submit without Done", func() { r.io.Submit(&ring.Op{Code: ring.Nop}) })
	c.want(0)
	r.cancel(c) // not active: ignored
	r.settle()
	if c.count != 1 {
		r.Fatalf("%d completions of one nop", c.count)
	}
}

func writeRead(r *rig) {
	fd, path := r.file()
	for _, n := range []int{1, 511, 4096, 100_000, 1 << 20} {
		at := int64(n) * 2
		data := r.noise(n, uint64(n))
		r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data, Off: at}).want(int32(n))
		back := r.bytes(n)
		r.do(ring.Op{Code: ring.Read, FD: fd, Buf: back, Off: at}).want(int32(n))
		if !bytes.Equal(back, data) {
			r.Fatalf("%d bytes at %d came back different", n, at)
		}
		if got := r.content(path)[at:]; !bytes.Equal(got, data) {
			r.Fatalf("%d bytes at %d: the Host sees others", n, at)
		}
	}
}

func writeReadVectored(r *rig) {
	fd, path := r.file()
	var all []byte
	bufs := make([][]byte, ring.IOVMax)
	for i := range bufs {
		bufs[i] = r.noise(1+i*997, uint64(i))
		all = append(all, bufs[i]...)
	}
	for _, flags := range []ring.Flags{0, ring.Inline} {
		r.do(ring.Op{Code: ring.Write, FD: fd, Bufs: bufs, Off: 3, Flags: flags}).want(int32(len(all)))
		if got := r.content(path)[3:]; !bytes.Equal(got, all) {
			r.Fatal("the file is not the pieces in order")
		}
	}
	few := [][]byte{r.text("ab"), nil, r.text("c")}
	r.do(ring.Op{Code: ring.Write, FD: fd, Bufs: few, Off: 0, Buf: r.text("not used")}).want(3)
	if got := r.content(path)[:3]; string(got) != "abc" {
		r.Fatalf("%q", got)
	}
}

func writeInlineDSync(r *rig) {
	fd, path := r.file()
	var want string
	for i, flags := range []ring.Flags{ring.Inline, ring.DSync, ring.Inline | ring.DSync, 0} {
		s := string(rune('a'+i)) + "-record."
		r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text(s), Off: int64(len(want)), Flags: flags}).want(int32(len(s)))
		want += s
	}
	if got := string(r.content(path)); got != want {
		r.Fatalf("%q, want %q", got, want)
	}
}

func readAtTheEnd(r *rig) {
	fd, _ := r.file()
	buf := r.bytes(100)
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: buf}).want(0)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("0123456789")}).want(10)
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: buf, Off: 4}).want(6)
	if string(buf[:6]) != "456789" {
		r.Fatalf("%q", buf[:6])
	}
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: buf, Off: 10}).want(0)
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: buf, Off: 1 << 30}).want(0)
}

func syncVerbs(r *rig) {
	fd, path := r.file()
	data := r.noise(64<<10, 1)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data}).want(int32(len(data)))
	r.do(ring.Op{Code: ring.SyncRange, FD: fd, Off: 0, Len: 32 << 10}).want(0)
	r.do(ring.Op{Code: ring.Sync, FD: fd}).want(0)
	r.do(ring.Op{Code: ring.Close, FD: fd}).want(0)
	if !bytes.Equal(r.content(path), data) {
		r.Fatal("the file changed")
	}
}

// Prefetch, Forget and NoReadahead promise nothing, and change nothing.
func cacheVerbs(r *rig) {
	fd, path := r.file()
	data := r.noise(3<<20, 2)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data}).want(int32(len(data)))
	r.do(ring.Op{Code: ring.Sync, FD: fd}).want(0)
	for _, span := range [][2]int64{{0, 0}, {0, 1}, {4097, 1 << 20}, {0, 3 << 20}, {1 << 30, 1 << 20}, {2 << 20, 8 << 30}} {
		for _, code := range []ring.Code{ring.Forget, ring.Prefetch, ring.Prefetch} {
			c := r.do(ring.Op{Code: code, FD: fd, Off: span[0], Len: span[1]})
			if c.Result < 0 || c.Result > ring.PrefetchMax || code == ring.Forget && c.Result != 0 {
				r.Errorf("%v of %d bytes at %d: %s", code, span[1], span[0], resultString(c.Result))
			}
		}
	}
	r.do(ring.Op{Code: ring.NoReadahead, FD: fd}).want(0)
	r.do(ring.Op{Code: ring.NoReadahead, FD: 1 << 20}).wantErr(syscall.EBADF)
	r.do(ring.Op{Code: ring.Prefetch, FD: 1 << 20, Len: 100}).wantErr(syscall.EBADF)
	r.do(ring.Op{Code: ring.Forget, FD: 1 << 20, Len: 100}).wantErr(syscall.EBADF)
	r.do(ring.Op{Code: ring.Close, FD: fd}).want(0)
	if !bytes.Equal(r.content(path), data) {
		r.Fatal("the file changed")
	}
}

func truncateAllocate(r *rig) {
	fd, path := r.file()
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("0123456789")}).want(10)
	r.do(ring.Op{Code: ring.Allocate, FD: fd, Off: 0, Len: 1 << 20}).want(0)
	if n := r.size(fd); n != 10 {
		r.Fatalf("Allocate changed the size to %d", n)
	}
	r.do(ring.Op{Code: ring.Truncate, FD: fd, Len: 4}).want(0)
	r.do(ring.Op{Code: ring.Truncate, FD: fd, Len: 6}).want(0)
	if got := string(r.content(path)); got != "0123\x00\x00" {
		r.Fatalf("cut to 4 and grown to 6: %q", got)
	}
}

func badFD(r *rig) {
	buf := r.bytes(8)
	for _, fd := range []ring.FD{ring.NoFD, 1 << 20} {
		for _, op := range []ring.Op{
			{Code: ring.Read, Buf: buf}, {Code: ring.Write, Buf: buf}, {Code: ring.Write, Buf: buf, Flags: ring.Inline},
			{Code: ring.Sync}, {Code: ring.Truncate}, {Code: ring.Close},
			{Code: ring.Recv, Buf: buf}, {Code: ring.Send, Buf: buf}, {Code: ring.Accept},
		} {
			op.FD = fd
			c := r.do(op).wantErr(syscall.EBADF)
			if !errors.Is(c.Op.Error(), syscall.EBADF) {
				r.Fatalf("Error() is %v", c.Op.Error())
			}
		}
	}
}

// Many ops at once: each completes once, with its own result.
func writesInFlight(r *rig) {
	fd, path := r.file()
	const n = 500
	var want []byte
	calls := make([]*call, n)
	ended := 0
	for i := range calls {
		piece := r.noise(16+i%50, uint64(i))
		op := ring.Op{Code: ring.Write, FD: fd, Buf: piece, Off: int64(len(want))}
		if i%3 == 0 {
			op.Flags = ring.Inline
		}
		want = append(want, piece...)
		calls[i] = r.prepare(op)
		calls[i].thenDo = func(*call) { ended++ }
		r.start(calls[i])
	}
	r.until("all writes complete", func() bool { return ended == n })
	r.settle()
	for i, c := range calls {
		if c.count != 1 || int(c.Result) != len(c.Buf) {
			r.Fatalf("write %d completed %d times, result %s", i, c.count, resultString(c.Result))
		}
	}
	if !bytes.Equal(r.content(path), want) {
		r.Fatal("the file differs")
	}
}

func task(r *rig) {
	ran := 0
	r.do(ring.Op{Code: ring.Task, Func: func() error { ran++; return nil }}).want(0)
	if ran != 1 {
		r.Fatalf("the function ran %d times", ran)
	}
}

func taskError(r *rig) {
	odd := errors.New("odd")
	c := r.prepare(ring.Op{Code: ring.Task, Func: func() error { return odd }})
	r.start(c).want(-int32(syscall.EIO))
	if !errors.Is(c.Op.Error(), odd) || !errors.Is(c.Err, odd) {
		r.Fatalf("Error() is %v, Err %v", c.Op.Error(), c.Err)
	}
	c.Func = func() error { return nil }
	r.start(c).want(0)
	if c.Op.Error() != nil || c.Err != nil {
		r.Fatalf("the error of the last submission is still there: %v, %v", c.Op.Error(), c.Err)
	}
}

// The loop goes on while a task runs.
func tasksDoNotBlock(r *rig) {
	gate := make(chan struct{})
	slow := r.submit(ring.Op{Code: ring.Task, Func: func() error { <-gate; return nil }})
	r.settle()
	if slow.ended {
		r.Fatal("a task that waits has completed")
	}
	close(gate)
	slow.want(0)
}

// A file may be closed under its ops: they complete.
func closeFileInFlight(r *rig) {
	fd, path := r.file()
	data := r.noise(1<<20, 5)
	write := r.submit(ring.Op{Code: ring.Write, FD: fd, Buf: data})
	sync := r.submit(ring.Op{Code: ring.Sync, FD: fd})
	shut := r.submit(ring.Op{Code: ring.Close, FD: fd})
	shut.want(0)
	write.wait()
	sync.wait()
	if write.Result >= 0 && !bytes.Equal(r.content(path), data[:write.Result]) {
		r.Fatalf("write completed with %d, but the file is another", write.Result)
	}
}

// Complete may submit its own op again, and others.
func resubmitFromComplete(r *rig) {
	fd, path := r.file()
	again := r.prepare(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("0123456789")})
	other := r.prepare(ring.Op{Code: ring.Nop})
	again.thenDo = func(c *call) {
		if c.count == 1 {
			r.start(other)
		}
		if c.count < 100 {
			c.Off += 10
			r.start(c)
		}
	}
	r.start(again)
	r.until("100 writes", func() bool { return again.count == 100 && other.ended })
	if n := len(r.content(path)); n != 1000 {
		r.Fatalf("100 writes of 10 bytes make %d", n)
	}
}

func stats(r *rig) {
	before := *r.io.Stats()
	fd, _ := r.file()
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("x")}).want(1)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("y"), Flags: ring.Inline}).want(1)
	r.do(ring.Op{Code: ring.Sync, FD: fd}).want(0)
	after := r.io.Stats()
	if n := after.Count(ring.Write) - before.Count(ring.Write); n != 2 {
		r.Errorf("%d writes counted, want 2", n)
	}
	if n := after.Count(ring.Sync) - before.Count(ring.Sync); n != 1 {
		r.Errorf("%d syncs counted, want 1", n)
	}
	if n := after.Completed - before.Completed; n != 3 {
		r.Errorf("%d completions counted, want 3", n)
	}
	if after.Waits == before.Waits {
		r.Error("no waits counted")
	}
	if r.io.Name() == "" {
		r.Error("the backend has no name")
	}
	a, b := r.io.Random(), r.io.Random()
	if a == b {
		r.Errorf("two random numbers are both %d", a)
	}
}
