// Package web is what a broker shows over HTTP: /live, /ready, /metrics (Prometheus'
// text format), /status and /trace (JSON) and a page at / that shows it to people. It lives at the edge: net/http's goroutines, which
// reach the cores only by asking them for copies.
package web

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sort"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/engine"
	"github.com/millrace/millrace/engine/metrics"
	"github.com/millrace/millrace/engine/wire"
	"github.com/millrace/millrace/ring"
)

// Server serves the pages. It can be started before there is a broker: /live then
// answers, and /ready does not.
type Server struct {
	http   http.Server
	ln     net.Listener
	broker atomic.Pointer[engine.Broker]
	start  time.Time
}

// Listen starts to serve on addr.
func Listen(addr string) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin.listener: %w", err)
	}
	s := &Server{ln: ln, start: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "live\n") })
	mux.HandleFunc("GET /ready", s.ofBroker(s.ready))
	mux.HandleFunc("GET /metrics", s.ofBroker(s.metrics))
	mux.HandleFunc("GET /status", s.ofBroker(s.status))
	mux.HandleFunc("GET /trace", s.ofBroker(s.trace))
	mux.HandleFunc("GET /{$}", s.page)
	s.http.Handler = mux
	s.http.ReadHeaderTimeout = 5 * time.Second
	go s.http.Serve(ln)
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Show gives it the broker.
func (s *Server) Show(b *engine.Broker) { s.broker.Store(b) }

// Close ends it.
func (s *Server) Close() error {
	s.broker.Store(nil)
	return s.http.Close()
}

func (s *Server) ready(w http.ResponseWriter, _ *engine.Broker) { io.WriteString(w, "ready\n") }

// ofBroker answers once there is a broker that serves.
func (s *Server) ofBroker(answer func(http.ResponseWriter, *engine.Broker)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		b := s.broker.Load()
		if b == nil || !b.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		answer(w, b)
	}
}

func answerJSON(w http.ResponseWriter, value any, indent string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", indent)
	e.Encode(value)
}

func (s *Server) metrics(w http.ResponseWriter, b *engine.Broker) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	out := bufio.NewWriter(w)
	defer out.Flush()
	Write(out, b.Stats(), b, time.Since(s.start))
}

// Write writes the metrics.
func Write(w io.Writer, stats []engine.CoreStats, b *engine.Broker, up time.Duration) {
	m := &writer{w: w}
	m.head("millrace_uptime_seconds", "gauge", "Since the process started.")
	m.line("millrace_uptime_seconds", "", up.Seconds())
	m.head("millrace_info", "gauge", "What runs.")
	backend := ""
	if len(stats) > 0 {
		backend = stats[0].Backend
	}
	m.line("millrace_info", fmt.Sprintf(`backend=%q,go=%q,cluster_id=%q,node_id="%d"`, backend, runtime.Version(), b.Shared().ClusterID, b.Shared().NodeID), 1)

	var sum metrics.Shard
	for i := range stats {
		sum.Merge(&stats[i].API)
	}
	m.head("millrace_requests_total", "counter", "Requests by API.")
	for key, n := range sum.Requests {
		if n > 0 {
			m.line("millrace_requests_total", fmt.Sprintf("api=%q", wire.Name(int16(key))), float64(n))
		}
	}
	m.total("millrace_produce_batches_total", "Batches that producers sent.", sum.ProduceBatches)
	m.total("millrace_produce_bytes_total", "Bytes of batches that producers sent.", sum.ProduceBytes)
	m.total("millrace_produce_errors_total", "Partitions in produce requests answered with an error.", sum.ProduceErrors)
	m.total("millrace_fetch_bytes_total", "Bytes of records sent to consumers.", sum.FetchBytes)
	m.head("millrace_fetch_source_bytes_total", "counter", "Bytes of records sent, by where they came from.")
	m.line("millrace_fetch_source_bytes_total", `source="memory"`, float64(sum.FetchMemory))
	m.line("millrace_fetch_source_bytes_total", `source="file"`, float64(sum.FetchFile))
	m.head("millrace_fetch_path_bytes_total", "counter", "Bytes of records sent, by the way they went: from the memory tail; read from a segment into memory and sent from there; by sendfile on the core's thread; by splice or sendfile on another.")
	paths := fetchBytes(stats)
	m.line("millrace_fetch_path_bytes_total", `path="memory"`, float64(paths.Memory))
	m.line("millrace_fetch_path_bytes_total", `path="copy"`, float64(paths.Copy))
	m.line("millrace_fetch_path_bytes_total", `path="sendfile"`, float64(paths.Sendfile))
	m.line("millrace_fetch_path_bytes_total", `path="splice"`, float64(paths.Splice))
	m.total("millrace_fetch_errors_total", "Partitions in fetch requests answered with an error.", sum.FetchErrors)
	m.histogram("millrace_produce_seconds", "From the request's arrival to its reply, acks=1 and all.", &sum.ProduceTime)
	m.head("millrace_produce_stage_seconds", "summary", "Time of produce requests by stage: see /trace for histograms.")
	for i := metrics.Decoded; i <= metrics.Replied; i++ {
		h := &sum.Flight.Stages[i]
		m.line("millrace_produce_stage_seconds_sum", fmt.Sprintf("stage=%q", metrics.Stages[i]), float64(h.Sum)/1e9)
		m.line("millrace_produce_stage_seconds_count", fmt.Sprintf("stage=%q", metrics.Stages[i]), float64(h.Count))
	}
	m.histogram("millrace_fetch_seconds", "From the request's arrival to its reply, the wait for records included.", &sum.FetchTime)

	var writes metrics.Histogram
	for i := range stats {
		writes.Merge(&stats[i].Journal.Write)
	}
	m.histogram("millrace_journal_write_seconds", "One synchronous write of a journal.", &writes)

	per := func(name, kind, help string, f func(s *engine.CoreStats) float64) {
		m.head(name, kind, help)
		for i := range stats {
			m.line(name, fmt.Sprintf(`core="%d"`, stats[i].Core), f(&stats[i]))
		}
	}
	per("millrace_connections", "gauge", "Open connections.", func(s *engine.CoreStats) float64 { return float64(s.Net.Open) })
	per("millrace_connections_accepted_total", "counter", "Connections accepted.", func(s *engine.CoreStats) float64 { return float64(s.Net.Accepted) })
	per("millrace_connections_refused_total", "counter", "Connections refused by max.connections.", func(s *engine.CoreStats) float64 { return float64(s.Net.Refused) })
	per("millrace_connections_idle_total", "counter", "Connections closed by connections.max.idle.ms.", func(s *engine.CoreStats) float64 { return float64(s.Net.Idle) })
	per("millrace_bad_frames_total", "counter", "Frames of impossible size.", func(s *engine.CoreStats) float64 { return float64(s.Net.BadFrames) })
	per("millrace_received_bytes_total", "counter", "Bytes received.", func(s *engine.CoreStats) float64 { return float64(s.Net.BytesIn) })
	per("millrace_sent_bytes_total", "counter", "Bytes sent.", func(s *engine.CoreStats) float64 { return float64(s.Net.BytesOut) })
	per("millrace_frame_copied_bytes_total", "counter", "Bytes copied to put requests together that did not lie in one receive buffer.", func(s *engine.CoreStats) float64 { return float64(s.Net.Copied) })
	per("millrace_log_appended_bytes_total", "counter", "Bytes appended to logs.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Bytes) })
	per("millrace_log_writes_total", "counter", "Writes to segments.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Writes) })
	per("millrace_log_syncs_total", "counter", "Syncs of segments.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Syncs) })
	per("millrace_log_duplicates_total", "counter", "Batches of idempotent producers that were there already.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Duplicates) })
	per("millrace_log_refused_total", "counter", "Appends that had to wait because too much was unwritten.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Refused) })
	per("millrace_fetch_lookups_total", "counter", "Reads of segments that needed a worker to find their place.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Lookups) })
	per("millrace_fetch_cold_total", "counter", "Sends of a range of a segment that was not in the page cache.", func(s *engine.CoreStats) float64 { return float64(s.Ring.SendFileCold + s.Net.ReadCold) })
	per("millrace_fetch_turns_total", "counter", "Sends of a range of a segment that waited for the next turn of the core.", func(s *engine.CoreStats) float64 { return float64(s.Ring.SendTurns) })
	per("millrace_readahead_bytes_total", "counter", "Bytes of segments read ahead that were not in the page cache.", func(s *engine.CoreStats) float64 { return float64(s.Logs.PrefetchedBytes) })
	per("millrace_readahead_dropped_bytes_total", "counter", "Bytes of them that were let go again behind their reader.", func(s *engine.CoreStats) float64 { return float64(s.Logs.ForgottenBytes) })
	per("millrace_cleanings_total", "counter", "Passes of compaction that were finished.", func(s *engine.CoreStats) float64 { return float64(s.Logs.Cleanings) })
	per("millrace_cleanings_failed_total", "counter", "Passes of compaction that failed.", func(s *engine.CoreStats) float64 { return float64(s.Logs.CleaningsFailed) })
	per("millrace_cleaned_bytes_total", "counter", "Bytes of segments that compaction has freed.", func(s *engine.CoreStats) float64 { return float64(s.Logs.CleanedBytes) })
	per("millrace_group_records_loaded_total", "counter", "Records of __consumer_offsets that were replayed.", func(s *engine.CoreStats) float64 { return float64(s.GroupRecords) })
	per("millrace_journal_writes_total", "counter", "Synchronous writes of the journal.", func(s *engine.CoreStats) float64 { return float64(s.Journal.Frames) })
	per("millrace_journal_bytes_total", "counter", "Bytes in them, padding included.", func(s *engine.CoreStats) float64 { return float64(s.Journal.Bytes) })
	per("millrace_journal_entries_total", "counter", "Entries in them: of one partition each.", func(s *engine.CoreStats) float64 { return float64(s.Journal.Entries) })
	per("millrace_journal_cuts_total", "counter", "Times that half of the journal was freed.", func(s *engine.CoreStats) float64 { return float64(s.Journal.Cuts) })
	per("millrace_journal_waits_total", "counter", "Writes that had to wait for room in the journal.", func(s *engine.CoreStats) float64 { return float64(s.Journal.Waits) })
	per("millrace_journal_used_bytes", "gauge", "Bytes of the journal that are needed until they are in the segments.", func(s *engine.CoreStats) float64 { return float64(s.JournalUsed) })
	per("millrace_journal_size_bytes", "gauge", "Bytes that the journal has.", func(s *engine.CoreStats) float64 { return float64(s.JournalSize) })
	per("millrace_tail_bytes", "gauge", "Memory held by recent batches.", func(s *engine.CoreStats) float64 { return float64(s.TailBytes) })
	per("millrace_pool_used_bytes", "gauge", "Memory of the core's pool in use.", func(s *engine.CoreStats) float64 { return float64(s.PoolUsed) })
	per("millrace_loop_steps_total", "counter", "Steps of the core's loop.", func(s *engine.CoreStats) float64 { return float64(s.Steps) })
	per("millrace_ring_enters_total", "counter", "System calls to submit or wait.", func(s *engine.CoreStats) float64 { return float64(s.Ring.Enters) })
	per("millrace_ring_completions_total", "counter", "Completions delivered.", func(s *engine.CoreStats) float64 { return float64(s.Ring.Completed) })
	per("millrace_ring_no_buffers_total", "counter", "Receives that found no buffer.", func(s *engine.CoreStats) float64 { return float64(s.Ring.NoBuffers) })
	m.head("millrace_ring_ops_total", "counter", "Operations by kind.")
	for code := ring.Nop; code <= ring.Task; code++ {
		n := uint64(0)
		for i := range stats {
			n += stats[i].Ring.Count(code)
		}
		m.line("millrace_ring_ops_total", fmt.Sprintf("op=%q", code), float64(n))
	}
	m.partitions(b)
}

// fetchBytes adds the cores up.
func fetchBytes(stats []engine.CoreStats) (b FetchBytes) {
	for i := range stats {
		s := &stats[i]
		b.Memory += s.API.FetchMemory
		b.Copy += s.Net.Read
		b.Sendfile += s.Ring.SendFileIn
		b.Splice += s.Ring.SendFileSpl
	}
	return b
}

func (m *writer) partitions(b *engine.Broker) {
	routes := b.Shared().Routes.Load()
	names := make([]string, 0, len(routes.ByName))
	for name := range routes.ByName {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, g := range []struct {
		name, help string
		value      func(p *engine.Published) int64
	}{
		{"millrace_partition_log_start_offset", "LW: the first offset that can be read.", func(p *engine.Published) int64 { return p.LogStart.Load() }},
		{"millrace_partition_high_watermark", "HW: consumers see what is below.", func(p *engine.Published) int64 { return p.HighWatermark.Load() }},
		{"millrace_partition_log_end_offset", "LEO: the offset the next record gets.", func(p *engine.Published) int64 { return p.LogEnd.Load() }},
		{"millrace_partition_flushed_offset", "Records below survive power loss.", func(p *engine.Published) int64 { return p.Flushed.Load() }},
		{"millrace_partition_size_bytes", "Bytes of all segments.", func(p *engine.Published) int64 { return p.Size.Load() }},
		{"millrace_partition_failed", "1: its disk failed or its log is damaged, and it takes no more records.", func(p *engine.Published) int64 {
			if p.Fenced.Load() != nil {
				return 1
			}
			return 0
		}},
		{"millrace_partition_uncleanable", "1: compaction of it has failed, and is not tried again before a restart.", func(p *engine.Published) int64 {
			if p.Uncleanable.Load() != nil {
				return 1
			}
			return 0
		}},
	} {
		m.head(g.name, "gauge", g.help)
		for _, name := range names {
			t := routes.ByName[name]
			for i := range t.Partitions {
				m.line(g.name, fmt.Sprintf(`topic=%q,partition="%d"`, name, i), float64(g.value(t.Partitions[i].Published)))
			}
		}
	}
}

type writer struct{ w io.Writer }

func (m *writer) head(name, kind, help string) {
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m *writer) line(name, labels string, v float64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(m.w, "%s%s %s\n", name, labels, strconv.FormatFloat(v, 'f', -1, 64))
}

func (m *writer) total(name, help string, n uint64) {
	m.head(name, "counter", help)
	m.line(name, "", float64(n))
}

func (m *writer) histogram(name, help string, h *metrics.Histogram) {
	m.head(name, "histogram", help)
	seen := uint64(0)
	for i, n := range h.Buckets {
		seen += n
		if b := metrics.Bound(i); b&(b-1) == 0 && b >= 1<<12 && b <= 1<<34 { // 4 µs to 17 s, always the same ones
			m.line(name+"_bucket", fmt.Sprintf(`le="%g"`, float64(metrics.Bound(i))/1e9), float64(seen))
		}
	}
	m.line(name+"_bucket", `le="+Inf"`, float64(h.Count))
	m.line(name+"_sum", "", float64(h.Sum)/1e9)
	m.line(name+"_count", "", float64(h.Count))
}
