// Package engine is the broker: it wires cores, listeners, logs and metadata
// together. This page is the map of the code.
//
// # The way of a record
//
//	socket     netio            Receive    bytes -> one frame, in the connection's off-heap buffer
//	request    engine/api       Decode     frame -> views of batches
//	shard      engine/shard     Route      to the core that owns the partition
//	log        engine/log       Append     validate, assign offsets, into the tail           -> logEnd
//	flush      engine/log       Flush      by the partition's flush policy                   -> flushed
//	replicate  engine/replica   Commit     what is safe on every in-sync replica             -> highWatermark
//	ack        engine/replica   Ack        produces whose last offset is now below the mark
//	socket     netio            Reply      back to the connection's core; encode; in request order
//
// A fetch is the same ladder read backwards.
//
// # Who owns what
//
// A core is a goroutine on a thread and a CPU of its own with a ring of its own
// ([shard.Loop], [ring.IO]). It owns its connections (netio.Server), its
// partitions (replica.Partition, log.Log), the groups whose offsets lie in its
// partitions of __consumer_offsets (group.Coordinator), and its memory
// (ring.Pool). Core 0 also owns the controller and the metadata store. What all
// cores read is immutable and published whole: api.Routes, cluster.Image,
// config.Broker. Cores talk by mailbox (engine/shard).
//
// # Where things are
//
//	ring           the door to the kernel; backends below it
//	netio          connections, frames, replies in order
//	engine/wire    Kafka's protocol as bytes
//	engine/record  record batches as views
//	engine/shard   event loop, mailboxes, timers
//	engine/log     segments, indexes, append, read, flush, recover
//	engine/journal one core's journal: one synchronous write makes all its partitions durable
//	engine/replica a partition's role: acknowledgements and the high watermark
//	engine/group   consumer groups and committed offsets
//	engine/cluster metadata: store, image, controller
//	engine/config  what can be set
//	engine/api     one file for each Kafka API
//	engine/cgroup  what control groups leave to this process
//	engine/metrics counters and histograms of one core
//	engine/web     /live, /ready, /metrics, /status, /trace, and a page for people
//	engine/simtest the broker in one goroutine on ring/sim, from a seed
//	engine/simclient its clients there: a machine with a loop, and connections
//
// # Which way imports point
//
//	leaves < ring < netio, shard, journal < log < replica < group < api < engine < bench, web, cmd
//
// Leaves (record, wire, cluster, metrics, config, cgroup) import nothing of ours. Backends
// and cluster/file meet the engine only in cmd/millrace; in bench/simpower so do ring/sim, ring/fault and
// cluster/file, and engine/simclient uses ring/sim.
// imports_test.go holds it.
package engine
