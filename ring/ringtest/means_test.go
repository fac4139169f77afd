package ringtest

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// said is a test that only notes how it ended.
type said struct {
	testing.TB
	name, failed, skipped string
}

func (s *said) Helper()               {}
func (s *said) Name() string          { return s.name }
func (s *said) Skip(...any)           { s.skipped = "skipped"; runtime.Goexit() }
func (s *said) Fatalf(string, ...any) { s.failed = "failed"; runtime.Goexit() }

func TestNeedUring(t *testing.T) {
	blocked := errors.New("two\nlines")
	list := filepath.Join(t.TempDir(), "skips")
	t.Setenv("MILLRACE_TEST_SKIPS", list)
	run := func(ci string, err error) *said {
		t.Setenv("CI", ci)
		s := &said{TB: t, name: "TestOf" + ci}
		done := make(chan struct{})
		go func() {
			defer close(done)
			NeedUring(s, err)
		}()
		<-done
		return s
	}
	if s := run("true", nil); s.failed+s.skipped != "" {
		t.Errorf("there is a ring, and the test %s%s", s.failed, s.skipped)
	}
	if s := run("", blocked); s.failed+s.skipped != "skipped" {
		t.Errorf("there is none, and the test %q", s.failed+s.skipped)
	}
	want, lines := "failed", 1
	if setupUring() != nil {
		want, lines = "skipped", 2
	}
	if s := run("true", blocked); s.failed+s.skipped != want {
		t.Errorf("under CI the test %q, want %q", s.failed+s.skipped, want)
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "TestOf: io_uring: two; lines\n") || strings.Count(string(text), "\n") != lines {
		t.Errorf("the list: %q", text)
	}
}
