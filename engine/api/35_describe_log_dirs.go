package api

// DescribeLogDirs (key 35), versions 1-5. 3 a top-level error; 4 sizes of the file
// system; 5 cordoned directories (never).

import (
	"slices"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDescribeLogDirs] = describeLogDirs }

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
			a.Partitions = append(a.Partitions, kmsg.DescribeLogDirsResponseDirTopicPartition{
				Partition: int32(i), Size: t.Partitions[i].Published.Size.Load(),
			})
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
