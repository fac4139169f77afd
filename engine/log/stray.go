package log

import (
	"fmt"
	"path/filepath"
)

// suffixStray is Kafka's for directories that no topic claims.
const suffixStray = "-stray"

// SetAside renames the directory of a log that no topic claims to
// <topic>-<partition>.<uuid>-stray, durably, and returns the new path. Its records
// stay, as in Kafka, for somebody to look at and remove; later starts only count it
// (RecoveryReport). Only before Attach.
func (d *Dir) SetAside(l *Log) (string, error) {
	if l.core != nil {
		panic(fmt.Sprintf("BUG: log %s-%d: set aside while attached", l.topic, l.partition))
	}
	suffix := fmt.Sprintf(".%x%s", uuid(d.host), suffixStray)
	name := dirName(l.topic, l.partition)
	to := filepath.Join(d.path, name[:min(len(name), 255-len(suffix))]+suffix)
	if err := l.closeUnattached(); err != nil {
		return "", err
	}
	d.forget(l)
	if err := d.host.Rename(l.path, to); err != nil {
		return "", err
	}
	return to, d.host.SyncDir(d.path)
}
