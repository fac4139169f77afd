package acceptance_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// groupMember reads in a group, in the background, and auto-commits.
type groupMember struct {
	client *kgo.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	owned map[int32]bool // partitions
	read  []*kgo.Record
}

func (b *broker) join(t testing.TB, group, topic string, opts ...kgo.Opt) *groupMember {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &groupMember{owned: map[int32]bool{}, cancel: cancel, done: make(chan struct{})}
	assigned := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range partitions[topic] {
			m.owned[p] = true
		}
	}
	lost := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range partitions[topic] {
			delete(m.owned, p)
		}
	}
	revoked := func(ctx context.Context, c *kgo.Client, partitions map[string][]int32) {
		c.CommitUncommittedOffsets(ctx)
		lost(ctx, c, partitions)
	}
	m.client = b.client(t, append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.HeartbeatInterval(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond), kgo.AutoCommitInterval(200 * time.Millisecond),
		kgo.OnPartitionsAssigned(assigned), kgo.OnPartitionsRevoked(revoked), kgo.OnPartitionsLost(lost), kgo.BlockRebalanceOnPoll(),
	}, opts...)...)
	t.Cleanup(m.close)
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			fetches := m.client.PollFetches(ctx)
			m.mu.Lock()
			m.read = append(m.read, fetches.Records()...)
			m.mu.Unlock()
			m.client.AllowRebalance()
		}
	}()
	return m
}

// owns is how many partitions the member has now.
func (m *groupMember) owns() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.owned)
}

// records are what it has read so far.
func (m *groupMember) records() []*kgo.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.read)
}

func (m *groupMember) count() int { return len(m.records()) }

// leave commits and leaves the group. A commit may meet a rebalance that another member's leaving has begun: then
// again, as every client does.
func (m *groupMember) leave(t testing.TB) {
	t.Helper()
	m.cancel()
	<-m.done
	eventually(t, waitTimeout, "a commit before leaving", func() bool {
		err := m.client.CommitUncommittedOffsets(timeout(t))
		if errors.Is(err, kerr.RebalanceInProgress) {
			return false
		}
		must(t, err)
		return true
	})
	m.client.CloseAllowingRebalance()
}

// close stops reading and leaves the group, unless the member is static.
func (m *groupMember) close() {
	m.cancel()
	<-m.done
	m.client.CloseAllowingRebalance()
}
