package log

import (
	"fmt"
	"path/filepath"

	"github.com/millrace/millrace/ring"
)

// NewPartition is what Create needs to know of a partition.
type NewPartition struct {
	Topic     string
	Partition int32
	TopicID   [16]byte
	Config    Config
}

// Create makes a partition's directory and an empty log that starts at offset 0. It
// is durable, whole, when it returns: it is built under a name that recovery
// removes, then renamed. Blocking; any goroutine (run it as a Task).
func (d *Dir) Create(topic string, partition int32, topicID [16]byte, cfg Config) (*Log, error) {
	logs, err := d.CreateAll([]NewPartition{{topic, partition, topicID, cfg}})
	if err != nil {
		return nil, err
	}
	return logs[0], nil
}

// CreateAll is Create for many, at hardly more than the price of one: all their files
// are made, then synced at once, then all directories get their names. With an error
// none of them is there, unless the error is of the last sync or of undoing: then
// some may be, empty, at the next start.
func (d *Dir) CreateAll(parts []NewPartition) ([]*Log, error) {
	logs := make([]*Log, len(parts))
	gone := false
	for i := range parts {
		p := &parts[i]
		if err := p.Config.normal(); err != nil {
			return nil, fmt.Errorf("%s-%d: %w", p.Topic, p.Partition, err)
		}
		l := d.newLog(p.Topic, p.Partition, filepath.Join(d.path, dirName(p.Topic, p.Partition)))
		if _, err := d.host.Stat(l.path); err == nil {
			return nil, fmt.Errorf("%s: exists", l.path)
		}
		l.topicID, l.incarnation = p.TopicID, d.host.Random()
		l.setConfig(p.Config)
		logs[i] = l
		d.mu.Lock()
		gone = gone || d.gone[partitionKey{p.Topic, p.Partition}]
		d.mu.Unlock()
	}
	if gone { // a predecessor's offsets are not the new log's
		if err := d.Checkpoint(); err != nil {
			return nil, err
		}
	}
	all := make([]creation, len(parts))
	if err := d.create(logs, all); err != nil {
		for i := range all {
			all[i].undo(d.host)
		}
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, l := range logs {
		l.created(all[i].files)
	}
	d.logs = append(d.logs, logs...)
	d.sort()
	return logs, nil
}

// creation is one directory that is being made.
type creation struct {
	path     string // where it is now; empty: nowhere yet
	metadata ring.FD
	files    opened
}

// create makes the directories, in steps over all of them: between two syncs nothing
// else is done to the file system, so it has to write its own journal but a few times.
func (d *Dir) create(logs []*Log, all []creation) error {
	for i, l := range logs {
		if err := all[i].build(l); err != nil {
			return err
		}
	}
	if err := d.each(len(all), syncsAtOnce, func(i int) error { return all[i].sync(d.host) }); err != nil {
		return err
	}
	for i, l := range logs {
		if err := d.host.Rename(all[i].path, l.path); err != nil {
			return err
		}
		all[i].path = l.path
	}
	return d.host.SyncDir(d.path)
}

// build makes the files of a new partition in a directory of its own.
func (c *creation) build(l *Log) (err error) {
	h := l.dir.host
	dir := filepath.Join(l.dir.path, deletedName(l.topic, l.partition, uuid(h)))
	c.path, c.metadata, c.files = dir, ring.NoFD, noFiles()
	if err := h.MkdirAll(dir); err != nil {
		return err
	}
	name := filepath.Join(dir, metadataName)
	if c.metadata, err = h.Open(name, ring.CreateNew); err != nil {
		return err
	}
	if _, err := h.WriteAt(c.metadata, encodeMetadata(l.topicID), 0); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, name := range []string{incarnationName(l.incarnation), epochsName} {
		if err := makeEmpty(h, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	c.files, err = makeSegment(h, dir, 0, l.cfg.IndexBytes)
	return err
}

// sync makes what build made durable: the only file with anything in it, and the names.
func (c *creation) sync(h ring.Host) error {
	if err := h.Sync(c.metadata); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(c.path, metadataName), err)
	}
	h.Close(c.metadata)
	c.metadata = ring.NoFD
	return h.SyncDir(c.path)
}

// undo removes what there is. What stays under a name of its own goes with the next start.
func (c *creation) undo(h ring.Host) {
	if c.path == "" {
		return
	}
	c.files.close(h)
	if c.metadata != ring.NoFD {
		h.Close(c.metadata)
	}
	ring.RemoveAll(h, c.path)
}

// created gives a log its first segment.
func (l *Log) created(files opened) {
	s := newSegment(l, 0)
	s.created = l.host().WallMillis()
	s.index.maxOffsets, s.index.maxTimes = indexRoom(l.cfg.IndexBytes)
	s.opened(files)
	l.segments = []*segment{s}
	l.indexBefore = s.index.lastTime
	l.publish()
}

// makeEmpty makes an empty file. Its name is not durable.
func makeEmpty(h ring.Host, path string) error {
	fd, err := h.Open(path, ring.CreateNew)
	if err != nil {
		return err
	}
	return h.Close(fd)
}
