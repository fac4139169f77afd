// Package bench measures what a broker, a durability setting or a disk
// really does, and refuses to print what it did not measure.
//
// Four nouns carry it:
//
//   - [Workload] says what is asked: rate, partitions, sizes, acks, times.
//   - [Target] is what is measured: a broker that runs ([Kafka], [NATS]), or one that the
//     harness starts and stops: ours ([Serve]), or a peer of package peer ([Managed], [ManagedNATS]).
//   - [Client] is how records get there. It belongs to a target. Brokers that speak Kafka's protocol have
//     two: franz-go, what a user has, and package lean. A [NullBroker] shows what of a figure is the client's.
//   - [Result] is what one run saw, with raw histograms and the settings that
//     the broker itself reports.
//
// [Run] makes one run, [Compare] interleaves runs over several rows and takes
// medians, [Search] looks for the largest rate that is sustained. [Streams] is what a workload with
// several topics and consumers asks besides; package omb reads it from files of the OpenMessaging Benchmark. The rules that both hold to:
//
//   - Open loop: every send has an intended time on a fixed schedule, and
//     latency runs from that time, so a stall costs what waiting users would
//     have felt. How late the generator itself was is a series of its own, and
//     so is each part of the wait in the client ([Waits]).
//   - A percentile needs 100 samples above it ([SamplesAbove]); else it is "-".
//   - Histograms are merged, never averaged; over runs, medians are taken.
//   - Every acknowledged record is read back, once and in order, before a
//     number counts ([Verifier]).
//   - CPU steal and device flushes come from the kernel's counters and stand
//     beside each figure. A run with more than [StealMax] steal, or with memory slower than [SpeedMin] of the best, is repeated.
//
// [File] is what a comparison or a search leaves; "bench report" draws it (a search's curve: reportcurve.go), as a page or in Markdown, [Changes] says what became of it since another.
//
// "bench durability" is every policy and peer with every load in one interleaved run (durability.go), and its table has what a power
// loss takes beside what each costs (matrix.go). reportfiles.go draws what the other commands leave.
//
// "bench consume" asks what a consumer that catches up does to those at the end of the log: the same tail
// (tail.go), alone and beside readers of a backlog (catchup.go), in turns. "bench catchup" asks how fast such readers get what is in the
// page cache (catchupcommand.go, catchupreport.go), beside a bare loop of sendfile (package bare). "bench disk" measures the disk itself, without a
// broker: what a durable write costs, and whether a flush reaches the device ([DiskFile], [DiskFile.Judge]). "bench trace"
// shows what a running Millrace has measured of itself: where its produce requests spend their time ([FetchTrace]).
//
// [PowerGround] asks another question: what is gone when the power goes. [PowerLoss] asks it of
// a real broker on a disk that forgets (package forgetfs), package simpower of one in the
// simulator. [PowerLedger] is what both write their findings in.
package bench
