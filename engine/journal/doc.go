// Package journal makes what all partitions of a core append durable with one
// synchronous write each round, or with a write and an fdatasync linked to it, whichever
// the device makes cheaper: see [Files.Measure].
//
// journal.go is the contract: what a log asks of its core's journal, and what it
// is told. [Files] is the journals of a broker on disk, for start and stop; a
// [Core] is one of them at work, owned by its core's goroutine: nothing in it locks,
// blocks or allocates. log drives, journal calls back: through [Completer] when
// an entry is durable, and through [Partition] when it wants room.
//
// # Rules
//
// Entries become durable in the order of Submit within one partition, and Durable is never called
// from inside Submit. Across partitions the order is the same, but for this: while there is
// no room, an entry whose batches are durable in the partition's own files by now is answered
// without being written. An entry that was durable here before a crash is handed to Replay at the
// next start, in the order of Submit within one partition, until it has been cut.
//
// There are entries of one kind only, batches that were appended. What changes a partition in
// another way is durable in the partition's files before it takes effect. Where a replay could put
// back what such a change took away (a truncation), the partition gets a new incarnation
// before, durably, once all that is to stay is in its files: what the journal holds
// of the old one then belongs to nobody.
//
// An error is final. After the first the journal makes nothing durable any more:
// every entry, queued or new, completes with that error, and the partitions fence
// themselves.
//
// # The file
//
// core-N.journal has a fixed size and is written round and round, in frames of
// whole blocks of 4 KiB: a frame is one write, holds the entries that had queued while the
// one before it was in flight, and is never written again while it is needed. Only one
// is in flight. A frame knows its position (which grows for ever; modulo the size it is the
// place in the file), the position of the frame before it, and the position of the oldest
// frame that was still needed when it was written: that is where a replay begins. See frame.go
// for the bytes. The first time round, the blocks ahead are written with zeros
// in the background: overwriting costs half of a first write into reserved space.
//
// journal.properties, beside the files, names the journal's id, the directory of logs that
// it belongs to, its generation, and whether it is empty; a frame of another id or generation
// is no frame. The directory of logs has journal-checkpoint, with the id and the generation.
//
// # What is on disk after a crash
//
//	write      nothing of the frame, some of its sectors, or all. The header is checked by a
//	           CRC of its own, each entry's bytes by another: a frame that is not whole and
//	           has no successor was in flight and is left out; nothing of it had been
//	           acknowledged. (Or it was damaged later: the two cannot be told apart, and the
//	           report says so.) One that is not whole and has a successor is damage.
//	           By a write and a linked fdatasync nothing else can be there: an entry is answered when
//	           both are done. A write that came short or failed takes its sync with it.
//	cut        moves nothing on disk; the next frame says where a replay begins. Until then
//	           a replay meets entries that the partition's files have: they are skipped.
//	turn       a frame overwrites frames that the last durable frame does not need: where a
//	           cut has made more room than that one says, a frame without entries, for which a block is
//	           kept, says so first. Torn, a frame leaves neither what it overwrites nor itself.
//	begin      [journal.properties: empty] where files are made, resized or removed
//	           -> [the files, synced; SyncDir] -> [journal.properties: the next generation]:
//	           every old frame is void -> [journal-checkpoint in the directory of logs] -> the first
//	           frame. All that the old generation held is synced in the partitions' files before
//	           the first of these steps, so a crash between any two replays what is there already, or nothing.
//	aside      what fenced partitions keep through a cut is copied: [core-N....aside.tmp, synced] -> [rename] ->
//	           [SyncDir] -> the frames may be overwritten. Until then the journal has them, and a replay
//	           that meets them twice passes over what the partition has by then. A file that is
//	           there is whole; it belongs to one generation, and is removed once the next has begun.
//	close      [every log is closed cleanly] -> [journal.properties: empty] -> [journal-checkpoint: empty].
//	           After a crash in between, the files are as they would be after a crash before.
//
// A directory of logs whose journal is missing, of another id or of an older generation does not
// open: what was acknowledged may be in it and nowhere else. After a clean stop it may be missing, or
// another one.
//
// # The cut
//
// When half of the file is in use, every partition that has something there is asked to
// make it durable in its own files, a few at a time, more as room grows short; when all have,
// everything before the point where that began is free. A partition that is fenced never
// does: after a cut the frames that it keeps from being overwritten are copied to a file beside
// the journal, once, by a worker, and are replayed from there. Where the disk has no room for them beyond the
// reserve, that is tried again every few seconds.
package journal
