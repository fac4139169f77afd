package bench

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/bench/lean"
	recordbatch "github.com/millrace/millrace/engine/record"
	"github.com/millrace/millrace/ring"
	"golang.org/x/sys/unix"
)

// Rings makes the rings of what the bench runs itself: the lean client, the null broker.
type Rings struct {
	Backend string // as ring.IO.Name says
	// New makes a ring for the calling thread, which is locked, with a pool of at least that many bytes.
	New func(poolBytes int) (ring.IO, error)
}

// The clients that produce to a broker that speaks Kafka's protocol.
const (
	clientFranz = "franz" // franz-go: what a user has
	clientLean  = "lean"  // our own, package lean: so that the client is not what is measured
)

// clientLib names a client in a result.
func clientLib(client string, rings *Rings) string {
	if client == clientLean && rings != nil {
		return "lean (millrace, on ring/" + rings.Backend + ")"
	}
	return "franz-go " + moduleVersion("github.com/twmb/franz-go")
}

// leanClient is a Driven and a Waiting on package lean.
type leanClient struct {
	*lean.Client
	waited func(value []byte, w lean.Waits)
}

// leanPoolMin is the least of what one client may hold, bytes.
const leanPoolMin = 8 << 20

func newLean(k *Kafka, topic string, w Workload, done Done) (Client, error) {
	if k.Rings == nil {
		return nil, fmt.Errorf("%s: the lean client needs a ring, and this program brings none", k.Name)
	}
	if w.Streams.on() {
		return nil, fmt.Errorf("%s: workloads with several topics, keys or consumers are for franz-go: --client franz", k.Name)
	}
	codec, ok := recordbatch.ParseCodec(w.Compression)
	if !ok {
		return nil, fmt.Errorf("%s: the lean client does not know compression %q", k.Name, w.Compression)
	}
	l := &leanClient{}
	var err error
	l.Client, err = lean.New(lean.Config{
		Seeds: strings.Split(k.Address, ","), Topic: topic, Partitions: w.Partitions, ClientID: "millrace-bench",
		Acks: map[string]int16{"all": -1, "1": 1, "0": 0}[w.Acks], Idempotent: w.Idempotent, Codec: codec,
		Open: func() (ring.IO, error) {
			// The default slack is 50 us, on every wait that ends by the clock.
			_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
			// Records take up to twice their size: memory comes in powers of two.
			return k.Rings.New(max(leanPoolMin, 2*bufferedMax/w.Producers, 8*w.batchBytes()))
		},
		Done: done,
		Waited: func(value []byte, w lean.Waits) {
			if l.waited != nil {
				l.waited(value, w)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: lean client: %w", k.Name, err)
	}
	return l, nil
}

// Watch implements Waiting.
func (l *leanClient) Watch(waited func(value []byte, w lean.Waits)) { l.waited = waited }

// Stats implements Client.
func (l *leanClient) Stats() ClientStats { return ClientStats(l.Client.Stats()) }
