package engine_test

import (
	"fmt"
	"testing"
)

// The way of a record, there and back, on cores that one goroutine steps: what a
// request costs of one CPU, the client's system calls included, without any waiting.
// "both" is one partition here and one on the other core.

func BenchmarkProducePath(b *testing.B) {
	eachWay(b, func(b *testing.B, h *hand, w way, size int) {
		put := w.produce(9, batch(1, size))
		for b.Loop() {
			h.send(put)
			h.receive()
		}
	})
}

func BenchmarkFetchPath(b *testing.B) {
	eachWay(b, func(b *testing.B, h *hand, w way, size int) {
		h.put(ways[2], batch(1, size))
		get := w.fetch(0, 1, h.last(1))
		for b.Loop() {
			h.send(get)
			h.receive()
		}
	})
}

func eachWay(b *testing.B, run func(b *testing.B, h *hand, w way, size int)) {
	for _, backend := range backends() {
		for _, size := range []int{100, 10000} {
			for _, w := range ways {
				b.Run(fmt.Sprintf("%s/%dB/%s", backend, size, w.name), func(b *testing.B) {
					h := newHand(b, backend)
					h.topic("t")
					b.SetBytes(int64(size * len(w.partitions)))
					b.ReportAllocs()
					run(b, h, w, size)
				})
			}
		}
	}
}
