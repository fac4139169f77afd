package sim_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// babble is a program that uses everything, and returns the trace of its run.
func babble(t *testing.T, seed uint64) uint64 {
	r := newRig(t, seed)
	ha, hb := r.host("a"), r.host("b")
	a, b := r.io(ha), r.io(hb)
	client, server := r.pair(a, b)
	s := &stream{data: noise(a, r, 50_000)}
	s.begin(a, client, b, server)
	var fds []ring.FD
	for i := range 10 {
		fds = append(fds, r.open(ha, fmt.Sprintf("/d/%d", i), ring.CreateNew))
	}
	for i := range 200 {
		fd := fds[r.Random()%10]
		submit(a, ring.Op{Code: ring.Write, FD: fd, Off: int64(i) * 100, Buf: text(a, "some bytes")})
		if i%10 == 0 {
			submit(a, ring.Op{Code: ring.Sync, FD: fd})
			submit(a, ring.Op{Code: ring.Task, Func: func() error { return ha.Rename(fmt.Sprintf("/d/%d", i/20), fmt.Sprintf("/d/x%d", i)) }})
		}
		if a.Random()%2 == 0 {
			r.turn()
		}
	}
	r.until("all has arrived", func() bool { return len(s.got) == len(s.data) })
	ha.Crash(sim.PowerLoss)
	ha.Restart()
	list, err := ha.ReadDir("/d")
	r.ok(err)
	for _, e := range list {
		data, err := ring.ReadFile(ha, "/d/"+e.Name)
		r.ok(err)
		fd := r.open(hb, "/d/"+e.Name, ring.CreateNew) // so that what the crash left is in the trace
		_, err = hb.WriteAt(fd, data, 0)
		r.ok(err)
	}
	for r.turn() {
	}
	return r.Trace()
}

func TestSameSeedSameRun(t *testing.T) {
	seen := map[uint64]uint64{}
	for seed := range uint64(10) {
		first := babble(t, seed)
		if again := babble(t, seed); again != first {
			t.Fatalf("seed %d: %#x, then %#x", seed, first, again)
		}
		if other, same := seen[first]; same {
			t.Fatalf("seeds %d and %d have the same run", seed, other)
		}
		seen[first] = seed
	}
}

func TestDueAndWake(t *testing.T) {
	r := newRig(t, 1)
	h := r.host("a")
	a, b := r.io(h), r.io(h)
	for r.turn() { // both have been told to wait for ever
	}
	if a.Due() || b.Due() || r.NextDue() != ring.Forever {
		t.Fatalf("due: %v, %v, next %d", a.Due(), b.Due(), r.NextDue())
	}
	until := r.Now() + int64(time.Minute)
	a.Wait(until)
	if r.NextDue() != until {
		t.Fatalf("next due %d, want %d", r.NextDue(), until)
	}
	b.Wake()
	if !r.Step() || a.Due() || !b.Due() || r.Now() >= until {
		t.Fatalf("after Wake of b: a due %v, b due %v, now %d", a.Due(), b.Due(), r.Now())
	}
	b.Wait(ring.Forever)
	if !r.Step() || !a.Due() || b.Due() || r.Now() != until {
		t.Fatalf("at a's deadline: a due %v, b due %v, now %d", a.Due(), b.Due(), r.Now())
	}
	a.Wait(0) // it has more to do: it is due again, a moment later
	if !r.Step() || !a.Due() || r.Now() == until || r.Now() > until+int64(time.Millisecond) {
		t.Fatalf("a busy loop: due %v, %d ns later", a.Due(), r.Now()-until)
	}
	if a.Stats().Waits != 5 && b.Stats().Wakes != 1 {
		t.Fatalf("%d waits, %d wakes", a.Stats().Waits, b.Stats().Wakes)
	}
}

func TestDiskFull(t *testing.T) {
	r := newRig(t, 2)
	h := r.host("a")
	io := r.io(h)
	fd := r.open(h, "/d/f", ring.CreateNew)
	h.SetFree(8 << 10)
	if n := r.do(io, ring.Op{Code: ring.Write, FD: fd, Buf: io.Pool().Get(12 << 10)}); n != 8<<10 {
		t.Fatalf("12 KiB onto 8 KiB of space: %d", n)
	}
	if n := r.do(io, ring.Op{Code: ring.Write, FD: fd, Off: 8 << 10, Buf: io.Pool().Get(1)}); n != -int32(syscall.ENOSPC) {
		t.Fatalf("a byte onto a full disk: %d", n)
	}
	if n := r.do(io, ring.Op{Code: ring.Write, FD: fd, Off: 100, Buf: text(io, "over")}); n != 4 {
		t.Fatalf("an overwrite on a full disk: %d", n)
	}
	if _, err := h.WriteAt(fd, make([]byte, 10), 8<<10); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "/d/f") {
		t.Fatalf("WriteAt: %v", err)
	}
	if n := r.do(io, ring.Op{Code: ring.Allocate, FD: fd, Off: 8 << 10, Len: 1}); n != -int32(syscall.ENOSPC) {
		t.Fatalf("allocate on a full disk: %d", n)
	}
	if n := r.do(io, ring.Op{Code: ring.Truncate, FD: fd, Len: 4 << 10}); n != 0 {
		t.Fatalf("truncate: %d", n)
	}
	if free, err := h.Free("/d"); free != 4<<10 || err != nil {
		t.Fatalf("%d bytes free, %v", free, err)
	}
	r.ok(h.Remove("/d/f"))
	if free, _ := h.Free("/"); free != 4<<10 {
		t.Fatalf("%d bytes free while the removed file is open", free)
	}
	r.ok(h.Close(fd))
	if free, _ := h.Free("/"); free != 8<<10 {
		t.Fatalf("%d bytes free", free)
	}
}

func TestOpenFilesAndLock(t *testing.T) {
	r := newRig(t, 2)
	h := r.host("a")
	fd, err := h.Lock("/d/lock")
	r.ok(err)
	if _, err := h.Lock("/d/lock"); !errors.Is(err, ring.ErrLocked) || !strings.Contains(err.Error(), "/d/lock") {
		t.Fatalf("the second lock: %v", err)
	}
	_, _, err = h.Listen("a:7", true)
	r.ok(err)
	_, err = h.Socket(netip.MustParseAddrPort("10.0.0.1:7"))
	r.ok(err)
	want := "3: file /d/lock, 4: listener 10.0.0.97:7, 5: socket"
	if got := strings.Join(h.OpenFiles(), ", "); got != want {
		t.Fatalf("open: %s, want %s", got, want)
	}
	r.ok(h.Close(fd))
	fd, err = h.Lock("/d/lock")
	r.ok(err)
	if fd != 3 {
		t.Errorf("the lowest free number is %d", fd)
	}
	h.Crash(sim.ProcessKill) // takes the lock and everything with it
	h.Restart()
	if got := h.OpenFiles(); len(got) != 0 {
		t.Errorf("open after a crash: %q", got)
	}
	if _, err = h.Lock("/d/lock"); err != nil {
		t.Error(err)
	}
}

// What is written is seen in the mapping, and the other way round; a crash takes
// the file away from who had mapped it.
func TestMap(t *testing.T) {
	r := newRig(t, 2)
	h := r.host("a")
	io := r.io(h)
	fd := r.open(h, "/d/f", ring.CreateNew)
	r.ok(h.Truncate(fd, 200_000))
	m, err := h.Map(fd, 200_000)
	r.ok(err)
	if n := r.do(io, ring.Op{Code: ring.Write, FD: fd, Off: 99_999, Buf: text(io, "hello")}); n != 5 || string(m[99_999:100_004]) != "hello" {
		t.Fatalf("wrote %d, mapped %q", n, m[99_999:100_004])
	}
	copy(m[150_000:], "there")
	buf := make([]byte, 5)
	if _, err := h.ReadAt(fd, buf, 150_000); err != nil || string(buf) != "there" {
		t.Fatalf("%q, %v", buf, err)
	}
	h.Crash(sim.ProcessKill)
	h.Restart()
	copy(m[150_000:], "where")
	data, err := ring.ReadFile(h, "/d/f")
	r.ok(err)
	if string(data[150_000:150_005]) != "there" || string(data[99_999:100_004]) != "hello" {
		t.Fatalf("%q, %q", data[150_000:150_005], data[99_999:100_004])
	}
}

// Bytes that change while they are being written are our mistake.
func TestChangedInFlight(t *testing.T) {
	r := newRig(t, 2)
	h := r.host("a")
	io := r.io(h)
	fd := r.open(h, "/d/f", ring.CreateNew)
	buf := text(io, "abc")
	submit(io, ring.Op{Code: ring.Write, FD: fd, Buf: buf})
	buf[0] = 'x'
	defer func() {
		if e := recover(); e == nil || !strings.HasPrefix(e.(string), "BUG: ") {
			t.Fatalf("panic: %v", e)
		}
	}()
	for r.turn() {
	}
}
