package lean

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/nullbroker"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// null starts a null broker with the topic on it, and returns its address.
func null(tb testing.TB, open func() (ring.IO, error)) string {
	tb.Helper()
	started, over := make(chan *nullbroker.Broker), make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread()
		io, err := open()
		if err != nil {
			panic(err)
		}
		b, err := nullbroker.New(io, "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		started <- b
		b.Run()
		_ = io.Close()
	}()
	b := <-started
	tb.Cleanup(func() { b.Stop(); <-over })
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Address().String()))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(c).CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		tb.Fatal(err)
	}
	return b.Address().String()
}

// pump drives a client that keeps window records in flight, n in all.
type pump struct {
	client  *Client
	free    [][]byte
	sending [1][]byte
	next    int32
}

func newPump(tb testing.TB, open func() (ring.IO, error), window int) *pump {
	tb.Helper()
	p := &pump{}
	for range window {
		p.free = append(p.free, make([]byte, 1024))
	}
	var err error
	p.client, err = New(Config{
		Seeds: []string{null(tb, open)}, Topic: topic, Partitions: partitions, ClientID: "test", Acks: -1, Idempotent: true, Open: open,
		Done: func(value []byte, err error) {
			if err != nil {
				panic(err)
			}
			p.free = append(p.free, value)
		},
		Waited: func([]byte, Waits) {},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.client.Close)
	return p
}

func (p *pump) run(n int) {
	p.client.Drive(func() (time.Duration, bool) {
		for ; len(p.free) > 0 && n > 0; n-- {
			last := len(p.free) - 1
			p.sending[0], p.free = p.free[last], p.free[:last]
			p.client.Send(p.next, p.sending[:])
			p.next = (p.next + 1) % partitions
		}
		return time.Second, n > 0
	})
	if err := p.client.Drain(context.Background()); err != nil {
		panic(err)
	}
}

// A record allocates nothing, nor does the broker that it goes to here.
func TestRecordsAllocateNothing(t *testing.T) {
	for name, open := range rings() {
		t.Run(name, func(t *testing.T) {
			p := newPump(t, open, 30)
			p.run(10_000)
			const records = 20_000
			var before, after runtime.MemStats
			least := uint64(1 << 62)
			for range 3 { // others of this process may allocate meanwhile
				runtime.ReadMemStats(&before)
				p.run(records)
				runtime.ReadMemStats(&after)
				least = min(least, after.Mallocs-before.Mallocs)
			}
			if least > records/1000 {
				t.Errorf("%d allocations for %d records", least, records)
			}
		})
	}
}

func BenchmarkNullBroker(b *testing.B) {
	for name, open := range rings() {
		b.Run(name, func(b *testing.B) {
			p := newPump(b, open, 1000)
			p.run(10_000)
			b.ReportAllocs()
			b.ResetTimer()
			p.run(b.N)
		})
	}
}
