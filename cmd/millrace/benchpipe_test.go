package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A bench whose output nobody reads any more, as before "| head -1", clears away its broker and its directory.
func TestBenchWhoseReaderGoes(t *testing.T) {
	for name, c := range map[string]struct {
		args string
		of   func(cmd *exec.Cmd, w *os.File)
		code int
	}{
		"results":  {"consume --backlog 0.01 --runs 1 --duration 100ms", func(cmd *exec.Cmd, w *os.File) { cmd.Stdout = w }, 0},
		"progress": {"produce --duration 1h", func(cmd *exec.Cmd, w *os.File) { cmd.Stderr = w }, 1}, // it ends
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			r.Close()
			cmd := exec.Command(os.Args[0], append([]string{"bench"}, strings.Fields(c.args+" --dir "+dir)...)...)
			c.of(cmd, w)
			_ = cmd.Run() // how it ended is in ProcessState
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("%s, want exit code %d", cmd.ProcessState, c.code)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}
