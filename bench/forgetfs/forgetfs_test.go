package forgetfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/uring"
)

// The verbs below run in a process of their own: one that serves a mount must not
// wait for pages of it.
func TestMain(m *testing.M) {
	if verb := os.Getenv("FORGETFS_VERB"); verb != "" {
		if err := verbs[verb](os.Getenv("FORGETFS_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func do(t *testing.T, dir, verb string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FORGETFS_VERB="+verb, "FORGETFS_DIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", verb, err, out)
	}
}

var text = bytes.Repeat([]byte("0123456789abcdef"), 256) // one page

func aligned() []byte {
	page, err := unix.Mmap(-1, 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	copy(page, text)
	return page
}

func open(dir string, flags int) (int, error) {
	return unix.Open(filepath.Join(dir, "file"), flags|unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
}

// pwrite writes the page, opened and written with flags, and ends without any sync.
func pwrite(openFlags, writeFlags int) func(dir string) error {
	return func(dir string) error {
		fd, err := open(dir, openFlags)
		if err != nil {
			return err
		}
		_, err = unix.Pwritev2(fd, [][]byte{aligned()}, 0, writeFlags)
		return err
	}
}

// throughRing writes the page with DSync through an io_uring.
func throughRing(mode ring.OpenMode) func(dir string) error {
	return func(dir string) error {
		runtime.LockOSThread() // whose the ring is
		defer runtime.UnlockOSThread()
		h := posix.Host()
		io, err := uring.New(h, uring.Config{PoolBytes: 1 << 20})
		if err != nil {
			return err
		}
		fd, err := h.Open(filepath.Join(dir, "file"), ring.Create|mode)
		if err != nil {
			return err
		}
		w := &written{}
		w.op = ring.Op{Code: ring.Write, FD: fd, Buf: aligned(), Flags: ring.DSync, Done: w}
		io.Submit(&w.op)
		for !w.done {
			io.Wait(ring.Forever)
		}
		if w.op.Result != int32(len(text)) {
			return fmt.Errorf("write: %v", w.op.Error())
		}
		return nil
	}
}

type written struct {
	op   ring.Op
	done bool
}

func (w *written) Complete(*ring.Op) { w.done = true }

// through maps the file, changes it through the mapping, and does what then says.
func through(then func(fd int, mapped []byte) error) func(dir string) error {
	return func(dir string) error {
		fd, err := open(dir, 0)
		if err != nil {
			return err
		}
		if err := unix.Ftruncate(fd, int64(len(text))); err != nil {
			return err
		}
		mapped, err := unix.Mmap(fd, 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		copy(mapped, text)
		return then(fd, mapped)
	}
}

func after(then func(fd int) error) func(dir string) error {
	return func(dir string) error {
		fd, err := open(dir, 0)
		if err != nil {
			return err
		}
		if _, err := unix.Pwrite(fd, text, 0); err != nil {
			return err
		}
		return then(fd)
	}
}

var verbs = map[string]func(dir string) error{
	"write":              pwrite(0, 0),
	"direct":             pwrite(unix.O_DIRECT, 0),
	"O_DSYNC":            pwrite(unix.O_DSYNC, 0),
	"O_SYNC":             pwrite(unix.O_SYNC, 0),
	"O_DIRECT+O_DSYNC":   pwrite(unix.O_DIRECT|unix.O_DSYNC, 0),
	"RWF_DSYNC":          pwrite(0, unix.RWF_DSYNC),
	"O_DIRECT+RWF_DSYNC": pwrite(unix.O_DIRECT, unix.RWF_DSYNC),
	"ring":               throughRing(0),
	"ring+direct":        throughRing(ring.Direct),
	"fsync":              after(unix.Fsync),
	"fdatasync":          after(unix.Fdatasync),
	"sync_file_range": after(func(fd int) error {
		const flags = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		return unix.SyncFileRange(fd, 0, 0, flags)
	}),
	"syncfs": after(unix.Syncfs),
	"mmap":   through(func(int, []byte) error { return nil }),
	"mmap+msync": through(func(_ int, mapped []byte) error {
		return unix.Msync(mapped, unix.MS_SYNC)
	}),
	"mmap+fdatasync": through(func(fd int, _ []byte) error { return unix.Fdatasync(fd) }),
	"locks": func(dir string) error {
		h := posix.Host()
		lock, err := h.Lock(filepath.Join(dir, "lock"))
		if err != nil {
			return err
		}
		if _, err := h.Lock(filepath.Join(dir, "lock")); !errors.Is(err, ring.ErrLocked) {
			return fmt.Errorf("locked twice: %v", err)
		}
		return h.Close(lock)
	},
	"names": func(dir string) error {
		h := posix.Host()
		return errors.Join(
			h.MkdirAll(filepath.Join(dir, "kept", "lost")), h.SyncDir(dir), // lost is in kept, which is not synced
			touch(dir, "old"), h.SyncDir(dir),
			h.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "new")),
			touch(dir, "kept/file"))
	},
	"sizes": func(dir string) error {
		fd, err := open(dir, 0)
		if err != nil {
			return err
		}
		for _, err := range []error{
			unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20), unix.Ftruncate(fd, 10<<20), unix.Fdatasync(fd),
			unix.Ftruncate(fd, 5),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	},
}

// touch makes a file whose content is synced and whose name is not.
func touch(dir, name string) error {
	fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDWR|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Close(fd))
}

func need(t *testing.T) {
	t.Helper()
	ringtest.NeedFUSE(t, Available())
}

// clean is a seed that takes all that was not synced.
func clean() uint64 {
	for seed := uint64(1); ; seed++ {
		if r := rng(seed); r.below(4) == 0 {
			return seed
		}
	}
}

// What survives a cut that takes everything that was not synced, and what the kernel had sent.
func TestWhatIsSynced(t *testing.T) {
	need(t)
	for _, c := range []struct {
		verb          string
		durable       bool
		dsync, syncs  int64 // at least
		exactlyNoSync bool
	}{
		{verb: "write", exactlyNoSync: true},
		{verb: "direct", exactlyNoSync: true},
		{verb: "sync_file_range", exactlyNoSync: true},
		{verb: "syncfs", exactlyNoSync: true},
		{verb: "mmap", exactlyNoSync: true},
		{verb: "fsync", durable: true, syncs: 1},
		{verb: "fdatasync", durable: true, syncs: 1},
		{verb: "mmap+msync", durable: true, syncs: 1},
		{verb: "mmap+fdatasync", durable: true, syncs: 1},
		{verb: "O_DSYNC", durable: true, dsync: 1, syncs: 1},
		{verb: "O_SYNC", durable: true, dsync: 1, syncs: 1},
		{verb: "O_DIRECT+O_DSYNC", durable: true, dsync: 1, syncs: 1},
		{verb: "RWF_DSYNC", durable: true, dsync: 1, syncs: 1},
		{verb: "O_DIRECT+RWF_DSYNC", durable: true, dsync: 1, syncs: 1},
		{verb: "ring", durable: true, dsync: 1, syncs: 1},
		{verb: "ring+direct", durable: true, dsync: 1, syncs: 1},
	} {
		t.Run(c.verb, func(t *testing.T) {
			if strings.HasPrefix(c.verb, "ring") {
				_, err := uring.Probe()
				ringtest.NeedUring(t, err)
			}
			d := NewDisk(Options{})
			dir, m := mountAt(t, d)
			if err := touch(dir, "file"); err != nil {
				t.Fatal(err)
			}
			if err := posix.Host().SyncDir(dir); err != nil {
				t.Fatal(err)
			}
			before := d.Stats()
			do(t, dir, c.verb)
			after := d.Stats()
			t.Logf("the kernel sent %+v after %+v", after, before)
			syncs, dsync := after.Syncs-before.Syncs, after.DSyncWrites-before.DSyncWrites
			if syncs < c.syncs || dsync < c.dsync || c.exactlyNoSync && syncs+dsync > 0 {
				t.Errorf("%d syncs, %d writes with O_DSYNC", syncs, dsync)
			}
			dir = cutAndRemount(t, d, m, clean())
			got, err := os.ReadFile(filepath.Join(dir, "file"))
			if err != nil {
				t.Fatal(err)
			}
			if durable := bytes.Equal(got, text); durable != c.durable {
				t.Errorf("durable: %v, want %v (%d bytes)", durable, c.durable, len(got))
			}
		})
	}
}

func TestCutStopsEverything(t *testing.T) {
	need(t)
	d := NewDisk(Options{})
	dir, _ := mountAt(t, d)
	if _, err := d.Restore(1); err != ErrPowered {
		t.Errorf("Restore with the power on: %v", err)
	}
	fd, err := open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	before := d.Events()
	d.CutAfter(2)
	dark := d.Dark()
	if _, err := unix.Pwrite(fd, text, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, text, 0); err != unix.EIO {
		t.Errorf("the write at which the power goes: %v", err)
	}
	<-dark
	if n := d.Events() - before; n != 2 {
		t.Errorf("%d events, not 2", n)
	}
	if err := unix.Fsync(fd); err != unix.EIO {
		t.Errorf("fsync in the dark: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); !errors.Is(err, unix.EIO) {
		t.Errorf("mkdir in the dark: %v", err)
	}
	if _, err := d.Restore(1); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, text, 0); err != unix.EIO { // the machine that lost its power is gone for good
		t.Errorf("a write of the old mount: %v", err)
	}
}

func TestNames(t *testing.T) {
	need(t)
	for _, ordered := range []bool{false, true} {
		d := NewDisk(Options{Ordered: ordered})
		dir, m := mountAt(t, d)
		do(t, dir, "names")
		dir = cutAndRemount(t, d, m, clean())
		want := map[string]bool{"kept": true, "old": !ordered, "new": ordered, "kept/lost": ordered, "kept/file": ordered}
		for name, there := range want {
			if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
				t.Errorf("ordered %v: %s: %v", ordered, name, err)
			}
		}
	}
}

func TestSyncKeepsAll(t *testing.T) {
	need(t)
	d := NewDisk(Options{})
	dir, m := mountAt(t, d)
	do(t, dir, "names")
	do(t, dir, "write")
	d.Sync()
	dir = cutAndRemount(t, d, m, clean())
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, name := range []string{"new", "kept/lost", "kept/file"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestSizesLocksAndStatfs(t *testing.T) {
	need(t)
	d := NewDisk(Options{Bytes: 1 << 30})
	dir, m := mountAt(t, d)
	do(t, dir, "locks")
	do(t, dir, "sizes")
	if err := posix.Host().SyncDir(dir); err != nil {
		t.Fatal(err)
	}
	if free, err := posix.Host().Free(dir); err != nil || free != 1<<30 {
		t.Errorf("free %d, %v", free, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "file")); err != nil || st.Size() != 5 {
		t.Errorf("%v %v", st, err)
	}
	dir = cutAndRemount(t, d, m, clean())
	if st, err := os.Stat(filepath.Join(dir, "file")); err != nil || st.Size() != 10<<20 {
		t.Errorf("%v %v", st, err)
	}
}

// The same disk and the same seed leave the same; seeds differ.
func TestRestoreIsOfTheSeed(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(200) {
		var leaves [2]string
		for i := range leaves {
			d := NewDisk(Options{})
			n := d.newNode(0o100644)
			d.rename(nameChange{toDir: d.root, to: "file", node: n})
			d.settle(func(int) bool { return true })
			n.write(0, bytes.Repeat([]byte{1}, 2000))
			n.sync(n.mark())
			n.write(0, bytes.Repeat([]byte{2}, 2000))
			n.write(1000, bytes.Repeat([]byte{3}, 5000))
			n.truncate(3000)
			n.write(8000, bytes.Repeat([]byte{4}, 100))
			d.Cut()
			if _, err := d.Restore(seed); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, n.now.size)
			n.now.read(0, b)
			leaves[i] = string(b)
		}
		if leaves[0] != leaves[1] {
			t.Fatalf("seed %d leaves two things", seed)
		}
		kinds[leaves[0]]++
		if size := len(leaves[0]); size != 2000 && size != 6000 && size != 3000 && size != 8100 {
			t.Errorf("seed %d: a size that the file never had: %d", seed, size)
		}
	}
	if len(kinds) < 20 {
		t.Errorf("%d outcomes of 200 seeds", len(kinds))
	}
}

func mountAt(t *testing.T, d *Disk) (string, *Mount) {
	t.Helper()
	dir := t.TempDir()
	m, err := d.Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return dir, m
}

func cutAndRemount(t *testing.T, d *Disk, m *Mount, seed uint64) string {
	t.Helper()
	d.Cut()
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Restore(seed); err != nil {
		t.Fatal(err)
	}
	dir, _ := mountAt(t, d)
	return dir
}
