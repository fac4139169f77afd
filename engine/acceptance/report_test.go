package acceptance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// startReport is what a start says of the log directory.
type startReport struct {
	logs    int
	how     string // in a new directory, opened after a clean stop, opened after a crash
	checked int64  // bytes
	cut     int64  // bytes
	damaged int    // logs
	mended  bool   // after a clean stop: files were made again
}

var startReportLine = regexp.MustCompile(`recovery: .*: (\d+) logs (.+) in [\d.]+ ms: (\d+) bytes checked, (\d+) cut, (\d+) logs damaged\n`)

// startsSaying starts the broker and returns its report. Apache Kafka gives none.
func (b *broker) startsSaying(t *testing.T) startReport {
	t.Helper()
	if standIn() {
		b.start(t)
		return startReport{}
	}
	before := len(b.log.String())
	b.start(t)
	said := b.log.String()[before:]
	match := startReportLine.FindStringSubmatch(said)
	if match == nil {
		t.Fatalf("no report of the start in:\n%s", said)
	}
	r := startReport{how: match[2], mended: strings.Contains(said, "made again: ")}
	_, err := fmt.Sscan(match[1]+" "+match[3]+" "+match[4]+" "+match[5], &r.logs, &r.checked, &r.cut, &r.damaged)
	must(t, err)
	return r
}

// indexSizes are the sizes of the indexes of a partition, by file.
func indexSizes(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for _, ext := range []string{".index", ".timeindex"} {
		files, err := filepath.Glob(filepath.Join(dir, "*"+ext))
		must(t, err)
		for _, file := range files {
			sizes[file] = fileSize(t, file)
		}
	}
	return sizes
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}
