// Package forgetfs is a FUSE file system in memory that forgets what was not
// synced: the disk of a machine whose power can be cut.
//
// A [Disk] holds for each file what is durable and the writes and truncations
// since, and for all directories the changes of names since; [Disk.Mount] lets any
// program work on it, [Disk.Cut] is the moment at which the power goes, and
// [Disk.Restore] decides by a seed what is left: of each file all that was
// not synced, nothing, the first writes, some writes, or some sectors of 512 bytes of them;
// of names likewise. The next mount shows that.
//
// # What counts as a sync
//
// fsync and fdatasync of a file: its data and size. fsync of a directory: the names
// in it. Nothing else makes a name durable, unless [Options.Ordered] is set. A sync covers what
// had been written when it began, and takes [Options.SyncTime], so that cuts meet
// writes that somebody waits for.
//
// # What the kernel makes of it
//
// Found with Linux 6.18, and held by the tests here:
//
//   - Without the write-back cache (it is off here) write(2) becomes a FUSE WRITE before it
//     returns. Only pages changed through a shared mapping stay in the kernel; they come
//     with msync, munmap or a sync, as WRITE with FUSE_WRITE_CACHE, and those that
//     have not come when the power is cut are lost.
//   - O_DSYNC, O_SYNC and RWF_DSYNC (pwritev2 or io_uring, with or without O_DIRECT) arrive
//     as a WRITE that has O_DSYNC among its flags, and then as an FSYNC of the whole file, before
//     the write returns. So such a write is honoured twice here: with its WRITE, and with the FSYNC.
//     A kernel or an open mode (FOPEN_DIRECT_IO) that leaves the FSYNC out changes nothing.
//   - The FSYNC that belongs to such a write cannot be told from fdatasync(2): it
//     makes earlier buffered writes of the same file durable too, where a disk need not.
//   - sync_file_range(2) never arrives: it does not count. Nor does syncfs(2): the kernel
//     sends SYNCFS to virtiofs only. A broker that relies on syncfs loses data here
//     that it would not lose on a disk.
//   - flock(2) stays in the kernel and ends with the process.
//   - fallocate arrives; with FALLOC_FL_KEEP_SIZE it changes nothing, space is not counted.
package forgetfs
