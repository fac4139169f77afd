package acceptance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

// managedTimeout is for two starts of Apache Kafka, each on the one CPU that a broker gets, and for Maven; or for building a NATS server.
const managedTimeout = 5 * time.Minute

// managed is "millrace bench produce" with these arguments, in a directory that it leaves empty, with peers in the tests' cache.
func managed(t *testing.T, args ...string) (cmd *exec.Cmd, dir string) {
	t.Helper()
	compiled, err := exec.Command("go", "env", "GOCACHE").Output() // it would move with the user's cache directory
	must(t, err)
	t.Setenv("GOCACHE", strings.TrimSpace(string(compiled)))
	t.Setenv("XDG_CACHE_HOME", cacheDir(t))
	dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), managedTimeout)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, millraceBinary(), append([]string{"bench", "produce", "--dir", dir, "--rate", "200", "--warmup", "200ms"}, args...)...)
	// Interrupted as by a user, it ends its brokers itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTimeout
	return cmd, dir
}

// nothingLeft fails if there is a file in dir, or a process whose command line names it.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 0 {
		t.Fatalf("left behind in %s: %v", dir, left)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && strings.Contains(string(line), dir) {
			t.Fatalf("%s is still running: %q", path, line)
		}
	}
}

// skipUnfetched leaves the test out where the broker's jars, or its source, cannot be fetched.
func skipUnfetched(t *testing.T, said string) {
	t.Helper()
	if strings.Contains(said, "Maven could not fetch the jars") || strings.Contains(said, "Go could not build the server") {
		skip(t, said)
	}
}

// measured makes one run of each of two rows, "cached" and "flushed" by what the brokers say of themselves, and looks at the table. It returns
// the runs' targets and settings.
func measured(t *testing.T, cached, flushed string, args ...string) []measuredRun {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw.json")
	cmd, dir := managed(t, append(args, "--duration", "1s", "--runs", "1", "--repeats", "0", "--out", raw)...)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	skipUnfetched(t, said.String())
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), said.String())
	}
	for row, means := range map[string]string{cached: "cached", flushed: "flushed"} {
		if !regexp.MustCompile(`(?m)^\| ` + row + `(?: \(disturbed\))? \| ` + means + ` \| .* \| [\d.]+ m?s \| [\d.]+ \| 1 \| passed \|$`).MatchString(out.String()) {
			t.Errorf("no row of %s that is %s, has a start to ready and was read back:\n%s", row, means, out.String())
		}
	}
	var file struct{ Runs []measuredRun }
	text, err := os.ReadFile(raw)
	must(t, err)
	must(t, json.Unmarshal(text, &file))
	if len(file.Runs) != 2 || file.Runs[0].Target.DataDir == file.Runs[1].Target.DataDir {
		t.Fatalf("two runs on directories of their own, yet they are %+v", file.Runs)
	}
	nothingLeft(t, dir)
	return file.Runs
}

// measuredRun is what these tests look at in a result.
type measuredRun struct {
	Target   struct{ Version, DataDir, CPUs string }
	Settings map[string]string
	Use      struct{ BrokerResidentBytes, BrokerCPUSeconds float64 }
}

// Apache Kafka as a managed peer: installed, started anew for each run, measured, read back, gone.
func TestManagedKafka(t *testing.T) {
	needs(t, "kafka", "maven")
	runs := measured(t, "kafka", "sync", "--peer", "kafka", "--peer", "sync=kafka+flush.messages=1")
	kind, err := peer.Lookup("kafka")
	must(t, err)
	contains(t, runs[0].Target.Version, kind.Version)
	equalSlices(t, "topic settings", kind.TopicSettings, slices.Sorted(maps.Keys(runs[0].Settings)))
}

// NATS JetStream likewise, with what the running server says of its syncs.
func TestManagedNATS(t *testing.T) {
	runs := measured(t, "nats", "sync", "--peer", "nats", "--peer", "sync=nats+sync_interval=always", "--partitions", "3", "--producers", "2")
	kind, err := peer.Lookup("nats")
	must(t, err)
	contains(t, "v"+strings.TrimPrefix(runs[0].Target.Version, "NATS server "), kind.Version)
	for i, always := range []string{"false", "true"} {
		r := runs[i]
		if r.Settings["sync_always"] != always || r.Settings["sync_interval"] != "2m0s" || r.Settings["storage"] != "file" || r.Settings["num_replicas"] != "1" {
			t.Errorf("settings %v", r.Settings)
		}
		if r.Use.BrokerResidentBytes == 0 || r.Target.CPUs == "" && runtime.NumCPU() > 1 {
			t.Errorf("resident %v, %+v", r.Use.BrokerResidentBytes, r.Target)
		}
	}
}

// An interrupt in the middle of a run ends Kafka too.
func TestManagedKafkaInterrupted(t *testing.T) {
	if testing.Short() {
		return // one start of Kafka is enough there
	}
	needs(t, "kafka", "maven")
	interrupted(t, "kafka")
}

// And a NATS server.
func TestManagedNATSInterrupted(t *testing.T) { interrupted(t, "nats") }

func interrupted(t *testing.T, kind string) {
	t.Helper()
	cmd, dir := managed(t, "--peer", kind, "--duration", "10m", "--runs", "1")
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	var said strings.Builder
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "open loop") {
			must(t, cmd.Process.Signal(syscall.SIGINT))
		}
	}
	err = cmd.Wait()
	skipUnfetched(t, said.String())
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "interrupted") {
		t.Fatalf("%v\n%s", err, said.String())
	}
	nothingLeft(t, dir)
}
