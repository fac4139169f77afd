// Package log stores one partition's record batches in append-only segments, in
// Kafka's files, byte for byte.
//
// A [Dir] is a log directory, a [Log] one partition in it, a [Core] what the logs of
// one core share. A Log is owned by its core's goroutine; nothing on the way of a
// record locks, blocks or allocates. What may block (creating files, lookups,
// truncation) is a job on a worker thread, and jobs of one log run one after the
// other.
//
// # The way of a batch
//
// Append validates a batch, gives it its offsets and copies it, once, into the
// log's memory tail. A write takes it from there to the segment's file; one write
// is in flight for each log, and the next covers all that came meanwhile. When it
// counts as safe is the flush policy's word (see [Policy]): that is Stable. The tail
// stays in memory as long as the core has room; readers at the end never touch a
// file.
//
//	logEnd   the next offset               moved by Append
//	written  the page cache has it         moved when a write completes
//	synced   the segments' disk has it     moved by a sync submitted after those writes completed
//	flushed  it survives power loss        synced, or durable in the journal
//	stable   it may be acknowledged        written or flushed, by policy
//
// synced is a prefix over all segments: a file is synced only after the ones before
// it, and a sync of it counts only once its name is durable. The two may run at once.
//
// # The recovery point
//
// The recovery point of a log is an offset below which everything is on disk: the
// batches, the epochs and the aborted transactions. It follows synced, and is
// persisted by Dir.Checkpoint. Of the indexes of a rolled segment recovery asks more:
// a producer snapshot at its end or above, which is written when they have been
// synced. Recovery believes what is below it and checks what
// is above: above, the first bad batch is where a crash tore the tail, and the log is
// cut there; below, a bad batch is damage to what had been flushed: it is reported,
// nothing is cut, and the log comes up fenced. So the persisted point may be too
// low at any time, and must never be too high: it is lowered, durably, before
// a truncation below it begins.
//
// # What is on disk after a crash
//
// Between any two steps of each operation. "The tail" is what was appended since the
// last sync; a power loss keeps any part of it, or none, with holes. A kill of
// the process keeps all that had been written, renamed, removed and cut, but none of
// it is durable for that: a power loss after the next start could still undo it. So that
// start, finding no mark of a clean stop, syncs the log directory and each partition's
// before it looks at them, then the last segment of each log and what is above the
// recovery point.
//
//	append     nothing -> [write] -> some of the batch, or all, unsynced -> [sync] -> all.
//	           Recovery keeps whole batches up to the first bad one. Batches below
//	           flushed are always whole. Index entries follow later, or not at all:
//	           recovery makes those above the recovery point again.
//	journal    under policy Journal the batch is in the journal before it is acknowledged (see
//	           package journal), and is written to the segment at leisure. A replay appends what
//	           the files lack, at their end; what it finds there, it leaves. An entry says what
//	           came before it: where the files end earlier, or its bytes are damaged and the files do not
//	           have them, the log comes up fenced and what the journal has of it is kept in a
//	           file of its own. What goes round the journal (a batch that is too large, another policy)
//	           is synced before the next entry.
//	spare      [create next.log.tmp, when the active segment is three quarters full] -> it is there or not, and empty:
//	           nothing is ever written to it under this name. Recovery removes it, and so does Close. It may come
//	           back after a power loss, beside the segment that it has become.
//	roll       [rename next.log.tmp to the new segment's .log; where there is none, or that fails: create .log] -> the
//	           name without SyncDir: the new segment is there or not, empty. -> [writes to it, and their syncs,
//	           while the old one is not synced yet, nor the name durable]: after a power loss the old one may end
//	           early, and then the new one is behind a hole and is cut with it; or the new one has no name, or the
//	           old name, and what was in it is gone: none of it counted as synced. -> [SyncDir] -> the new segment.
//	           Syncs of it count from here on; the next roll does not begin before. -> [create .index .timeindex] -> there or not, of any
//	           size, empty: a segment without them has them made again. -> [sync of the old one] -> [trim and sync its indexes] ->
//	           [snapshot of its end]: until that is there its indexes are made again. One
//	           taken there before the roll is removed, durably, before the trim.
//	flush      [sync] moves nothing on disk that recovery would read differently.
//	truncate   [sync what stays] -> [lower the recovery point, atomically] -> the log as it was. (To where the
//	           log will end: that is below the offset asked for, where it is inside a batch or a gap.)
//	           -> [where there is a journal: rename the incarnation, SyncDir] -> the log
//	           as its files have it; what the journal holds belongs to nobody. -> [remove the
//	           segments behind, SyncDir] -> the log as it was, or shorter, never below
//	           the cut; a hole is above the recovery point and is cut. -> [truncate and
//	           sync .log] -> [indexes, epochs, transactions]: entries beyond the end
//	           are dropped by recovery. When Truncate is done the cut survives.
//	           After a kill recovery makes as much of the cut durable as it has seen: by the
//	           syncs of the directory and of the last segment.
//	log start  [checkpoint, atomically] -> the old start or the new one. In force
//	           afterwards. -> [rename segments below to .deleted, one SyncDir each, from
//	           the front] -> the log starts at a segment that is there; .deleted
//	           files are removed by recovery.
//	compact    The segments of a group, all below the recovery point on disk, become one that has
//	           the first one's base and ends where the last one ends. [write and sync .log.cleaned,
//	           .index.cleaned, .timeindex.cleaned and, where the group has aborted transactions,
//	           .txnindex.cleaned] -> the log as it was; recovery removes .cleaned files. -> [rename
//	           the indexes to .swap, SyncDir] -> as it was: a .swap of an index without one of its
//	           .log is removed. -> [rename .log.cleaned to .log.swap] -> as it was, or as below.
//	           -> [SyncDir]: this is the durable point. From here on recovery does the rest: ->
//	           [remove the group's other segments; rename the indexes, .swap to none; SyncDir]
//	           -> the group's first .log is the old one still: whatever is left of the others is
//	           removed, .index and .timeindex are made again, and the .txnindex is the one of
//	           .swap, or the one there, where that had been renamed. An empty .txnindex.swap says
//	           that there is to be none: the one there is removed first, and durably, then it. None
//	           of the others can come back. -> [rename .log.swap to .log] -> as above, or the new segment. -> [SyncDir]
//	           -> the new segment.
//	           A record that goes is one with a later value of its key, which stays, below the
//	           recovery point too; so a crash between two groups leaves some old values and
//	           loses none. Of a transaction nothing goes, and its records push out nothing,
//	           before the marker that ends it survives power loss. The first dirty offset in
//	           cleaner-offset-checkpoint follows when all groups are done. It may be too low at
//	           any time, and must never be too high (a tombstone would be forgotten before the
//	           values it deletes): it is lowered, durably, before a truncation below it begins.
//	           A journal's entries lie above the log's end in the files, or are passed over:
//	           gaps below it are nothing to them. Who reads from a segment that is replaced goes
//	           on with its files, which have no names any more, until the lease is returned.
//	           A .log.swap that is damaged, or does not end where a segment begins, fences the log; nothing is
//	           removed then.
//	create     [files under a name ending in -delete] -> [sync of partition.metadata, SyncDir;
//	           the other files are empty, or zeros that may be lost] -> removed by
//	           recovery. -> [rename] -> there in whole, or not at all. -> [SyncDir of the log
//	           directory] -> there. All of it before the first append: so no sync of
//	           records need think of names. Many are created at the price of a few
//	           journal commits of the file system: see CreateAll.
//	delete     [rename to ...-delete] -> the log in whole, or the new name. -> [SyncDir] ->
//	           the new name, which recovery removes. -> [remove its files] -> likewise.
//	checkpoint [write .tmp, sync, rename, SyncDir] -> the old file or the new one.
//	           After a kill the one that is seen is durable before it is read; so are
//	           epochs, transactions and snapshots, which are written in the same way.
//	snapshot   of the producers, between rolls: [remove old ones] -> [write .tmp] -> [rename], without a
//	           sync. After a power loss it is whole, or bad, or not there: recovery passes over one
//	           whose CRC is wrong and takes the one before it. One that is durable, and not above the
//	           recovery point on disk, always stays: that of a roll, or the one that the last start has synced.
//	close      [last index entries, trim, sync] -> [snapshot] -> [checkpoints] -> [the mark]:
//	           without the mark everything above the recovery point is checked; with
//	           it everything before it is durable. Opening removes the mark and syncs the
//	           directory, even where there is no mark, before it changes anything else: a start
//	           that was killed may have come no further than the removal.
//	restart    [recovery point and log start, atomically each] -> [the incarnation, as above] -> [remove all segments] ->
//	           [create one]: a log whose start is above its end starts again, empty, at
//	           its start.
//
// Recovery itself only removes what it would remove again, cuts what it would cut
// again, and syncs before the next recovery point is written: a crash inside it is
// harmless. What it has found and promises from then on is on disk: the process may
// have been killed, and the page cache be all that had it. Of what lies below the
// recovery point only the last segment is synced again: its size may be that of a
// truncation. A checkpoint that would not change is not written. The indexes of the last segment always are: entries of what has been cut
// must not come back behind those that follow.
//
// # Damage
//
// What was flushed is not scanned by a start. A batch from before it is checked when it is first
// read: its CRC, and its offsets against its neighbours'. An entry of an index is believed where
// the batch is that it means. Files that a start reads have a CRC, or are held against the batches
// (leader epochs, aborted transactions), and are made again from them. docs/damage.md has all of it.
//
// # Errors
//
// An error of write, sync or a directory operation is never retried: the log is
// fenced, its owner told once, nothing more is acknowledged, and what was stable can
// still be read. A full disk is a state instead, where nothing was lost by it: see
// ErrNoSpace. After a failed sync the page cache may
// hold what the disk does not, and call it clean: the next start writes what is above the recovery
// points again. See failedSyncName for what is on disk when.
package log
