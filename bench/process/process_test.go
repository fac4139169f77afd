package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTailKeepsTheEnd(t *testing.T) {
	var b tail
	for i := range 2000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	if s := b.String(); len(s) > TailMax || !strings.HasSuffix(s, "line 1999\n") {
		t.Errorf("%d bytes, ends %q", len(s), s[max(0, len(s)-20):])
	}
}

func TestFileTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := FileTail(path); !strings.Contains(got, "no such file") {
		t.Errorf("a file that is not there: %q", got)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", TailMax)+"end"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := FileTail(path); len(got) != TailMax || !strings.HasSuffix(got, "xend") {
		t.Errorf("%d bytes, ends %q", len(got), got[max(0, len(got)-20):])
	}
}
