package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/millrace/millrace/ring"
)

// failedSyncName is the file that says that a sync of a segment has failed: see "Errors" in the package comment.
//
//	fail     [the sync fails] -> the log is fenced; nothing above synced is acknowledged any more. -> [the
//	         file is made, synced, SyncDir] -> every start from now on rewrites. A kill in between: the next
//	         start does not know, as none did before there was the file. It is written at once and,
//	         where that fails, with each checkpoint and at the end.
//	start    [segments above the recovery point: each byte is read and written again, synced] -> [the other
//	         steps of recovery] -> [the file is removed, SyncDir]. A crash before the last step has the next
//	         start do it again. What is below the point was synced before the error and is on disk.
const failedSyncName = "sync-failed"

// noteFailedSync notes it on disk, as well as that goes, and before in memory. Blocking; any goroutine.
func (d *Dir) noteFailedSync(what string) {
	d.failedSync.CompareAndSwap(nil, &what)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writeFailedSync()
}

// writeFailedSync wants d.mu held.
func (d *Dir) writeFailedSync() {
	what := d.failedSync.Load()
	if what == nil || d.failedSyncKept {
		return
	}
	text := fmt.Appendf(nil, "%s\nThe next start writes again what may not be on disk, and removes this file.\n", *what)
	d.failedSyncKept = ring.WriteFileAtomic(d.host, filepath.Join(d.path, failedSyncName), text) == nil
}

// readFailedSync says whether a sync has failed before this start.
func (d *Dir) readFailedSync() (failed bool, err error) {
	_, err = d.host.Stat(filepath.Join(d.path, failedSyncName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// removeFailedSync: everything is on disk.
func (d *Dir) removeFailedSync() error {
	if err := d.host.Remove(filepath.Join(d.path, failedSyncName)); err != nil {
		return err
	}
	return d.host.SyncDir(d.path)
}

// rewrite writes a segment's bytes from a position on once more: pages that the kernel calls clean, and that
// may not be on disk, are dirty again. The sync that makes them durable follows as for any other.
func (r *recovery) rewrite(s *segment, from int64) error {
	buf := make([]byte, scanBlock)
	for at := from; at < s.size; {
		n, err := r.host.ReadAt(s.fd, buf[:min(int64(len(buf)), s.size-at)], at)
		if n == 0 {
			return fmt.Errorf("%s: read at %d: %w", s.path(suffixLog), at, err)
		}
		if _, err := r.host.WriteAt(s.fd, buf[:n], at); err != nil {
			return fmt.Errorf("%s: write at %d: %w", s.path(suffixLog), at, err)
		}
		at += int64(n)
	}
	r.report.Rewritten += s.size - from
	r.dirty[s] = true
	return nil
}

// rewriteAll does it for everything above the recovery point: whole segments, since where the point is in a file is not known.
func (r *recovery) rewriteAll() error {
	for _, s := range r.log.segments {
		if s.end > r.report.RecoveryPoint {
			if err := r.rewrite(s, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
