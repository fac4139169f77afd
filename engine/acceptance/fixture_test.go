package acceptance_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// Long, for a machine that others use too: what never happens is what fails.
	readyTimeout = 120 * time.Second // Apache Kafka needs 5 s on two busy cores
	stopTimeout  = 60 * time.Second
	waitTimeout  = 120 * time.Second // what a condition may take
	pollInterval = 20 * time.Millisecond
)

// TestMain stops the brokers that tests share, and fails when one does not end cleanly.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, b := range sharedBrokers {
		if err := b.terminate(); err != nil {
			fmt.Fprintf(os.Stderr, "shared broker on %s: %v\n%s\n", b.backend, err, b.log.tail())
			code = 1
		}
		os.RemoveAll(b.dir)
	}
	os.Exit(code)
}

// broker is one broker process, or one that ran before the tests (then proc is nil).
type broker struct {
	bootstrap string // host:port
	admin     string // host:port
	dir       string // log.dirs
	backend   string // ring.backend
	overrides []string
	log       *output
	proc      *process
}

// eachBackend runs the test once for every backend of $MILLRACE_TEST_BACKENDS.
func eachBackend(t *testing.T, run func(t *testing.T, backend string)) {
	backends := strings.Split(cmp.Or(os.Getenv("MILLRACE_TEST_BACKENDS"), "uring,posix"), ",")
	switch {
	case runningBroker() != "":
		backends = []string{"running"}
	case standIn():
		backends = []string{"apache-kafka"}
	}
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			if backend == "uring" {
				needs(t, "io_uring")
			}
			run(t, backend)
		})
	}
}

// scenario is one test on the shared broker.
type scenario struct {
	name string
	run  func(t *testing.T, b *broker)
}

// eachShared runs the scenarios on the shared broker of every backend.
func eachShared(t *testing.T, scenarios []scenario) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) { s.run(t, shared(t, backend)) })
		})
	}
}

var sharedBrokers = map[string]*broker{}

// shared is the broker that all tests use that neither kill nor configure it.
func shared(t *testing.T, backend string) *broker {
	b := sharedBrokers[backend]
	switch {
	case runningBroker() != "":
		return &broker{bootstrap: runningBroker(), backend: backend}
	case b == nil:
		dir, err := os.MkdirTemp("", "millrace-acceptance-")
		must(t, err)
		b = newBroker(t, backend, dir)
		sharedBrokers[backend] = b
		b.start(t)
	case b.proc.ended():
		t.Fatalf("the shared broker has ended (%v):\n%s", b.proc.err, b.log.tail())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("broker's log:\n%s", b.log.tail())
		}
	})
	return b
}

// startBroker starts a broker of the test's own, with overrides key=value, killed when the test ends.
func startBroker(t *testing.T, backend string, overrides ...string) *broker {
	ownProcess(t)
	b := newBroker(t, backend, t.TempDir(), overrides...)
	t.Cleanup(func() {
		if b.proc != nil {
			b.kill(t)
		}
		if t.Failed() {
			t.Logf("broker's log:\n%s", b.log.tail())
		}
	})
	b.start(t)
	return b
}

// newBroker is a broker that has not been started, on ports of its own.
func newBroker(t *testing.T, backend, dir string, overrides ...string) *broker {
	b := &broker{bootstrap: freeAddress(t), admin: freeAddress(t), dir: dir, backend: backend, log: &output{}}
	b.overrides = append([]string{"group.initial.rebalance.delay.ms=0"}, overrides...)
	return b
}

// start starts the process and waits until it is ready.
func (b *broker) start(t *testing.T) {
	t.Helper()
	b.launch(t)
	eventually(t, readyTimeout, "the broker to be ready", func() bool {
		if b.proc.ended() {
			t.Fatalf("the broker ended before it was ready (%v):\n%s", b.proc.err, b.log.tail())
		}
		return b.ready()
	})
}

// ready tells whether the admin listener says so.
func (b *broker) ready() bool {
	response, err := http.Get("http://" + b.admin + "/ready")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// launch starts the process and does not wait.
func (b *broker) launch(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"serve"}, args...)
	for _, override := range append([]string{
		"listeners=PLAINTEXT://" + b.bootstrap, "admin.listener=" + b.admin,
		"log.dirs=" + b.dir, "ring.backend=" + b.backend,
	}, b.overrides...) {
		if !standIn() || !strings.HasPrefix(override, "ring.") {
			args = append(args, "--override", override)
		}
	}
	cmd := exec.Command(brokerBinary(), args...)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	b.proc = startProcess(t, cmd)
}

// kill ends the process as kill -9 does.
func (b *broker) kill(t *testing.T) {
	t.Helper()
	b.proc.kill()
}

// stop ends the process with SIGTERM, which closes the logs cleanly.
func (b *broker) stop(t *testing.T) {
	t.Helper()
	must(t, b.terminate())
}

func (b *broker) terminate() error {
	b.proc.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.proc.done:
	case <-time.After(stopTimeout):
		b.proc.kill()
		return fmt.Errorf("still running %v after SIGTERM", stopTimeout)
	}
	if code := b.proc.cmd.ProcessState.ExitCode(); code != 0 && !standIn() {
		return fmt.Errorf("ended with code %d after SIGTERM", code)
	}
	return nil
}

// process is a child that dies with the tests.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait, once done is closed
}

func startProcess(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second // for what it has said to be read, on a busy machine
	must(t, cmd.Start())
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// output collects what a process writes.
type output struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.String()
}

// tail is the end of it, for failure messages.
func (o *output) tail() string {
	s := o.String()
	return s[max(0, len(s)-4000):]
}

// client is a franz-go client of the broker, closed when the test ends.
func (b *broker) client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.bootstrap), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	must(t, err)
	t.Cleanup(c.CloseAllowingRebalance)
	return c
}

// topic creates a topic; configs are key=value.
func (b *broker) topic(t testing.TB, partitions int32, configs ...string) string {
	t.Helper()
	name := unique(t)
	values := map[string]*string{}
	for _, config := range configs {
		key, value, _ := strings.Cut(config, "=")
		values[key] = &value
	}
	adm := kadm.NewClient(b.client(t))
	response, err := adm.CreateTopic(timeout(t), partitions, 1, values, name)
	must(t, errors.Join(err, response.Err))
	eventually(t, waitTimeout, "a leader for every partition of "+name, func() bool {
		ends, err := adm.ListEndOffsets(timeout(t), name)
		return err == nil && ends.Error() == nil && len(ends[name]) == int(partitions)
	})
	return name
}

// produce appends values v0, v1, ... to one partition and returns once all are acknowledged.
func (b *broker) produce(t testing.TB, topic string, partition int32, values ...string) {
	t.Helper()
	c := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	var records []*kgo.Record
	for _, value := range values {
		records = append(records, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)})
	}
	must(t, c.ProduceSync(timeout(t), records...).FirstErr())
}

// numbered is prefix0, prefix1, ... of the given count.
func numbered(prefix string, count int) []string {
	values := make([]string, count)
	for i := range values {
		values[i] = fmt.Sprint(prefix, i)
	}
	return values
}

// readAll reads a topic from its start to its present end, by partition.
func (b *broker) readAll(t testing.TB, topic string) map[int32][]*kgo.Record {
	t.Helper()
	c := b.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	adm := kadm.NewClient(c)
	starts, err := adm.ListStartOffsets(timeout(t), topic)
	must(t, errors.Join(err, starts.Error()))
	ends, err := adm.ListEndOffsets(timeout(t), topic)
	must(t, errors.Join(err, ends.Error()))
	want := int64(0)
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, end.Partition)
		want += end.Offset - start.Offset
	})
	got := map[int32][]*kgo.Record{}
	for n := int64(0); n < want; {
		fetches := c.PollFetches(timeout(t))
		must(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			got[r.Partition] = append(got[r.Partition], r)
			n++
		})
	}
	return got
}

// listAfter is the first offset of partition 0 whose record is not older than when.
func (b *broker) listAfter(t testing.TB, topic string, when time.Time) int64 {
	t.Helper()
	listed, err := kadm.NewClient(b.client(t)).ListOffsetsAfterMilli(timeout(t), when.UnixMilli(), topic)
	must(t, errors.Join(err, listed.Error()))
	offset, _ := listed.Lookup(topic, 0)
	return offset.Offset
}

// committed are the group's committed offsets by partition; a partition without one is missing.
func (b *broker) committed(t testing.TB, group, topic string) map[int32]int64 {
	t.Helper()
	fetched, err := kadm.NewClient(b.client(t)).FetchOffsets(timeout(t), group)
	must(t, errors.Join(err, fetched.Error()))
	offsets := map[int32]int64{}
	for p, offset := range fetched[topic] {
		offsets[p] = offset.At
	}
	return offsets
}

// values are the values of records, in order.
func values(records []*kgo.Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, string(r.Value))
	}
	return all
}

var uniqueCount atomic.Int64

// unique is a name for a topic or a group that no other run has used.
func unique(t testing.TB) string {
	name := regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(t.Name(), "-")
	return fmt.Sprintf("%s-%d-%d", name, time.Now().Unix()%1_000_000, uniqueCount.Add(1))
}

// timeout is the test's context with the deadline of one step.
func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until the condition holds, and fails the test at the deadline.
func eventually(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// equal fails the test when got is not want.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func equalSlices[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// contains fails the test unless text has every one of the parts.
func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Fatalf("%q is missing in:\n%s", part, text)
		}
	}
}

// count is small with -short, else full.
func count(small, full int) int {
	if testing.Short() {
		return small
	}
	return full
}

func brokerBinary() string {
	return cmp.Or(os.Getenv("MILLRACE_BIN"), filepath.Join("..", "..", "bin", "millrace"))
}

// standIn tells whether Apache Kafka stands in for our broker.
func standIn() bool { return filepath.Base(brokerBinary()) == "apache-kafka.sh" }

func runningBroker() string { return os.Getenv("MILLRACE_TEST_BOOTSTRAP") }

// Ports are taken below the kernel's range for outgoing connections, so that none of those gets in the way.
// Processes begin at different ones: a port is free for a moment before its broker takes it.
var nextPort atomic.Int32

func init() { nextPort.Store(int32(os.Getpid() % 200)) }

func freeAddress(t testing.TB) string {
	t.Helper()
	for range 200 {
		address := fmt.Sprintf("127.0.0.1:%d", 22400+nextPort.Add(1)%200)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port in 22400-22599")
	return ""
}

// noise is 2n characters that compress to about half.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return hex.AppendEncode(nil, b)
}
