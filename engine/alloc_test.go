package engine_test

import (
	"testing"

	"github.com/millrace/millrace/engine/wire"
)

// On the way of a record nothing is allocated, on whichever core its partition lives.
func TestNoAllocations(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		t.Run("os", func(t *testing.T) { noAllocations(t, backend, "os") })
		// AllocsPerRun leaves one P to this test, which turns round without a rest: with epoll the
		// worker that makes the synchronous write would get it once in 10 ms. What the log and the
		// journal do is held there by their own tests.
		if backend == "uring" {
			t.Run("journal", func(t *testing.T) { noAllocations(t, backend, "journal") })
		}
	})
}

func noAllocations(t *testing.T, backend, policy string) {
	h := newHand(t, backend, "flush.policy="+policy)
	h.topic("t")
	b := batch(10, 90)
	none := func(name string, f func()) {
		t.Helper()
		for range 300 { // memory, lists and buffers reach their sizes
			f()
		}
		n := testing.AllocsPerRun(100, f)
		// The broker's timers allocate, and where a call waits long for its CPU or the disk there is one in
		// most of them: what a call itself allocates is in each.
		for try := 0; n != 0 && try < 50; try++ {
			n = testing.AllocsPerRun(1, f)
		}
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	for _, w := range ways {
		for _, version := range []int16{3, 9} {
			put := w.produce(version, b)
			none("produce to "+w.name, func() {
				h.send(put)
				h.receive()
			})
		}
		h.put(w, b)
		get := w.fetch(0, 1, h.last(10))
		none("fetch from "+w.name, func() {
			h.send(get)
			if len(h.receive()) < len(b) {
				t.Fatal("nothing was fetched")
			}
		})
	}
	// A long poll, woken by a produce. It asks for what cannot be there, so that it
	// can be repeated, and is let go by its MaxWait of 1 ms.
	for _, w := range ways {
		h.put(ways[2], b)
		poll, put := w.fetch(1, 1<<20, h.last(0)), ways[2].produce(9, b)
		none("long poll of "+w.name, func() {
			h.send(poll)
			h.send(put)
			h.receive()
			h.receive()
		})
	}
}

// Nor is anything allocated for what comes from segments, whichever way it goes: for one
// who reads on, the searches of a place and the reading ahead included.
func TestNoAllocationsFromFiles(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		for _, path := range fetchPaths {
			t.Run(path, func(t *testing.T) {
				h := newHand(t, backend, "tail.bytes=1048576", "fetch.path="+path, "flush.policy=os")
				h.topic("t")
				b := batch(10, 5000)
				end := int64(0)
				for range 200 {
					end = h.put(ways[2], b)
				}
				var all [][]byte // each reads on where the one before it ended
				q := fetch("t", 0, 1, map[int32]int64{0: 0, 1: 0})
				for i := range q.Topics[0].Partitions {
					q.Topics[0].Partitions[i].PartitionMaxBytes = int32(2*len(b) + 100)
				}
				for offset := int64(0); offset < end-500; offset += 20 {
					for i := range q.Topics[0].Partitions {
						q.Topics[0].Partitions[i].FetchOffset = offset
					}
					all = append(all, wire.AppendRequest(nil, 1, "hand", q))
				}
				next := 0
				read := func() {
					h.send(all[next%len(all)])
					if n := len(h.receive()); n < 4*len(b) {
						t.Fatalf("%d bytes", n)
					}
					next++
				}
				for range 2 * len(all) {
					read()
				}
				// One that begins anew is searched for by the index, which opens a file: whole rounds
				// less their first fetches.
				n := 1.0
				for try := 0; n != 0 && try < 3; try++ { // the broker's timers allocate, and where we get no CPU there are many to a read
					next = 4
					n = testing.AllocsPerRun(len(all)-6, read)
				}
				if n != 0 {
					t.Errorf("%v allocations", n)
				}
			})
		}
	})
}

// A record's bytes are copied once, into the log's memory; the start of a request that
// does not fit one receive buffer once more.
func TestCopies(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		h := newHand(t, backend)
		h.topic("t")
		copied := func() (into, elsewhere, requests uint64) {
			for _, c := range h.Shared().Cores {
				into += c.Logs.Stats().Bytes
				elsewhere += c.Server.Stats.Copied
				requests += c.Metrics.Requests[wire.KeyProduce]
			}
			return
		}
		for _, x := range []struct {
			name string
			b    []byte
			max  uint64 // bytes copied elsewhere for one request
		}{
			{"small", batch(10, 90), 0},
			{"a receive buffer and more", batch(100, 1000), 16 << 10},
			{"large", batch(100, 4000), 16 << 10},
		} {
			for _, w := range ways {
				const n = 20
				for range 3 {
					h.put(w, x.b)
				}
				into, elsewhere, requests := copied()
				for range n {
					h.put(w, x.b)
				}
				into2, elsewhere2, requests2 := copied()
				if want := uint64(n * len(x.b) * len(w.partitions)); into2-into != want || requests2-requests != n {
					t.Errorf("%s, %s: %d bytes copied into the logs, %d sent", x.name, w.name, into2-into, want)
				}
				if got := elsewhere2 - elsewhere; got > n*x.max {
					t.Errorf("%s, %s: %d bytes copied elsewhere for %d requests of %d bytes", x.name, w.name, got, n, len(x.b))
				}
			}
		}
	})
}
