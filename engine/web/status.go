package web

import (
	_ "embed"
	"net/http"
	"time"

	"github.com/millrace/millrace/engine"
)

// Status is what GET /status answers. Fields are only ever added.
type Status struct {
	Broker     BrokerStatus      `json:"broker"`
	Cores      []CoreStatus      `json:"cores"`
	Partitions []PartitionStatus `json:"partitions"` // by topic and number
}

// BrokerStatus is the broker itself.
type BrokerStatus struct {
	NodeID    int32   `json:"node_id"`
	ClusterID string  `json:"cluster_id"`
	Address   string  `json:"address"` // where clients connect
	LogDir    string  `json:"log_dir"`
	Backend   string  `json:"backend"` // of its rings
	Uptime    float64 `json:"uptime_seconds"`
	FetchPath string  `json:"fetch_path"`   // how what is not in the memory tail is sent
	FetchCold uint64  `json:"fetch_cold"`   // sends of what was not in the page cache
	Sync      string  `json:"journal_sync"` // how a write of the journal becomes durable: dsync or fdatasync

	FetchBytes FetchBytes `json:"fetch_bytes"`
}

// FetchBytes is what was sent to consumers, by the way it went.
type FetchBytes struct {
	Memory   uint64 `json:"memory"`
	Copy     uint64 `json:"copy"`
	Sendfile uint64 `json:"sendfile"`
	Splice   uint64 `json:"splice"`
}

// CoreStatus is one core. A core whose queue is full does not answer: Answered is
// false, and the rest 0.
type CoreStatus struct {
	Core        int   `json:"core"`
	Answered    bool  `json:"answered"`
	Partitions  int   `json:"partitions"`
	Connections int64 `json:"connections"`
	JournalUsed int64 `json:"journal_used_bytes"` // needed until they are in the segments
	JournalSize int64 `json:"journal_size_bytes"`
}

// PartitionStatus is one partition. The log end is read last: flushed and the high
// watermark are not above it.
type PartitionStatus struct {
	Topic         string `json:"topic"`
	Internal      bool   `json:"internal"`
	Partition     int    `json:"partition"`
	Core          int    `json:"core"`
	Policy        string `json:"flush_policy"`
	LogStart      int64  `json:"log_start"`
	HighWatermark int64  `json:"high_watermark"`
	LogEnd        int64  `json:"log_end"`
	Flushed       int64  `json:"flushed"` // records below it survive power loss
	Size          int64  `json:"size_bytes"`
	Failed        string `json:"failed,omitempty"`      // why it takes no more records
	Uncleanable   string `json:"uncleanable,omitempty"` // why it is not compacted any more
}

// StatusOf asks the cores, and blocks until each has answered. From the edge.
func StatusOf(b *engine.Broker, up time.Duration) *Status {
	sh := b.Shared()
	s := &Status{
		Broker:     BrokerStatus{NodeID: sh.NodeID, ClusterID: sh.ClusterID, Address: b.Addr().String(), LogDir: sh.LogDir, Uptime: up.Seconds()},
		Cores:      []CoreStatus{},
		Partitions: []PartitionStatus{},
	}
	stats := b.Stats()
	s.Broker.Sync = b.JournalWay().String()
	s.Broker.FetchPath, s.Broker.FetchBytes = b.FetchPaths().String(), fetchBytes(stats)
	for i := range stats {
		c := &stats[i]
		s.Broker.FetchCold += c.Ring.SendFileCold + c.Net.ReadCold
		if c.Backend != "" {
			s.Broker.Backend = c.Backend
		}
		s.Cores = append(s.Cores, CoreStatus{
			Core: c.Core, Answered: c.Backend != "", Partitions: c.Partitions, Connections: int64(c.Net.Open),
			JournalUsed: c.JournalUsed, JournalSize: c.JournalSize,
		})
	}
	image, routes := sh.Image.Load(), sh.Routes.Load()
	for _, name := range image.Names {
		t := routes.ByName[name]
		if t == nil { // it goes just now
			continue
		}
		policy := b.FlushPolicy(image.Topics[name]).String()
		for i := range t.Partitions {
			p := t.Partitions[i].Published
			x := PartitionStatus{
				Topic: name, Internal: t.Internal, Partition: i, Core: t.Partitions[i].Core, Policy: policy,
				LogStart: p.LogStart.Load(), HighWatermark: p.HighWatermark.Load(), Flushed: p.Flushed.Load(), Size: p.Size.Load(),
			}
			x.LogEnd = p.LogEnd.Load()
			if f := p.Fenced.Load(); f != nil {
				x.Failed = f.Error()
			}
			if err := p.Uncleanable.Load(); err != nil {
				x.Uncleanable = (*err).Error()
			}
			s.Partitions = append(s.Partitions, x)
		}
	}
	return s
}

func (s *Server) status(w http.ResponseWriter, b *engine.Broker) {
	answerJSON(w, StatusOf(b, time.Since(s.start)), "  ")
}

// page is /status for people. It fetches that from here, and nothing from elsewhere.
//
//go:embed status.html
var page []byte

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'")
	w.Write(page)
}
