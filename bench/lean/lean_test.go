package lean

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestProduce(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		for _, k := range []struct {
			acks       int16
			idempotent bool
			codec      record.Codec
		}{{-1, true, record.None}, {-1, false, record.None}, {1, false, record.Snappy}, {-1, true, record.Zstd}, {-1, true, record.LZ4}, {-1, true, record.Gzip}} {
			t.Run(name(k.acks, k.idempotent, k.codec), func(t *testing.T) {
				c := cluster(t, &network{})
				l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: k.acks, Idempotent: k.idempotent, Codec: k.codec, Open: open})
				l.send(600, 3)
				l.drain(t)
				l.whole(t, c, 1800)
				if s := l.client.Stats(); s.Batches != 600 || s.Records != 1800 || s.Bytes < 1800*12 && k.codec == record.None {
					t.Errorf("%+v", s)
				}
				for _, w := range l.waits {
					if w.Buffer < 0 || w.Metadata < 0 || w.Fill != 0 || w.Slot < 0 || w.Write <= 0 || w.Flight <= 0 {
						t.Fatalf("%+v", w)
					}
				}
				if len(l.waits) != 1800 {
					t.Errorf("%d waits", len(l.waits))
				}
			})
		}
	})
}

// With acks 0 a record has ended when it is written: closing the client then loses none of them.
func TestWithoutAcks(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: 0, Open: open})
		l.send(300, 1)
		l.drain(t)
		l.client.Close()
		await(t, func() bool {
			total := int64(0)
			for p := range int32(partitions) {
				total += c.PartitionInfo(topic, p).HighWatermark
			}
			return total == 300
		})
		l.whole(t, c, 300)
	})
}

// Answers come as TCP pleases: one byte at a time, in the middle of a size.
func TestAnswersInPieces(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		for _, pieces := range []int{1, 3, 7} {
			c := cluster(t, &network{pieces: pieces})
			l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
			l.send(60, 2)
			l.drain(t)
			l.whole(t, c, 120)
		}
	})
}

// Connections are cut at any byte, in requests and in answers: what was in flight is sent again with the same sequences, so that it is
// there once, in order.
func TestCutsLoseAndDuplicateNothing(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		n := &network{cutEvery: 6000}
		n.spare.Store(30)
		c := cluster(t, n)
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open, StartTimeout: time.Minute})
		l.send(3000, 2)
		l.drain(t)
		l.whole(t, c, 6000)
		if n.cuts < 10 {
			t.Errorf("%d cuts", n.cuts)
		}
	})
}

// A broker that answers the wrong request is not believed: the connection ends, and what was in flight is sent again.
func TestAnswersOutOfOrder(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		var answers, wrong atomic.Int64
		n := &network{confuse: func(answer []byte) {
			if len(answer) < 8 || binary.BigEndian.Uint32(answer)+4 != uint32(len(answer)) {
				return
			}
			if i := answers.Add(1); i > 10 && i%20 == 0 && wrong.Add(1) <= 5 {
				binary.BigEndian.PutUint32(answer[4:], binary.BigEndian.Uint32(answer[4:])+1)
			}
		}}
		c := cluster(t, n)
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
		for wrong.Load() < 5 {
			l.client.Send(0, [][]byte{value(0, uint64(len(l.acked[0])), 10)})
			l.drain(t)
		}
		l.whole(t, c, l.ended)
		if n.seen < 6 {
			t.Errorf("%d connections for %d wrong answers", n.seen, wrong.Load())
		}
	})
}

// A partition that moves to another broker is found there.
func TestLeaderMoves(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{}, kfake.NumBrokers(3))
		l := newLoad(t, Config{Seeds: c.ListenAddrs()[:1], Acks: -1, Idempotent: true, Open: open})
		var produced atomic.Int32
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if n := produced.Add(1); n%10 == 0 && n <= 100 {
				if err := c.MoveTopicPartition(topic, n/10%partitions, n/10%3); err != nil {
					t.Error(err)
				}
			}
			return nil, nil, false
		})
		l.send(2000, 1)
		l.drain(t)
		l.whole(t, c, 2000)
		if len(l.client.conns) < 3 {
			t.Errorf("%d connections", len(l.client.conns))
		}
	})
}

// refuse answers produce requests with a code, for the partitions and as often as n says.
func refuse(c *kfake.Cluster, code int16, n int, throttle int32) *atomic.Int32 {
	var times atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if int(times.Load()) >= n {
			return nil, nil, false
		}
		times.Add(1)
		a := q.ResponseKind().(*kmsg.ProduceResponse)
		a.ThrottleMillis = throttle
		for _, qt := range q.(*kmsg.ProduceRequest).Topics {
			at := kmsg.NewProduceResponseTopic()
			at.Topic = qt.Topic
			for _, qp := range qt.Partitions {
				ap := kmsg.NewProduceResponseTopicPartition()
				ap.Partition, ap.ErrorCode = qp.Partition, code
				at.Partitions = append(at.Partitions, ap)
			}
			a.Topics = append(a.Topics, at)
		}
		return a, nil, true
	})
	return &times
}

func TestErrorsThatGoAway(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		for _, err := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut} {
			c := cluster(t, &network{})
			l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
			times := refuse(c, err.Code, 7, 0)
			l.send(300, 1)
			l.drain(t)
			l.whole(t, c, 300)
			if times.Load() != 7 {
				t.Errorf("%v: refused %d times", err, times.Load())
			}
			metadata := time.Duration(0)
			for _, w := range l.waits {
				metadata = max(metadata, w.Metadata)
			}
			if metadata < askAgain/2 {
				t.Errorf("%v: the longest wait for a leader was %v", err, metadata)
			}
		}
	})
}

// Until a partition has taken its first batch no other is on its way there: Kafka would take a later one from a producer that it
// does not know, and then refuse the first.
func TestFirstBatchGoesAlone(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
		var refused, others atomic.Int32
		c.ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if refused.Load() >= 5 {
				return nil, nil, false
			}
			refused.Add(1)
			a := q.ResponseKind().(*kmsg.ProduceResponse)
			for _, qt := range q.(*kmsg.ProduceRequest).Topics {
				at := kmsg.NewProduceResponseTopic()
				at.Topic = qt.Topic
				for _, qp := range qt.Partitions {
					if record.Batch(qp.Records).BaseSequence() > 0 {
						others.Add(1)
					}
					ap := kmsg.NewProduceResponseTopicPartition()
					ap.Partition, ap.ErrorCode = qp.Partition, kerr.UnknownTopicOrPartition.Code
					at.Partitions = append(at.Partitions, ap)
				}
				a.Topics = append(a.Topics, at)
			}
			return a, nil, true
		})
		l.send(200, 1)
		l.drain(t)
		l.whole(t, c, 200)
		if refused.Load() != 5 || others.Load() > 0 {
			t.Errorf("%d requests were refused, with %d batches behind a first one", refused.Load(), others.Load())
		}
	})
}

// An error that does not go away fails the record, and with sequences all that follows.
func TestErrorsThatStay(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		for _, idempotent := range []bool{true, false} {
			c := cluster(t, &network{})
			l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: idempotent, Open: open})
			refuse(c, kerr.MessageTooLarge.Code, 1, 0)
			l.client.Send(1, [][]byte{value(1, 0, 10)})
			l.drain(t)
			if l.failed == nil || !strings.Contains(l.failed.Error(), "partition 1: MESSAGE_TOO_LARGE") {
				t.Errorf("error %v", l.failed)
			}
			l.failed = nil
			l.client.Send(0, [][]byte{value(0, 0, 10)})
			l.drain(t)
			if (l.failed != nil) != idempotent || l.ended != 2 {
				t.Errorf("idempotent %v: then %v, %d ended", idempotent, l.failed, l.ended)
			}
		}
	})
}

// A throttled client leaves the broker alone for as long as it was told.
func TestThrottle(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Open: open})
		refuse(c, 0, 1, 150)
		l.client.Send(0, [][]byte{value(0, 0, 10)})
		l.drain(t)
		began := time.Now()
		l.client.Send(0, [][]byte{value(0, 1, 10)})
		l.drain(t)
		if took := time.Since(began); took < 100*time.Millisecond {
			t.Errorf("sent again after %v", took)
		}
		if w := l.waits[len(l.waits)-1]; w.Slot < 100*time.Millisecond {
			t.Errorf("%+v", w)
		}
	})
}

// A request that is never answered ends its connection, and goes again.
func TestSilentBroker(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open, RequestTimeout: 200 * time.Millisecond})
		var times atomic.Int32
		silent := make(chan struct{})
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if times.Add(1) == 1 {
				c.SleepControl(func() { <-silent })
			}
			return nil, nil, false
		})
		l.send(30, 1)
		await(t, func() bool { return times.Load() >= 2 })
		close(silent)
		l.drain(t)
		l.whole(t, c, 30)
	})
}

// What does not fit waits in Send, and nothing is held for ever.
func TestBufferFull(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
		i := uint64(0)
		l.client.Drive(func() (time.Duration, bool) {
			for range 300 { // 64 KiB each, and 3.5 MiB of memory
				l.client.Send(1, [][]byte{value(1, i, 60_000)})
				i++
			}
			return 0, false
		})
		l.drain(t)
		l.whole(t, c, 300)
		full := 0
		for _, w := range l.waits {
			if w.Buffer > time.Microsecond {
				full++
			}
		}
		if full < 20 {
			t.Errorf("%d records waited for memory", full)
		}
		l.client.Send(0, [][]byte{make([]byte, poolBytes)})
		l.drain(t)
		if l.failed == nil {
			t.Error("a record larger than the memory was taken")
		}
	})
}

// A driven client sends on time, from its own thread.
func TestDrive(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
		began, i := time.Now(), uint64(0)
		l.client.Drive(func() (time.Duration, bool) {
			for now := time.Since(began); time.Duration(i)*time.Millisecond <= now && i < 200; i++ {
				l.client.Send(2, [][]byte{value(2, i, 10)})
			}
			return time.Until(began.Add(time.Duration(i) * time.Millisecond)), i < 200
		})
		if took := time.Since(began); took < 199*time.Millisecond {
			t.Errorf("200 records at a thousand a second took %v", took)
		}
		l.drain(t)
		l.whole(t, c, 200)
		waited := slices.DeleteFunc(slices.Clone(l.waits), func(w Waits) bool { return w.Buffer <= 100*time.Millisecond })
		if len(waited) > 2 { // the thread may lose its CPU between two readings of the clock
			t.Errorf("%+v", waited)
		}
	})
}

// Close tells of every record, from wherever it is called, and twice does no harm.
func TestClose(t *testing.T) {
	onEachRing(t, func(t *testing.T, open func() (ring.IO, error)) {
		c := cluster(t, &network{})
		l := newLoad(t, Config{Seeds: c.ListenAddrs(), Acks: -1, Idempotent: true, Open: open})
		l.send(9, 1)
		l.drain(t)
		silent := make(chan struct{})
		defer close(silent)
		asked := make(chan struct{}, 100)
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			asked <- struct{}{}
			c.SleepControl(func() { <-silent })
			return nil, nil, false
		})
		l.client.Send(0, [][]byte{value(0, 3, 10), value(0, 4, 10)})
		<-asked
		l.client.Close()
		l.client.Close()
		l.client.Send(0, [][]byte{value(0, 5, 10)})
		l.client.Drive(func() (time.Duration, bool) { t.Error("driven after the end"); return 0, false })
		if l.ended != 12 || !errors.Is(l.failed, ErrClosed) {
			t.Errorf("%d records ended, the last with %v", l.ended, l.failed)
		}
	})
}

func TestNoTopic(t *testing.T) {
	c := cluster(t, &network{})
	for why, cfg := range map[string]Config{
		"UNKNOWN_TOPIC_OR_PARTITION": {Seeds: c.ListenAddrs(), Topic: "another"},
		"refused":                    {Seeds: []string{"127.0.0.1:1"}, Topic: topic},
	} {
		cfg.Partitions, cfg.Acks, cfg.Open, cfg.Done = 1, -1, rings()["posix"], func([]byte, error) {}
		// It is tried until the time is over: on a busy machine that may be before it has been tried once.
		for cfg.StartTimeout = 300 * time.Millisecond; ; cfg.StartTimeout *= 4 {
			_, err := New(cfg)
			if err == nil || !strings.Contains(err.Error(), "topic "+cfg.Topic) {
				t.Fatalf("%s: error %v", why, err)
			}
			if strings.Contains(err.Error(), why) {
				break
			}
			if cfg.StartTimeout > time.Minute {
				t.Fatalf("%s: error %v", why, err)
			}
		}
	}
	_, err := New(Config{Seeds: c.ListenAddrs(), Topic: topic, Partitions: 1, Open: func() (ring.IO, error) { return nil, errors.New("no ring") }})
	if err == nil || !strings.Contains(err.Error(), "no ring") {
		t.Errorf("error %v", err)
	}
}

// A host's name is looked up.
func TestSeedByName(t *testing.T) {
	c := cluster(t, &network{})
	_, port, _ := strings.Cut(c.ListenAddrs()[0], ":")
	l := newLoad(t, Config{Seeds: []string{"localhost:" + port}, Acks: -1, Open: rings()["posix"]})
	l.send(3, 1)
	l.drain(t)
	l.whole(t, c, 3)
}

func TestValue(t *testing.T) {
	if v := value(1, 2, 3); !bytes.Equal(v, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0}) {
		t.Errorf("%x", v)
	}
}
