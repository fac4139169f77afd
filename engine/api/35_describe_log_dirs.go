package api

// DescribeLogDirs (key 35), versions 1-5. 2 tagged fields; 3 a top-level error; 4 sizes
// of the file system; 5 cordoned directories (never).
//
// From version 2 on each partition also carries four tagged fields of our own, which
// clients that do not know them skip (docs/status.md): 10001 flushed, 10002 high
// watermark, 10003 log start, 10004 log end; int64, big endian. The log end
// is read last: flushed and the high watermark are not above the one told beside them.

import (
	"slices"

	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDescribeLogDirs] = describeLogDirs }

// offsetsOf reads the log end last: the others only grow towards it; and flushed after
// the high watermark: what is acknowledged and on disk must not look as if it were not.
func offsetsOf(p *log.Published) (o wire.LogDirOffsets) {
	o.LogStart = p.LogStart.Load()
	o.HighWatermark = p.HighWatermark.Load()
	o.Flushed = p.Flushed.Load()
	o.LogEnd = p.LogEnd.Load()
	return o
}

func describeLogDirs(c *call, r kmsg.Request) {
	req := r.(*kmsg.DescribeLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	wanted := map[string][]int32{}
	for _, t := range req.Topics {
		wanted[t.Topic] = t.Partitions
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = c.LogDir
	dir.TotalBytes, dir.UsableBytes = -1, -1
	routes := c.Routes.Load()
	for _, name := range c.Image.Load().Names {
		t := routes.ByName[name]
		only, named := wanted[name]
		if t == nil || req.Topics != nil && !named {
			continue
		}
		a := kmsg.NewDescribeLogDirsResponseDirTopic()
		a.Topic = name
		for i := range t.Partitions {
			if named && len(only) > 0 && !slices.Contains(only, int32(i)) {
				continue
			}
			pub := t.Partitions[i].Published
			p := kmsg.DescribeLogDirsResponseDirTopicPartition{Partition: int32(i), Size: pub.Size.Load()}
			if req.Version >= 2 {
				offsetsOf(pub).SetTags(&p.UnknownTags)
			}
			a.Partitions = append(a.Partitions, p)
		}
		dir.Topics = append(dir.Topics, a)
	}
	if req.Version < 4 {
		resp.Dirs = append(resp.Dirs, dir)
		c.reply(resp)
		return
	}
	c.Task(func() error {
		free, err := c.Loop.IO.Host().Free(c.LogDir)
		dir.UsableBytes = free
		return err
	}, func(err error) {
		if err != nil {
			dir.UsableBytes = -1
		}
		resp.Dirs = append(resp.Dirs, dir)
		c.reply(resp)
	})
}
