package engine_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/cluster/file"
	"github.com/millrace/millrace/engine/config"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/fault"
	"github.com/millrace/millrace/ring/sim"
)

// machine is a broker on a simulated machine.
type machine struct {
	testing.TB
	what  string // for messages
	world *sim.World
	host  *sim.Host
	ios   []*sim.IO
	set   []string     // what is configured otherwise
	lines []string     // what the broker printed
	rules *fault.Rules // nil: nothing fails
	index string       // segment.index.bytes of create's topics: small ones make small segments
	*engine.Broker
}

func newMachine(t testing.TB, seed uint64) *machine {
	w := sim.NewWorld(seed)
	return &machine{TB: t, index: "120", world: w, host: w.NewHost("a", netip.AddrFrom4([4]byte{10, 0, 0, 1}))}
}

func (m *machine) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatalf("%s: %v", m.what, err)
	}
}

// boot starts the broker on what the disk holds.
func (m *machine) boot() {
	m.Helper()
	m.must(m.tryBoot())
}

// tryBoot is boot, and why it could not be done.
func (m *machine) tryBoot() error {
	m.Helper()
	set, _, err := config.Parse("", "", append([]string{"listeners=PLAINTEXT://10.0.0.1:9092", "log.dirs=/data", "tail.bytes=1048576", "journal.bytes=65536", "flush.policy=file", "log.index.size.max.bytes=4096"}, m.set...))
	m.must(err)
	var disk ring.Host = m.host
	if m.rules != nil {
		disk = fault.WrapHost(m.host, m.rules)
	}
	say := func(format string, args ...any) { m.lines = append(m.lines, fmt.Sprintf(format, args...)) }
	m.Broker, err = engine.Open(engine.Config{
		Set: set, Host: disk, Cores: 2, Recovery: 1, Log: say,
		OpenStore: func(dir string, run engine.Runner) (cluster.Store, []cluster.KV, error) {
			s, err := file.Open(disk, filepath.Join(dir, "metadata.json"), file.Runner(run))
			if err != nil {
				return nil, nil, err
			}
			return s, s.Load(), nil
		},
	})
	if err != nil {
		return err
	}
	report, _ := m.Report()
	say("%v", report)
	m.ios = nil
	for i := range m.Loops() {
		m.ios = append(m.ios, m.host.NewIO(sim.IOConfig{PoolBytes: 8 << 20, RecvBuffers: 8}))
		var io ring.IO = m.ios[i]
		if m.rules != nil {
			io = fault.Wrap(io, m.rules)
		}
		m.must(m.Setup(i, io))
	}
	booted := false
	m.Boot(func(failed error) { err, booted = failed, true })
	m.drive(&booted)
	return err
}

// faulty makes the machine's disk one that fails by rules, from the next boot on.
func (m *machine) faulty() {
	var err error
	m.rules, err = fault.Parse("")
	m.must(err)
}

// create asks for a topic of one partition with small segments.
func (m *machine) create(name string, done func(error)) {
	spec := cluster.TopicSpec{Name: name, Partitions: 1, Replicas: 1, Config: map[string]string{"segment.index.bytes": m.index, "index.interval.bytes": "1000", "retention.ms": "-1"}}
	m.Shared().Controller.CreateTopic(spec, false, func(_ *cluster.Topic, err error) { done(err) })
}

// drive lets time pass until done, or the machine has crashed.
func (m *machine) drive(done *bool) {
	m.Helper()
	giveUp := m.world.Now() + int64(time.Minute)
	for !*done && !m.host.Crashed() {
		due := false
		for i, io := range m.ios {
			if io.Due() {
				due = true
				m.Loops()[i].Step()
			}
		}
		if !due && !m.world.Step() || m.world.Now() > giveUp {
			m.Fatalf("%s: it does not end", m.what)
		}
	}
}

// change is something asked of the controller.
type change struct {
	name  string
	ask   func(c *cluster.Controller, done func(error))
	topic string
	after func(t *cluster.Topic) bool // what the topic is when it has been done
}

var changes = []change{
	{"create", func(c *cluster.Controller, done func(error)) {
		spec := cluster.TopicSpec{Name: "new", Partitions: 3, Replicas: 1, Config: map[string]string{"segment.bytes": "1048576"}}
		c.CreateTopic(spec, false, func(_ *cluster.Topic, err error) { done(err) })
	}, "new", func(t *cluster.Topic) bool {
		return t != nil && len(t.Partitions) == 3 && t.Config["segment.bytes"] == "1048576"
	}},
	{"grow", func(c *cluster.Controller, done func(error)) { c.CreatePartitions("old", 4, false, done) },
		"old", func(t *cluster.Topic) bool { return t != nil && len(t.Partitions) == 4 }},
	{"configure", func(c *cluster.Controller, done func(error)) {
		set := func(m map[string]string) error { m["segment.bytes"] = "2097152"; return nil }
		c.SetTopicConfig("old", false, set, done)
	}, "old", func(t *cluster.Topic) bool { return t != nil && t.Config["segment.bytes"] == "2097152" }},
	{"delete", func(c *cluster.Controller, done func(error)) {
		c.DeleteTopic("old", cluster.ID{}, func(_ *cluster.Topic, err error) { done(err) })
	}, "old", func(t *cluster.Topic) bool { return t == nil }},
}

// do has a change made. It says no when the machine crashed first.
func (m *machine) do(x *change) (ok bool) {
	m.Helper()
	done := false
	m.onCore0(func() { x.ask(m.Shared().Controller, func(err error) { done, ok = true, err == nil }) })
	m.drive(&done)
	return ok
}

func (m *machine) onCore0(f func()) {
	m.Loops()[0].Post(api.Func(m.Shared().Cores[0], func(*api.Core) { f() }))
}

// acked is a batch that waits for its acknowledgement.
type acked struct {
	replica.Produce
	done bool
}

func (a *acked) Produced(*replica.Produce) { a.done = true }

// append appends to every partition of a topic and wants it acknowledged.
func (m *machine) append(topic string) {
	m.Helper()
	parts := m.Shared().Routes.Load().ByName[topic].Partitions
	for i := range parts {
		a := &acked{}
		a.Records, a.Acks, a.Origin, a.Done = batchAt(m.host.WallMillis(), 1, 10), -1, log.Client, a
		m.Loops()[parts[i].Core].Post(api.Func(m.Shared().Cores[parts[i].Core], func(c *api.Core) { c.Append(parts[i].Partition, &a.Produce) }))
		m.drive(&a.done)
		if !a.done || a.Code != 0 {
			m.Fatalf("%s: append to %s-%d: %d %s", m.what, topic, i, a.Code, a.Message)
		}
	}
}

// whole checks that what the metadata says is what there is.
func (m *machine) whole() {
	m.Helper()
	im, routes := m.Shared().Image.Load(), m.Shared().Routes.Load()
	if len(im.Topics) != len(routes.ByName) {
		m.Fatalf("%s: topics %v, routes to %d", m.what, im.Names, len(routes.ByName))
	}
	dirs := map[string]bool{}
	for _, name := range im.Names {
		t, r := im.Topics[name], routes.ByName[name]
		if r == nil || len(r.Partitions) != len(t.Partitions) || r.ID != t.ID {
			m.Fatalf("%s: %s: %d partitions, route %+v", m.what, name, len(t.Partitions), r)
		}
		for i := range r.Partitions {
			dirs[fmt.Sprintf("%s-%d", name, i)] = true
			if want := t.Config["segment.bytes"]; want != "" && fmt.Sprint(r.Partitions[i].Partition.Log().Config().SegmentBytes) != want {
				m.Fatalf("%s: %s-%d: segment.bytes is not %s", m.what, name, i, want)
			}
		}
		m.append(name)
	}
	entries, err := m.host.ReadDir("/data")
	m.must(err)
	for _, e := range entries {
		if e.Dir && !dirs[e.Name] && e.Name != log.JournalName && !strings.HasSuffix(e.Name, "-stray") && !strings.HasSuffix(e.Name, "-delete") {
			m.Fatalf("%s: directory %s", m.what, e.Name)
		}
	}
}

// Wherever a crash comes while metadata changes: the start finds the state before or
// after, makes the disk agree, loses no acknowledged record, and everything can be done
// again.
func TestCrashesWhileMetadataChanges(t *testing.T) {
	for i := range changes {
		x := &changes[i]
		for _, mode := range []sim.Crash{sim.ProcessKill, sim.PowerLoss, sim.PowerLossClean} {
			t.Run(fmt.Sprintf("%s/%v", x.name, mode), func(t *testing.T) {
				seeds := uint64(1)
				if mode == sim.PowerLoss {
					seeds = 3 // what is left is a matter of chance
				}
				for seed := range seeds {
					at := 1
					for crashWhile(t, x, mode, seed, at) {
						at++
					}
					if at < 5 {
						t.Fatalf("only %d places to crash at", at-1)
					}
				}
			})
		}
	}
}

func crashWhile(t *testing.T, x *change, mode sim.Crash, seed uint64, at int) (crashed bool) {
	m := newMachine(t, uint64(at)*3+seed)
	m.what = fmt.Sprintf("%s, %v at disk event %d, seed %d", x.name, mode, at, seed)
	defer m.world.Close()
	m.boot()
	for _, name := range []string{"old", "keep"} {
		made := change{ask: func(c *cluster.Controller, done func(error)) {
			spec := cluster.TopicSpec{Name: name, Partitions: 2, Replicas: 1, Config: map[string]string{}}
			c.CreateTopic(spec, false, func(_ *cluster.Topic, err error) { done(err) })
		}}
		if !m.do(&made) {
			t.Fatalf("%s: no topic", m.what)
		}
		m.append(name)
	}
	m.world.CrashAfter(m.host, at, mode)
	ok := m.do(x)
	crashed = m.host.Crashed()
	if !crashed {
		m.host.Crash(mode)
	}
	m.host.Restart()
	m.boot()
	topic := m.Shared().Image.Load().Topics[x.topic]
	if ok && !x.after(topic) {
		t.Fatalf("%s: it was done, and now there is %+v", m.what, topic)
	}
	for _, r := range m.Shared().Routes.Load().ByName["keep"].Partitions {
		if r.Published.LogEnd.Load() != 1 || r.Published.HighWatermark.Load() != 1 {
			t.Fatalf("%s: a record is lost: the log ends at %d", m.what, r.Published.LogEnd.Load())
		}
	}
	m.whole()
	if !x.after(topic) && !m.do(x) {
		t.Fatalf("%s: it cannot be done again", m.what)
	}
	m.whole()
	return crashed
}
