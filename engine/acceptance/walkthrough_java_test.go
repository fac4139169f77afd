package acceptance_test

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The inside of the Java producer: testdata/clients/java/ProducerInside.java tells, these tests judge.
func TestWalkthroughProducerInside(t *testing.T) {
	walkthrough(t, []string{"kafka"}, func(t *testing.T, b *broker) {
		t.Run("defaults", func(t *testing.T) {
			told := producerInside(t, b.bootstrap, "defaults", "none")
			for key, want := range map[string]string{"batch.size": "16384", "buffer.memory": "33554432", "max.block.ms": "60000",
				"max.in.flight.requests.per.connection": "5", "enable.idempotence": "true", "acks": "all"} {
				equal(t, key, told[key], want)
			}
		})
		t.Run("metadata", func(t *testing.T) { // no send before the metadata is there, and none waits twice
			told := producerInside(t, b.bootstrap, "metadata", b.topic(t, 1))
			if first, second := number(t, told, "wait.first.ns"), number(t, told, "wait.second.ns"); first == 0 || second != first {
				t.Fatalf("waited %d ns by the first send, %d by the second", first, second)
			}
			equal(t, "without a broker", told["unreachable.error"], "TimeoutException")
			if waited := number(t, told, "unreachable.ms"); waited < 450 || waited > 30_000 {
				t.Fatalf("without a broker and with max.block.ms=500 send blocked %d ms", waited)
			}
		})
		t.Run("batches", func(t *testing.T) { // linger is for the batch that is not full; a full one goes at once
			var topic string
			for try := 1; ; try++ {
				topic = b.topic(t, 1)
				told := producerInside(t, b.bootstrap, "batches", topic)
				sent := number(t, told, "sent.before.flush")
				if sent < 80 && try < 3 { // the machine stood still for the second in which the program waits for more
					continue
				}
				if sent < 80 || sent >= 100 {
					t.Fatalf("%d of 100 records were sent before the flush", sent)
				}
				break
			}
			response := ask[*kmsg.FetchResponse](b.dial(t), fetchRequest(topic, 0, 1<<20, 1, time.Second))
			var sizes []int
			for rest := response.Topics[0].Partitions[0].RecordBatches; len(rest) > 12; {
				size := 12 + int(binary.BigEndian.Uint32(rest[8:]))
				sizes, rest = append(sizes, size), rest[min(size, len(rest)):]
			}
			for i, size := range sizes {
				if size > 16384 || i < len(sizes)-1 && size < 15000 {
					t.Fatalf("batches of %v bytes with batch.size 16384", sizes)
				}
			}
			t.Logf("100 records of 1000 bytes in batches of %v bytes", sizes)
		})
		t.Run("buffer", func(t *testing.T) { // a broker that does not answer fills 32 MiB, then send blocks
			release := make(chan struct{})
			topic := b.topic(t, 1)
			p := b.proxy(t, 0, func(n int) bool { <-release; return false })
			running := startInside(t, p.address, "buffer", topic)
			eventually(t, waitTimeout, "send to have blocked", func() bool {
				return running.proc.ended() || strings.Contains(running.out.String(), "buffered.bytes")
			})
			close(release)
			told := running.end(t)
			equal(t, "buffer-total-bytes", told["total"], "33554432")
			equal(t, "send on a full buffer", told["error"], "BufferExhaustedException")
			if blocked := number(t, told, "blocked.ms"); blocked < 1900 || blocked > 30_000 {
				t.Fatalf("with max.block.ms=2000 send blocked %d ms", blocked)
			}
			if bytes := number(t, told, "buffered.bytes"); bytes < 31<<20 || bytes > 33<<20 {
				t.Fatalf("%d bytes were buffered before send blocked", bytes)
			}
			equal(t, "records stored in the end", fmt.Sprint(len(b.readAll(t, topic)[0])), told["accepted"])
		})
		for _, c := range []struct {
			idempotence, inFlight string
			inOrder               bool
		}{
			{"false", "5", false}, // v0 is refused once and comes back behind others
			{"false", "1", true},
			{"true", "5", true}, // the broker refuses what follows the gap, the client sends it again
		} {
			t.Run(fmt.Sprintf("order/idempotence=%s,in-flight=%s", c.idempotence, c.inFlight), func(t *testing.T) {
				topic, sent := b.topic(t, 1), []string{"first", "v0", "v1", "v2", "v3", "v4"}
				behind := 20 * time.Second // who may have several in flight has, sooner or later
				if c.inFlight == "1" {
					behind = 500 * time.Millisecond // none comes
				}
				p := b.proxy(t, behind, func(n int) bool { return n == 2 })
				producerInside(t, p.address, "order", topic, "enable.idempotence="+c.idempotence, "max.in.flight.requests.per.connection="+c.inFlight)
				stored := values(b.readAll(t, topic)[0])
				t.Logf("idempotence=%s, %s in flight: sent %v, stored %v", c.idempotence, c.inFlight, sent, stored)
				equal(t, "stored in the order sent", slices.Equal(stored, sent), c.inOrder)
				slices.Sort(stored)
				equalSlices(t, "stored", stored, sent)
			})
		}
	})
}

// inside is a running ProducerInside.
type inside struct {
	proc     *process
	out, err output
}

func startInside(t *testing.T, bootstrap, name, topic string, config ...string) *inside {
	t.Helper()
	kafka := filepath.Join(cacheDir(t), "kafka")
	args := []string{"-XX:TieredStopAtLevel=1", "-Dlog4j2.configurationFile=" + filepath.Join(kafka, "log4j2.xml"), "-cp", filepath.Join(kafka, "libs", "*"),
		filepath.Join(clientsDir, "java", "ProducerInside.java"), name, bootstrap, topic}
	p := &inside{}
	cmd := exec.Command("java", append(args, config...)...)
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	p.proc = startProcess(t, cmd)
	t.Cleanup(p.proc.kill)
	return p
}

// end waits for the program's end and returns the key=value lines that it has printed.
func (p *inside) end(t *testing.T) map[string]string {
	t.Helper()
	eventually(t, waitTimeout, "the producer to end", p.proc.ended)
	if p.proc.err != nil {
		t.Fatalf("%v\n%s%s", p.proc.err, p.out.String(), p.err.String())
	}
	told := map[string]string{}
	for line := range strings.Lines(p.out.String()) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			told[key] = value
		}
	}
	t.Logf("it says %v", told)
	return told
}

// producerInside runs one case to its end.
func producerInside(t *testing.T, bootstrap, name, topic string, config ...string) map[string]string {
	t.Helper()
	return startInside(t, bootstrap, name, topic, config...).end(t)
}

func number(t *testing.T, told map[string]string, key string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(told[key], 10, 64)
	must(t, err)
	return n
}
