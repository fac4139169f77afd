package bench

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	powerInFlight  = 400  // records of one producer
	powerValueMax  = 1024 // bytes
	powerBatchMax  = 16   // records handed over together
	powerDrainTime = 30 * time.Second
)

// powerProducer sends over all lives of a broker. It goes through a cut as a
// user's would: what it has not heard of it sends again, with the same sequence numbers.
type powerProducer struct {
	id     uint32
	ledger *PowerLedger
	random *rand.Rand
	next   []uint64 // per partition; owned by the goroutine that sends
	tokens chan struct{}
	client Client

	mu     sync.Mutex
	failed int64 // records given up, in the life of this client
}

// connect makes a client where there is none.
func (p *powerProducer) connect(t Target, topic string, w Workload) (err error) {
	if p.client == nil {
		p.failed = 0
		p.client, err = t.NewClient(topic, w, p.done)
	}
	return err
}

func (p *powerProducer) done(value []byte, err error) {
	if err == nil {
		p.ledger.Ack(value)
	} else {
		p.mu.Lock()
		p.failed++
		p.mu.Unlock()
	}
	<-p.tokens
}

// load sends until ctx ends, rate records a second or as many as are acknowledged.
func (p *powerProducer) load(ctx context.Context, rate int64) {
	began, sent := time.Now(), int64(0)
	for {
		partition := p.random.IntN(len(p.next))
		values := make([][]byte, 1+p.random.IntN(powerBatchMax))
		for i := range values {
			select {
			case p.tokens <- struct{}{}:
			case <-ctx.Done():
				for range i {
					<-p.tokens
				}
				return
			}
			values[i] = make([]byte, headerBytes+p.random.IntN(powerValueMax-headerBytes))
		}
		for i, value := range values {
			p.ledger.Fill(value, int(p.id), partition, p.next[partition]+uint64(i), p.random)
		}
		p.next[partition] += uint64(len(values))
		p.client.Send(int32(partition), values)
		sent += int64(len(values))
		due := began.Add(time.Duration(float64(sent) / float64(rate) * 1e9))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return
		}
	}
}

// settle waits until every record has ended. A client that has given any up, or does
// not get to the end, is closed: the next life has a new one.
func (p *powerProducer) settle(ctx context.Context) (failed int64) {
	ctx, cancel := context.WithTimeout(ctx, powerDrainTime)
	defer cancel()
	err := p.client.Drain(ctx)
	p.mu.Lock()
	failed = p.failed
	p.mu.Unlock()
	if err != nil || failed > 0 {
		p.close()
		p.mu.Lock()
		failed = p.failed
		p.mu.Unlock()
	}
	return failed
}

func (p *powerProducer) close() {
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
}
