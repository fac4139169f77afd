package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/bench"
)

// A bench that is told to end, by Ctrl-C or by its terminal that goes, leaves valid results of what there was, marked as cut short, and
// neither a broker nor its directory.
func TestBenchThatIsStopped(t *testing.T) {
	workload := filepath.Join(t.TempDir(), "w.yaml")
	if err := os.WriteFile(workload, []byte(`name: a rate that is looked for
topics: 1
partitionsPerTopic: 1
keyDistributor: NO_KEY
messageSize: 128
useRandomizedPayloads: true
randomBytesRatio: 1
randomizedPayloadPoolSize: 1
producersPerTopic: 1
subscriptionsPerTopic: 1
consumerPerSubscription: 1
producerRate: 0
consumerBacklogSizeGB: 0
testDurationMinutes: 1
`), 0o600); err != nil {
		t.Fatal(err)
	}
	caught := make(chan os.Signal, 1) // and so not ignored by what is started here, where these tests run under nohup
	signal.Notify(caught, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
	for name, c := range map[string]struct {
		args   string
		seen   string // on standard error: then it is stopped
		signal syscall.Signal
		file   string // of results, in the directory that --out or --report name
	}{
		"produce":  {"produce --warmup 0s --duration 1h --report OUT/page.html", "warm-up 0s, then", syscall.SIGHUP, "page.json"},
		"curve":    {"curve --from 200 --warmup 0s --duration 300ms --growth 1.01 --out OUT/curve.json", "sustained", syscall.SIGINT, "curve.json"},
		"workload": {"workload " + workload + " --serve --probe 300ms --from 200 --growth 1.01 --out OUT", "sustained", syscall.SIGHUP, "w.json"},
		"consume":  {"consume --backlog 0.01 --duration 300ms --runs 1000 --out OUT/consume.json", "run 1,", syscall.SIGHUP, "consume.json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, out := t.TempDir(), t.TempDir()
			cmd := exec.Command(os.Args[0], append([]string{"bench"}, strings.Fields(strings.ReplaceAll(c.args, "OUT", out)+" --dir "+dir)...)...)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			lines := bufio.NewScanner(stderr)
			for stopped := false; lines.Scan(); {
				said.WriteString(lines.Text() + "\n")
				if !stopped && strings.Contains(lines.Text(), c.seen) {
					stopped = true
					if err := cmd.Process.Signal(c.signal); err != nil {
						t.Error(err)
					}
				}
			}
			_ = cmd.Wait() // how it ended is in ProcessState
			if got := cmd.ProcessState.ExitCode(); got != 1 {
				t.Fatalf("%s, want exit code 1\n%s", cmd.ProcessState, &said)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
			page := filepath.Join(t.TempDir(), "page.html")
			if code := bench.Main([]string{"report", filepath.Join(out, c.file), "--out", page}, nil, io.Discard, &said); code != 0 {
				t.Fatalf("exit code %d of the report\n%s", code, &said)
			}
			for _, path := range []string{page, strings.TrimSuffix(page, ".html") + ".md"} {
				if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "Cut short") {
					t.Errorf("%s is not marked as cut short: %v", path, err)
				}
			}
		})
	}
}

// Under nohup a terminal that goes ends nothing.
func TestBenchUnderNohup(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "bench", "produce", "--rate", "200", "--warmup", "0s", "--duration", "500ms", "--dir", dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "warm-up 0s, then") {
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &said)
	}
}
