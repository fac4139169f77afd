package bench

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Streams is what a workload of several topics with consumers asks, beyond what produce does. Zero is produce: one topic, records
// go round its partitions, nobody consumes.
//
// With Streams the client's own partitioner chooses each record's partition, as it does for its users. So a partition is not known
// when a record is made: producers count one sequence each, over all partitions, and a value's header says how late it was sent instead.
type Streams struct {
	Topics    int           `json:"topics"`                // each with Workload.Partitions; producer i sends to topic i modulo Topics
	Keys      string        `json:"keys,omitempty"`        // "" none; KeysRoundRobin or KeysRandom of keyCount
	Pool      int           `json:"payloads,omitempty"`    // so many different values; 0: each has its own
	Payload   string        `json:"payloadFile,omitempty"` // all values are this file's
	Groups    int           `json:"subscriptionsPerTopic"`
	Consumers int           `json:"consumersPerSubscription"`
	Every     time.Duration `json:"intervalNanos"` // length of an interval in the OpenMessaging Benchmark's result

	Backlog        int64         `json:"backlogBytes,omitempty"`        // of values, over all subscriptions; consumers rest until it is there
	DrainRatio     float64       `json:"drainRatio,omitempty"`          // of it that must be drained
	BacklogTimeout time.Duration `json:"backlogTimeoutNanos,omitempty"` // for building it, and again for draining it

	body []byte // what Payload has
}

// How keys are chosen.
const (
	KeysRoundRobin = "round robin"
	KeysRandom     = "random"
)

// Bounds of Streams.
const (
	topicsMax    = 10_000
	consumersMax = 2000 // over all topics
)

// on reports whether there is anything but produce.
func (s Streams) on() bool { return s.Topics > 0 }

func (s Streams) validate(w *Workload) error {
	switch {
	case !s.on():
		return nil
	case w.Batch != 1:
		return fmt.Errorf("batch %d: with several topics or consumers records are sent one by one", w.Batch)
	case s.Topics > topicsMax || s.Topics*w.Partitions > partitionsMax:
		return fmt.Errorf("%d topics of %d partitions are over the bound of %d topics and %d partitions", s.Topics, w.Partitions, topicsMax, partitionsMax)
	case w.Producers%s.Topics != 0:
		return fmt.Errorf("%d producers do not divide among %d topics", w.Producers, s.Topics)
	case s.Groups < 0 || s.Consumers < 0 || s.Topics*s.Groups*s.Consumers > consumersMax:
		return fmt.Errorf("%d consumers are over the bound of %d", s.Topics*s.Groups*s.Consumers, consumersMax)
	case s.Backlog > 0 && (w.Rate == 0 || s.consumers() == 0 || s.BacklogTimeout <= 0):
		return errors.New("a backlog needs a rate, consumers and a bound of time")
	case s.Every <= 0:
		return errors.New("the interval of the result must be above 0")
	case s.body != nil && len(s.body) != w.Size:
		return fmt.Errorf("payload %s has %d bytes, records have %d", s.Payload, len(s.body), w.Size)
	}
	return nil
}

// consumers are all that there are.
func (s Streams) consumers() int { return s.Topics * s.Groups * s.Consumers }

// deliveries is how often each record is to arrive.
func (s Streams) deliveries() int64 {
	if s.Consumers == 0 {
		return 0
	}
	return int64(s.Groups)
}

// topicNames are the topics of one run.
func (s Streams) topicNames(name string) (all []string) {
	if s.Topics < 2 {
		return []string{name}
	}
	for i := range s.Topics {
		all = append(all, fmt.Sprintf("%s-%d", name, i))
	}
	return all
}

// fill makes the body of a value for the run with this number.
func (s Streams) fill(value []byte, random float64, number uint32, source *rand.Rand) {
	switch {
	case s.body != nil:
		copy(value[headerBytes:], s.body[headerBytes:])
	case s.Pool > 0: // the same number is the same value
		fill(value, random, rand.New(rand.NewPCG(uint64(number), source.Uint64N(uint64(s.Pool)))))
	default:
		fill(value, random, source)
	}
}

// keyCount is how many keys there are, of 10 bytes each, as in the OpenMessaging Benchmark.
const keyCount = 10_000

// keyPool makes them. They are the same in every run: so are their partitions.
var keyPool = sync.OnceValue(func() (all [][]byte) {
	source := rand.New(rand.NewPCG(0, keyCount))
	var raw [7]byte
	for range keyCount {
		for i := range raw {
			raw[i] = byte(source.Uint32())
		}
		all = append(all, base64.RawURLEncoding.AppendEncode(nil, raw[:]))
	}
	return all
})

// keys chooses one producer's keys. Owned by its sender.
type keys struct {
	pool   [][]byte // nil: none
	random bool
	next   int
}

func newKeys(s Streams) keys {
	if s.Keys == "" {
		return keys{}
	}
	return keys{pool: keyPool(), random: s.Keys == KeysRandom}
}

func (k *keys) choose() []byte {
	if k.pool == nil {
		return nil
	}
	if k.random {
		return k.pool[rand.IntN(len(k.pool))]
	}
	if k.next++; k.next == len(k.pool) {
		k.next = 0
	}
	return k.pool[k.next]
}

// lateness is how late a record is sent, for its header: microseconds, an hour at most.
func lateness(d time.Duration) uint32 {
	return uint32(min(max(int64(d/time.Microsecond), 0), latencyMax))
}

// sent is when the record was handed over, from the start; of a run with Streams.
func (h header) sent() time.Duration {
	return h.intended + time.Duration(h.partition)*time.Microsecond
}

// printStreams adds what a run with Streams saw besides.
func (r *Result) printStreams(p func(format string, args ...any)) {
	s := r.Workload.Streams
	if !s.on() {
		return
	}
	p("topics      %d, each with %s and %d subscriptions of %d consumers; keys: %s", s.Topics, partitionsOf(r.Workload.Partitions), s.Groups, s.Consumers, or(s.Keys, "none"))
	if c := r.Consumed; c != nil {
		p("consumed    %s records/s; %d behind at the end, %d undelivered", number(&c.RecordsPerSecond), c.Behind, c.Missing)
		p("end to end  %s", latencyLine(c.Latency))
	}
	if r.Backlog != nil {
		p("backlog     %s", r.Backlog.line(r.Workload.Size))
	}
}

// Subscriber is a Target that is also consumed from.
type Subscriber interface {
	// Subscribe adds one consumer to a group, from the topic's start. got hears of each record, from one goroutine.
	Subscribe(topic, group string, got func(value []byte)) (Subscription, error)
	// Forget removes a group that has no consumers any more.
	Forget(ctx context.Context, group string) error
}

// Subscription is one consumer.
type Subscription interface {
	Assigned() int // partitions that it has now
	Pause()        // no further records until Resume; it stays in its group
	Resume()
	Err() error // the first
	Close()
}

// consumersReadyMax is how long consumers may take to share out their partitions.
const consumersReadyMax = time.Minute

// subscribe starts all consumers and waits until every group has every partition, and every consumer its share: before that the first
// may have all, and the others are about to join.
func (r *run) subscribe(ctx context.Context, t Target) error {
	s := r.w.Streams
	if s.consumers() == 0 {
		return nil
	}
	from, ok := t.(Subscriber)
	if !ok {
		return fmt.Errorf("%s: there is no consumer for it here", t.Info().Name)
	}
	r.subscriber = from
	r.arrivals = make([]*arrivals, min(s.consumers(), arrivalsMax))
	for i := range r.arrivals {
		r.arrivals[i] = newArrivals(r)
	}
	for _, topic := range r.topics {
		for g := range s.Groups {
			group := fmt.Sprintf("%s-sub-%d", topic, g)
			r.groups = append(r.groups, group)
			for range s.Consumers {
				c, err := from.Subscribe(topic, group, r.arrivals[len(r.consumers)%len(r.arrivals)].got)
				if err != nil {
					return err
				}
				r.consumers = append(r.consumers, c)
			}
		}
	}
	want := s.Topics * s.Groups * r.w.Partitions
	for deadline := time.Now().Add(consumersReadyMax); ; {
		have, least, failed := 0, r.w.Partitions, error(nil)
		for _, c := range r.consumers {
			n := c.Assigned()
			have, least = have+n, min(least, n)
			failed = errors.Join(failed, c.Err())
		}
		switch {
		case have == want && least >= r.w.Partitions/s.Consumers:
			return nil
		case time.Now().After(deadline):
			return errors.Join(fmt.Errorf("consumers have %d of %d partitions after %v, one of them %d", have, want, consumersReadyMax, least), failed)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// unsubscribe ends all consumers, at once: each that leaves alone would make the others share again.
func (r *run) unsubscribe(ctx context.Context, forget bool) error {
	var all sync.WaitGroup
	for _, c := range r.consumers {
		all.Go(c.Close)
	}
	all.Wait()
	r.consumers = nil
	var failed error
	for _, g := range r.groups {
		if !forget {
			break
		}
		if failed = errors.Join(failed, r.subscriber.Forget(ctx, g), ctx.Err()); ctx.Err() != nil {
			break // the others are left behind too
		}
	}
	r.groups = nil
	return failed
}

// behind is how many deliveries of acknowledged records have not happened.
func (r *run) behind() int64 {
	return max(0, r.w.Streams.deliveries()*r.acknowledged()-r.received())
}

// acknowledged and received count since the run's start.
func (r *run) acknowledged() (n int64) {
	for _, p := range r.producers {
		p.mu.Lock()
		n += p.all
		p.mu.Unlock()
	}
	return n
}

func (r *run) received() (n int64) {
	for _, a := range r.arrivals {
		a.mu.Lock()
		n += a.received
		a.mu.Unlock()
	}
	return n
}

// arrive waits until what was acknowledged has arrived, or ctx.
func (r *run) arrive(ctx context.Context) {
	for r.behind() > 0 && ctx.Err() == nil {
		sleep(time.Millisecond)
	}
}
