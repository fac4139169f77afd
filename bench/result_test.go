package bench

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResultFilesAreWrittenWhole(t *testing.T) {
	for name, write := range map[string]func(path string) error{
		"produce":   File{Format: resultFormat}.Write,
		"disk":      DiskFile{Format: resultFormat}.Write,
		"powerloss": PowerFile{Seed: 1}.Write,
		"consume":   consumeFile{}.Write,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "out.json")
			if err := os.WriteFile(path, []byte("an earlier one"), 0o444); err != nil {
				t.Fatal(err)
			}
			was, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(path); err != nil {
				t.Fatal(err)
			}
			is, err := os.Stat(path)
			if err != nil || os.SameFile(was, is) {
				t.Errorf("written over in place: %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// /dev/stdout is a link: what it stands for is written to, and the link stays.
func TestResultFileThroughALink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("a longer text than what follows"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := replace(link, []byte("new\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "new\n" {
		t.Errorf("%q %v", b, err)
	}
	if to, err := os.Readlink(link); err != nil || to != file {
		t.Errorf("%q %v", to, err)
	}
}
