package bench

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestMachineSaysItsLimits(t *testing.T) {
	m := ReadMachine(t.TempDir())
	if v := m.Limits["open files"]; !strings.Contains(v, "files") {
		t.Errorf("open files: %q", v)
	}
	if !strings.Contains(m.Limits["locked memory"], "bytes") && !strings.Contains(m.Limits["locked memory"], "unlimited") {
		t.Errorf("locked memory: %q", m.Limits["locked memory"])
	}
	if !strings.Contains(m.PageCache, "dirty_expire_centisecs") {
		t.Errorf("page cache: %q", m.PageCache)
	}
	said := map[string]string{}
	for _, f := range m.facts() {
		said[f.Name] = f.Value
	}
	if said["limit: open files"] != m.Limits["open files"] || said["page cache"] != m.PageCache {
		t.Errorf("%q", said)
	}
}

func TestProbeWrites(t *testing.T) {
	dir := t.TempDir()
	rows, err := probeWrites(t.Context(), dir, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[int]bool{}
	for _, r := range rows {
		sizes[r.Size] = true
		if r.Way != WayBuffered || r.Depth != 1 || r.Missing == "" && r.Writes == 0 {
			t.Errorf("%+v", r)
		}
	}
	if len(sizes) != 5 || len(rows) != 5 {
		t.Errorf("%d rows of %d sizes", len(rows), len(sizes))
	}
	if got := names(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
	d := Disk{Writes: rows}
	if line := d.writesLine(); !strings.Contains(line, "4 KiB ") {
		t.Errorf("%q", line)
	}
	if figures, err := writesFigure("x", d); err != nil || len(figures) != 1 || len(figures[0].Table.Lines) == 0 {
		t.Errorf("%v, %v", figures, err)
	}
	if (Disk{}).writesLine() != "" {
		t.Error("a line of nothing")
	}
	if figures, err := writesFigure("x", Disk{}); err != nil || figures != nil {
		t.Errorf("of nothing: %v, %v", figures, err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := probeWrites(stopped, dir, time.Hour); err == nil {
		t.Error("an interrupted probe says nothing of it")
	}
	if got := names(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
}
