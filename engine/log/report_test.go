package log

import (
	"errors"
	"strings"
	"testing"
)

// After a crash only logs to which something happened get a line of their own.
func TestReportFolds(t *testing.T) {
	r := &RecoveryReport{Path: "/data"}
	for i := range 1000 {
		r.Logs = append(r.Logs, LogReport{Topic: "whole", Partition: int32(i), Checked: 10, Rebuilt: 1})
	}
	r.Logs = append(r.Logs,
		LogReport{Topic: "cut", Cut: 5, CutAt: "00000000000000000000.log:90", Rebuilt: 1},
		LogReport{Topic: "damaged", Damage: errors.New("bad batch")},
		LogReport{Topic: "replayed", Replayed: 3},
	)
	text := r.String()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	for i, want := range []string{
		"/data: 1003 logs opened after a crash in 0.0 ms: 10000 bytes checked, 5 cut, 1 logs damaged",
		"cut-0: ", "damaged-0: ", "replayed-0: ", "1000 logs were whole, 1000 indexes of them made again",
	} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d: %q, want %q", i, lines[i], want)
		}
	}
	r = &RecoveryReport{Ignored: []string{"a-0.1-stray", "mine", "a-1.2-stray", "a-2.3-stray", "a-3.4-stray", "b-0.5-stray"}}
	for _, want := range []string{"  mine: not a partition's, left alone\n", "  5 directories were set aside by an earlier start and stay until somebody removes them: a-0.1-stray, a-1.2-stray, a-2.3-stray and 2 more\n"} {
		if text := r.String(); !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	clean := &RecoveryReport{Path: "/data", Clean: true, Logs: []LogReport{
		{Topic: "quiet", Clean: true}, {Topic: "mended", Clean: true, Mended: []string{"00000000000000000000.index"}},
	}}
	if text := clean.String(); strings.Contains(text, "quiet") || strings.Contains(text, "whole") || !strings.Contains(text, "mended-0") {
		t.Errorf("after a clean stop:\n%s", text)
	}
}
