package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	recordbatch "github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/millrace/millrace/ring/posix"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func testRings() *Rings {
	return &Rings{Backend: "posix", New: func(poolBytes int) (ring.IO, error) {
		return posix.New(posix.Host(), posix.Config{PoolBytes: poolBytes, RecvBuffers: 16})
	}}
}

// fakeTarget is a fake cluster as a target, with one of the clients.
func fakeTarget(t *testing.T, client string) (*Kafka, *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	k := &Kafka{Name: client, Address: strings.Join(c.ListenAddrs(), ","), Client: client, Rings: testRings()}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Stop() })
	return k, c
}

func eachClient(t *testing.T, f func(t *testing.T, client string)) {
	for _, client := range []string{clientFranz, clientLean} {
		t.Run(client, func(t *testing.T) { f(t, client) })
	}
}

// Both clients send on the schedule, lose nothing, and tell of each acknowledged record where it waited: the parts add up to its
// latency, but for what was before Send.
func TestClientsOpenLoop(t *testing.T) {
	eachClient(t, func(t *testing.T, client string) {
		for _, batch := range []int{1, 3} {
			k, _ := fakeTarget(t, client)
			w := short1s()
			w.Idempotent, w.Replication, w.Rate, w.Batch = true, 1, 1200, batch
			r := runOn(t, k, w)
			if !r.OK() || r.Verify.State != "passed" || r.Verify.Acknowledged != 1320 || r.Failed+r.Unsent+r.Hanging != 0 || r.Latency.Count != 1200 || r.Lag.Count != 1200 {
				t.Errorf("acknowledged %d, read back %+v, in latency %d, lag of %d, failed %d, unsent %d, error %s",
					r.Verify.Acknowledged, r.Verify, r.Latency.Count, r.Lag.Count, r.Failed, r.Unsent, r.Error)
			}
			if client == clientLean && r.perBatch() != float64(batch) {
				t.Errorf("%v records a batch", r.perBatch())
			}
			checkWaits(t, r, 1200)
			if want := map[string]string{clientFranz: "franz-go", clientLean: "lean (millrace, on ring/posix)"}[client]; !strings.HasPrefix(r.Target.ClientLib, want) {
				t.Errorf("the client is called %q", r.Target.ClientLib)
			}
		}
	})
}

func TestClientsClosedLoop(t *testing.T) {
	eachClient(t, func(t *testing.T, client string) {
		k, _ := fakeTarget(t, client)
		w := short1s()
		w.Idempotent, w.Replication, w.Rate, w.InFlight, w.Duration = true, 1, 0, 200, 300*time.Millisecond
		r := runOn(t, k, w)
		if !r.OK() || r.Verify.State != "passed" || r.Failed+r.Unsent != 0 || r.Lag.Count != 0 {
			t.Errorf("acknowledged %d, read back %+v, lag of %d, failed %d (%s)", r.Acked, r.Verify, r.Lag.Count, r.Failed, r.Error)
		}
		checkWaits(t, r, r.Latency.Count)
		// 200 records of which a request takes 3 at most, one of a partition, and 5 requests at once: most wait for a request.
		if s := r.Waits.Slot; s.Mean < r.Waits.Metadata.Mean || s.Mean == 0 {
			t.Errorf("records waited %s for a free request", latencyLine(s))
		}
	})
}

func runOn(t *testing.T, k Target, w Workload) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := Run(ctx, k, w, allSent())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func checkWaits(t *testing.T, r *Result, count int64) {
	t.Helper()
	if r.Waits == nil {
		t.Fatal("no waits")
	}
	sum := 0.0
	for i, l := range r.Waits.parts() {
		sum += l.Mean
		if l.Count != count {
			t.Errorf("%s of %d records, want %d", waitNames[i], l.Count, count)
		}
	}
	// Each part is rounded up to the microsecond, and the histograms keep three digits. What is missing is from the reading of the lag to
	// Send, and from the last reading to Done: on a machine that others use the thread may be kept waiting there.
	if want := r.Latency.Mean - r.Lag.Mean; sum > want+20+want/20 || sum < want/2-200 {
		t.Errorf("the waits are %.0f µs in the mean, latency without the schedule's lag %.0f µs", sum, want)
	}
}

// The lean client as others use it: records are handed over from another thread, and that is seen as a wait.
func TestLeanHandedOver(t *testing.T) {
	k, _ := fakeTarget(t, clientLean)
	w := short1s()
	w.Idempotent, w.Replication = true, 1
	r := runOn(t, undriven{k}, w)
	if !r.OK() || r.Verify.State != "passed" || r.Verify.Acknowledged != 4400 {
		t.Errorf("%+v", r.Verify)
	}
	checkWaits(t, r, 4000)
}

// undriven hides that its clients can be driven.
type undriven struct{ *Kafka }

func (u undriven) NewClient(topic string, w Workload, done Done) (Client, error) {
	c, err := u.Kafka.NewClient(topic, w, done)
	return struct{ Waiting }{c.(Waiting)}, err
}

// A record that fails loses franz-go's order: nothing is told from then on, rather than what may be wrong.
func TestFranzWatchTellsNothingWrong(t *testing.T) {
	k, c := fakeTarget(t, clientFranz)
	w := short1s()
	w.Idempotent, w.Replication = false, 1
	taken, refused := int32(0), false // not so many requests: a busy machine puts more records into each
	c.ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if taken < 1000 || refused {
			for _, qt := range q.(*kmsg.ProduceRequest).Topics {
				for _, qp := range qt.Partitions {
					if len(qp.Records) > 0 { // kgo leaves a batch out that ended while its request was written
						taken += recordbatch.Batch(qp.Records).Count()
					}
				}
			}
			return nil, nil, false
		}
		refused = true
		a := q.ResponseKind().(*kmsg.ProduceResponse)
		for _, qt := range q.(*kmsg.ProduceRequest).Topics {
			at := kmsg.NewProduceResponseTopic()
			at.Topic, at.TopicID = qt.Topic, qt.TopicID
			for _, qp := range qt.Partitions {
				ap := kmsg.NewProduceResponseTopicPartition()
				ap.Partition, ap.ErrorCode = qp.Partition, kerr.MessageTooLarge.Code
				at.Partitions = append(at.Partitions, ap)
			}
			a.Topics = append(a.Topics, at)
		}
		return a, nil, true
	})
	r := runOn(t, k, w)
	if r.Failed == 0 || r.Waits == nil || r.Waits.Flight.Count >= r.Latency.Count {
		t.Errorf("%d failed; waits of %+v, latency of %d", r.Failed, r.Waits, r.Latency.Count)
	} else if want := fmt.Sprintf("waits are of %d of %d records", r.Waits.Flight.Count, r.Latency.Count); !slices.Contains(r.Notes, want) {
		t.Errorf("no %q in the notes %q", want, r.Notes)
	}
}

// A batch that is sent again is not a first one. With another producer id or epoch sequences begin anew, and nothing is known any more.
func TestFranzWatchFirst(t *testing.T) {
	batch := func(producer int64, epoch int16, sequence int32) recordbatch.Batch {
		var b recordbatch.Builder
		b.Begin(nil, 0)
		b.SetProducer(producer, epoch, sequence, false)
		b.Add(0, nil, []byte("value"))
		return b.Finish()
	}
	for name, c := range map[string]struct {
		then        recordbatch.Batch
		first, sure bool
	}{
		"the next":         {batch(0, 0, 1), true, true},
		"the same again":   {batch(0, 0, 0), false, true},
		"another epoch":    {batch(0, 1, 0), false, false},
		"another producer": {batch(8, 0, 0), false, false},
	} {
		var q watchedQueue
		if first, sure := q.first(batch(0, 0, 0)); !first || !sure {
			t.Fatalf("the first is not: %v, %v", first, sure)
		}
		if first, sure := q.first(c.then); first != c.first || sure != c.sure {
			t.Errorf("%s: first %v, sure %v", name, first, sure)
		}
	}
}

func TestParseClients(t *testing.T) {
	var errs strings.Builder
	for args, want := range map[string]string{
		"--client fast":      `"fast" is not franz or lean`,
		"--client lean,lean": "lean is there twice",
		"--client lean --null --bootstrap-server h:1":   "exclude each other",
		"--null --compare null=os":                      `two rows are called "null"`,
		"--client franz,lean --partitions 1,2 --rate x": "invalid value",
	} {
		if _, err := parseProduce(strings.Fields(args), &errs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", args, err)
		}
	}
	for args, want := range map[string][]string{
		"--client franz,lean":                          {"broker/franz", "broker/lean"},
		"--client franz,lean --null":                   {"null/franz", "null/lean"},
		"--client lean --compare os,journal --null":    {"os", "journal", "null"},
		"--client lean,franz --compare os":             {"os/lean", "os/franz"},
		"--client lean,franz --peer kafka --peer nats": {"kafka/lean", "nats", "kafka/franz"},
		"--client franz,lean --peer-bootstrap a=h:1":   {"a/franz", "a/lean"},
	} {
		p, err := parseProduce(strings.Fields(args), &errs)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		p.rings, p.stderr = testRings(), &errs
		if !p.comparing() {
			t.Errorf("%s is no comparison", args)
		}
		rows, err := p.rows(Confinement{})
		var names []string
		for _, r := range rows {
			names = append(names, r.Name)
		}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("%s: rows %v, want %v (%v)", args, names, want, err)
		}
	}
	for args, want := range map[string]string{"--rate 0": "needs one", "--client x": "is not", "more": "unexpected", "--acks 2": "acks"} {
		if _, err := parseCeiling(strings.Fields(args), &errs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ceiling %s: error %v", args, err)
		}
	}
}

// Without rings, what needs them says so.
func TestNoRings(t *testing.T) {
	k, _ := fakeTarget(t, clientLean)
	k.Rings = nil
	if _, err := k.NewClient("t", short1s(), func([]byte, error) {}); err == nil || !strings.Contains(err.Error(), "ring") {
		t.Errorf("error %v", err)
	}
	if _, err := (&produce{}).nullTarget("null", clientLean, Confinement{}); err == nil || !strings.Contains(err.Error(), "ring") {
		t.Errorf("error %v", err)
	}
	if err := mainNull([]string{"127.0.0.1:0"}, nil); err == nil {
		t.Error("a null broker without a ring")
	}
}

var _ Waiting = (*leanClient)(nil)
var _ Driven = (*leanClient)(nil)
var _ Waiting = (*franz)(nil)

// The null broker is a process, confined, whose results say what it is, are not verified, and are not a failure.
func TestNullBroker(t *testing.T) {
	eachClient(t, func(t *testing.T, client string) {
		cpus := allowedCPUs(0)[:1]
		n := &NullBroker{Kafka: Kafka{Name: "null", Client: client, Rings: testRings()}, Binary: os.Args[0], CPUs: cpus}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w := short1s()
		w.Idempotent, w.Replication, w.Duration = true, 1, 300*time.Millisecond
		r := runOn(t, n, w)
		pid := n.Info().PID
		if got := allowedCPUs(pid); !slices.Equal(got, cpus) {
			t.Errorf("it may run on CPUs %v, want %v", got, cpus)
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
		const says = "null: acknowledges without writing"
		if !r.OK() || r.Class != Null || r.Verify.State != "skipped: "+says || !slices.Contains(r.Notes, says) || r.Acked == 0 || r.Failed != 0 {
			t.Errorf("class %s, read back %+v, notes %q, %d acknowledged, %d failed", r.Class, r.Verify, r.Notes, r.Acked, r.Failed)
		}
		checkWaits(t, r, 1200)
	})
}
