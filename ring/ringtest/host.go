package ringtest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/millrace/millrace/ring"
)

var hostCases = []testCase{
	{"HostOpen", 0, hostOpen},
	{"HostReadWriteAt", 0, hostReadWriteAt},
	{"HostSizes", 0, hostSizes},
	{"HostDirectories", 0, hostDirectories},
	{"HostRename", 0, hostRename},
	{"HostRemove", 0, hostRemove},
	{"HostLock", 0, hostLock},
	{"HostMap", 0, hostMap},
	{"HostWriteFileAtomic", 0, hostWriteFileAtomic},
	{"HostRemoveAll", 0, hostRemoveAll},
	{"HostFree", 0, hostFree},
	{"HostListen", 0, hostListen},
	{"HostDirect", 0, hostDirect},
	{"HostClock", 0, hostClock},
}

// wantIs fails unless err wraps target and names the path.
func (r *rig) wantIs(err, target error, path string) {
	r.Helper()
	if !errors.Is(err, target) {
		r.Fatalf("error %v, want one that wraps %v", err, target)
	}
	if !strings.Contains(err.Error(), path) {
		r.Fatalf("error %v does not name %s", err, path)
	}
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) open(path string, mode ring.OpenMode) ring.FD {
	r.Helper()
	fd, err := r.host.Open(path, mode)
	r.ok(err)
	return fd
}

// put makes a file with this content.
func (r *rig) put(path, content string) {
	r.Helper()
	fd := r.open(path, ring.Create)
	_, err := r.host.WriteAt(fd, []byte(content), 0)
	r.ok(err)
	r.ok(r.host.Close(fd))
}

func hostOpen(r *rig) {
	path := filepath.Join(r.Dir(), "f")
	for _, mode := range []ring.OpenMode{ring.ReadOnly, ring.ReadWrite} {
		fd, err := r.host.Open(path, mode)
		r.wantIs(err, fs.ErrNotExist, path)
		if fd != ring.NoFD {
			r.Fatalf("a failed Open returns %d", fd)
		}
	}
	below := filepath.Join(r.Dir(), "no", "f")
	_, err := r.host.Open(below, ring.Create)
	r.wantIs(err, fs.ErrNotExist, below)

	fd := r.open(path, ring.CreateNew)
	_, err = r.host.WriteAt(fd, []byte("one"), 0)
	r.ok(err)
	r.ok(r.host.Close(fd))
	_, err = r.host.Open(path, ring.CreateNew)
	r.wantIs(err, fs.ErrExist, path)

	fd = r.open(path, ring.Create) // of a file that is there: it keeps its bytes
	if n := r.size(fd); n != 3 {
		r.Fatalf("Create cut the file to %d bytes", n)
	}
	r.ok(r.host.Close(fd))

	fd = r.open(path, ring.ReadOnly)
	if _, err := r.host.WriteAt(fd, []byte("x"), 0); err == nil {
		r.Fatal("a write to a file that is open for reading")
	}
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("x")}).wantErr(syscall.EBADF)
	r.ok(r.host.Close(fd))
	if err := r.host.Close(ring.NoFD); err == nil {
		r.Fatal("Close of no file")
	}
	if got := string(r.content(path)); got != "one" {
		r.Fatalf("%q", got)
	}
}

func hostReadWriteAt(r *rig) {
	fd, path := r.file()
	data := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	n, err := r.host.WriteAt(fd, data, 5)
	r.ok(err)
	if n != len(data) {
		r.Fatalf("wrote %d of %d", n, len(data))
	}
	back := make([]byte, len(data))
	if n, err = r.host.ReadAt(fd, back, 5); n != len(data) || err != nil {
		r.Fatalf("read %d, %v", n, err)
	}
	if !bytes.Equal(back, data) {
		r.Fatal("the bytes differ")
	}
	if n, err = r.host.ReadAt(fd, back, 10); n != len(data)-5 || err != io.EOF {
		r.Fatalf("a read over the end: %d, %v", n, err)
	}
	if n, err = r.host.ReadAt(fd, back, 1<<30); n != 0 || err != io.EOF {
		r.Fatalf("a read behind the end: %d, %v", n, err)
	}
	if n, err = r.host.ReadAt(fd, nil, 0); n != 0 || err != nil {
		r.Fatalf("a read of nothing: %d, %v", n, err)
	}
	if got := r.content(path)[:5]; !bytes.Equal(got, make([]byte, 5)) {
		r.Fatalf("a hole reads as %x", got)
	}
	r.ok(r.host.Sync(fd))
	r.ok(r.host.Close(fd))
	if _, err := ring.ReadFile(r.host, path+"-not"); !errors.Is(err, fs.ErrNotExist) {
		r.Fatal(err)
	}
}

func hostSizes(r *rig) {
	fd, path := r.file()
	r.ok(r.host.Truncate(fd, 1000))
	if n := r.size(fd); n != 1000 {
		r.Fatalf("size %d", n)
	}
	r.ok(r.host.Allocate(fd, 0, 1<<20))
	if n := r.size(fd); n != 1000 {
		r.Fatalf("Allocate made the size %d", n)
	}
	info, err := r.host.Stat(path)
	r.ok(err)
	if want := (ring.FileInfo{Name: filepath.Base(path), Size: 1000}); info != want {
		r.Fatalf("%+v, want %+v", info, want)
	}
	r.ok(r.host.Truncate(fd, 10))
	if n := r.size(fd); n != 10 {
		r.Fatalf("size %d", n)
	}
	r.ok(r.host.Close(fd))
	if _, err := r.host.Size(ring.NoFD); err == nil {
		r.Fatal("no file has a size")
	}
}

func hostDirectories(r *rig) {
	base := filepath.Join(r.Dir(), "a", "b")
	r.ok(r.host.MkdirAll(base))
	r.ok(r.host.MkdirAll(base)) // again is no error
	for _, name := range []string{"zeta", "Alpha", "b-10", "b-2", "b"} {
		r.put(filepath.Join(base, name), name)
	}
	r.ok(r.host.MkdirAll(filepath.Join(base, "middle")))
	r.ok(r.host.SyncDir(base))
	infos, err := r.host.ReadDir(base)
	r.ok(err)
	want := []ring.FileInfo{{Name: "Alpha", Size: 5}, {Name: "b", Size: 1}, {Name: "b-10", Size: 4}, {Name: "b-2", Size: 3}, {Name: "middle", Dir: true}, {Name: "zeta", Size: 4}}
	for i := range infos {
		if infos[i].Dir { // its size means nothing
			infos[i].Size = 0
		}
	}
	if !slices.Equal(infos, want) {
		r.Fatalf("%v, want %v", infos, want)
	}
	info, err := r.host.Stat(base)
	r.ok(err)
	if info.Name != "b" || !info.Dir {
		r.Fatalf("%+v", info)
	}
	no := filepath.Join(r.Dir(), "no")
	_, err = r.host.ReadDir(no)
	r.wantIs(err, fs.ErrNotExist, no)
	_, err = r.host.Stat(no)
	r.wantIs(err, fs.ErrNotExist, no)
	r.wantIs(r.host.SyncDir(no), fs.ErrNotExist, no)
	r.wantIs(r.host.MkdirAll(filepath.Join(base, "zeta", "x")), syscall.ENOTDIR, "zeta")
}

func hostRename(r *rig) {
	from, to := filepath.Join(r.Dir(), "from"), filepath.Join(r.Dir(), "to")
	r.put(from, "new")
	r.put(to, "old")
	open := r.open(to, ring.ReadOnly)
	r.ok(r.host.Rename(from, to))
	if got := string(r.content(to)); got != "new" {
		r.Fatalf("%q", got)
	}
	_, err := r.host.Stat(from)
	r.wantIs(err, fs.ErrNotExist, from)
	// Whoever has the replaced file open still has it.
	buf := make([]byte, 3)
	_, err = r.host.ReadAt(open, buf, 0)
	r.ok(err)
	if string(buf) != "old" {
		r.Fatalf("%q", buf)
	}
	r.ok(r.host.Close(open))
	r.wantIs(r.host.Rename(from, to), fs.ErrNotExist, from)

	dir := filepath.Join(r.Dir(), "dir")
	r.ok(r.host.MkdirAll(filepath.Join(dir, "sub")))
	r.put(filepath.Join(dir, "sub", "f"), "deep")
	r.ok(r.host.Rename(dir, dir+"-moved"))
	if got := string(r.content(filepath.Join(dir+"-moved", "sub", "f"))); got != "deep" {
		r.Fatalf("%q", got)
	}
}

func hostRemove(r *rig) {
	path := filepath.Join(r.Dir(), "f")
	r.put(path, "bytes")
	fd := r.open(path, ring.ReadWrite)
	r.ok(r.host.Remove(path))
	r.wantIs(r.host.Remove(path), fs.ErrNotExist, path)
	// A removed file lives until it is closed.
	back := r.bytes(5)
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: back}).want(5)
	if string(back) != "bytes" {
		r.Fatalf("%q", back)
	}
	r.do(ring.Op{Code: ring.Close, FD: fd}).want(0)

	dir := filepath.Join(r.Dir(), "d")
	r.ok(r.host.MkdirAll(dir))
	r.put(filepath.Join(dir, "f"), "x")
	r.wantIs(r.host.Remove(dir), syscall.ENOTEMPTY, dir)
	r.ok(r.host.Remove(filepath.Join(dir, "f")))
	r.ok(r.host.Remove(dir))
	_, err := r.host.Stat(dir)
	r.wantIs(err, fs.ErrNotExist, dir)
}

func hostLock(r *rig) {
	path := filepath.Join(r.Dir(), ".lock")
	fd, err := r.host.Lock(path)
	r.ok(err)
	again, err := r.host.Lock(path)
	r.wantIs(err, ring.ErrLocked, path)
	if again != ring.NoFD {
		r.Fatalf("a failed Lock returns %d", again)
	}
	r.ok(r.host.Close(fd))
	fd, err = r.host.Lock(path)
	r.ok(err)
	r.ok(r.host.Close(fd))
}

// A mapping and the file are the same bytes, both ways.
func hostMap(r *rig) {
	fd, path := r.file()
	r.ok(r.host.Truncate(fd, 10_000))
	m, err := r.host.Map(fd, 10_000)
	r.ok(err)
	if len(m) != 10_000 {
		r.Fatalf("mapped %d bytes", len(m))
	}
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.text("written"), Off: 5000}).want(7)
	if got := string(m[5000:5007]); got != "written" {
		r.Fatalf("the mapping shows %q", got)
	}
	copy(m[9000:], "stored")
	back := r.bytes(6)
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: back, Off: 9000}).want(6)
	if string(back) != "stored" {
		r.Fatalf("the file shows %q", back)
	}
	copy(m[:], "kept")
	r.ok(r.host.Unmap(m))
	if got := string(r.content(path)[:4]); got != "kept" {
		r.Fatalf("after Unmap the file has %q", got)
	}
	// Memory from Map may be given to the kernel.
	if m, err = r.host.Map(fd, 100); err != nil {
		r.Fatal(err)
	}
	copy(m, "straight from the map")
	out, outPath := r.file()
	r.do(ring.Op{Code: ring.Write, FD: out, Buf: m[:21]}).want(21)
	if got := string(r.content(outPath)); got != "straight from the map" {
		r.Fatalf("%q", got)
	}
	r.ok(r.host.Unmap(m))
	r.closeAll(fd, out)
}

func hostWriteFileAtomic(r *rig) {
	path := filepath.Join(r.Dir(), "meta")
	for _, content := range []string{"first, and a long one", "second", ""} {
		r.ok(ring.WriteFileAtomic(r.host, path, []byte(content)))
		if got := string(r.content(path)); got != content {
			r.Fatalf("%q, want %q", got, content)
		}
	}
	// What an earlier crash left is no obstacle.
	r.put(path+".tmp", "torn and longer than what comes next")
	r.ok(ring.WriteFileAtomic(r.host, path, []byte("third")))
	if got := string(r.content(path)); got != "third" {
		r.Fatalf("%q", got)
	}
	infos, err := r.host.ReadDir(r.Dir())
	r.ok(err)
	if len(infos) != 1 {
		r.Fatalf("left in the directory: %v", infos)
	}
	no := filepath.Join(r.Dir(), "no", "meta")
	r.wantIs(ring.WriteFileAtomic(r.host, no, nil), fs.ErrNotExist, no)
}

func hostRemoveAll(r *rig) {
	dir := filepath.Join(r.Dir(), "d")
	r.ok(r.host.MkdirAll(filepath.Join(dir, "x", "y")))
	r.ok(r.host.MkdirAll(filepath.Join(dir, "z")))
	r.put(filepath.Join(dir, "x", "y", "f"), "1")
	r.put(filepath.Join(dir, "f"), "2")
	r.ok(ring.RemoveAll(r.host, dir))
	_, err := r.host.Stat(dir)
	r.wantIs(err, fs.ErrNotExist, dir)
	r.ok(ring.RemoveAll(r.host, dir))
}

func hostFree(r *rig) {
	n, err := r.host.Free(r.Dir())
	r.ok(err)
	if n <= 0 {
		r.Fatalf("%d bytes free", n)
	}
	no := filepath.Join(r.Dir(), "no")
	_, err = r.host.Free(no)
	r.wantIs(err, fs.ErrNotExist, no)
}

func hostListen(r *rig) {
	for try := 1; !listenTwice(r, try == 5); try++ {
	}
}

// An exclusive listener is refused where anybody listens; another is not. It says no
// when in the end its port was not free: another process may have been quicker.
func listenTwice(r *rig, last bool) bool {
	first, at := r.listen()
	second, again, err := r.host.Listen(at.String(), true)
	r.wantIs(err, syscall.EADDRINUSE, at.String())
	if second != ring.NoFD {
		r.Fatalf("a failed Listen returns %d", second)
	}
	second, again, err = r.host.Listen(at.String(), false)
	r.ok(err)
	if again != at {
		r.Fatalf("listening on %v, want %v", again, at)
	}
	// Either of the two gets a connection.
	a := r.submit(ring.Op{Code: ring.Accept, FD: first})
	b := r.submit(ring.Op{Code: ring.Accept, FD: second})
	client := r.socket(at)
	r.do(ring.Op{Code: ring.Connect, FD: client, Addr: at}).want(0)
	r.until("one of them accepts", func() bool { return a.ended || b.ended })
	r.cancel(a)
	r.cancel(b)
	a.wait()
	b.wait()
	if (a.Result >= 0) == (b.Result >= 0) {
		r.Fatalf("one connection: the first accepted %s, the second %s", resultString(a.Result), resultString(b.Result))
	}
	r.closeAll(client, ring.FD(max(a.Result, b.Result)), first, second)
	// The port is free again.
	third, _, err := r.host.Listen(at.String(), true)
	if errors.Is(err, syscall.EADDRINUSE) && !last {
		return false
	}
	r.ok(err)
	r.closeAll(third)
	if _, _, err := r.host.Listen("not an address", true); err == nil {
		r.Fatal("listening on no address")
	}
	return true
}

// A file that bypasses the page cache, where the file system has that.
func hostDirect(r *rig) {
	path := filepath.Join(r.Dir(), "direct")
	fd, err := r.host.Open(path, ring.Create|ring.Direct)
	if errors.Is(err, syscall.EINVAL) {
		r.wantIs(err, syscall.EINVAL, path)
		r.Logf("the file system has no O_DIRECT: %v", err)
		return
	}
	r.ok(err)
	data := r.noise(16<<10, 7) // the pool's blocks of 4 KiB and more are aligned to their size
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data, Flags: ring.DSync}).want(16 << 10)
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: data[4096:8192], Off: 16 << 10}).want(4096)
	back := r.bytes(16 << 10)
	r.do(ring.Op{Code: ring.Read, FD: fd, Buf: back}).want(16 << 10)
	if !bytes.Equal(back, data) {
		r.Fatal("the bytes differ")
	}
	if got := r.content(path); len(got) != 20<<10 || !bytes.Equal(got[16<<10:], data[4096:8192]) {
		r.Fatalf("%d bytes", len(got))
	}
	r.closeAll(fd)
}

func hostClock(r *rig) {
	a := r.host.Monotonic()
	b := r.host.Monotonic()
	if b < a {
		r.Fatalf("the clock went from %d to %d", a, b)
	}
	if r.host.WallMillis() <= 0 {
		r.Fatalf("it is %d ms since 1970", r.host.WallMillis())
	}
	if x, y := r.host.Random(), r.host.Random(); x == y {
		r.Fatalf("two random numbers are both %d", x)
	}
}
