package bench

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/omb"
)

// bus is a Target with topics and groups, in memory. Its clients choose partitions by the sequence that a value has.
type bus struct {
	memory
	forgets int // acknowledges every nth record without keeping it

	mu     sync.Mutex
	topics map[string][][][]byte // records of each partition
	groups map[string][]*busConsumer
	gone   []string // topics and groups that were removed
}

func newBus() *bus {
	return &bus{topics: map[string][][][]byte{}, groups: map[string][]*busConsumer{}}
}

func (b *bus) Create(_ context.Context, topic string, w Workload) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topics[topic] = make([][][]byte, w.Partitions)
	return nil
}

func (b *bus) Remove(_ context.Context, topic string) error {
	b.gone = append(b.gone, topic)
	return nil
}

func (b *bus) Forget(_ context.Context, group string) error {
	b.gone = append(b.gone, group)
	return nil
}

func (b *bus) ReadBack(_ context.Context, topic string, visit func(int32, []byte)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, records := range b.topics[topic] {
		for _, v := range records {
			visit(int32(p), v)
		}
	}
	return nil
}

// busClient acknowledges at once.
type busClient struct {
	bus   *bus
	topic string
	done  Done
	stats ClientStats
}

func (b *bus) NewClient(topic string, _ Workload, done Done) (Client, error) {
	return &busClient{bus: b, topic: topic, done: done}, nil
}

func (c *busClient) Send(partition int32, values [][]byte) {
	if partition != -1 {
		panic("BUG: a run with Streams chose a partition")
	}
	for _, v := range values {
		c.bus.mu.Lock()
		partitions := c.bus.topics[c.topic]
		at := peek(v).sequence % uint64(len(partitions))
		if n := c.bus.forgets; n == 0 || peek(v).sequence%uint64(n) != 0 {
			partitions[at] = append(partitions[at], slices.Clone(v))
		}
		for group, consumers := range c.bus.groups {
			if strings.HasPrefix(group, c.topic+"-sub-") {
				consumers[at%uint64(len(consumers))].give(slices.Clone(v))
			}
		}
		c.bus.mu.Unlock()
		c.stats.Batches, c.stats.Records = c.stats.Batches+1, c.stats.Records+1
		c.done(v, nil)
	}
}

func (c *busClient) Drain(context.Context) error { return nil }
func (c *busClient) Stats() ClientStats          { return c.stats }
func (c *busClient) Close()                      {}

// busConsumer gives records in the sender's goroutine, or those that came meanwhile when it is resumed.
type busConsumer struct {
	parts int
	got   func([]byte)

	mu     sync.Mutex
	paused bool
	held   [][]byte
	rested bool // it was paused once
}

func (b *bus) Subscribe(topic, group string, got func([]byte)) (Subscription, error) {
	c := &busConsumer{got: got}
	b.mu.Lock()
	defer b.mu.Unlock()
	all := append(b.groups[group], c)
	b.groups[group] = all
	for i, c := range all { // they share anew
		c.parts = (len(b.topics[topic]) + len(all) - 1 - i) / len(all)
	}
	return c, nil
}

func (c *busConsumer) give(v []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused {
		c.held = append(c.held, v)
		return
	}
	c.got(v)
}

func (c *busConsumer) Assigned() int { return c.parts }
func (c *busConsumer) Err() error    { return nil }
func (c *busConsumer) Close()        {}
func (c *busConsumer) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused, c.rested = true, true
}
func (c *busConsumer) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	for _, v := range c.held {
		c.got(v)
	}
	c.held = nil
}

// twoTopics is 4000 records/s for a second, to two topics of three partitions, each consumed by two groups of two.
func twoTopics() Workload {
	w := short1s()
	w.Producers = 4
	w.Streams = Streams{Topics: 2, Groups: 2, Consumers: 2, Every: 400 * time.Millisecond}
	return w
}

func runStreams(t *testing.T, b *bus, w Workload) *Result {
	t.Helper()
	r, err := Run(t.Context(), b, w, allSent())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRunStreams(t *testing.T) {
	t.Parallel()
	b := newBus()
	r := runStreams(t, b, twoTopics())
	if !r.OK() || r.Verify.Acknowledged != 4400 || r.Verify.Read != 4400 || r.Latency.Count != 4000 {
		t.Errorf("acknowledged %d, in latency %d, read back %+v", r.Verify.Acknowledged, r.Latency.Count, r.Verify)
	}
	// Every record arrives at both groups of its topic.
	if c := r.Consumed; c == nil || c.Latency.Count != 8000 || c.Missing != 0 {
		t.Errorf("consumed %+v", c)
	}
	if len(b.topics) != 2 || len(b.groups) != 4 || len(b.gone) != 6 {
		t.Errorf("%d topics, %d groups, removed %v", len(b.topics), len(b.groups), b.gone)
	}
	acked, received := int64(0), int64(0)
	for _, p := range r.streams.periods {
		acked, received = acked+p.acked, received+p.received
		if p.publish.TotalCount() != p.acked || p.delay.TotalCount() != p.acked || p.endToEnd.TotalCount() != p.received || p.behind < 0 {
			t.Errorf("a period of %d acknowledged, %d received has %d, %d, %d samples", p.acked, p.received, p.publish.TotalCount(), p.delay.TotalCount(), p.endToEnd.TotalCount())
		}
	}
	if len(r.streams.periods) < 2 || acked == 0 || acked > 4100 || r.streams.publish.TotalCount() < 4000 || r.streams.endToEnd.TotalCount() < 8000 {
		t.Errorf("%d periods, %d acknowledged and %d received in them", len(r.streams.periods), acked, received)
	}
}

// greedy is a bus whose first consumer has all partitions until all consumers were asked some times.
type greedy struct {
	*bus
	consumers, asked int
}

type greedyConsumer struct {
	*busConsumer
	of     *greedy
	number int
}

func (g *greedy) Subscribe(topic, group string, got func([]byte)) (Subscription, error) {
	c, err := g.bus.Subscribe(topic, group, got)
	g.consumers++
	return &greedyConsumer{c.(*busConsumer), g, g.consumers - 1}, err
}

func (c *greedyConsumer) Assigned() int {
	if c.of.asked++; c.of.asked > 3*c.of.consumers {
		return c.busConsumer.Assigned()
	}
	if c.number == 0 {
		return 4
	}
	return 0
}

// A group of which one consumer has all partitions is about to share them out: it is not ready.
func TestConsumersHaveTheirShares(t *testing.T) {
	g := &greedy{bus: newBus()}
	w := Workload{Partitions: 4, Streams: Streams{Topics: 1, Groups: 1, Consumers: 3}}
	if err := g.Create(t.Context(), "t", w); err != nil {
		t.Fatal(err)
	}
	r := &run{w: w, topics: []string{"t"}}
	if err := r.subscribe(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	for i, c := range r.consumers {
		if n := c.Assigned(); n < 1 || n > 2 {
			t.Errorf("consumer %d has %d partitions", i, n)
		}
	}
	if g.asked <= 9 {
		t.Errorf("ready when asked for the %dth time", g.asked)
	}
}

func TestRunStreamsCatchesLoss(t *testing.T) {
	t.Parallel()
	b := newBus()
	b.forgets = 1000 // sequences 0 and 1000 of each of four producers
	if r := runStreams(t, b, twoTopics()); r.OK() || r.Verify.Lost != 8 {
		t.Errorf("read back %+v", r.Verify)
	}
}

// The sender's own lateness is in our latency, and apart from it in the benchmark's.
func TestLatenessStandsApart(t *testing.T) {
	f := newFromSend()
	h := header{intended: time.Second, partition: lateness(300 * time.Millisecond)}
	f.acknowledged(h, 1310*time.Millisecond, true)
	if got := f.total.Max(); got < 9_900 || got > 10_100 {
		t.Errorf("from the send: %d µs, want 10 ms", got)
	}
	if got := f.delays.Max(); got < 299_000 || got > 301_000 {
		t.Errorf("late by %d µs, want 300 ms", got)
	}
	if lateness(-time.Second) != 0 || lateness(100*time.Hour) != uint32(latencyMax) {
		t.Error("lateness is not bounded")
	}
}

func TestRunBacklog(t *testing.T) {
	t.Parallel()
	b := newBus()
	w := twoTopics()
	w.Duration = 300 * time.Millisecond
	w.Streams.Backlog, w.Streams.DrainRatio, w.Streams.BacklogTimeout = 2000*int64(w.Size), 1, time.Minute
	r := runStreams(t, b, w)
	for group, consumers := range b.groups {
		for _, c := range consumers {
			if !c.rested || len(c.held) > 0 {
				t.Errorf("%s: a consumer was never paused, or still holds %d records", group, len(c.held))
			}
		}
	}
	// 2000 deliveries are 1000 records, a quarter of a second; less where the generator was late and made up for it.
	if d := r.Backlog; d == nil || !d.Drained || d.Records < 2000 || d.Left > backlogLeftMin || d.Build < 0.2-r.Lag.Max/1e6 || d.Drain <= 0 || d.Building <= 0 {
		t.Errorf("backlog %+v", d)
	}
	if c := r.Consumed; !r.OK() || c.Missing != 0 || c.Latency.Max < 200e3 || r.Seconds < 0.5 {
		t.Errorf("after %.2f s: consumed %+v, read back %+v", r.Seconds, c, r.Verify)
	}
}

func TestRunBacklogThatCannotBeBuilt(t *testing.T) {
	t.Parallel()
	w := twoTopics()
	w.Streams.Backlog, w.Streams.BacklogTimeout = 1<<40, 200*time.Millisecond
	r := runStreams(t, newBus(), w)
	if d := r.Backlog; d.Drained || d.Why != "it was not built in 200ms" || r.Consumed.Missing != 0 {
		t.Errorf("backlog %+v, consumed %+v", d, r.Consumed)
	}
}

func TestStreamsRefuses(t *testing.T) {
	for name, change := range map[string]func(*Workload){
		"producers do not divide":  func(w *Workload) { w.Producers = 3 },
		"a batch":                  func(w *Workload) { w.Batch = 2 },
		"too many partitions":      func(w *Workload) { w.Partitions = partitionsMax/2 + 1 },
		"too many consumers":       func(w *Workload) { w.Streams.Consumers = 501 },
		"a backlog without a rate": func(w *Workload) { w.Rate, w.Streams.Backlog, w.Streams.BacklogTimeout = 0, 1, time.Second },
		"no interval":              func(w *Workload) { w.Streams.Every = 0 },
		"payload of another size":  func(w *Workload) { w.Streams.body = make([]byte, 10) },
	} {
		w := twoTopics()
		change(&w)
		if err := w.Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := Run(t.Context(), &memory{}, twoTopics(), Options{}); err == nil || !strings.Contains(err.Error(), "no consumer") {
		t.Errorf("a target that cannot be consumed from: %v", err)
	}
}

// A pool of two payloads gives two bodies, and the same ones in every producer of a run.
func TestPayloadPool(t *testing.T) {
	bodies := map[string]bool{}
	for producer := range uint64(2) {
		source := rand.New(rand.NewPCG(producer, 1))
		for range 50 {
			value := make([]byte, 100)
			Streams{Pool: 2}.fill(value, 0.5, 7, source)
			bodies[string(value[headerBytes:])] = true
		}
	}
	if len(bodies) != 2 {
		t.Errorf("%d bodies", len(bodies))
	}
	body := slices.Repeat([]byte{9}, 100)
	value := make([]byte, 100)
	Streams{body: body}.fill(value, 1, 7, rand.New(rand.NewPCG(0, 1)))
	if !slices.Equal(value[headerBytes:], body[headerBytes:]) {
		t.Error("not the file's body")
	}
}

func TestKeys(t *testing.T) {
	none, round, random := newKeys(Streams{}), newKeys(Streams{Keys: KeysRoundRobin}), newKeys(Streams{Keys: KeysRandom})
	seen := map[string]bool{}
	for range keyCount {
		seen[string(round.choose())] = true
	}
	if none.choose() != nil || len(random.choose()) != 10 || len(seen) < keyCount-1 {
		t.Errorf("%d keys of %d", len(seen), keyCount)
	}
	if again := newKeys(Streams{Keys: KeysRoundRobin}); !slices.Equal(again.choose(), keyPool()[1]) {
		t.Error("the order of keys changed")
	}
}

// The results of one workload: ours, and one in the benchmark's shape for each run.
func TestWorkloadResults(t *testing.T) {
	t.Parallel()
	w := twoTopics()
	w.Duration = 200 * time.Millisecond
	r := runStreams(t, newBus(), w)
	r.Row = "millrace"
	c := &workloads{produce: *newProduce(), driver: omb.Driver{Name: "Kafka sync/1"}}
	c.out = t.TempDir()
	file := &omb.Workload{Path: "some/load.yaml", Name: "a load", Topics: 2, Partitions: 3, Size: 64, Producers: 2, Consumers: 2, Subscriptions: 2}
	if err := c.write(file, File{Format: resultFormat, Runs: []*Result{r, r}}); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(c.out, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	if want := []string{"load-Kafka-sync-1-2.omb.json", "load-Kafka-sync-1.omb.json", "load.json"}; !slices.Equal(names, want) {
		t.Fatalf("%q, want %q", names, want)
	}
	b, err := os.ReadFile(filepath.Join(c.out, "load-Kafka-sync-1.omb.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Workload, Driver          string
		Topics, ProducersPerTopic int
		PublishRate, ConsumeRate  []float64
		Backlog                   []int64
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Workload != "a load" || got.Driver != "Kafka sync/1" || got.Topics != 2 || got.ProducersPerTopic != 2 || len(got.PublishRate) != len(r.streams.periods) || len(got.Backlog) != len(got.ConsumeRate) {
		t.Errorf("%+v", got)
	}
	if f, err := ReadFile(filepath.Join(c.out, "load.json")); err != nil || f.Runs[0].Consumed == nil || f.Runs[0].Workload.Streams.Topics != 2 {
		t.Errorf("%v, %+v", err, f.Runs)
	}
}

// With Streams a producer's records are in order within each partition, whatever lies between them in others.
func TestStreamsLedger(t *testing.T) {
	value := func(producer uint32, sequence uint64) []byte {
		v := make([]byte, headerBytes)
		header{run: 7, producer: producer, partition: 12345, sequence: sequence}.put(v)
		return v
	}
	l := NewStreamsLedger(7, 2, 2, 2)
	for s := range uint64(5) {
		l.Ack(1, 12345, s)
	}
	v := NewVerifier(l)
	for _, at := range []struct {
		partition int32
		sequence  uint64
	}{{1, 1}, {1, 4}, {0, 0}, {0, 2}, {0, 3}} {
		v.VisitTopic(1, at.partition, value(1, at.sequence))
	}
	if got := v.Finish(); got.State != "passed" || got.Read != 5 {
		t.Errorf("%+v", got)
	}
	v = NewVerifier(l)
	v.VisitTopic(1, 1, value(1, 4))
	v.VisitTopic(1, 1, value(1, 1)) // after a later one
	v.VisitTopic(1, 0, value(1, 4)) // again, in another partition
	v.VisitTopic(0, 0, value(1, 2)) // in another topic
	v.VisitTopic(1, 0, value(1, 3)) // after that 4
	if got := v.Finish(); got.Reordered != 2 || got.Duplicate != 1 || got.Foreign != 1 || got.Lost != 2 || !strings.Contains(got.Examples[len(got.Examples)-1], "topic 1: producer 1 sequence 2") {
		t.Errorf("%+v", got)
	}
}
