package acceptance_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What keeps a broker from starting ends it with a code that is not 0 and a line that names the culprit.
func TestRefusesToStart(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, b *broker) (culprit string, args []string)
		ours    bool // Apache Kafka does otherwise
	}{
		{"port in use", func(t *testing.T, b *broker) (string, []string) {
			l, err := net.Listen("tcp", b.bootstrap)
			must(t, err)
			t.Cleanup(func() { l.Close() })
			_, port, _ := net.SplitHostPort(b.bootstrap)
			return port, nil
		}, false},
		{"directory locked", func(t *testing.T, b *broker) (string, []string) {
			other := startBroker(t, b.backend)
			b.dir = other.dir
			return other.dir, nil
		}, false},
		{"directory is a file", func(t *testing.T, b *broker) (string, []string) {
			b.dir = filepath.Join(b.dir, "file")
			must(t, os.WriteFile(b.dir, []byte("x"), 0o644))
			return b.dir, nil
		}, false},
		{"directory below a file", func(t *testing.T, b *broker) (string, []string) {
			file := filepath.Join(b.dir, "file")
			must(t, os.WriteFile(file, []byte("x"), 0o644))
			b.dir = filepath.Join(file, "data")
			return file, nil
		}, false},
		{"directory not writable", func(t *testing.T, b *broker) (string, []string) {
			b.dir = "/proc/millrace" // not even root may create it
			return b.dir, nil
		}, false},
		{"corrupt meta.properties", func(t *testing.T, b *broker) (string, []string) {
			must(t, os.WriteFile(filepath.Join(b.dir, "meta.properties"), []byte("\x00\x01 no properties\n"), 0o644))
			return "meta.properties", nil
		}, false},
		{"bad value", func(t *testing.T, b *broker) (string, []string) {
			b.overrides = append(b.overrides, "num.partitions=many")
			return "num.partitions", nil
		}, false},
		{"bad line of a config file", func(t *testing.T, b *broker) (string, []string) {
			file := filepath.Join(t.TempDir(), "server.properties")
			must(t, os.WriteFile(file, []byte("# comment\nlog.segment.bytes=huge\n"), 0o644))
			return file + ":2", []string{"--config", file}
		}, true},
	} {
		if c.ours && standIn() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				ownProcess(t)
				b := newBroker(t, backend, t.TempDir())
				culprit, args := c.prepare(t, b)
				b.launch(t, args...)
				t.Cleanup(b.proc.kill)
				select {
				case <-b.proc.done:
				case <-time.After(readyTimeout):
					t.Fatalf("still running after %v:\n%s", readyTimeout, b.log.tail())
				}
				if b.proc.cmd.ProcessState.ExitCode() == 0 {
					t.Fatalf("ended with code 0:\n%s", b.log.tail())
				}
				contains(t, b.log.String(), culprit)
				if lines := strings.Count(strings.TrimSpace(b.log.String()), "\n") + 1; lines > 10 && !standIn() {
					t.Fatalf("%d lines where a few would do:\n%s", lines, b.log.String())
				}
			})
		})
	}
}

// After SIGTERM indexes have no room left over, the next start looks only at what the
// last index entry does not cover, cuts and mends nothing, and nothing is lost.
func TestCleanRestart(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		b := startBroker(t, backend)
		const indexInterval, batchMax = 4096, 16 << 10
		topic := b.topic(t, 2, "segment.bytes=1048576", fmt.Sprintf("index.interval.bytes=%d", indexInterval))
		sent := numbered(strings.Repeat("v", 2000), 1000) // two segments
		c := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(batchMax))
		for _, value := range sent {
			c.Produce(timeout(t), &kgo.Record{Topic: topic, Partition: 1, Value: []byte(value)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		must(t, c.Flush(timeout(t)))
		group := unique(t)
		member := b.join(t, group, topic)
		eventually(t, waitTimeout, "all records", func() bool { return member.count() == len(sent) })
		member.leave(t)
		preallocated := indexSizes(t, filepath.Join(b.dir, topic+"-1"))
		if !slices.Contains(slices.Collect(maps.Values(preallocated)), 10<<20) {
			t.Fatalf("the active index of a broker that runs is of 10 MiB, yet they are %v", preallocated)
		}
		b.stop(t)

		size := int64(0)
		logs, err := filepath.Glob(filepath.Join(b.dir, topic+"-1", "*.log"))
		must(t, err)
		if len(logs) < 2 {
			t.Fatalf("segments %v, where there should be two", logs)
		}
		for _, log := range logs {
			size += fileSize(t, log)
		}
		for file, bytes := range indexSizes(t, filepath.Join(b.dir, topic+"-1")) { // an entry for 4096 bytes of the log, or a few less
			entry, log := int64(8), strings.TrimSuffix(file, filepath.Ext(file))+".log"
			if filepath.Ext(file) == ".timeindex" {
				entry = 12
			}
			if most := (fileSize(t, log)/indexInterval + 1) * entry; bytes == 0 || bytes%entry != 0 || bytes > most {
				t.Fatalf("%s is of %d bytes after a clean stop; entries of %d, at most %d", file, bytes, entry, most)
			}
		}
		for file, bytes := range indexSizes(t, filepath.Join(b.dir, topic+"-0")) { // nothing was ever appended
			if bytes > 12 {
				t.Fatalf("%s is of %d bytes after a clean stop", file, bytes)
			}
		}

		report := b.startsSaying(t)
		t.Logf("%d bytes in %d segments; %+v", size, len(logs), report)
		if !standIn() {
			// Of each log that has records, two of which matter: its last batches without an index entry.
			most := int64(2 * (indexInterval + 2*batchMax))
			if report.how != "opened after a clean stop" || report.cut != 0 || report.damaged != 0 || report.mended || report.checked > most || report.logs < 2 {
				t.Fatalf("the start after a clean stop: %+v, where at most %d of %d bytes are to be checked", report, most, size)
			}
		}
		equalSlices(t, "records", values(b.readAll(t, topic)[1]), sent)
		equal(t, "committed offset", b.committed(t, group, topic)[1], 1000)
		b.produce(t, topic, 1, "after")
		equal(t, "records", len(b.readAll(t, topic)[1]), 1001)
	})
}

// Connections that say nothing, or stop in the middle of a frame, are closed after connections.max.idle.ms.
func TestIdleConnections(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		b := startBroker(t, backend, "connections.max.idle.ms=3000")
		silent, half := b.dial(t), b.dial(t)
		half.send([]byte{0, 0, 0, 99, 0})
		for name, c := range map[string]*rawConn{"silent": silent, "half-open": half} {
			c.SetReadDeadline(time.Now().Add(replyTimeout))
			if _, err := c.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(err.Error(), "reset") {
				t.Fatalf("%s connection: %v", name, err)
			}
		}
		b.healthy(t)
	})
}
