package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kgo"
)

// How often consume --durable asks how far the held partitions are on disk: at once,
// then after askMin, and less and less often while nothing has become durable.
const (
	askMin = 50 * time.Millisecond
	askMax = time.Second
)

// gate is consume --durable: it holds records at or above their partition's flushed
// offset back until that has passed them. Of a partition that it holds records of
// nothing more is fetched, so it never holds more than what one poll brought. mu
// guards it from the group's callbacks, which forget partitions.
type gate struct {
	ask  func(ctx context.Context, spots []spot) (map[spot]wire.LogDirOffsets, error)
	exit bool // what was flushed at the start is all there is: never ask again

	mu      sync.Mutex
	flushed map[spot]int64         // as the broker told last
	held    map[spot][]*kgo.Record // in order, the first at or above flushed
	paused  map[spot]bool          // not fetched
	askAt   time.Time              // not before
	wait    time.Duration          // then not before so much later
	beyond  map[spot]int64         // with exit: how many records of the log there are between flushed and the end
}

func newGate(exit bool, ask func(context.Context, []spot) (map[spot]wire.LogDirOffsets, error)) *gate {
	return &gate{ask: ask, exit: exit, wait: askMin, flushed: map[spot]int64{}, held: map[spot][]*kgo.Record{},
		paused: map[spot]bool{}, beyond: map[spot]int64{}}
}

// learn asks for the flushed offsets of partitions.
func (g *gate) learn(ctx context.Context, spots []spot) error {
	told, err := g.ask(ctx, spots)
	if err != nil {
		return fmt.Errorf("--durable: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for s, o := range told {
		g.flushed[s] = o.Flushed
	}
	return nil
}

// limit is how far --exit reads in a partition that is read from at and has records
// below end. It notes how many it leaves.
func (g *gate) limit(s spot, at, end int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	to := min(end, g.flushed[s])
	if left := end - max(at, to); g.exit && left > 0 {
		g.beyond[s] = left
	}
	return to
}

// pass takes what was fetched, asks if something is held and it is time, and returns
// what may be handed out.
func (g *gate) pass(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	out := g.admit(records)
	now := time.Now()
	if next, holds := g.next(now); !holds || next > 0 {
		return out, nil
	}
	g.mu.Lock()
	var spots []spot
	for s := range g.held {
		spots = append(spots, s)
	}
	g.mu.Unlock()
	if err := g.learn(ctx, spots); err != nil {
		return out, err
	}
	freed := g.release()
	g.mu.Lock()
	g.wait = min(2*g.wait, askMax)
	if len(freed) > 0 {
		g.wait = askMin
	}
	g.askAt = time.Now().Add(g.wait)
	g.mu.Unlock()
	return append(out, freed...), nil
}

// admit lets pass what is known to be on disk, and holds the rest.
func (g *gate) admit(records []*kgo.Record) (out []*kgo.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range records {
		s := spot{r.Topic, r.Partition}
		if len(g.held[s]) > 0 || r.Offset >= g.flushed[s] {
			g.held[s] = append(g.held[s], r)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// release lets go what has become durable.
func (g *gate) release() (out []*kgo.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s, held := range g.held {
		n := 0
		for n < len(held) && held[n].Offset < g.flushed[s] {
			n++
		}
		out = append(out, held[:n]...)
		if g.held[s] = held[n:]; n == len(held) {
			delete(g.held, s)
		}
	}
	return out
}

// next is how long it is until the broker is to be asked; not holds: no need to.
func (g *gate) next(now time.Time) (wait time.Duration, holds bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.askAt.Sub(now)), len(g.held) > 0 && !g.exit
}

// switches are the partitions to fetch no more, and those to fetch again.
func (g *gate) switches() (pause, resume map[string][]int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	pause, resume = map[string][]int32{}, map[string][]int32{}
	for s := range g.held {
		if !g.paused[s] {
			g.paused[s] = true
			pause[s.topic] = append(pause[s.topic], s.partition)
		}
	}
	for s := range g.paused {
		if g.held[s] == nil {
			delete(g.paused, s)
			resume[s.topic] = append(resume[s.topic], s.partition)
		}
	}
	return pause, resume
}

// first are the first records that are held, one for each partition.
func (g *gate) first() (all []*kgo.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, held := range g.held {
		all = append(all, held[0])
	}
	return all
}

// forget drops what is held of a partition: another member of the group has it now.
func (g *gate) forget(s spot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.held, s)
	delete(g.beyond, s)
	delete(g.flushed, s)
}

// left says what was held back, "" where it was nothing.
func (g *gate) left() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	counts := g.beyond
	if !g.exit {
		counts = map[spot]int64{}
		for s, held := range g.held {
			for _, r := range held {
				if !r.Attrs.IsControl() {
					counts[s]++
				}
			}
		}
	}
	var where []string
	sum := int64(0)
	for s, n := range counts {
		sum += n
		where = append(where, fmt.Sprintf("%s-%d: %d, flushed %d", s.topic, s.partition, n, g.flushed[s]))
	}
	if sum == 0 {
		return ""
	}
	slices.Sort(where)
	const most = 5
	if n := len(where); n > most {
		where = append(where[:most], fmt.Sprintf("and %d partitions more", n-most))
	}
	return fmt.Sprintf("held back %d records that would not survive power loss yet (%s)", sum, strings.Join(where, "; "))
}
