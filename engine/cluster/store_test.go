package cluster_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/sim"
)

// later is where completions wait until run.
type later struct{ queue []func() }

func (l *later) deliver(f func()) { l.queue = append(l.queue, f) }

// work is a file.Runner.
func (l *later) work(work func() error, done func(error)) {
	l.deliver(func() { done(work()) })
}

func (l *later) run() {
	for len(l.queue) > 0 {
		f := l.queue[0]
		l.queue = l.queue[1:]
		f()
	}
}

func newHost(seed uint64) (*sim.World, *sim.Host) {
	w := sim.NewWorld(seed)
	return w, w.NewHost("a", netip.MustParseAddr("10.0.0.1"))
}

// eachStore runs a test on every kind of store.
func eachStore(t *testing.T, run func(t *testing.T, s cluster.Store, l *later)) {
	t.Run("memory", func(t *testing.T) {
		l := &later{}
		run(t, cluster.NewMemory(l.deliver), l)
	})
	t.Run("file", func(t *testing.T) {
		w, h := newHost(1)
		defer w.Close()
		l := &later{}
		s, err := file.Open(h, "/metadata.json", l.work)
		if err != nil {
			t.Fatal(err)
		}
		run(t, s, l)
	})
}

func put(key, value string) cluster.Put { return cluster.Put{Key: key, Value: []byte(value)} }

// txn says how a transaction ended.
func txn(s cluster.Store, l *later, compares []cluster.Compare, puts ...cluster.Put) string {
	out := "not told"
	s.Txn(compares, puts, func(ok bool, rev int64, err error) { out = fmt.Sprintf("ok=%v rev=%d err=%v", ok, rev, err) })
	if out != "not told" {
		return "told from inside the call"
	}
	l.run()
	return out
}

// under says what is under a prefix.
func under(s cluster.Store, l *later, prefix string) string {
	out := ""
	s.Range(prefix, func(kvs []cluster.KV, rev int64, err error) {
		for _, kv := range kvs {
			out += fmt.Sprintf("%s=%s@%d ", kv.Key, kv.Value, kv.Rev)
		}
		out += fmt.Sprintf("rev=%d err=%v", rev, err)
	})
	l.run()
	return out
}

func TestStore(t *testing.T) {
	eachStore(t, func(t *testing.T, s cluster.Store, l *later) {
		want := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Fatalf("%s:\n got %s\nwant %s", what, got, want)
			}
		}
		want("nothing", under(s, l, ""), "rev=0 err=<nil>")
		want("two keys", txn(s, l, []cluster.Compare{{Key: "/a/1", Rev: 0}}, put("/a/1", "x"), put("/a/2", "y")), "ok=true rev=1 err=<nil>")
		want("another", txn(s, l, nil, put("/b", "z")), "ok=true rev=2 err=<nil>")
		want("all", under(s, l, ""), "/a/1=x@1 /a/2=y@1 /b=z@2 rev=2 err=<nil>")
		want("a prefix", under(s, l, "/a/"), "/a/1=x@1 /a/2=y@1 rev=2 err=<nil>")
		want("there already", txn(s, l, []cluster.Compare{{Key: "/a/1", Rev: 0}}, put("/a/1", "!"), put("/c", "!")), "ok=false rev=2 err=<nil>")
		want("another revision", txn(s, l, []cluster.Compare{{Key: "/b", Rev: 1}}, put("/b", "!")), "ok=false rev=2 err=<nil>")
		want("one of two compares", txn(s, l, []cluster.Compare{{Key: "/b", Rev: 2}, {Key: "/none", Rev: 7}}, put("/b", "!")), "ok=false rev=2 err=<nil>")
		want("unchanged", under(s, l, ""), "/a/1=x@1 /a/2=y@1 /b=z@2 rev=2 err=<nil>")
		want("the right revision", txn(s, l, []cluster.Compare{{Key: "/b", Rev: 2}}, put("/b", "w"), cluster.Put{Key: "/a/1"}), "ok=true rev=3 err=<nil>")
		want("deleted", under(s, l, ""), "/a/2=y@1 /b=w@3 rev=3 err=<nil>")
		want("deleted, it has no revision", txn(s, l, []cluster.Compare{{Key: "/a/1", Rev: 0}}, put("/a/1", "again")), "ok=true rev=4 err=<nil>")

		// Calls take effect in their order, and complete in it.
		var order []string
		note := func(name string) func(bool, int64, error) {
			return func(ok bool, rev int64, err error) { order = append(order, fmt.Sprint(name, ok, rev)) }
		}
		s.Txn([]cluster.Compare{{Key: "/n", Rev: 0}}, []cluster.Put{put("/n", "1")}, note("a"))
		s.Txn([]cluster.Compare{{Key: "/n", Rev: 0}}, []cluster.Put{put("/n", "2")}, note("b"))
		s.Range("/n", func(kvs []cluster.KV, rev int64, err error) { order = append(order, fmt.Sprintf("%s", kvs[0].Value)) })
		s.Txn(nil, []cluster.Put{put("/n", "3")}, note("c"))
		l.run()
		want("order", fmt.Sprint(order), "[atrue 5 bfalse 5 1 ctrue 6]")

		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := txn(s, l, nil, put("/n", "4")); got != "ok=false rev=0 err="+cluster.ErrClosed.Error() && got != "ok=false rev=6 err="+cluster.ErrClosed.Error() {
			t.Fatalf("closed: %s", got)
		}
	})
}

func TestWatch(t *testing.T) {
	eachStore(t, func(t *testing.T, s cluster.Store, l *later) {
		txn(s, l, nil, put("/a/1", "before"))
		var seen []string
		note := func(name string) func([]cluster.KV) {
			return func(changes []cluster.KV) {
				for _, kv := range changes {
					seen = append(seen, fmt.Sprintf("%s:%s=%s@%d", name, kv.Key, kv.Value, kv.Rev))
				}
			}
		}
		var cancel func()
		s.Range("/a/", func(_ []cluster.KV, rev int64, _ error) {
			cancel = s.Watch("/a/", rev, note("a"))
			s.Watch("", rev+1, note("all"))
		})
		l.run()
		txn(s, l, nil, put("/a/1", "x"), put("/b", "y")) // not after the second watch's revision
		txn(s, l, []cluster.Compare{{Key: "/b", Rev: 0}}, put("/a/1", "refused"))
		txn(s, l, nil, cluster.Put{Key: "/a/1"})
		cancel()
		txn(s, l, nil, put("/a/2", "z"))
		want := "[a:/a/1=x@2 a:/a/1=@3 all:/a/1=@3 all:/a/2=z@4]"
		if got := fmt.Sprint(seen); got != want {
			t.Fatalf(" got %s\nwant %s", got, want)
		}
	})
}

// Wherever a crash comes: the state before the transaction or the state after it, and
// what was said to be done is done.
func TestCrashes(t *testing.T) {
	for _, mode := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
		for seed := range uint64(20) {
			for at := 1; ; at++ {
				if !crashed(t, mode, seed, at) {
					if at < 6 {
						t.Fatalf("only %d places to crash at", at-1)
					}
					break
				}
			}
		}
	}
}

func crashed(t *testing.T, mode sim.Crash, seed uint64, at int) bool {
	w, h := newHost(seed)
	defer w.Close()
	open := func() (*file.Store, *later) {
		l := &later{}
		s, err := file.Open(h, "/metadata.json", l.work)
		if err != nil {
			t.Fatalf("%v, seed %d, crash at %d: %v", mode, seed, at, err)
		}
		return s, l
	}
	s, l := open()
	for i := range 3 {
		if got, want := txn(s, l, nil, put("/a", fmt.Sprint(i)), put("/b", fmt.Sprint(i))), fmt.Sprintf("ok=true rev=%d err=<nil>", i+1); got != want {
			t.Fatal(got)
		}
	}
	before := s.Load()
	w.CrashAfter(h, at, mode)
	told := txn(s, l, []cluster.Compare{{Key: "/a", Rev: 3}}, put("/a", "new"), cluster.Put{Key: "/b"}, put("/c", "new"))
	did := h.Crashed()
	if did {
		if again := txn(s, l, nil, put("/d", "!")); again == "ok=true rev=5 err=<nil>" {
			t.Fatalf("%v, seed %d, crash at %d: written after a crash", mode, seed, at)
		}
	} else {
		h.Crash(mode)
	}
	h.Restart()
	s, l = open()
	after := s.Load()
	isNew := under(s, l, "") == "/a=new@4 /c=new@4 rev=4 err=<nil>"
	isOld := reflect.DeepEqual(after, before) && under(s, l, "") == "/a=2@3 /b=2@3 rev=3 err=<nil>"
	if !isNew && (!isOld || told == "ok=true rev=4 err=<nil>") {
		t.Fatalf("%v, seed %d, crash at %d: told %q, then there is %s", mode, seed, at, told, under(s, l, ""))
	}
	if mode == sim.ProcessKill { // what was served after the kill outlives a power loss
		h.Crash(sim.PowerLossClean)
		h.Restart()
		s, l = open()
		if !reflect.DeepEqual(s.Load(), after) {
			t.Fatalf("%v, seed %d, crash at %d: served %v, and after a power loss there is %v", mode, seed, at, after, s.Load())
		}
	}
	if got := txn(s, l, nil, put("/e", "5")); got != "ok=true rev=5 err=<nil>" && got != "ok=true rev=4 err=<nil>" {
		t.Fatalf("%v, seed %d, crash at %d: afterwards %s", mode, seed, at, got)
	}
	return did
}

// A file that is none is an error that names it, and stays as it is.
func TestDamagedFile(t *testing.T) {
	w, h := newHost(1)
	defer w.Close()
	for _, text := range []string{"", "{", `{"version":2}`, "\x00\x00\x00\x00"} {
		fd, err := h.Open("/metadata.json", ring.Create)
		if err == nil {
			err = errors.Join(h.Truncate(fd, 0), func() error { _, err := h.WriteAt(fd, []byte(text), 0); return err }(), h.Close(fd))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Open(h, "/metadata.json", (&later{}).work); err == nil || !strings.Contains(err.Error(), "/metadata.json") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
