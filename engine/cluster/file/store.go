// Package file is a cluster.Store for a single node: all metadata in one JSON file.
//
// Every transaction writes the whole file anew beside the old one, syncs it,
// renames it over the old one and syncs the directory, and only then
// completes. So after a crash between any two steps the file is the state
// before the transaction or the state after it, whole; a transaction that
// completed is never lost, and one that did not may have taken effect. Open syncs the
// directory before it reads: the state that is served after a kill outlives a later
// power loss. That is
// slow (milliseconds) and meant for one node's topics; replication brings etcd.
package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"sort"
	"syscall"

	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/ring"
)

// Runner runs blocking work away from the core, and done back on it.
type Runner func(work func() error, done func(error))

// Store is the store. It belongs to the core whose Runner it has.
type Store struct {
	host     ring.Host
	path     string
	run      Runner
	state    *cluster.State // as on disk
	watchers cluster.Watchers
	queue    []func() // transactions wait for the one before
	busy     bool
	closed   bool
	failed   error // a write failed: nothing more is written
}

type fileJSON struct {
	Version  int      `json:"version"`
	CRC      string   `json:"crc32c"` // of the file with this field empty
	Revision int64    `json:"revision"`
	Keys     []kvJSON `json:"keys"`
}

type kvJSON struct {
	Key   string `json:"key"`
	Rev   int64  `json:"rev"`
	Value string `json:"value"`
}

// Open reads path, or starts empty when there is no such file. What it has read is
// durable: a process that was killed may have renamed the file and not synced the
// directory, which has to exist. Blocking.
func Open(host ring.Host, path string, run Runner) (*Store, error) {
	s := &Store{host: host, path: path, run: run, state: cluster.NewState()}
	if err := host.SyncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	b, err := ring.ReadFile(host, path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	var j fileJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("%s: not a metadata file: %w", path, err)
	}
	switch {
	case j.Version == 2 && j.CRC != checksum(j):
		return nil, fmt.Errorf("%s: %w", path, ring.ErrSeal)
	case j.Version != 1 && j.Version != 2: // 1 had no CRC
		return nil, fmt.Errorf("%s: version %d is neither 1 nor 2", path, j.Version)
	}
	s.state.Rev = j.Revision
	for _, kv := range j.Keys {
		s.state.M[kv.Key] = cluster.KV{Key: kv.Key, Rev: kv.Rev, Value: []byte(kv.Value)}
	}
	return s, nil
}

// Load is everything the store holds, at once. For the start.
func (s *Store) Load() []cluster.KV { return s.state.Range("") }

func encode(st *cluster.State) []byte {
	j := fileJSON{Version: 2, Revision: st.Rev, Keys: make([]kvJSON, 0, len(st.M))}
	for _, kv := range st.M {
		j.Keys = append(j.Keys, kvJSON{kv.Key, kv.Rev, string(kv.Value)})
	}
	sort.Slice(j.Keys, func(a, b int) bool { return j.Keys[a].Key < j.Keys[b].Key })
	j.CRC = checksum(j)
	return marshal(j)
}

func marshal(j fileJSON) []byte {
	b, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		panic("BUG: cluster/file: " + err.Error())
	}
	return append(b, '\n')
}

func checksum(j fileJSON) string {
	j.CRC = ""
	return fmt.Sprintf("%08x", crc32.Checksum(marshal(j), castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// do runs f when what was asked before has completed.
func (s *Store) do(f func()) {
	s.queue = append(s.queue, f)
	s.next()
}

func (s *Store) next() {
	if s.busy || len(s.queue) == 0 {
		return
	}
	f := s.queue[0]
	s.queue = s.queue[1:]
	s.busy = true
	f()
}

func (s *Store) idle() {
	s.busy = false
	s.next()
}

func nothing() error { return nil }

// Range is cluster.Store's.
func (s *Store) Range(prefix string, done func([]cluster.KV, int64, error)) {
	s.do(func() {
		s.run(nothing, func(error) {
			if s.closed {
				done(nil, 0, cluster.ErrClosed)
			} else {
				done(s.state.Range(prefix), s.state.Rev, nil)
			}
			s.idle()
		})
	})
}

// Txn is cluster.Store's. After an error the store refuses every further transaction: what is on disk is
// one of two states, and only a restart can tell. A full disk is another matter: where it shows, the old
// file is untouched, and the next transaction finds out whether there is space again.
func (s *Store) Txn(compares []cluster.Compare, puts []cluster.Put, done func(bool, int64, error)) {
	s.do(func() {
		var (
			next    *cluster.State
			changes []cluster.KV
			ok      bool
		)
		refuse := s.failed
		if s.closed {
			refuse = cluster.ErrClosed
		}
		if refuse == nil && s.state.Holds(compares) {
			ok = true
			next = s.state.Clone()
			changes = next.Apply(puts)
		}
		s.run(func() error {
			if !ok {
				return refuse
			}
			return ring.WriteFileAtomic(s.host, s.path, encode(next))
		}, func(err error) {
			switch {
			case err != nil:
				if ok && !isNoSpace(err) {
					s.failed = fmt.Errorf("metadata: an earlier write failed: %w", err)
				}
				done(false, s.state.Rev, err)
			case ok:
				s.state = next
				done(true, next.Rev, nil)
				s.watchers.Tell(changes)
			default:
				done(false, s.state.Rev, nil)
			}
			s.idle()
		})
	})
}

// isNoSpace says that there was no space for the new file, or for its name. Of a sync of the directory, which
// comes after the rename, that leaves doubt.
func isNoSpace(err error) bool {
	var sync *ring.SyncError
	return errors.Is(err, syscall.ENOSPC) && !errors.As(err, &sync)
}

// Watch is cluster.Store's. There is no history: a watch starts where the Range that
// gave rev completes.
func (s *Store) Watch(prefix string, rev int64, on func([]cluster.KV)) func() {
	return s.watchers.Add(prefix, rev, on)
}

// Close is cluster.Store's.
func (s *Store) Close() error {
	s.closed = true
	return nil
}
