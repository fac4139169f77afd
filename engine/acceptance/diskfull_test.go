package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// smallDisk is an ext4 file system of so many MiB on a loop device, mounted until the test ends.
func smallDisk(t *testing.T, mebibytes int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "a file system can be mounted by root only")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	must(t, os.Mkdir(at, 0o755))
	must(t, os.WriteFile(image, nil, 0o644))
	must(t, os.Truncate(image, mebibytes<<20))
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", "-F", image}, {"mount", "-o", "loop", image, at}} {
		if _, err := exec.LookPath(args[0]); err != nil {
			skip(t, err.Error())
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			skip(t, fmt.Sprintf("%s: %v: %s", strings.Join(args, " "), err, out))
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at
}

// left is how many bytes a file system has left.
func left(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	must(t, syscall.Statfs(path, &st))
	return int64(st.Bavail) * st.Bsize
}

// ballast takes all but so many bytes, and returns what gives them back. What a broker that takes records knows of the room may be
// a second old on a busy machine: while it does, nothing may be taken from it that it counts on.
func ballast(t *testing.T, disk, name string, keep int64) (release func()) {
	t.Helper()
	path := filepath.Join(disk, name)
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for step := int64(16 << 20); step >= 4096; {
		if left(t, disk)-step < keep || syscall.Fallocate(int(f.Fd()), 0, sizeOf(t, f), step) != nil {
			step /= 2
		}
	}
	return func() { must(t, os.Remove(path)) }
}

func sizeOf(t *testing.T, f *os.File) int64 {
	info, err := f.Stat()
	must(t, err)
	return info.Size()
}

// filler produces and remembers what was acknowledged, by offset.
type filler struct {
	*broker
	topic string
	acked map[int64]string
	n     int
}

// put produces one record; the error is the broker's, after no retry.
func (f *filler) put(t *testing.T, c *kgo.Client) error {
	f.n++
	value := fmt.Sprintf("%08d %s", f.n, noise(8<<10))
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	r, err := c.ProduceSync(ctx, &kgo.Record{Topic: f.topic, Value: []byte(value)}).First()
	if err == nil {
		f.acked[r.Offset] = value
	}
	return err
}

// fill produces until the broker refuses, which has to be with an error that is tried again on.
func (f *filler) fill(t *testing.T, c *kgo.Client) {
	t.Helper()
	for began := time.Now(); ; {
		err := f.put(t, c)
		if err == nil && time.Since(began) > waitTimeout {
			t.Fatal("the disk does not fill")
		}
		if err != nil {
			if e := (*kerr.Error)(nil); !errors.Is(err, kgo.ErrRecordRetries) && (!errors.As(err, &e) || !e.Retriable) {
				t.Fatalf("refused, and not with an error that is tried again on: %v", err)
			}
			return
		}
	}
}

// resume waits until a record is taken.
func (f *filler) resume(t *testing.T, c *kgo.Client) {
	t.Helper()
	eventually(t, waitTimeout, "records to be taken again", func() bool { return f.put(t, c) == nil })
}

// whole reads everything and holds it against what was acknowledged.
func (f *filler) whole(t *testing.T) {
	t.Helper()
	got := map[int64]string{}
	for _, r := range f.readAll(t, f.topic)[0] {
		got[r.Offset] = string(r.Value)
	}
	for offset, value := range f.acked {
		if got[offset] != value {
			t.Fatalf("offset %d of %d, which was acknowledged, is not there", offset, len(f.acked))
		}
	}
}

// On a real file system that fills up: producers are refused before the reserve is touched, and what else there
// is to do is done; with nothing left at all nothing breaks; with space again everything goes on without
// a restart; and a kill -9 in the midst of it loses nothing.
func TestDiskFull(t *testing.T) {
	for _, policy := range []string{"journal", "os", "interval", "write", "file"} {
		if testing.Short() && policy != "journal" && policy != "os" {
			continue
		}
		t.Run(policy, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				ownProcess(t)
				disk := smallDisk(t, 160)
				free, freeSome := ballast(t, disk, "ballast", 36<<20), ballast(t, disk, "some", 28<<20)
				b := newBroker(t, backend, filepath.Join(disk, "data"), "flush.policy="+policy, "journal.bytes=4194304", "shards=1",
					"disk.reserve.bytes=8388608", "log.segment.bytes=4194304", "offsets.topic.num.partitions=1")
				t.Cleanup(func() {
					b.kill(t)
					if t.Failed() {
						t.Logf("broker's log:\n%s", b.log.tail())
					}
				})
				b.start(t)
				f := &filler{broker: b, topic: b.topic(t, 1), acked: map[int64]string{}}
				adm := kadm.NewClient(b.client(t))
				c := b.client(t, kgo.RecordRetries(0), kgo.DisableIdempotentWrite(), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
				must(t, f.put(t, c))

				f.fill(t, c)
				if rest := left(t, disk); rest < 6<<20 {
					t.Fatalf("%d bytes are left: the reserve of 8 MiB was touched", rest)
				}
				eventually(t, waitTimeout, "the broker to say so", func() bool { return strings.Contains(b.log.String(), "NO SPACE") })
				b.topic(t, 1) // the metadata can still be changed
				must(t, adm.CommitAllOffsets(timeout(t), unique(t), kadm.Offsets{f.topic: {0: {Topic: f.topic, At: 1}}}))
				f.whole(t)

				// Somebody else takes the reserve too.
				freeRest := ballast(t, disk, "rest", 0)
				// What the broker knows of the room may be a second old: what it takes until then is there afterwards as well.
				eventually(t, waitTimeout, "a full disk to be refused", func() bool { return f.put(t, c) != nil })
				refused := false // by and by: a few blocks may be left
				for i := 0; i < 1000 && !refused; i++ {
					resp, err := adm.CreateTopic(timeout(t), 1, 1, nil, unique(t))
					refused = err != nil || resp.Err != nil
				}
				if !refused {
					t.Fatal("a thousand topics were made on a full disk")
				}
				f.whole(t)
				freeRest()
				eventually(t, waitTimeout, "topics to be made again", func() bool {
					resp, err := adm.CreateTopic(timeout(t), 1, 1, nil, unique(t))
					return err == nil && resp.Err == nil
				})
				if err := f.put(t, c); err == nil {
					t.Fatal("taken, and the reserve is not whole")
				}
				freeSome()
				f.resume(t, c)

				// Full again, and killed.
				f.fill(t, c)
				b.kill(t)
				b.start(t)
				f.whole(t)
				if err := f.put(t, c); err == nil {
					t.Fatal("taken after a restart on a full disk")
				}
				free()
				f.resume(t, c)
				f.whole(t)
			})
		})
	}
}
