package journal

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// fencing has partitions 0 and 1 fenced, the second in the middle of a cut, while 2 goes on. It
// says up to where what they have is durable.
func fencing(r *rig, entries int) (kept [3]int64) {
	r.parts[0].submit(500)
	r.idle()
	if !r.disk.Crashed() {
		r.parts[0].submit(7000)
		r.idle()
	}
	r.parts[1].slow = true
	for i := 0; i < entries && !r.disk.Crashed(); i++ {
		r.core.Fence(&r.parts[0].stake)
		if p := r.parts[1]; p.wanted > 0 {
			r.core.Fence(&p.stake)
		} else if !p.busy && i%3 == 0 {
			p.submit(300)
		}
		if p := r.parts[2]; !p.busy && !r.core.Full() {
			p.submit(5000)
		}
		r.idle()
	}
	for i, p := range r.parts {
		if kept[i] = p.end; p.busy {
			kept[i]--
		}
	}
	return kept
}

// complete says whether what was replayed begins with all that the fenced partitions have.
func (r *rig) complete(all []Entry, kept [3]int64) {
	r.Helper()
	var next [3]int64
	for _, e := range all {
		if e.Damage != nil {
			r.Fatal(e.Damage)
		}
		p := e.Partition
		if !bytes.Equal(e.Bufs[0], content(p, e.Base, e.Size)) {
			r.Fatalf("partition %d: wrong bytes at %d", p, e.Base)
		}
		if e.Base > next[p] && p != 2 { // of 2 the rest is in its files
			r.Fatalf("partition %d: offset %d after %d", p, e.Base, next[p])
		}
		next[p] = max(next[p], e.End)
	}
	for p, end := range kept {
		if next[p] < end {
			r.Fatalf("partition %d: ends at %d of %d", p, next[p], end)
		}
	}
}

// asidesOf lists the files in the journal's directory that were set aside.
func (r *rig) asidesOf() (names []string) {
	all, err := r.disk.ReadDir("/journal")
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range all {
		if strings.Contains(e.Name, ".aside") {
			names = append(names, e.Name)
		}
	}
	return names
}

// What fenced partitions keep is not in the way of the others, and is replayed; the next
// generation does not need it.
func TestFencedPartitionIsSetAside(t *testing.T) {
	r := newRig(t, 4)
	r.must(3)
	kept := fencing(r, 200)
	if s := r.core.Stats(); r.core.Full() || s.Asides == 0 || s.Asides > 3 || r.core.head < 5*r.core.size {
		t.Fatalf("full: %v; set aside %d times in %d bytes written", r.core.Full(), s.Asides, r.core.head)
	}
	if len(r.asidesOf()) == 0 {
		t.Fatal("no file")
	}
	r.crash()
	r.complete(r.must(3), kept)
	if left := r.asidesOf(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	r.crash()
	if e := r.must(3); len(e) != 0 {
		t.Errorf("%d entries of an older generation", len(e))
	}
}

// A crash at any step of it.
func TestCrashWhileSettingAside(t *testing.T) {
	for _, crash := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		for event := 1; ; event++ {
			r := newRig(t, uint64(event))
			r.must(3)
			r.world.CrashAfter(r.disk, event, crash)
			kept := fencing(r, 120)
			if !r.disk.Crashed() {
				break
			}
			r.disk.Restart()
			all, err := r.open(3)
			if err != nil {
				t.Fatalf("%v at event %d: %v", crash, event, err)
			}
			r.complete(all, kept)
		}
	}
}

// A damaged file is refused and named; without the disk's help nothing is lost, and the
// partitions stay in the way.
func TestAsideDamagedOrImpossible(t *testing.T) {
	for _, at := range []int64{10, 70, blockSize + 10} {
		r := newRig(t, 4)
		r.must(3)
		fencing(r, 200)
		names := r.asidesOf()
		r.crash()
		r.damageFile(filepath.Join("/journal", names[0]), at, func(b []byte) { b[0] ^= 1 })
		if _, err := r.open(3); err == nil || !strings.Contains(err.Error(), names[0]) || !strings.Contains(err.Error(), "DAMAGED") {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	r := newRig(t, 4)
	if err := r.rules.Add(`(Rename (path "*.aside") EIO)`); err != nil {
		t.Fatal(err)
	}
	r.must(3)
	kept := fencing(r, 200)
	if !r.core.Full() || r.core.Stats().Asides > 0 {
		t.Errorf("full: %v, set aside %d times", r.core.Full(), r.core.Stats().Asides)
	}
	r.rules.Clear()
	r.crash()
	r.complete(r.must(3), kept)
}

// A fenced partition that cannot be set aside, and keeps everybody else waiting, is deleted: they go on.
func TestFencedPartitionIsDeleted(t *testing.T) {
	r := newRig(t, 4)
	if err := r.rules.Add(`(Rename (path "*.aside") EIO)`); err != nil {
		t.Fatal(err)
	}
	r.must(3)
	fencing(r, 200)
	if !r.core.Full() {
		t.Fatal("not full: this tests nothing")
	}
	rooms := r.rooms
	r.core.Detach(&r.parts[0].stake)
	r.core.Detach(&r.parts[1].stake)
	r.idle()
	if r.core.Full() || r.rooms == rooms {
		t.Fatalf("%d of %d bytes are in use; told of room: %d times", r.core.Used(), r.core.size, r.rooms-rooms)
	}
}

// On a full disk nothing can be set aside, and nothing of the reserve is taken for it. Once there is room it is, by the
// next try; what the fenced partitions have is replayed in any case.
func TestSetAsideOnceThereIsRoom(t *testing.T) {
	for _, c := range []struct {
		name          string
		free, reserve int64
		rule          string
	}{
		{"too little beyond the reserve", 1 << 20, 1 << 20, ""},
		{"full in the middle of it", 1 << 20, 0, `(Write (path "*.aside.tmp") ENOSPC)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 4)
			r.must(3)
			lines := 0
			r.core.aside.log, r.core.aside.reserve = func(string, ...any) { lines++ }, c.reserve
			r.disk.SetFree(c.free)
			if err := r.rules.Add(c.rule); err != nil {
				t.Fatal(err)
			}
			kept := fencing(r, 200)
			try := func() {
				at := r.core.NextDeadline()
				if wait := at - r.io.Now(); wait <= 0 || wait > asideAgain {
					t.Fatalf("tried again in %d ns", wait)
				}
				r.idle()
				if r.core.NextDeadline() != at {
					t.Fatal("tried before its time")
				}
				r.core.Expire(at)
				r.idle()
			}
			try()
			try()
			free, err := r.disk.Free("/journal")
			if s := r.core.Stats(); err != nil || free != c.free || len(r.asidesOf()) > 0 || !r.core.Full() || s.Asides > 0 || lines != 1 {
				t.Fatalf("%d bytes free of %d, %v; %v; full: %v; set aside %d times; %d lines", free, c.free, err, r.asidesOf(), r.core.Full(), s.Asides, lines)
			}
			r.rules.Clear()
			r.disk.SetFree(1 << 30)
			try()
			if s := r.core.Stats(); r.core.Full() || s.Asides != 1 || lines != 2 || r.core.NextDeadline() != ring.Forever {
				t.Fatalf("full: %v; set aside %d times; %d lines; the next try: %d", r.core.Full(), s.Asides, lines, r.core.NextDeadline())
			}
			r.crash()
			r.complete(r.must(3), kept)
		})
	}
}
