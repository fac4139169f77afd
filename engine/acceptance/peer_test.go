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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/peer"
)

// managedTimeout is for two starts of Apache Kafka, each on the one CPU that a broker gets, and for Maven.
const managedTimeout = 5 * time.Minute

// managed is "millrace bench produce" with these arguments, in a directory that it leaves empty, with jars in the tests' cache.
func managed(t *testing.T, args ...string) (cmd *exec.Cmd, dir string) {
	t.Helper()
	needs(t, "kafka", "maven")
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

// skipUnfetched leaves the test out where Maven cannot fetch the broker's jars.
func skipUnfetched(t *testing.T, said string) {
	t.Helper()
	if strings.Contains(said, "Maven could not fetch the jars") {
		skip(t, said)
	}
}

// Apache Kafka as a managed peer: installed, started anew for each run, measured, read back, gone.
func TestManagedKafka(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "raw.json")
	cmd, dir := managed(t, "--peer", "kafka", "--peer", "sync=kafka+flush.messages=1", "--duration", "1s", "--runs", "1", "--repeats", "0", "--out", raw)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	skipUnfetched(t, said.String())
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), said.String())
	}
	for row, means := range map[string]string{"kafka": "cached", "sync": "flushed"} {
		if !regexp.MustCompile(`(?m)^\| ` + row + `(?: \(disturbed\))? \| ` + means + ` \| .* \| [\d.]+ m?s \| [\d.]+ \| 1 \| passed \|$`).MatchString(out.String()) {
			t.Errorf("no row of %s that is %s, has a start to ready and was read back:\n%s", row, means, out.String())
		}
	}
	var file struct {
		Runs []struct {
			Target   struct{ Version, DataDir string }
			Settings map[string]string
		}
	}
	text, err := os.ReadFile(raw)
	must(t, err)
	must(t, json.Unmarshal(text, &file))
	if len(file.Runs) != 2 || file.Runs[0].Target.DataDir == file.Runs[1].Target.DataDir {
		t.Fatalf("two runs on directories of their own, yet they are %+v", file.Runs)
	}
	kind, err := peer.Lookup("kafka")
	must(t, err)
	contains(t, file.Runs[0].Target.Version, kind.Version)
	equalSlices(t, "topic settings", kind.TopicSettings, slices.Sorted(maps.Keys(file.Runs[0].Settings)))
	nothingLeft(t, dir)
}

// An interrupt in the middle of a run ends Kafka too.
func TestManagedKafkaInterrupted(t *testing.T) {
	if testing.Short() {
		return // one start of Kafka is enough there
	}
	cmd, dir := managed(t, "--peer", "kafka", "--duration", "10m", "--runs", "1")
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
