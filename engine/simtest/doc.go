// Package simtest runs a whole broker and its clients on ring/sim: one goroutine,
// one seed. The broker is the production one, made by engine.Open on a simulated
// host with a store of cluster/file; the clients speak the Kafka protocol through
// rings of their own.
//
// A run is a world (ring/sim), a broker that lives many lives on one disk, a dozen
// clients with a machine each, and an operator who breaks things: kills of the
// process, power losses at any disk event, clean restarts, full disks, failing
// syncs and writes, partitions, resets. All of it follows from the seed, so
//
//	go test ./engine/simtest -run TestSeed -seed 8431 -v
//
// is the same run every time, event by event, and a failing seed is the bug report.
//
// # What is checked
//
// After every step of a core, for its partitions: logStart <= lastStable <=
// highWatermark <= logEnd; flushed <= logEnd; none of them goes back; under a
// synchronous policy the high watermark moves only up to flushed, under interval
// only flush.messages beyond it.
//
// After every start, from the segments' files themselves and before a client gets
// in: offsets without damage, and without gaps but in __consumer_offsets, which is compacted; nothing that no client sent, or that was
// refused; an idempotent producer's batches once and in its order; every batch
// that was acknowledged or read at the offset and with the bytes that were told. A
// batch may be missing only after a power loss, and only if it was not below
// flushed, and its policy at the time was os, or interval and it lies within the
// bound. Topics, their policies and log starts are as they were answered.
//
// Over the wire: what was acknowledged before a request is below the high
// watermark of its answer; the same offset has the same bytes, whoever reads it; a
// committed offset is one that nothing acknowledged has replaced.
//
// At a clean close no descriptor, receive buffer or pool memory is left. At the
// end the network and the disk are healed: every producer must get its answers,
// and every partition is read to its end.
package simtest
