package group

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/engine/shard"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// world is an Env whose clock, timers and acknowledgements the test moves.
type world struct {
	testing.TB
	c      *Coordinator
	cfg    Config
	count  int32
	random *rand.Rand
	now    int64
	order  int
	alarms []alarm
	topics map[string]int

	acks     string // flow: at the end of each event; inside Append; hold: when the test says so
	queue    []*appending
	log      map[int32][]record.Batch // acknowledged
	appended []byte                   // everything, in order

	waiting []*wait
	failed  map[string]bool // groups whose last record was refused

	names map[string]string // member ids as the scripts have them
	named map[string]int
}

type alarm struct {
	t     *shard.Timer
	when  int64
	order int
	f     interface{ Fire(now int64) }
}

// appending is a batch that is not yet acknowledged.
type appending struct {
	partition int32
	batch     record.Batch
	done      func(code int16)
	since     int64
}

// wait is a request that is not yet answered.
type wait struct {
	name  string
	since int64
}

func newWorld(tb testing.TB, seed uint64, cfg Config) *world {
	w := &world{
		TB: tb, cfg: cfg, count: 4, random: rand.New(rand.NewPCG(seed, 1)), acks: "flow",
		topics: map[string]int{"t": 3, "u": 1}, log: map[int32][]record.Batch{},
		failed: map[string]bool{}, names: map[string]string{}, named: map[string]int{},
	}
	w.load()
	return w
}

func testConfig() Config {
	return Config{
		InitialDelay: 3000, MinSession: 6000, MaxSession: 1800000, MaxSize: 100,
		OffsetsRetention: 24 * 3600e3, CheckInterval: 600e3, MetadataMax: 16,
	}
}

// load starts a new coordinator on what was acknowledged; the old one is forgotten
// with all that waited for it.
func (w *world) load() {
	w.alarms, w.queue, w.waiting = nil, nil, nil
	w.c = New(w.cfg, w)
	w.c.SetPartitions(w.count)
	for p := range w.count {
		w.c.BeginLoad(p)
		w.replay(w.c, p)
		w.c.EndLoad(p)
	}
}

// replay gives c copies that are wiped afterwards, as the log's buffers are used again.
func (w *world) replay(c *Coordinator, p int32) {
	w.Helper()
	for _, b := range w.log[p] {
		b := append(record.Batch(nil), b...)
		if err := c.Load(p, b, nil); err != nil {
			w.Fatal(err)
		}
		clear(b)
	}
}

func (w *world) Append(partition int32, batch []byte, done func(code int16)) {
	b, rest, err := record.Next(batch)
	if err != nil || len(rest) != 0 || !b.CheckCRC() || b.Count() == 0 {
		w.Fatalf("appended is not one good batch: %v, %d bytes left", err, len(rest))
	}
	w.appended = append(w.appended, batch...)
	w.queue = append(w.queue, &appending{partition, b, done, w.now})
	if w.acks == "inside" {
		w.ack(0)
	}
}

// ack answers the batch that was appended first.
func (w *world) ack(code int16) { w.answer(0, code) }

// answer answers any batch. Only a refusal may come before its turn.
func (w *world) answer(i int, code int16) {
	if i >= len(w.queue) {
		w.Error("nothing is waiting for an acknowledgement")
		return
	}
	a := w.queue[i]
	w.queue = append(w.queue[:i:i], w.queue[i+1:]...)
	if code == 0 {
		if i != 0 {
			w.Fatal("acknowledged out of order")
		}
		w.log[a.partition] = append(w.log[a.partition], a.batch)
	}
	var r record.Reader
	for r.Reset(a.batch, nil); r.Next(); {
		var k kmsg.GroupMetadataKey
		if r.Key[1] == 2 && k.ReadFrom(r.Key) == nil {
			w.failed[k.Group] = code != 0
		}
	}
	a.done(code)
}

func (w *world) settle() {
	for w.acks != "hold" && len(w.queue) > 0 {
		w.ack(0)
	}
}

func (w *world) Now() int64        { return w.now }
func (w *world) WallMillis() int64 { return 1700000000000 + w.now/1e6 }
func (w *world) Random() uint64    { return w.random.Uint64() }

func (w *world) SetTimer(t *shard.Timer, when int64, f interface{ Fire(now int64) }) {
	w.StopTimer(t)
	w.order++
	w.alarms = append(w.alarms, alarm{t, when, w.order, f})
}

func (w *world) StopTimer(t *shard.Timer) {
	for i := range w.alarms {
		if w.alarms[i].t == t {
			w.alarms = append(w.alarms[:i], w.alarms[i+1:]...)
			return
		}
	}
}

// advance moves the clock and fires what is due on the way.
func (w *world) advance(ns int64) {
	w.settle()
	until := w.now + ns
	for {
		next := -1
		for i, a := range w.alarms {
			if a.when <= until && (next < 0 || a.when < w.alarms[next].when || a.when == w.alarms[next].when && a.order < w.alarms[next].order) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		a := w.alarms[next]
		w.StopTimer(a.t)
		w.now = max(w.now, a.when)
		a.f.Fire(w.now)
		w.settle()
	}
	w.now = until
}

func (w *world) Partitions(topic string) int { return w.topics[topic] }

func (w *world) TopicID(name string) (id [16]byte) {
	if w.topics[name] > 0 {
		h := fnv.New128a()
		h.Write([]byte(name))
		h.Sum(id[:0])
	}
	return id
}

func (w *world) Topic(id [16]byte) (string, bool) {
	for name := range w.topics {
		if w.TopicID(name) == id && id != [16]byte{} {
			return name, true
		}
	}
	return "", false
}

// once wraps an answer: it must come once, in the version that was asked, and be
// what that version can carry.
func once[R kmsg.Response](w *world, q kmsg.Request, f func(R)) func(R) {
	end := w.begin(kmsg.NameForKey(q.Key()))
	return func(r R) {
		w.Helper()
		end()
		check(w, q, r)
		f(r)
	}
}

// begin notes a request; what it returns notes its answer.
func (w *world) begin(name string) (end func()) {
	x := &wait{name, w.now}
	w.waiting = append(w.waiting, x)
	return func() {
		w.Helper()
		i := slices.Index(w.waiting, x)
		if i < 0 {
			w.Fatalf("%s answered twice", name)
		}
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
}

func check(w *world, q kmsg.Request, r kmsg.Response) {
	w.Helper()
	if r.GetVersion() != q.GetVersion() {
		w.Fatalf("%s version %d answered in version %d", kmsg.NameForKey(q.Key()), q.GetVersion(), r.GetVersion())
	}
	back := q.ResponseKind()
	if err := back.ReadFrom(r.AppendTo(nil)); err != nil {
		w.Fatalf("%s version %d: the answer cannot be read: %v", kmsg.NameForKey(q.Key()), q.GetVersion(), err)
	}
}

var memberID = regexp.MustCompile(`([a-z]*)-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// name replaces member ids by names: the first of client a is a#1.
func (w *world) name(s string) string {
	return memberID.ReplaceAllStringFunc(s, func(id string) string {
		if w.names[id] == "" {
			client := memberID.FindStringSubmatch(id)[1]
			w.named[client]++
			w.names[id] = fmt.Sprintf("%s#%d", client, w.named[client])
		}
		return w.names[id]
	})
}

// id is the member id of a name.
func (w *world) id(name string) string {
	for id, n := range w.names {
		if n == name {
			return id
		}
	}
	return name
}

func codeName(code int16) string {
	if code == 0 {
		return "ok"
	}
	return kerr.TypedErrorForCode(code).Message
}

// subscription is what a consumer says of itself.
func subscription(topics ...string) []byte {
	m := kmsg.NewConsumerMemberMetadata()
	m.Version, m.Topics = 1, topics
	return m.AppendTo(nil)
}

// dump is what a coordinator knows, without what only a living one has.
func dump(c *Coordinator, groups bool) string {
	var s strings.Builder
	for _, g := range c.all() {
		if groups {
			fmt.Fprintf(&s, "%s %v type=%q protocol=%q generation=%d leader=%s\n", g.id, g.state, g.protocolType, g.protocol, g.generation, g.leader)
			for _, m := range g.members {
				instance := "-"
				if m.instance != nil {
					instance = *m.instance
				}
				fmt.Fprintf(&s, "  %s %s %s %s %d %d %q %q\n", m.id, instance, m.clientID, m.host, m.session, m.rebalance, m.metadata(g.protocol), m.assignment)
			}
		}
		for _, tp := range g.partitions() {
			if o := g.offsets[tp]; o != nil {
				fmt.Fprintf(&s, "%s %s-%d %+v\n", g.id, tp.topic, tp.partition, *o)
			}
		}
	}
	return s.String()
}
