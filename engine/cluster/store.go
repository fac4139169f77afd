// Package cluster is the metadata of a cluster: which topics there are, where
// their partitions lie, who leads them, what is configured.
//
// It has three parts. [Store] is where metadata lies: a small, ordered, durable
// map with transactions, the narrow part of etcd that is needed; cluster/file
// is a durable one for a single node and [Memory] a twin for tests and
// simulation. [Image] is an immutable picture of all metadata, which the cores
// read without asking anybody. The keys and their JSON (keys.go) are those of
// a classic Kafka cluster, so that a reader of the course finds
// /kafka/brokers/topics/TOPIC/partitions/0/state where he looks for it.
//
// Only metadata lies here: never offsets, producer state or anything per batch.
package cluster

import (
	"errors"
	"sort"
	"strings"
)

// KV is one key with its value. Rev is the revision that wrote it.
type KV struct {
	Key   string
	Value []byte
	Rev   int64
}

// Compare is a condition of a transaction: the key was last written by revision
// Rev; 0: there is no such key.
type Compare struct {
	Key string
	Rev int64
}

// Put sets a key; a nil value deletes it.
type Put struct {
	Key   string
	Value []byte
}

// Store holds metadata. Every call takes a completion, which is delivered where
// the store's maker said (a core's mailbox), never from inside the call.
// Calls of one caller take effect in their order.
type Store interface {
	// Range gets all keys that start with prefix, in order, and the store's revision.
	Range(prefix string, done func(kvs []KV, rev int64, err error))
	// Txn applies all puts at once if all compares hold; ok says whether they
	// did. When done is called with ok the change is as durable as the store
	// is: in cluster/file, on disk. An error leaves it open whether it took effect.
	Txn(compares []Compare, puts []Put, done func(ok bool, rev int64, err error))
	// Watch calls on for every change under prefix after revision rev, in order.
	Watch(prefix string, rev int64, on func(changes []KV)) (cancel func())
	// Close ends the store; calls in progress complete with ErrClosed.
	Close() error
}

// ErrClosed is the outcome of calls to a closed store.
var ErrClosed = errors.New("cluster: the store is closed")

// State is the content of a single-node store: what Memory and cluster/file share.
type State struct {
	Rev int64
	M   map[string]KV
}

// NewState is an empty state.
func NewState() *State { return &State{M: map[string]KV{}} }

// Range is Store.Range.
func (s *State) Range(prefix string) []KV {
	var kvs []KV
	for k, kv := range s.M {
		if strings.HasPrefix(k, prefix) {
			kvs = append(kvs, kv)
		}
	}
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs
}

// Holds says whether all compares hold.
func (s *State) Holds(compares []Compare) bool {
	for _, c := range compares {
		if s.M[c.Key].Rev != c.Rev {
			return false
		}
	}
	return true
}

// Apply applies puts as the next revision and returns the changes.
func (s *State) Apply(puts []Put) []KV {
	s.Rev++
	changes := make([]KV, 0, len(puts))
	for _, p := range puts {
		kv := KV{Key: p.Key, Value: p.Value, Rev: s.Rev}
		if p.Value == nil {
			delete(s.M, p.Key)
		} else {
			s.M[p.Key] = kv
		}
		changes = append(changes, kv)
	}
	return changes
}

// Clone copies the state.
func (s *State) Clone() *State {
	c := &State{Rev: s.Rev, M: make(map[string]KV, len(s.M))}
	for k, kv := range s.M {
		c.M[k] = kv
	}
	return c
}

// Watchers are the watches of a store.
type Watchers struct {
	next int
	list []watcher
}

type watcher struct {
	id     int
	prefix string
	rev    int64
	on     func([]KV)
}

// Add adds a watch for what is written after revision rev and returns what ends it.
func (w *Watchers) Add(prefix string, rev int64, on func([]KV)) (cancel func()) {
	w.next++
	id := w.next
	w.list = append(w.list, watcher{id, prefix, rev, on})
	return func() {
		for i := range w.list {
			if w.list[i].id == id {
				w.list = append(w.list[:i:i], w.list[i+1:]...)
				return
			}
		}
	}
}

// Tell tells the watches that the changes concern.
func (w *Watchers) Tell(changes []KV) {
	for _, x := range w.list {
		var mine []KV
		for _, kv := range changes {
			if kv.Rev > x.rev && strings.HasPrefix(kv.Key, x.prefix) {
				mine = append(mine, kv)
			}
		}
		if len(mine) > 0 {
			x.on(mine)
		}
	}
}

// Memory is a Store that forgets: for tests and simulation. It belongs to one goroutine.
type Memory struct {
	state    *State
	watchers Watchers
	deliver  func(func())
	closed   bool
}

// NewMemory makes an empty one; deliver runs a completion later (not inside the call).
func NewMemory(deliver func(func())) *Memory {
	return &Memory{state: NewState(), deliver: deliver}
}

// Range is Store.Range.
func (m *Memory) Range(prefix string, done func([]KV, int64, error)) {
	if m.closed {
		m.deliver(func() { done(nil, 0, ErrClosed) })
		return
	}
	kvs, rev := m.state.Range(prefix), m.state.Rev
	m.deliver(func() { done(kvs, rev, nil) })
}

// Txn is Store.Txn.
func (m *Memory) Txn(compares []Compare, puts []Put, done func(bool, int64, error)) {
	if m.closed {
		m.deliver(func() { done(false, 0, ErrClosed) })
		return
	}
	if !m.state.Holds(compares) {
		rev := m.state.Rev
		m.deliver(func() { done(false, rev, nil) })
		return
	}
	changes := m.state.Apply(puts)
	rev := m.state.Rev
	m.deliver(func() {
		done(true, rev, nil)
		m.watchers.Tell(changes)
	})
}

// Watch is Store.Watch. It keeps no history: a watch starts where the Range that gave
// rev completes.
func (m *Memory) Watch(prefix string, rev int64, on func([]KV)) func() {
	return m.watchers.Add(prefix, rev, on)
}

// Close is Store.Close.
func (m *Memory) Close() error {
	m.closed = true
	return nil
}
