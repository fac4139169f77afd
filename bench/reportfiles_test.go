package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// latencyOf is a distribution of n samples from 1 us up.
func latencyOf(t *testing.T, n int64) Latency {
	t.Helper()
	h := newHistogram()
	for i := range n {
		if err := h.RecordValue(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	l, err := summarize(h, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// otherFiles are result files of the other commands, by what the page says of each.
func otherFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	l := latencyOf(t, 20_000)
	consume := consumeFile{Command: "millrace bench consume", Phases: []consumeResult{
		{Seconds: 1, Latency: l}, {Readers: 1, Seconds: 1, Latency: l, Bytes: 5e8},
		{Seconds: 1, Latency: l}, {Readers: 1, Seconds: 1, Latency: l, Bytes: 5e8, Disturbed: true},
	}}
	disk := DiskFile{Format: resultFormat, Command: "millrace bench disk", Verdicts: []string{"flushes: a verdict"}, Rows: []DiskRow{
		{Way: WayDSync, Place: PlaceOverwrite, Size: 4096, Depth: 1, Latency: l, BytesPerSecond: 1e6},
		{Way: WayDSync, Place: PlaceOverwrite, Size: 65536, Depth: 1, Latency: l, BytesPerSecond: 5e6},
		{Way: WayDirect, Place: PlaceOverwrite, Size: 4096, Depth: 1, Missing: "no O_DIRECT"},
	}}
	power := PowerFile{Command: "millrace bench powerloss", Seed: 8431, Rows: []*PowerRow{
		{Policy: "journal", Promises: true, Cuts: 2, Acknowledged: 5000, EachCut: []PowerCut{{}, {}}},
		{Policy: "os", Cuts: 2, Acknowledged: 4000, Findings: Findings{Lost: 300, LossWindow: 750}, EachCut: []PowerCut{{Findings: Findings{Lost: 300, LossWindow: 750}}, {}}},
		{Policy: "kafka|x", Foreign: true, Error: "mount: <no>"},
	}}
	paths := map[string]string{}
	for says, write := range map[string]func(path string) error{
		"The tail alone":                         func(path string) error { return writeJSON(path, consume) },
		"p50 by size, one write at a time":       disk.Write,
		"Loss window of each cut, longest first": power.Write,
	} {
		paths[says] = filepath.Join(dir, strings.Fields(says)[0]+".json")
		if err := write(paths[says]); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

func TestReportOfOtherCommands(t *testing.T) {
	dir := t.TempDir()
	files := otherFiles(t, dir)
	all := []string{"report", "--out", filepath.Join(dir, "all.html"), oldFile}
	for says, path := range files {
		var out bytes.Buffer
		page := path + ".html"
		if code := Main([]string{"report", path, "--out", page}, nil, &out, &out); code != exitOK {
			t.Fatalf("%s: exit code %d: %s", path, code, &out)
		}
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		checkPage(t, string(b))
		for _, want := range []string{says, "<svg viewBox", "Repeat with", "millrace bench "} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s: no %q", path, want)
			}
		}
		all = append(all, path)
		// bench compare still takes those of produce only.
		if code := Main([]string{"compare", path, path}, nil, &out, &out); code != exitUsage {
			t.Errorf("compare of %s exits %d", path, code)
		}
	}
	var out bytes.Buffer
	if code := Main(all, nil, &out, &out); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &out)
	}
	mine := filepath.Join(dir, "README.md")
	if err := os.WriteFile(mine, []byte("# Mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if code := Main([]string{"report", "--out", filepath.Join(dir, "README.html"), oldFile}, nil, &said, &said); code == exitOK || !strings.Contains(said.String(), mine) {
		t.Errorf("exit code %d: %s", code, &said)
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "# Mine\n" {
		t.Errorf("%q, %v", b, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "all.html"))
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, string(b))
}

func TestReportMarkdown(t *testing.T) {
	dir := t.TempDir()
	files := otherFiles(t, dir)
	power := files["Loss window of each cut, longest first"]
	var out bytes.Buffer
	if code := Main([]string{"report", power, oldFile, "--markdown"}, nil, &out, &out); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &out)
	}
	for _, want := range []string{"| journal | **0 of 5,000** | none | yes |", "| os | **300 of 4,000** | 750 ms | no |", "was made durable first", `kafka\|x`, "mount: <no>", "Medians of", "Repeat with:\n\n    millrace bench powerloss\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	out.Reset()
	if code := Main([]string{"report", files["p50 by size, one write at a time"], "--markdown"}, nil, &out, &out); code != exitOK || !strings.Contains(out.String(), "| 64 KiB | 1 | overwrite | direct RWF_DSYNC |") {
		t.Errorf("exit code %d: %s", code, &out)
	}
	document := filepath.Join(dir, "B.md")
	const begin, end = "<!-- millrace bench: cuts -->", "<!-- end of millrace bench: cuts -->"
	if err := os.WriteFile(document, []byte("# Figures\n\n"+begin+"\nstale\n"+end+"\n\nThe end.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time over its own
		if code := Main([]string{"report", "--update", document, "--section", "cuts", power}, nil, &out, &out); code != exitOK {
			t.Fatalf("exit code %d: %s", code, &out)
		}
		b, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(b); !strings.HasPrefix(s, "# Figures\n\n"+begin) || !strings.HasSuffix(s, end+"\n\nThe end.\n") || strings.Contains(s, "stale") || strings.Count(s, "300 of 4,000") != 1 {
			t.Errorf("%s", s)
		}
	}
	for _, args := range [][]string{{power, "--update", document}, {power, "--section", "x", "--markdown"}} {
		if code := Main(append([]string{"report"}, args...), nil, &out, &out); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}

// A run that was stored without a table has one in Markdown all the same.
func TestReportMarkdownOfASingleRun(t *testing.T) {
	var out bytes.Buffer
	if code := Main([]string{"report", oneFile, "--markdown"}, nil, &out, &out); code != exitOK || !strings.Contains(out.String(), "| row | acknowledged means |") {
		t.Errorf("exit code %d: %s", code, &out)
	}
}

func TestReadResultRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"none": "{}", "null": `{"rows":[{"policy":"os"},null]}`, "format": `{"format":99,"rows":[{"way":"x"}]}`, "text": "hello", "runs": `{"format":1,"runs":[null]}`} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readResult(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
