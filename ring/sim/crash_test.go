package sim_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

const sector = 512

// wrote is one write as the test knows it: what it put where, and when.
type wrote struct {
	id             uint64 // every sector it wrote holds this, repeated
	from, to       int64  // sectors
	asked, done    int    // by the test's own count of submits and completions; 0: not yet
	synced, safe   int    // when a Sync that covers it was submitted, and when that completed
	dsync, chained bool
}

// diskModel says, from what was submitted and completed and nothing else, what
// each sector may hold after a crash.
type diskModel struct {
	clock  int
	writes []*wrote
	chains []*int // when each Sync that follows a Write has completed; 0: not yet
}

func (m *diskModel) tick() int { m.clock++; return m.clock }

// allowed says whether a sector may hold what w wrote; nil is the zeros from before.
func (m *diskModel) allowed(s int64, w *wrote, mode sim.Crash) bool {
	if mode == sim.PowerLossClean && w != nil && w.synced == 0 && !w.dsync && !m.maybeSynced(w) {
		return false // nobody asked to sync it
	}
	for _, later := range m.writes {
		if s < later.from || s >= later.to || later == w {
			continue
		}
		after := w == nil || w.done != 0 && w.done < later.asked
		kept := later.safe != 0 || mode == sim.ProcessKill && later.done != 0
		if after && kept {
			return false
		}
	}
	return true
}

// maybeSynced says whether a chained Sync may have been submitted after w completed.
func (m *diskModel) maybeSynced(w *wrote) bool {
	for _, done := range m.chains {
		if w.done != 0 && (*done == 0 || *done > w.done) {
			return true
		}
	}
	return false
}

// A random program writes and syncs; it is crashed somewhere; what the disk then
// holds must be allowed, and over many seeds all kinds of loss must have been seen.
func TestCrashProperty(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		for _, mode := range append([]sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean}, decided...) {
			crashProperty(t, seed, mode, seen)
		}
	}
	for _, kind := range []string{"kept", "lost", "torn", "older", "in flight"} {
		if seen[kind] == 0 {
			t.Errorf("in no run was a write %s: %v", kind, seen)
		}
	}
}

func crashProperty(t *testing.T, seed uint64, mode sim.Crash, seen map[string]int) {
	const sectors = 64
	r := newRig(t, seed)
	h := r.host("a")
	io := r.io(h)
	fd := r.open(h, "/d/f", ring.CreateNew)
	r.ok(h.SyncDir("/d"))
	m := &diskModel{}
	inFlight := 0
	for step := range int(20 + r.Random()%100) {
		switch {
		case r.Random()%4 == 0:
			m.sync(r, io, fd, &inFlight)
		default:
			m.write(r, io, fd, uint64(step+1), sectors, &inFlight)
		}
		for range r.Random() % 6 {
			r.turn()
		}
		r.until("few ops in flight", func() bool { return inFlight < 5 })
	}
	h.Crash(mode)
	if _, err := h.Open("/d/f", ring.ReadOnly); !errors.Is(err, sim.ErrCrashed) {
		t.Fatalf("a verb of a crashed host: %v", err)
	}
	h.Restart()
	data, err := ring.ReadFile(h, "/d/f")
	r.ok(err)
	m.check(t, r, data, mode, seen)

	if mode == sim.ProcessKill { // the page cache is as it was, and can still be lost
		return
	}
	// What the crash left is durable now.
	h.Crash(sim.PowerLoss)
	h.Restart()
	again, err := ring.ReadFile(h, "/d/f")
	r.ok(err)
	if string(again) != string(data) {
		t.Fatalf("seed %d: a second crash changed the file", seed)
	}
}

func (m *diskModel) write(r *rig, io *sim.IO, fd ring.FD, id uint64, sectors int64, inFlight *int) {
	w := &wrote{id: id}
	w.from = int64(r.Random()) & (sectors - 1)
	w.to = min(sectors, w.from+1+int64(r.Random()%8))
	buf := io.Pool().Get(int(w.to-w.from) * sector)
	for i := 0; i < len(buf); i += 8 {
		binary.LittleEndian.PutUint64(buf[i:], id)
	}
	op := ring.Op{Code: ring.Write, FD: fd, Off: w.from * sector, Buf: buf}
	if w.dsync = r.Random()%4 == 0; w.dsync {
		op.Flags = ring.DSync
	}
	m.writes = append(m.writes, w)
	c := prepare(io, op)
	c.then = func(c *call) {
		w.done = m.tick()
		if w.dsync {
			w.safe = w.done
		}
		io.Pool().Put(buf)
		*inFlight--
	}
	if w.chained = r.Random()%4 == 0; w.chained {
		next := prepare(io, ring.Op{Code: ring.Sync, FD: fd})
		done := new(int)
		m.chains = append(m.chains, done)
		next.then = func(*call) { *done = m.tick(); w.safe = *done; *inFlight-- }
		c.Next = &next.Op
		w.synced = m.clock
		*inFlight++
	}
	w.asked = m.tick()
	*inFlight++
	io.Submit(&c.Op)
}

func (m *diskModel) sync(r *rig, io *sim.IO, fd ring.FD, inFlight *int) {
	var covered []*wrote
	now := m.tick()
	for _, w := range m.writes {
		if w.done != 0 {
			covered = append(covered, w)
			if w.synced == 0 {
				w.synced = now
			}
		}
	}
	*inFlight++
	c := prepare(io, ring.Op{Code: ring.Sync, FD: fd})
	c.then = func(*call) {
		*inFlight--
		for _, w := range covered {
			if w.safe == 0 {
				w.safe = m.tick()
			}
		}
	}
	io.Submit(&c.Op)
}

func (m *diskModel) check(t *testing.T, r *rig, data []byte, mode sim.Crash, seen map[string]int) {
	t.Helper()
	if len(data)%sector != 0 {
		t.Fatalf("seed %d %v: %d bytes: only whole sectors were written", r.Seed(), mode, len(data))
	}
	at := func(s int64) uint64 {
		if (s+1)*sector > int64(len(data)) {
			return 0
		}
		p := data[s*sector : (s+1)*sector]
		id := binary.LittleEndian.Uint64(p)
		for i := 0; i < sector; i += 8 {
			if binary.LittleEndian.Uint64(p[i:]) != id {
				t.Fatalf("seed %d %v: sector %d is torn", r.Seed(), mode, s)
			}
		}
		return id
	}
	byID := map[uint64]*wrote{}
	for _, w := range m.writes {
		byID[w.id] = w
		if w.safe != 0 && int64(len(data)) < w.to*sector {
			t.Fatalf("seed %d %v: a synced write ends at %d, the file at %d", r.Seed(), mode, w.to*sector, len(data))
		}
		here := 0
		for s := w.from; s < w.to; s++ {
			if at(s) == w.id {
				here++
			}
		}
		switch {
		case w.safe != 0 || mode == sim.ProcessKill || mode == sim.PowerLossClean:
		case here == int(w.to-w.from) && w.done == 0:
			seen["in flight"]++
		case here == int(w.to-w.from):
			seen["kept"]++
		case here == 0:
			seen["lost"]++
		default:
			seen["torn"]++
		}
	}
	for s := range int64(64) {
		id := at(s)
		if id != 0 && byID[id] == nil {
			t.Fatalf("seed %d %v: sector %d holds %d, which nobody wrote", r.Seed(), mode, s, id)
		}
		if !m.allowed(s, byID[id], mode) {
			t.Fatalf("seed %d %v: sector %d holds write %d %+v", r.Seed(), mode, s, id, byID[id])
		}
		for _, w := range m.writes {
			if mode == sim.PowerLoss && s >= w.from && s < w.to && byID[id] != nil && byID[id].done != 0 && byID[id].done < w.asked && w.done != 0 {
				seen["older"]++
			}
		}
	}
}

// Two ops submitted together complete either way round, and a Sync covers only
// what had completed; linked, it covers what it follows.
func TestSyncCovers(t *testing.T) {
	lost, order := 0, [2]int{}
	for seed := range uint64(100) {
		for _, linked := range []bool{false, true} {
			r := newRig(t, seed)
			h := r.host("a")
			io := r.io(h)
			fd := r.open(h, "/d/f", ring.CreateNew)
			r.ok(h.SyncDir("/d"))
			write := prepare(io, ring.Op{Code: ring.Write, FD: fd, Buf: text(io, "record")})
			sync := prepare(io, ring.Op{Code: ring.Sync, FD: fd})
			io.Submit(firstOf(write, sync, linked))
			if !linked {
				io.Submit(&sync.Op)
				r.until("one completes", func() bool { return write.ended || sync.ended })
				if write.ended {
					order[0]++
				} else {
					order[1]++
				}
			}
			r.ended(write)
			r.ended(sync)
			h.Crash(sim.PowerLossClean)
			h.Restart()
			data, err := ring.ReadFile(h, "/d/f")
			r.ok(err)
			switch {
			case string(data) == "record":
			case len(data) == 0 && !linked:
				lost++
			default:
				t.Fatalf("seed %d, linked %v: %q", seed, linked, data)
			}
		}
	}
	if lost != 100 {
		t.Errorf("a sync covered a write that was in flight in %d runs of 100", 100-lost)
	}
	if order[0] == 0 || order[1] == 0 {
		t.Errorf("write first, sync first: %v", order)
	}
}

func firstOf(a, b *call, linked bool) *ring.Op {
	if linked {
		a.Next = &b.Op
	}
	return &a.Op
}

// The whole of WriteFileAtomic is tried with a crash before each of its disk events.
func TestEveryCrashPoint(t *testing.T) {
	points := 0
	for n := 1; ; n++ {
		survived := false
		for seed := range uint64(20) {
			for _, mode := range append([]sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean}, decided...) {
				r := newRig(t, seed)
				h := r.host("a")
				r.ok(ring.WriteFileAtomic(h, "/d/f", []byte("old old old")))
				before := h.DiskEvents()
				r.CrashAfter(h, n, mode)
				err := ring.WriteFileAtomic(h, "/d/f", []byte("new"))
				if err == nil {
					survived = true
					points = h.DiskEvents() - before
					h.Crash(mode)
				} else if !errors.Is(err, sim.ErrCrashed) {
					t.Fatalf("crash point %d: %v", n, err)
				}
				h.Restart()
				data, readErr := ring.ReadFile(h, "/d/f")
				r.ok(readErr)
				if got := string(data); got != "new" && (err == nil || got != "old old old") {
					t.Fatalf("crash point %d, seed %d, %v: %q (%v)", n, seed, mode, got, err)
				}
			}
		}
		if survived {
			break
		}
	}
	if points != 5 { // create, write, sync, rename, sync of the directory
		t.Fatalf("%d disk events", points)
	}
}

// Without SyncDir, each name survives or not; a renamed file has one of its names.
func TestNames(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(200) {
		r := newRig(t, seed)
		h := r.host("a")
		for _, name := range []string{"kept", "from", "gone"} {
			fd := r.open(h, "/d/"+name, ring.CreateNew)
			_, err := h.WriteAt(fd, []byte(name), 0)
			r.ok(err)
			r.ok(h.Sync(fd))
			r.ok(h.Close(fd))
		}
		r.ok(h.SyncDir("/d"))
		r.ok(h.Rename("/d/from", "/d/to"))
		r.ok(h.Remove("/d/gone"))
		fd := r.open(h, "/d/new", ring.CreateNew)
		r.ok(h.Sync(fd))
		h.Crash(sim.PowerLoss)
		h.Restart()
		list, err := h.ReadDir("/d")
		r.ok(err)
		names := map[string]bool{}
		state := ""
		for _, e := range list {
			names[e.Name] = true
			state += e.Name + " "
		}
		seen[state]++
		if !names["kept"] || names["from"] == names["to"] {
			t.Fatalf("seed %d: %s", seed, state)
		}
		for _, name := range []string{"from", "to", "gone"} {
			want := map[string]string{"from": "from", "to": "from", "gone": "gone"}[name]
			if names[name] {
				data, err := ring.ReadFile(h, "/d/"+name)
				r.ok(err)
				if string(data) != want {
					t.Fatalf("seed %d: %s holds %q", seed, name, data)
				}
			}
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d of 8 outcomes: %v", len(seen), seen)
	}
}

// A random program creates, renames, replaces and removes. After a power loss each
// name leads to something that it led to since its directory was synced, no file
// has two names, and one whose name was synced once, and which was only renamed
// since, is still there.
func TestNamesProperty(t *testing.T) {
	for seed := range uint64(300) {
		r := newRig(t, seed)
		h := r.host("a")
		r.ok(h.MkdirAll("/e"))
		r.ok(h.SyncDir("/"))
		now := map[string]string{}          // path -> the file there, by its content
		may := map[string]map[string]bool{} // path -> what may be there after a crash
		settled := map[string]bool{}        // files that must be somewhere
		var paths []string
		for _, dir := range []string{"/d/", "/e/"} {
			for _, name := range []string{"x", "y", "z"} {
				paths = append(paths, dir+name)
				may[dir+name] = map[string]bool{"": true}
			}
		}
		put := func(path, id string) {
			delete(settled, now[path])
			now[path] = id
			may[path][id] = true
		}
		for step := range r.Random() % 40 {
			path := paths[r.Random()%6]
			switch to := paths[r.Random()%6]; r.Random() % 5 {
			case 0:
				if now[path] == "" {
					fd := r.open(h, path, ring.CreateNew)
					id := fmt.Sprint("file ", step)
					_, err := h.WriteAt(fd, []byte(id), 0)
					r.ok(err)
					r.ok(h.Sync(fd))
					r.ok(h.Close(fd))
					put(path, id)
				}
			case 1, 2:
				if id := now[path]; id != "" && to != path {
					r.ok(h.Rename(path, to))
					put(to, id)
					was := settled[id]
					put(path, "")
					settled[id] = was
				}
			case 3:
				if now[path] != "" {
					r.ok(h.Remove(path))
					put(path, "")
				}
			case 4:
				r.ok(h.SyncDir(path[:2]))
				for _, p := range paths {
					if p[:2] == path[:2] {
						may[p] = map[string]bool{now[p]: true}
						settled[now[p]] = true
					}
				}
			}
		}
		h.Crash(sim.PowerLoss)
		h.Restart()
		found := map[string]string{}
		for _, p := range paths {
			data, err := ring.ReadFile(h, p)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			id := string(data)
			if !may[p][id] {
				t.Fatalf("seed %d: %s is %q, may be %v", seed, p, id, may[p])
			}
			if other := found[id]; other != "" && id != "" {
				t.Fatalf("seed %d: %s and %s are both %q", seed, other, p, id)
			}
			found[id] = p
		}
		for id, must := range settled {
			if must && id != "" && found[id] == "" {
				t.Fatalf("seed %d: %q is gone", seed, id)
			}
		}
	}
}

// Across directories a rename is one change, whichever directory is synced.
func TestRenameAcross(t *testing.T) {
	for seed := range uint64(50) {
		for _, dir := range []string{"/d", "/e", ""} {
			r := newRig(t, seed)
			h := r.host("a")
			r.ok(h.MkdirAll("/e/sub"))
			r.ok(h.SyncDir("/"))
			r.ok(h.SyncDir("/e"))
			fd := r.open(h, "/d/f", ring.CreateNew)
			r.ok(h.Close(fd))
			r.ok(h.SyncDir("/d"))
			r.ok(h.Rename("/d/f", "/e/g"))
			if dir != "" {
				r.ok(h.SyncDir(dir))
			}
			h.Crash(sim.PowerLoss)
			h.Restart()
			_, oldErr := h.Stat("/d/f")
			_, newErr := h.Stat("/e/g")
			if errors.Is(oldErr, fs.ErrNotExist) == errors.Is(newErr, fs.ErrNotExist) || dir != "" && newErr != nil {
				t.Fatalf("seed %d, synced %q: old %v, new %v", seed, dir, oldErr, newErr)
			}
			if _, err := h.Stat("/e/sub"); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// A file is cut and written again, nothing of it synced: after a power loss it is
// the old file, or the cut one, or has new bytes behind the cut. Old bytes never
// come back behind it.
func TestTruncateThenWrite(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		r := newRig(t, seed)
		h := r.host("a")
		fd := r.open(h, "/d/f", ring.CreateNew)
		old := make([]byte, 4*sector)
		for i := range old {
			old[i] = 'o'
		}
		_, err := h.WriteAt(fd, old, 0)
		r.ok(err)
		r.ok(h.Sync(fd))
		r.ok(h.SyncDir("/d"))
		r.ok(h.Truncate(fd, sector))
		_, err = h.WriteAt(fd, []byte{'n'}, 3*sector)
		r.ok(err)
		h.Crash(sim.PowerLoss)
		h.Restart()
		data, err := ring.ReadFile(h, "/d/f")
		r.ok(err)
		shape := fmt.Sprint(len(data))
		for s := 0; s < len(data); s += sector {
			shape += fmt.Sprintf(" %q", data[s:s+1])
		}
		seen[shape]++
		switch shape {
		case `2048 "o" "o" "o" "o"`, `512 "o"`:
		case `1537 "o" "\x00" "\x00" "n"`, `1537 "o" "\x00" "\x00" "\x00"`:
		case `1024 "o" "\x00"`: // it grew half of the way
		default:
			t.Fatalf("seed %d: %s", seed, shape)
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d of 5 outcomes: %v", len(seen), seen)
	}
}

// A crash in the middle of a loop: nothing completes any more, tasks do not run.
func TestCrashStopsEverything(t *testing.T) {
	r := newRig(t, 1)
	h := r.host("a")
	io := r.io(h)
	fd := r.open(h, "/d/f", ring.CreateNew)
	ran := false
	first := prepare(io, ring.Op{Code: ring.Nop})
	first.then = func(*call) { h.Crash(sim.PowerLoss) }
	io.Submit(&first.Op)
	others := []*call{
		submit(io, ring.Op{Code: ring.Write, FD: fd, Buf: text(io, "x")}),
		submit(io, ring.Op{Code: ring.Task, Func: func() error { ran = true; return nil }}),
		submit(io, ring.Op{Code: ring.Sync, FD: fd}),
	}
	for r.turn() {
	}
	if !h.Crashed() || !io.Dead() || io.Due() {
		t.Fatalf("crashed %v, dead %v, due %v", h.Crashed(), io.Dead(), io.Due())
	}
	for _, c := range others {
		if c.ended {
			t.Errorf("%v completed after the crash", c.Code)
		}
	}
	if ran {
		t.Error("a task ran after the crash")
	}
	if err := h.MkdirAll("/d/x"); !errors.Is(err, sim.ErrCrashed) {
		t.Errorf("MkdirAll: %v", err)
	}
	io.Submit(&prepare(io, ring.Op{Code: ring.Nop}).Op) // is ignored
	h.Restart()
	if _, err := h.Stat("/d/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a verb of the crashed host has changed the disk: %v", err)
	}
	again := r.io(h)
	if n := r.do(again, ring.Op{Code: ring.Nop}); n != 0 {
		t.Errorf("nop after the restart: %d", n)
	}
}
