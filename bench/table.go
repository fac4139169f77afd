package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// micros prints microseconds in the unit that reads best, or "-".
func micros(us *float64) string {
	if us == nil {
		return "-"
	}
	switch v := *us; {
	case v < 1000:
		return fmt.Sprintf("%.0f µs", v)
	case v < 10_000:
		return fmt.Sprintf("%.2f ms", v/1e3)
	case v < 100_000:
		return fmt.Sprintf("%.1f ms", v/1e3)
	case v < 10_000_000:
		return fmt.Sprintf("%.0f ms", v/1e3)
	default:
		return fmt.Sprintf("%.1f s", v/1e6)
	}
}

// number prints a figure with its thousands apart, or "-".
func number(v *float64) string {
	if v == nil {
		return "-"
	}
	if *v < 10 {
		return fmt.Sprintf("%.2f", *v)
	}
	s := fmt.Sprintf("%.0f", *v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func partitionsOf(n int) string {
	if n == 1 {
		return "1 partition"
	}
	return fmt.Sprintf("%d partitions", n)
}

func mebibytes(bytes *float64) string {
	if bytes == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f", *bytes/(1<<20))
}

func ratio(v, base float64) string {
	if base == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f×", v/base)
}

func ratioOf(v, base *float64) string {
	if v == nil || base == nil {
		return "-"
	}
	return ratio(*v, *base)
}

// PrintResult writes one run for reading at a terminal.
func PrintResult(out io.Writer, r *Result) {
	w := r.Workload
	p := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	p("target      %s at %s, %s, durability %s", r.Target.Name, r.Target.Address, or(r.Target.Version, "version unknown"), r.Class)
	p("workload    %s", r.Loop)
	p("            %s, %d producers, %d-byte records, %d a batch (%.1f measured), acks %s, %s, idempotent %v, %s",
		partitionsOf(w.Partitions), w.Producers, w.Size, w.Batch, r.perBatch(), w.Acks, w.Compression, w.Idempotent, r.Target.ClientLib)
	p("            %.1f s measured after %v of warm-up", r.Seconds, w.Warmup)
	if r.Touched != nil {
		p("            memory touched before: %s", r.Touched)
	}
	p("settings    %s", settingsLine(r))
	p("throughput  %s records/s, %.2f MB/s; %d acknowledged, %d failed, %d unfinished, %d unsent",
		number(&r.RecordsPerSecond), r.BytesPerSecond/1e6, r.Acked, r.Failed, r.Hanging, r.Unsent)
	p("latency     %s", latencyLine(r.Latency))
	if s := r.Latency.refused(); s != "" {
		p("            %s", s)
	}
	if w.Rate > 0 {
		p("send lag    %s (how late the generator was; contained in the latency)", latencyLine(r.Lag))
	}
	r.printStreams(p)
	if r.Waits != nil {
		p("waits       p50 / p99: %s", waitsLine(summarizeWaits([]*Result{r})))
	}
	p("cpu         steal %.2f %%, idle %.1f %%, client %.2f s, broker %s s, others %s s, of which the kernel's own threads %s s; broker resident %s MiB",
		r.Use.Steal, r.Use.Idle, r.Use.ClientCPU, number(r.Use.BrokerCPU), number(r.Use.OthersCPU), number(r.Use.KernelCPU), mebibytes(r.brokerRSS()))
	if r.Use.Steal > StealMax {
		p("            disturbed: over %.0f %% of CPU time was stolen by the hypervisor", StealMax)
	}
	if r.Memory != nil {
		p("memory      copied at %s by the broker's CPU, before and after the run", r.Memory)
	}
	if flushes := r.flushesPerSecond(); flushes != nil {
		p("disk        %s flushes/s, %s bytes each, %d writes (whole device %s, others' included)", number(flushes), number(r.bytesPerFlush()), *r.Use.DiskWrites, r.Use.Disk)
	} else {
		p("disk        flushes unknown: the broker's directory is not known here; name it with --data-dir")
	}
	if r.Trace != nil {
		p("stages      p99: %s (millrace bench trace -h)", r.Trace.brief())
	}
	v := r.Verify
	p("read back   %s: %d acknowledged, %d read, %d lost, %d duplicate, %d reordered, %d corrupt, %d foreign, %d there without acknowledgement",
		v.State, v.Acknowledged, v.Read, v.Lost, v.Duplicate, v.Reordered, v.Corrupt, v.Foreign, v.Unacknowledged)
	for _, e := range v.Examples {
		p("            %s", e)
	}
	for _, n := range r.Notes {
		p("note        %s", n)
	}
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func latencyLine(l Latency) string {
	if l.Count == 0 {
		return "no records"
	}
	var b strings.Builder
	for i, v := range l.percentiles() {
		fmt.Fprintf(&b, "%s %s  ", quantiles[i].Name, micros(v))
	}
	fmt.Fprintf(&b, "max %s  (%d records)", micros(&l.Max), l.Count)
	return b.String()
}

// settingsShown are the topic settings that decide what a figure means.
var settingsShown = []string{"flush.policy", "flush.messages", "flush.ms", "flush.bytes", "min.insync.replicas", "min.flushed.replicas", "compression.type", "segment.bytes", "message.timestamp.type",
	nullSetting, "sync_always", "sync_interval", "storage", "num_replicas", "persist_mode"}

func settingsLine(r *Result) string {
	if r.SettingsError != "" {
		return "not read back: " + r.SettingsError
	}
	var parts []string
	for _, k := range settingsShown {
		if v, ok := r.Settings[k]; ok {
			parts = append(parts, k+"="+v)
		}
	}
	return strings.Join(parts, " ") + " (as the broker reports them)"
}

// Section puts text between the markers of a named section of a document,
// replacing what stood there, or at the end of a document that has none. It
// fails when a marker stands alone, or twice.
func Section(document []byte, name, text string) ([]byte, error) {
	begin := fmt.Appendf(nil, "<!-- millrace bench: %s -->", name)
	end := fmt.Appendf(nil, "<!-- end of millrace bench: %s -->", name)
	block := bytes.Join([][]byte{begin, []byte(strings.TrimRight(text, "\n")), end}, []byte("\n"))
	nb, ne := bytes.Count(document, begin), bytes.Count(document, end)
	switch {
	case nb == 0 && ne == 0:
		out := bytes.TrimRight(document, "\n")
		if len(out) > 0 {
			out = append(out, "\n\n"...)
		}
		return append(append(out, block...), '\n'), nil
	case nb != 1 || ne != 1 || bytes.Index(document, begin) > bytes.Index(document, end):
		return nil, fmt.Errorf("section %q: one begin marker before one end marker expected, found %d and %d", name, nb, ne)
	}
	i, j := bytes.Index(document, begin), bytes.Index(document, end)+len(end)
	return bytes.Join([][]byte{document[:i], block, document[j:]}, nil), nil
}

// UpdateSection rewrites a named section of a file, which need not exist yet.
func UpdateSection(path, name, text string) error {
	document, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		document, err = []byte("# Benchmarks\n"), nil
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", path, err)
	}
	out, err := Section(document, name, text)
	if err != nil {
		return fmt.Errorf("update %s: %w", path, err)
	}
	return replace(path, out)
}
