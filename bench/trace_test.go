package bench

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const traceJSON = `{"stages":[{"name":"wait","count":%d,"sum":%d,"buckets":[[1000,%d],[2000,%d]]}],
 "total":{"name":"total","count":1,"sum":5000,"buckets":[[6000,1]]},"durable":{"name":"durable","count":0,"sum":0,"buckets":[]},
 "journal":{"name":"journal","count":0,"sum":0,"buckets":[]},
 "worst":[{"time":"2026-01-02T03:04:05.678Z","topic":"t","partition":3,"partitions":1,"bytes":99,"core":0,"owner":1,"total":5000,"stages":{"wait":4000},"longest":"wait","cause":"the write before","gc":1500000}]}`

func TestTraceCommand(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/trace" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(strings.NewReplacer("%d", "20000").Replace(traceJSON)))
	}))
	defer s.Close()
	var out, errs bytes.Buffer
	admin := strings.TrimPrefix(s.URL, "http://")
	if code := Main([]string{"trace", "--admin", admin}, nil, &out, &errs); code != exitOK {
		t.Fatalf("code %d: %s", code, errs.String())
	}
	for _, want := range []string{"wait", "p99.9", "t-3, 99 bytes: wait took 4 µs: the write before; garbage collection stopped all for 1.5ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	s.Close()
	errs.Reset()
	if code := Main([]string{"trace", "--admin", admin}, nil, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), admin) {
		t.Errorf("code %d: %s", code, errs.String())
	}
}

func TestTraceSince(t *testing.T) {
	from := StageTimes{Count: 300, Sum: 300000, Buckets: [][2]uint64{{1000, 300}}}
	to := StageTimes{Count: 30300, Sum: 45300000, Buckets: [][2]uint64{{1000, 15300}, {2000, 14700}, {9000, 300}}}
	d := to.since(from)
	if d.Count != 30000 || *d.mean() != 1.5 || *d.Quantile(.5) != 1 || *d.Quantile(.99) != 2 || d.Quantile(.999) != nil {
		t.Errorf("%+v", d)
	}
	if p := to.since(to).Quantile(.5); p != nil {
		t.Errorf("a percentile of nothing: %v", *p)
	}
}

func TestStagesInATable(t *testing.T) {
	run := func(durable, journal uint64) *Result {
		return &Result{Class: Flushed, Trace: &Trace{Durable: StageTimes{Count: 20000, Buckets: [][2]uint64{{durable, 20000}}}, Journal: StageTimes{Count: 20000, Buckets: [][2]uint64{{journal, 20000}}}}}
	}
	table := []Summary{
		Summarize("journal", 16, []*Result{run(3e6, 2e6), run(9e6, 3e6), run(2e6, 1e6)}),
		Summarize("kafka", 16, []*Result{{}, {}}),
		Summarize("os", 16, []*Result{run(3e6, 2e6)}),
	}
	table[2].Class = Cached
	if got, want := stages(table, false), "- journal: from append to flushed p99 3.00 ms; the journal's own writes p99 2.00 ms (1.50×)\n"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
