package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/posix"
	"github.com/millrace/millrace/ring/sim"
)

// rig is a simulated machine with one journal and some partitions, which make durable
// what they are asked to at once, unless they are slow.
type rig struct {
	*testing.T
	world *sim.World
	disk  *sim.Host
	rules *fault.Rules
	sim   *sim.IO
	io    ring.IO
	files *Files
	core  *Core
	parts []*part
	order []string // entries, as they became durable
	rooms int
	way   Way
}

// part is a partition: its entries are numbered by offset, one offset each.
type part struct {
	r      *rig
	key    Key
	stake  Stake
	entry  Entry
	busy   bool
	end    int64 // of what was submitted
	slow   bool  // it does not answer WriteBack
	late   int   // bytes that it appends after Submit
	wanted int64
	err    error
}

func (p *part) JournalKey() Key { return p.key }

func (p *part) WriteBack(offset int64) {
	p.wanted = offset
	if !p.slow {
		p.r.core.Cut(&p.stake, offset)
	}
}

func (p *part) Grow(e *Entry, max int) {
	size := p.late
	if size == 0 || size > max {
		return
	}
	e.Bufs = append(e.Bufs, content(p.key.Partition, e.Base, size))
	e.Size += size
	e.End++
	p.end++
	p.late = 0
}

func (p *part) Durable(e *Entry, err error) {
	p.busy = false
	if p.err = err; err == nil {
		p.r.order = append(p.r.order, fmt.Sprintf("%d:%d", p.key.Partition, e.Base))
	}
}

// content is what an entry holds.
func content(partition int32, offset int64, size int) []byte {
	return bytes.Repeat([]byte{byte(partition*31) ^ byte(offset) | 1}, size)
}

func (p *part) submit(size int) {
	if p.busy {
		p.r.Fatal("an entry is on its way")
	}
	b := content(p.key.Partition, p.end, size)
	p.entry = Entry{Key: p.key, LeaderEpoch: 3, Base: p.end, End: p.end + 1, Prev: p.end, Bufs: [][]byte{b[:size/3], b[size/3:]}, Size: size, Stake: &p.stake, Done: p}
	p.busy = true
	p.end++
	p.r.core.Submit(&p.entry)
}

var directory = [16]byte{7}

func newRig(t *testing.T, seed uint64) *rig {
	r := &rig{T: t, world: sim.NewWorld(seed)}
	t.Cleanup(func() { r.world.Close() })
	r.disk = r.world.NewHost("a", netip.AddrFrom4([4]byte{10, 0, 0, 1}))
	if err := ring.MkdirAll(r.disk, "/data"); err != nil {
		t.Fatal(err)
	}
	r.rules, _ = fault.Parse("")
	return r
}

func (r *rig) config() Config {
	return Config{Dir: "/journal", LogDir: "/data", Cores: 1, Bytes: 128 << 10}
}

// open replays, and begins; it returns what was replayed.
func (r *rig) open(parts int) (replayed []Entry, err error) {
	r.Helper()
	r.files = NewFiles(fault.WrapHost(r.disk, r.rules), r.config())
	err = r.files.Replay(directory, func(e *Entry) error {
		k := *e
		k.Bufs = [][]byte{bytes.Join(e.Bufs, nil)}
		replayed = append(replayed, k)
		return nil
	})
	if err == nil {
		err = r.files.Begin()
	}
	if err != nil {
		r.files.Close(false)
		return replayed, err
	}
	r.sim = r.disk.NewIO(sim.IOConfig{PoolBytes: 1 << 20, RecvBuffers: 1, RecvBufferBytes: 1 << 10})
	r.io = fault.Wrap(r.sim, r.rules)
	if r.core, err = r.files.NewCore(0, r.io); err != nil {
		r.Fatal(err)
	}
	r.core.Use(r.way)
	r.rooms = 0
	r.core.OnRoom(func() { r.rooms++ })
	r.parts, r.order = nil, nil
	for i := range parts {
		p := &part{r: r, key: Key{TopicID: [16]byte{9}, Partition: int32(i), Incarnation: 77}}
		r.core.Attach(p, &p.stake)
		r.parts = append(r.parts, p)
	}
	return replayed, nil
}

func (r *rig) must(parts int) []Entry {
	r.Helper()
	e, err := r.open(parts)
	if err != nil {
		r.Fatal(err)
	}
	return e
}

func (r *rig) turn() bool {
	r.core.AfterStep()
	if r.disk.Crashed() {
		return false
	}
	if r.io.Wait(ring.Forever) > 0 { // what the rules have answered
		return true
	}
	if !r.world.Step() || r.disk.Crashed() {
		return false
	}
	if r.sim.Due() {
		r.io.Wait(ring.Forever)
	}
	return true
}

func (r *rig) idle() {
	for r.turn() {
	}
}

// crash loses the power, and starts again.
func (r *rig) crash() {
	r.disk.Crash(sim.PowerLossClean)
	r.disk.Restart()
}

// damage changes the file at off, between two starts.
func (r *rig) damage(off int64, change func(b []byte)) {
	r.Helper()
	r.damageFile("/journal/core-0.journal", off, change)
}

func (r *rig) damageFile(path string, off int64, change func(b []byte)) {
	r.Helper()
	fd, err := r.disk.Open(path, ring.ReadWrite)
	if err != nil {
		r.Fatal(err)
	}
	defer r.disk.Close(fd)
	b := make([]byte, blockSize)
	n, err := r.disk.ReadAt(fd, b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Fatal(err)
	}
	b = b[:n]
	change(b)
	r.disk.WriteAt(fd, b, off)
	r.disk.Sync(fd)
}

// Entries of one step share a write, become durable in their order, and are replayed.
func TestOneWriteForAll(t *testing.T) {
	for _, way := range []Way{DSync, Linked} {
		t.Run(way.String(), func(t *testing.T) { oneWriteForAll(t, way) })
	}
}

func oneWriteForAll(t *testing.T, way Way) {
	r := newRig(t, 1)
	r.way = way
	if e := r.must(5); len(e) != 0 || !r.files.Report().New {
		t.Fatalf("%d entries in a new journal, %v", len(e), r.files.Report())
	}
	for i, p := range r.parts {
		p.submit(100 + i)
	}
	if len(r.order) > 0 {
		t.Fatal("told from inside Submit")
	}
	r.idle()
	for _, p := range r.parts {
		p.submit(50)
	}
	r.idle()
	if got := strings.Join(r.order, " "); got != "0:0 1:0 2:0 3:0 4:0 0:1 1:1 2:1 3:1 4:1" {
		t.Errorf("durable in the order %s", got)
	}
	if s := r.core.Stats(); s.Frames != 2 || s.Entries != 10 || s.Bytes != 2*blockSize {
		t.Errorf("%d writes of %d bytes with %d entries", s.Frames, s.Bytes, s.Entries)
	}
	r.crash()
	all := r.must(5)
	if len(all) != 10 {
		t.Fatalf("%d of 10 entries replayed", len(all))
	}
	for i, e := range all {
		p, offset := int32(i%5), int64(i/5)
		size := 50
		if offset == 0 {
			size = 100 + i
		}
		if e.Key != r.parts[p].key || e.Base != offset || e.End != offset+1 || e.Prev != offset || e.LeaderEpoch != 3 || !bytes.Equal(e.Bufs[0], content(p, offset, size)) {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	// The next generation begins empty.
	r.crash()
	if e := r.must(5); len(e) != 0 {
		t.Errorf("%d entries of an older generation", len(e))
	}
}

// What a partition appends after Submit goes into the same write, as far as there is room.
func TestGrow(t *testing.T) {
	r := newRig(t, 1)
	r.must(3)
	max := r.core.EntryMax()
	for _, p := range r.parts {
		p.submit(100)
	}
	r.parts[0].late = max - 300 - 2*rowSize // all that is left
	r.parts[1].late = 1
	r.idle()
	for i, want := range []int{max - 200 - 2*rowSize, 100, 100} {
		if got := r.parts[i].entry.Size; got != want {
			t.Errorf("entry of partition %d: %d bytes, want %d", i, got, want)
		}
	}
	if s := r.core.Stats(); s.Frames != 1 || s.Entries != 3 || int(s.Bytes) != len(r.core.stage) {
		t.Errorf("%d writes of %d bytes with %d entries", s.Frames, s.Bytes, s.Entries)
	}
	r.crash()
	all := r.must(3)
	if len(all) != 3 || all[0].End != 2 || all[1].End != 1 || !bytes.Equal(all[0].Bufs[0], content(0, 0, max-200-2*rowSize)) {
		t.Errorf("%d entries replayed: %v", len(all), all)
	}
}

// Many turns of the file, with sizes that leave its end unused now and then: what was not cut
// is always there, whatever the crash.
func TestTurns(t *testing.T) {
	for seed := range uint64(40) {
		r := newRig(t, seed)
		r.world.Config.ShortWriteOneIn = int(seed % 3 * 4)
		r.must(4)
		r.parts[3].slow = true // it is cut by hand, late
		for range 400 {
			p := r.parts[r.world.Random()%4]
			if !p.busy && !r.core.Full() {
				p.submit(1 + int(r.world.Random()%9000))
				p.late = int(r.world.Random() % 2 * 500)
			}
			for range r.world.Random() % 4 {
				r.turn()
			}
			if p = r.parts[3]; r.world.Random()%8 == 0 && p.wanted > 0 {
				r.core.Cut(&p.stake, p.wanted)
			}
		}
		if r.core.Stats().Cuts < 3 || r.core.head < 4*r.core.size {
			t.Fatalf("seed %d: %d cuts, %d bytes written", seed, r.core.Stats().Cuts, r.core.head)
		}
		needed := map[Key]int64{} // first offset that no WriteBack has asked for
		durable := map[Key]int64{}
		for _, p := range r.parts {
			needed[p.key] = p.wanted
			durable[p.key] = p.end
			if p.busy {
				durable[p.key] = p.entry.Base
			}
		}
		r.disk.Crash([]sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean}[seed%3])
		r.disk.Restart()
		next := map[Key]int64{}
		for _, e := range r.must(4) {
			if at, ok := next[e.Key]; ok && e.Base != at {
				t.Fatalf("seed %d: %v: offset %d after %d", seed, e.Key, e.Base, at)
			} else if !ok && e.Base > needed[e.Key] {
				t.Fatalf("seed %d: %v: begins at %d, %d is needed", seed, e.Key, e.Base, needed[e.Key])
			}
			if !bytes.Equal(e.Bufs[0], content(e.Partition, e.Base, e.Size)) {
				t.Fatalf("seed %d: %v: wrong bytes at %d", seed, e.Key, e.Base)
			}
			next[e.Key] = e.End
		}
		for k, end := range durable {
			if next[k] < end && needed[k] < end {
				t.Fatalf("seed %d: %v: ends at %d of %d", seed, k, next[k], end)
			}
		}
	}
}

// Full stops what produces, OnRoom lets it go on; what comes all the same waits, and is not lost.
func TestFullAndRoom(t *testing.T) {
	r := newRig(t, 3)
	r.must(2)
	for _, p := range r.parts {
		p.slow = true
	}
	for !r.core.Full() {
		r.parts[0].submit(9000)
		r.idle()
	}
	for range 10 { // past full
		if p := r.parts[1]; !p.busy {
			p.submit(9000)
			r.idle()
		}
	}
	if !r.parts[1].busy || r.core.Stats().Waits == 0 {
		t.Fatalf("not full: %d of %d used", r.core.Used(), r.core.Bytes())
	}
	if r.rooms > 0 {
		t.Fatal("room, though nothing was cut")
	}
	r.core.Cut(&r.parts[0].stake, r.parts[0].wanted)
	r.core.Cut(&r.parts[1].stake, r.parts[1].wanted)
	r.idle()
	if r.rooms != 1 || r.parts[1].busy || r.core.Full() {
		t.Fatalf("%d times room; waiting %v, %d of %d used", r.rooms, r.parts[1].busy, r.core.Used(), r.core.Bytes())
	}
	// A fenced partition keeps what it has, and nobody waits for it.
	r.core.Fence(&r.parts[0].stake)
	r.parts[1].slow = false
	r.crash()
	for _, e := range r.must(2) {
		if e.Damage != nil {
			t.Error(e.Damage)
		}
	}
}

// After the first error nothing becomes durable any more.
func TestWriteFails(t *testing.T) {
	for rule, way := range map[string]Way{
		`(Write (path "*.journal") (nth 1) EIO)`:                                              DSync,
		`(Write (path "*.journal") (nth 1) EIO) `:                                             Linked,
		`(Sync (path "*.journal") (nth 1) EIO)`:                                               Linked,
		`(Write (path "*.journal") (nth 1) short 4096) (Sync (path "*.journal") (nth 2) EIO)`: Linked,
	} {
		r := newRig(t, 5)
		r.way = way
		r.must(2)
		r.parts[0].submit(10)
		r.idle()
		if err := r.rules.Add(rule); err != nil {
			t.Fatal(err)
		}
		r.parts[0].submit(10_000)
		r.idle()
		r.parts[1].submit(10)
		r.idle()
		for _, p := range r.parts {
			if p.busy || p.err == nil || !strings.Contains(p.err.Error(), "core-0.journal") {
				t.Errorf("%s: partition %d: busy %v, %v", rule, p.key.Partition, p.busy, p.err)
			}
		}
	}
}

// A frame of which the kernel takes a part at a time is durable once its last part is.
func TestShortWrites(t *testing.T) {
	for _, way := range []Way{DSync, Linked} {
		r := newRig(t, 5)
		r.way = way
		r.must(1)
		if err := r.rules.Add(`(Write (path "*.journal") (every 2) short 4096) (Write (path "*.journal") (nth 3) short 5000)`); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			r.parts[0].submit(10_000)
			r.idle()
		}
		if got := strings.Join(r.order, " "); got != "0:0 0:1 0:2 0:3" {
			t.Errorf("%v: durable: %s", way, got)
		}
		r.crash()
		if e := r.must(1); len(e) != 4 {
			t.Errorf("%v: %d of 4 entries replayed", way, len(e))
		}
	}
}

// What a start refuses, and what it accepts.
func TestWhichJournal(t *testing.T) {
	used := func(t *testing.T) *rig {
		r := newRig(t, 6)
		r.must(1)
		r.parts[0].submit(100)
		r.idle()
		return r
	}
	remove := func(r *rig, path string) {
		if err := ring.RemoveAll(r.disk, path); err != nil {
			r.Fatal(err)
		}
		r.disk.SyncDir("/")
		r.disk.SyncDir("/data")
	}
	for _, c := range []struct {
		name   string
		change func(r *rig)
		want   string // in the error; empty: it opens
		n      int    // entries
	}{
		{"as it was", func(r *rig) {}, "", 1},
		{"the directory is gone", func(r *rig) { remove(r, "/journal") }, "is missing", 0},
		{"a file is gone", func(r *rig) { remove(r, "/journal/core-0.journal") }, "core-0.journal is missing", 0},
		{"given up", func(r *rig) { remove(r, "/journal"); remove(r, "/data/"+recordName) }, "", 0},
		{"no record", func(r *rig) { remove(r, "/data/"+recordName) }, "", 1},
		{"of another directory", func(r *rig) { rewrite(r, "/journal/"+metaName, "directory.id=", "directory.id=AQ") }, "another directory", 0},
		{"another journal", func(r *rig) { rewrite(r, "/data/"+recordName, "journal.id=", "journal.id=AQ") }, "is another one", 0},
		{"an older one", func(r *rig) { rewrite(r, "/data/"+recordName, "generation=1", "generation=9") }, "older than 9", 0},
		{"nonsense", func(r *rig) { rewrite(r, "/journal/"+metaName, "generation=1", "generation=x") }, `generation is "x"`, 0},
		{"gone after a clean stop", func(r *rig) {
			r.must(1)
			if err := r.files.Close(true); err != nil {
				r.Fatal(err)
			}
			remove(r, "/journal")
		}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := used(t)
			r.crash()
			c.change(r)
			all, err := r.open(1)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("%v, not %q", err, c.want)
			case c.want != "" && len(r.disk.OpenFiles()) > 0:
				t.Fatalf("left open: %v", r.disk.OpenFiles())
			case len(all) != c.n:
				t.Fatalf("%d entries, not %d", len(all), c.n)
			}
		})
	}
}

// rewrite replaces part of a small file; a value that is an id keeps its length.
func rewrite(r *rig, path, from, to string) {
	r.Helper()
	b, err := ring.ReadFile(r.disk, path)
	if err != nil {
		r.Fatal(err)
	}
	if b, _, err = ring.Unseal(b); err != nil {
		r.Fatal(err)
	}
	i := bytes.Index(b, []byte(from))
	if i < 0 {
		r.Fatalf("%s: no %s in %s", path, from, b)
	}
	if strings.HasSuffix(from, "=") {
		copy(b[i:], to)
	} else {
		b = bytes.Replace(b, []byte(from), []byte(to), 1)
	}
	if err := ring.WriteFileAtomic(r.disk, path, ring.Seal(b)); err != nil {
		r.Fatal(err)
	}
}

// Damage to any part of any write is found; the last one may have been torn.
func TestDamage(t *testing.T) {
	flip := func(at int) func([]byte) { return func(b []byte) { b[at] ^= 4 } }
	zero := func(b []byte) { clear(b) }
	for _, c := range []struct {
		name   string
		frame  int64 // of three, one block each
		change func([]byte)
		want   string // in the error
		bad    int    // entries without their bytes
		n      int    // entries replayed
		torn   bool
	}{
		{"bytes of the first", 0, flip(headerSize + rowSize + 5), "", 1, 3, false},
		{"bytes of the second", 1, flip(headerSize + rowSize + 5), "", 1, 3, false},
		{"bytes of the last", 2, flip(headerSize + rowSize + 5), "", 0, 2, true},
		{"header of the first", 0, flip(40), "DAMAGED", 0, 0, false},
		{"header of the second", 1, flip(40), "DAMAGED", 0, 0, false},
		{"header of the last", 2, flip(40), "", 0, 2, true},
		{"row of the second", 1, flip(headerSize + 42), "DAMAGED", 0, 0, false},
		{"the second zeroed", 1, zero, "DAMAGED", 0, 0, false},
		{"the last zeroed", 2, zero, "", 0, 2, false},
		{"padding", 1, flip(blockSize - 1), "", 0, 3, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 7)
			r.must(1)
			for range 3 {
				r.parts[0].submit(100)
				r.idle()
			}
			r.crash()
			r.damage(c.frame*blockSize, c.change)
			all, err := r.open(1)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "core-0.journal") {
					t.Fatalf("%v, not %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			bad := 0
			for _, e := range all {
				if e.Damage != nil {
					bad++
				} else if !bytes.Equal(e.Bufs[0], content(0, e.Base, 100)) {
					t.Errorf("wrong bytes at %d", e.Base)
				}
			}
			report := r.files.Report()
			if len(all) != c.n || bad != c.bad || len(report.Damaged) != c.bad || (len(report.Torn) > 0) != c.torn {
				t.Fatalf("%d entries, %d bad: %v", len(all), bad, report)
			}
		})
	}
}

// Another number of cores, or another size, loses nothing.
func TestOtherShape(t *testing.T) {
	for _, c := range []Config{
		{Cores: 3, Bytes: 128 << 10}, {Cores: 1, Bytes: 256 << 10}, {Cores: 1, Bytes: 64 << 10},
	} {
		for n := range 14 { // with a crash on the way
			r := newRig(t, uint64(n))
			r.must(1)
			r.parts[0].submit(100)
			r.idle()
			r.crash()
			seen := 0
			start := func() error {
				c.Dir, c.LogDir = "/journal", "/data"
				f := NewFiles(r.disk, c)
				n := 0
				err := f.Replay(directory, func(*Entry) error { n++; return nil })
				seen = max(seen, n)
				if err == nil {
					err = f.Begin()
				}
				f.Close(false)
				return err
			}
			r.world.CrashAfter(r.disk, 1+n, sim.PowerLoss)
			err := start()
			if r.disk.Crashed() {
				r.disk.Restart()
				err = start()
			}
			r.world.CrashAfter(r.disk, 0, sim.PowerLoss)
			if err != nil {
				t.Fatalf("%+v, crash at %d: %v", c, n, err)
			}
			if seen != 1 {
				t.Fatalf("%+v, crash at %d: %d entries replayed", c, n, seen)
			}
		}
	}
}

// An entry on its way allocates nothing.
func TestNoAllocations(t *testing.T) {
	for _, way := range []Way{DSync, Linked} {
		t.Run(way.String(), func(t *testing.T) { noAllocations(t, way) })
	}
}

// realFiles are journals of a real directory, begun, and a ring.
func realFiles(t *testing.T) (*Files, ring.IO) {
	t.Helper()
	host, dir := posix.Host(), t.TempDir()
	f := NewFiles(host, Config{Dir: dir + "/journal", LogDir: dir, Cores: 1, Bytes: 1 << 20})
	if err := f.Replay(directory, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Begin(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(false) })
	io, err := posix.New(host, posix.Config{PoolBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { io.Close() })
	return f, io
}

func noAllocations(t *testing.T, way Way) {
	f, io := realFiles(t)
	c, err := f.NewCore(0, io)
	if err != nil {
		t.Fatal(err)
	}
	c.Use(way)
	q := &quick{core: c}
	c.Attach(q, &q.stake)
	q.body = [][]byte{io.Pool().Get(1000)}
	one := func() {
		q.done = false
		q.entry = Entry{Base: q.end, End: q.end + 1, Prev: q.end, Bufs: q.body, Size: 1000, Stake: &q.stake, Done: q}
		q.end++
		c.Submit(&q.entry)
		for !q.done {
			c.AfterStep()
			io.Wait(ring.Forever)
		}
		c.AfterStep()
	}
	for range 300 { // all the way round
		one()
	}
	if n := testing.AllocsPerRun(500, one); n != 0 {
		t.Errorf("%v allocations for each entry", n)
	}
	if c.Stats().Cuts == 0 || q.err != nil {
		t.Errorf("%d cuts, %v", c.Stats().Cuts, q.err)
	}
}

// quick is a partition whose files have everything at once.
type quick struct {
	core  *Core
	stake Stake
	entry Entry
	body  [][]byte
	end   int64
	done  bool
	err   error
}

func (q *quick) JournalKey() Key        { return Key{} }
func (q *quick) Grow(*Entry, int)       {}
func (q *quick) WriteBack(offset int64) { q.core.Cut(&q.stake, offset) }
func (q *quick) Durable(_ *Entry, err error) {
	q.done, q.err = true, errors.Join(q.err, err)
}

// A frame that is torn after a cut has made room leaves everything that the frame before it needs.
func TestTornBehindACut(t *testing.T) {
	for seed := range uint64(60) {
		r := newRig(t, seed)
		r.must(3)
		for _, p := range r.parts {
			p.slow = true
		}
		for i := 0; r.core.Stats().Waits == 0; i++ {
			if p := r.parts[i%2]; !p.busy {
				p.submit(9000)
				r.idle()
			}
		}
		for _, p := range r.parts[:2] {
			r.core.Cut(&p.stake, p.wanted)
		}
		r.parts[2].submit(9000)
		r.world.CrashAfter(r.disk, 1+int(seed%6), sim.PowerLoss)
		r.idle()
		if !r.disk.Crashed() {
			r.disk.Crash(sim.PowerLoss)
		}
		r.disk.Restart()
		r.must(3)
	}
}

// Every directory above a journal.dir of one's own is as durable as the journal.
func TestNestedDirectory(t *testing.T) {
	r := newRig(t, 1)
	start := func() error {
		f := NewFiles(r.disk, Config{Dir: "/j/a/b", LogDir: "/data", Cores: 1, Bytes: 64 << 10})
		err := f.Replay(directory, func(*Entry) error { return nil })
		if err == nil {
			err = f.Begin()
		}
		f.Close(false)
		return err
	}
	for range 2 {
		if err := start(); err != nil {
			t.Fatal(err)
		}
		r.crash()
	}
}

// After a clean stop journal.dir may be another, and the old one again after the next: also where a start is killed,
// at any step.
func TestMoveAfterCleanStop(t *testing.T) {
	for _, crash := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		for event := 1; ; event++ {
			r := newRig(t, uint64(event))
			r.must(1)
			r.parts[0].submit(500)
			r.idle()
			if err := r.files.Close(true); err != nil {
				t.Fatal(err)
			}
			start := func(dir string, clean bool) error {
				config := r.config()
				config.Dir = dir
				f := NewFiles(r.disk, config)
				err := f.Replay(directory, func(*Entry) error { return errors.New("an entry, after a clean stop") })
				if err == nil {
					err = f.Begin()
				}
				return errors.Join(err, f.Close(clean && err == nil))
			}
			r.world.CrashAfter(r.disk, event, crash)
			start("/elsewhere", false)
			crashed := r.disk.Crashed()
			if crashed {
				r.disk.Restart()
			} else {
				r.world.CrashAfter(r.disk, 0, crash)
			}
			for _, dir := range []string{"/elsewhere", "/journal", "/elsewhere"} {
				if err := start(dir, true); err != nil {
					t.Fatalf("%v at event %d: %s: %v", crash, event, dir, err)
				}
			}
			if !crashed {
				break
			}
		}
	}
}
