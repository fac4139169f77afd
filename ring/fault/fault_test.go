package fault_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/millrace/millrace/ring/sim"
)

// machine is a simulated machine behind rules, driven alone.
type machine struct {
	world *sim.World
	inner *sim.IO
	io    *fault.IO
	host  *fault.Host
	rules *fault.Rules
}

func newMachine(t *testing.T, seed uint64, text string) *machine {
	t.Helper()
	rules, err := fault.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	rules.Sleep = func(time.Duration) {}
	w := sim.NewWorld(seed)
	t.Cleanup(func() { w.Close() })
	w.Config.ShortSendOneIn, w.Config.SplitOneIn = 0, 0
	w.Config.NetBufferMin = w.Config.NetBufferMax
	h := w.NewHost("a", netip.MustParseAddr("10.0.0.1"))
	if err := h.MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	inner := h.NewIO(sim.IOConfig{PoolBytes: ringtest.PoolBytes, RecvBuffers: ringtest.RecvBuffers})
	wrapped := fault.Wrap(inner, rules)
	return &machine{w, inner, wrapped, wrapped.Host().(*fault.Host), rules}
}

func (m *machine) IO() ring.IO             { return m.io }
func (m *machine) Dir() string             { return "/data" }
func (m *machine) Traits() ringtest.Traits { return ringtest.Traits{} }

// Drive gives up after an hour of virtual time.
func (m *machine) Drive(done func() bool) bool {
	giveUp := m.world.Now() + int64(time.Hour)
	for !done() {
		if !m.inner.Due() && (!m.world.Step() || m.world.Now() > giveUp) {
			return false
		}
		if m.inner.Due() {
			m.io.Wait(ring.Forever)
		}
	}
	return true
}

// Without rules, with rules for what does not happen, and with every op behind a
// proxy, a wrapped ring is a ring.
func TestConformance(t *testing.T) {
	const slow = "(delay 1us)"
	all := ""
	for _, verb := range []string{"Nop", "Read", "Write", "Sync", "SyncRange", "Prefetch", "Forget", "NoReadahead", "Allocate", "Truncate", "Close",
		"Accept", "Connect", "Recv", "Send", "SendFile", "Shutdown", "Task"} {
		all += "(" + verb + " " + slow + ")"
	}
	for name, text := range map[string]string{"none": "", "other": `(Rename (path "never") EIO)`, "all": all} {
		t.Run("rules="+name, func(t *testing.T) {
			ringtest.Run(t, func(t *testing.T) ringtest.World { return newMachine(t, 1, text) })
		})
	}
}

type call struct {
	ring.Op
	ended bool
	count int
	then  func(*call)
}

func (c *call) Complete(op *ring.Op) {
	c.count++
	c.ended = !op.More
	if c.then != nil {
		c.then(c)
	}
}

func (m *machine) submit(t *testing.T, op ring.Op) *call {
	c := &call{Op: op}
	c.Done = c
	m.io.Submit(&c.Op)
	if c.ended {
		t.Fatal("completed inside Submit")
	}
	return c
}

func (m *machine) do(t *testing.T, op ring.Op) *call {
	t.Helper()
	c := m.submit(t, op)
	if !m.Drive(func() bool { return c.ended }) {
		t.Fatalf("%v does not end", op.Code)
	}
	return c
}

func (m *machine) text(s string) []byte {
	b := m.io.Pool().Get(len(s))
	copy(b, s)
	return b
}

func errno(n int32) string {
	if n < 0 {
		return syscall.Errno(-n).Error()
	}
	return fmt.Sprint(n)
}

// Each script is the rules and what happens with them to a fixed series of ops on
// the files 1.log and 2.log: w writes 1000 bytes, s syncs, r reads 1000 bytes, d
// is a durable write.
func TestScripts(t *testing.T) {
	for _, script := range []struct{ rules, ops, want string }{
		{``,
			"w1 s1 r1", "1000, 0, 1000"},
		{`(Sync (path "*.log") (nth 2) EIO)`,
			"s1 s2 s1 s2", "0, input/output error, 0, 0"},
		{`(Sync (path "1.*") (nth 2) EIO)`,
			"s1 s2 s2 s1 s1", "0, 0, 0, input/output error, 0"},
		{`(Sync (path "/data/*.log") EIO) (Write (path "/*.log") EIO)`,
			"s1 w1", "input/output error, 1000"},
		{`(Write (nth 3) short 100)`,
			"w1 w1 w1 w1", "1000, 1000, 100, 1000"},
		{`(Write (every 2) short 0)`,
			"w1 w1 w1 d1", "1000, 0, 1000, 0"},
		{`(Write (from 3) ENOSPC)`,
			"w1 d1 w1 d2 s1", "1000, 1000, no space left on device, no space left on device, 0"},
		{`(Write (from 3) (every 2) (nth 4) EDQUOT)`,
			"w1 w1 w1 w1 w1 w1", "1000, 1000, 1000, disk quota exceeded, 1000, 1000"},
		{`(Write (after-bytes 2000) ENOSPC)`,
			"w1 w2 w1 w2", "1000, 1000, no space left on device, no space left on device"},
		{`(Read (nth 1) short 10) (Read (nth 1) EIO) (Read (nth 2) EAGAIN)`, // the first that fires decides; all count
			"w1 r1 r1 r1", "1000, 10, resource temporarily unavailable, 1000"},
		{`; a disk that lies
		  (Write (nth 1) lie) (Sync lie)`,
			"w1 s1 r1", "1000, 0, 0"},
		{`(Write torn)`,
			"w1 r1", "input/output error, 0"}, // 1000 / 2 has no whole sector
		{`(Write torn 700)`,
			"w1 r1", "input/output error, 700"},
	} {
		m := newMachine(t, 1, script.rules)
		fds := map[byte]ring.FD{}
		for _, name := range "12" {
			fd, err := m.host.Open(fmt.Sprintf("/data/%c.log", name), ring.CreateNew)
			if err != nil {
				t.Fatal(err)
			}
			fds[byte(name)] = fd
		}
		var got []string
		for _, o := range strings.Fields(script.ops) {
			op := ring.Op{FD: fds[o[1]], Buf: m.io.Pool().Get(1000)}
			switch o[0] {
			case 'w':
				op.Code = ring.Write
			case 'd':
				op.Code, op.Flags = ring.Write, ring.DSync
			case 's':
				op.Code, op.Buf = ring.Sync, nil
			case 'r':
				op.Code = ring.Read
			}
			got = append(got, errno(m.do(t, op).Result))
		}
		if all := strings.Join(got, ", "); all != script.want {
			t.Errorf("%s\n%s: %s\nwant: %s", script.rules, script.ops, all, script.want)
		}
	}
}

// A durable write that is unsynced by rule is there until the power goes.
func TestUnsynced(t *testing.T) {
	for rules, left := range map[string]int{"": 1000, `(Write unsynced)`: 0} {
		m := newMachine(t, 1, rules)
		fd, err := m.host.Open("/data/1.log", ring.CreateNew)
		if err == nil {
			err = errors.Join(m.host.SyncDir("/data"), m.host.SyncDir("/"))
		}
		if err != nil {
			t.Fatal(err)
		}
		m.do(t, ring.Op{Code: ring.Write, Flags: ring.DSync, FD: fd, Buf: m.io.Pool().Get(1000)})
		if n := m.do(t, ring.Op{Code: ring.Read, FD: fd, Buf: m.io.Pool().Get(2000)}).Result; n != 1000 {
			t.Errorf("%s: %d bytes are read", rules, n)
		}
		h := m.host.Host.(*sim.Host)
		h.Crash(sim.PowerLossClean)
		h.Restart()
		if got, err := ring.ReadFile(h, "/data/1.log"); err != nil || len(got) != left {
			t.Errorf("%s: %d bytes are left, %v", rules, len(got), err)
		}
	}
}

// A chain goes on, or not, as if the ring had done what the rule does.
func TestChain(t *testing.T) {
	for _, script := range []struct{ rules, want string }{
		{`(Sync (nth 2) EIO)`, "4 5 0 0"},
		{`(Write (nth 1) EIO)`, "input/output error operation canceled operation canceled operation canceled"},
		{`(Write (nth 2) short 3)`, "4 3 operation canceled operation canceled"},
		{`(Write (nth 2) torn 2)`, "4 input/output error operation canceled operation canceled"},
		{`(Sync EIO)`, "4 5 input/output error operation canceled"},
		{`(Sync (delay 3ms))`, "4 5 0 0"},
		{`(Write (nth 2) lie)`, "4 5 0 0"},
	} {
		m := newMachine(t, 1, script.rules)
		fd, err := m.host.Open("/data/f", ring.CreateNew)
		if err != nil {
			t.Fatal(err)
		}
		calls := []*call{
			{Op: ring.Op{Code: ring.Write, FD: fd, Buf: m.text("head")}},
			{Op: ring.Op{Code: ring.Write, FD: fd, Bufs: [][]byte{m.text("ab"), m.text("cde")}, Off: 4}},
			{Op: ring.Op{Code: ring.Sync, FD: fd}},
			{Op: ring.Op{Code: ring.Nop}},
		}
		var order []string
		for i, c := range calls {
			c.Done = c
			c.then = func(c *call) { order = append(order, errno(c.Result)) }
			if i > 0 {
				calls[i-1].Next = &c.Op
			}
		}
		begin := m.world.Now()
		m.io.Submit(&calls[0].Op)
		if !m.Drive(func() bool { return len(order) == len(calls) }) {
			t.Fatalf("%s: only %v", script.rules, order)
		}
		if got := strings.Join(order, " "); got != script.want {
			t.Errorf("%s: %s\nwant %s", script.rules, got, script.want)
		}
		if took := time.Duration(m.world.Now() - begin); strings.Contains(script.rules, "delay") != (took >= 3*time.Millisecond) {
			t.Errorf("%s: took %v", script.rules, took)
		}
		for _, c := range calls {
			if c.Active || c.count != 1 {
				t.Errorf("%s: %v: active %v, %d completions", script.rules, c.Code, c.Active, c.count)
			}
		}
	}
}

func TestDelay(t *testing.T) {
	m := newMachine(t, 1, `(Nop (nth 1) (delay 5ms)) (Nop (nth 2) (delay 7ms) EBUSY)`)
	begin := m.world.Now()
	var took [3]time.Duration
	calls := [3]*call{}
	for i := range calls {
		calls[i] = m.submit(t, ring.Op{Code: ring.Nop})
		calls[i].then = func(*call) { took[i] = time.Duration(m.world.Now() - begin) }
	}
	m.Drive(func() bool { return calls[0].ended && calls[1].ended && calls[2].ended })
	if took[0] < 5*time.Millisecond || took[0] > 6*time.Millisecond || calls[0].Result != 0 {
		t.Errorf("the first: %s after %v", errno(calls[0].Result), took[0])
	}
	if took[1] < 7*time.Millisecond || took[1] > 8*time.Millisecond || calls[1].Result != -int32(syscall.EBUSY) {
		t.Errorf("the second: %s after %v", errno(calls[1].Result), took[1])
	}
	if took[2] > time.Millisecond {
		t.Errorf("the third, without a rule: after %v", took[2])
	}
	m.rules.Clear()
	if err := m.rules.Add(`(Nop (delay 1h))`); err != nil {
		t.Fatal(err)
	}
	slow := m.submit(t, ring.Op{Code: ring.Nop})
	m.io.Cancel(&slow.Op)
	if slow.ended {
		t.Fatal("completed inside Cancel")
	}
	m.Drive(func() bool { return slow.ended })
	if slow.Result != -int32(syscall.ECANCELED) {
		t.Errorf("cancelled: %s", errno(slow.Result))
	}
}

// An op that fails and is submitted again from its Complete does not keep Wait,
// and the simulated IO stays due for it.
func TestResubmit(t *testing.T) {
	m := newMachine(t, 1, `(Nop EAGAIN)`)
	c := m.submit(t, ring.Op{Code: ring.Nop})
	c.then = func(c *call) {
		if c.count < 100 {
			c.ended = false
			m.io.Submit(&c.Op)
		}
	}
	if n := m.io.Wait(ring.Forever); n != 1 || c.count != 1 {
		t.Fatalf("delivered %d, %d completions", n, c.count)
	}
	if !m.Drive(func() bool { return c.ended }) || c.count != 100 {
		t.Fatalf("%d completions", c.count)
	}
}

func TestHost(t *testing.T) {
	for _, c := range []struct {
		rule string
		do   func(h ring.Host, fd ring.FD) error
	}{
		{`(Open (path "f") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, err := h.Open("/data/f", ring.ReadOnly); return err }},
		{`(Create (path "g") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, err := h.Open("/data/g", ring.Create); return err }},
		{`(Lock (path "g") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, err := h.Lock("/data/g"); return err }},
		{`(Close (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { return h.Close(fd) }},
		{`(Read (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { _, err := h.ReadAt(fd, make([]byte, 1), 0); return err }},
		{`(Write (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { _, err := h.WriteAt(fd, make([]byte, 1), 0); return err }},
		{`(Sync (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { return h.Sync(fd) }},
		{`(Truncate (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { return h.Truncate(fd, 3) }},
		{`(Allocate (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { return h.Allocate(fd, 0, 3) }},
		{`(Size (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { _, err := h.Size(fd); return err }},
		{`(Map (path "f") ENOENT)`, func(h ring.Host, fd ring.FD) error { _, err := h.Map(fd, 1); return err }},
		{`(Stat (path "f") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, err := h.Stat("/data/f"); return err }},
		{`(ReadDir (path "/data") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, err := h.ReadDir("/data"); return err }},
		{`(MkdirAll (path "e") ENOENT)`, func(h ring.Host, _ ring.FD) error { return h.MkdirAll("/data/e") }},
		{`(Rename (path "f") ENOENT)`, func(h ring.Host, _ ring.FD) error { return h.Rename("/data/f", "/data/g") }},
		{`(Rename (path "g") ENOENT)`, func(h ring.Host, _ ring.FD) error { return h.Rename("/data/f", "/data/g") }},
		{`(Remove (path "f") ENOENT)`, func(h ring.Host, _ ring.FD) error { return h.Remove("/data/f") }},
		{`(SyncDir (path "data") ENOENT)`, func(h ring.Host, _ ring.FD) error { return h.SyncDir("/data") }},
		{`(Free (path "data") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, err := h.Free("/data"); return err }},
		{`(Listen (path "a:7") ENOENT)`, func(h ring.Host, _ ring.FD) error { _, _, err := h.Listen("a:7", true); return err }},
		{`(Socket (path "10.0.0.1:7") ENOENT)`, func(h ring.Host, _ ring.FD) error {
			_, err := h.Socket(netip.MustParseAddrPort("10.0.0.1:7"))
			return err
		}},
	} {
		for _, on := range []bool{false, true} {
			m := newMachine(t, 1, "")
			fd, err := m.host.Open("/data/f", ring.CreateNew)
			if err == nil {
				_, err = m.host.WriteAt(fd, []byte("some"), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			if on {
				if err := m.rules.Add(c.rule); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.do(m.host, fd); errors.Is(err, syscall.ENOENT) != on || (err != nil) != on {
				t.Errorf("%s, there %v: %v", c.rule, on, err)
			}
			if on && (m.rules.Fired() != 1 || len(m.rules.Unfired()) != 0) {
				t.Errorf("%s fired %d times, not fired: %q", c.rule, m.rules.Fired(), m.rules.Unfired())
			}
		}
	}
}

func TestHostPartly(t *testing.T) {
	m := newMachine(t, 1, `(Write (nth 1) torn) (Write (nth 2) short 3) (Write (nth 3) lie) (Read (nth 1) short 5) (Sync (delay 1h) lie)`)
	slept := time.Duration(0)
	m.rules.Sleep = func(d time.Duration) { slept += d }
	fd, err := m.host.Open("/data/f", ring.CreateNew)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2000)
	if n, err := m.host.WriteAt(fd, p, 0); n != 512 || !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "/data/f") {
		t.Errorf("torn: %d, %v", n, err)
	}
	if n, err := m.host.WriteAt(fd, p, 512); n != 3 || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short: %d, %v", n, err)
	}
	if n, err := m.host.WriteAt(fd, p, 515); n != 2000 || err != nil {
		t.Errorf("lie: %d, %v", n, err)
	}
	if n, err := m.host.ReadAt(fd, p, 0); n != 5 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short read: %d, %v", n, err)
	}
	if size, err := m.host.Size(fd); size != 515 || err != nil {
		t.Errorf("size %d, %v", size, err)
	}
	if err := m.host.Sync(fd); err != nil || slept != time.Hour {
		t.Errorf("sync: %v, slept %v", err, slept)
	}
}

// The path of an open file follows its name, and goes with it.
func TestPaths(t *testing.T) {
	m := newMachine(t, 1, `(Sync (path "old") EROFS)`)
	fd, err := m.host.Open("/data/old", ring.CreateNew)
	if err != nil {
		t.Fatal(err)
	}
	if c := m.do(t, ring.Op{Code: ring.Sync, FD: fd}); c.Result != -int32(syscall.EROFS) {
		t.Errorf("before: %s", errno(c.Result))
	}
	if err := errors.Join(m.host.MkdirAll("/data/dir"), m.host.Rename("/data/old", "/data/dir/new"), m.host.Rename("/data/dir", "/data/sub")); err != nil {
		t.Fatal(err)
	}
	if err := m.rules.Add(`(Sync (path "/data/sub/new") EIO)`); err != nil {
		t.Fatal(err)
	}
	if c := m.do(t, ring.Op{Code: ring.Sync, FD: fd}); c.Result != -int32(syscall.EIO) {
		t.Errorf("after: %s", errno(c.Result))
	}
	m.do(t, ring.Op{Code: ring.Close, FD: fd})
	again, err := m.host.Open("/data/sub/other", ring.CreateNew)
	if err != nil || again != fd {
		t.Fatalf("opened %d, %v; the closed one was %d", again, err, fd)
	}
	if c := m.do(t, ring.Op{Code: ring.Sync, FD: again}); c.Result != 0 {
		t.Errorf("another file of the same number: %s", errno(c.Result))
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		`(Sync EIO) (Frob EIO)`:               "fault: rule 2: 1:13: Frob is no verb",
		"(Sync EIO)\n\n  (Write (nth 0) EIO)": "fault: rule 2 (Write): 3:15: 0 is no number of 1 or more",
		`(Sync)`:                              "fault: rule 1 (Sync): 1:6: the rule has no effect",
		`(Sync (nth 2))`:                      "fault: rule 1 (Sync): 1:14: the rule has no effect",
		`(Sync EIO`:                           "fault: rule 1 (Sync): 1:10: the text ends inside a rule",
		`(Sync EBOGUS)`:                       "fault: rule 1 (Sync): 1:7: EBOGUS is neither a condition nor an effect",
		`(Sync (maybe 3) EIO)`:                "fault: rule 1 (Sync): 1:8: maybe is neither a condition nor an effect",
		`(Sync EIO lie)`:                      "fault: rule 1 (Sync): 1:11: lie is a second effect",
		`(Sync torn)`:                         "fault: rule 1 (Sync): 1:7: torn is not for Sync",
		`(Rename short 3)`:                    "fault: rule 1 (Rename): 1:9: short is not for Rename",
		`(Write short many)`:                  "fault: rule 1 (Write): 1:14: many is no number of 0 or more",
		`(Sync (path *.log) EIO)`:             "fault: rule 1 (Sync): 1:13: *.log, want a path in quotes",
		`(Sync (path "[") EIO)`:               `fault: rule 1 (Sync): 1:13: "[": syntax error in pattern`,
		`(Sync (path "a" "b") EIO)`:           `fault: rule 1 (Sync): 1:17: "b", want )`,
		`(Sync (path "a) EIO)`:                "fault: 1:13: a string without its end",
		`(Sync (delay 5) EIO)`:                "fault: rule 1 (Sync): 1:14: 5 is no time, such as 5ms",
		`Sync EIO`:                            "fault: rule 1: 1:1: Sync, want (",
		`(Sync EIO))`:                         "fault: rule 2: 1:11: ), want (",
	} {
		if rules, err := fault.Parse(text); err == nil || err.Error() != want || rules != nil {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
	rules, err := fault.Parse(`(Write (nth 3) (short 100)) (Write (nth 1) (torn 5)) (Sync (lie))`) // parentheses or not
	if err != nil || len(rules.Unfired()) != 3 || rules.Unfired()[1] != "(Write (nth 1) (torn 5))" {
		t.Errorf("%v, %v", rules, err)
	}
	if err := rules.Add("(Sync EIO) (Sync"); err == nil || len(rules.Unfired()) != 3 {
		t.Errorf("a text with a mistake added rules: %q, %v", rules.Unfired(), err)
	}
}

// instant completes everything in the next Wait, and allocates nothing.
type instant struct {
	ring.IO
	ops []*ring.Op
}

func (i *instant) Host() ring.Host { return nil }
func (i *instant) Submit(op *ring.Op) {
	op.Active = true
	i.ops = append(i.ops, op)
}

func (i *instant) Wait(int64) int {
	n := len(i.ops)
	for _, op := range i.ops {
		op.Active = false
		op.Done.Complete(op)
	}
	i.ops = i.ops[:0]
	return n
}

func TestNoAllocations(t *testing.T) {
	for _, text := range []string{"", `(Sync (path "*.log") EIO) (Write (nth 1000000) EIO)`} {
		rules, err := fault.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		io := fault.Wrap(&instant{}, rules)
		c := &call{Op: ring.Op{Code: ring.Write, FD: 5, Buf: make([]byte, 100)}}
		sync := &call{Op: ring.Op{Code: ring.Sync, FD: 5}}
		c.Done, sync.Done, c.Next = c, sync, &sync.Op
		n := testing.AllocsPerRun(100, func() {
			io.Submit(&c.Op)
			io.Wait(0)
		})
		if n != 0 {
			t.Errorf("%q: %v allocations", text, n)
		}
	}
}
