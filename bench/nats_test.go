package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/bench/forgetfs"
	"github.com/millrace/millrace/bench/natsfake"
	"github.com/millrace/millrace/bench/peer"
	"github.com/millrace/millrace/ring/ringtest"
	"github.com/nats-io/nats.go"
)

// fakeJetStream is a NATS target whose server is s, and whose monitoring says varz.
func fakeJetStream(t *testing.T, s *natsfake.Server, varz string) *NATS {
	t.Helper()
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	n := &NATS{Name: "nats", Address: s.Address(), Monitor: monitor(t, varz)}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Stop() })
	return n
}

// monitor is where a server's monitoring says varz.
func monitor(t *testing.T, varz string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/varz" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, varz)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

const (
	varzAlways  = `{"jetstream":{"config":{"sync_interval":120000000000,"sync_always":true}}}`
	varzDefault = `{"jetstream":{"config":{"sync_interval":120000000000}}}`
)

// natsWorkload is short: 400 records over 4 partitions by 2 producers.
func natsWorkload() Workload {
	return Workload{Rate: 2000, Partitions: 4, Replication: -1, Size: 64, Batch: 2, Acks: "all", Producers: 2, Compression: "none", Duration: 200 * time.Millisecond, DrainTimeout: time.Minute}
}

func TestNATSRunIsReadBackAndRemoved(t *testing.T) {
	s := &natsfake.Server{}
	n := fakeJetStream(t, s, varzAlways)
	r, err := Run(t.Context(), n, natsWorkload(), allSent())
	if err != nil {
		t.Fatal(err)
	}
	if r.Verify.State != "passed" || r.Verify.Acknowledged != 400 || r.Verify.Read != 400 || r.Failed != 0 || r.Hanging != 0 {
		t.Errorf("%+v, %d failed, %d unfinished: %s", r.Verify, r.Failed, r.Hanging, r.Error)
	}
	if r.Class != Flushed || r.Settings["sync_always"] != "true" || r.Settings["sync_interval"] != "2m0s" || r.Settings["storage"] != "file" || r.Settings["num_replicas"] != "1" {
		t.Errorf("%s, settings %v %s", r.Class, r.Settings, r.SettingsError)
	}
	if r.perBatch() != 1 || r.Target.Version != "NATS server 2.99.0" {
		t.Errorf("%v records a batch, %+v", r.perBatch(), r.Target)
	}
	for _, want := range []string{"stored and acknowledged by itself", "with 1.0 records on average, not 2"} {
		if !strings.Contains(strings.Join(r.Notes, "\n"), want) {
			t.Errorf("no %q in the notes %q", want, r.Notes)
		}
	}
	if left := s.Streams(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNATSSaturatesWithinWhatIsAsked(t *testing.T) {
	n := fakeJetStream(t, &natsfake.Server{}, varzDefault)
	w := natsWorkload()
	w.Rate, w.InFlight, w.Batch = 0, 10, 1
	r, err := Run(t.Context(), n, w, allSent())
	if err != nil {
		t.Fatal(err)
	}
	if r.Class != Cached || r.Verify.State != "passed" || r.Acked == 0 || r.Failed+r.Hanging != 0 {
		t.Errorf("%s, %d acknowledged, %d failed, %d unfinished, %+v", r.Class, r.Acked, r.Failed, r.Hanging, r.Verify)
	}
}

// A delivery that does not arrive makes the client library begin again behind the last that did: nothing is read twice.
func TestNATSReadsOnWhereItWas(t *testing.T) {
	s := &natsfake.Server{Mislay: 30}
	r, err := Run(t.Context(), fakeJetStream(t, s, varzDefault), natsWorkload(), allSent())
	if err != nil {
		t.Fatal(err)
	}
	if r.Verify.State != "passed" || r.Verify.Read != 400 {
		t.Errorf("%+v", r.Verify)
	}
}

func TestNATSLossAndRefusalAreSeen(t *testing.T) {
	n := 0 // the server asks one at a time
	s := &natsfake.Server{Publish: func(stream string, sequence int, _ []byte) (string, bool) {
		switch n++; n {
		case 7:
			return fmt.Sprintf(`{"stream":%q,"seq":%d}`, stream, sequence), false // acknowledged, not stored
		case 9:
			return `{"error":{"code":429,"err_code":10167,"description":"too many requests"}}`, false
		}
		return fmt.Sprintf(`{"stream":%q,"seq":%d}`, stream, sequence), true
	}}
	r, err := Run(t.Context(), fakeJetStream(t, s, varzDefault), natsWorkload(), allSent())
	if err != nil {
		t.Fatal(err)
	}
	if r.Verify.State != "FAILED" || r.Verify.Lost != 1 || r.Failed != 1 || !strings.Contains(r.Error, "too many requests") {
		t.Errorf("%+v, %d failed: %s", r.Verify, r.Failed, r.Error)
	}
}

// What is not answered stays in flight, holds its slot, and ends when the client is closed.
func TestNATSWithoutAnswersIsUnfinished(t *testing.T) {
	s := &natsfake.Server{Publish: func(string, int, []byte) (string, bool) { return "", true }}
	n := fakeJetStream(t, s, varzDefault)
	w := natsWorkload()
	w.Rate, w.InFlight, w.Batch, w.DrainTimeout = 0, 6, 1, 10*time.Millisecond
	r, err := Run(t.Context(), n, w, allSent())
	if err != nil {
		t.Fatal(err)
	}
	if r.Acked != 0 || r.Failed != 0 || r.Hanging != 6 || r.OK() {
		t.Errorf("%d acknowledged, %d failed, %d unfinished", r.Acked, r.Failed, r.Hanging)
	}
}

// A connection that breaks leaves what was in flight without a known end: it is not made again.
func TestNATSThatHangsUpIsUnfinished(t *testing.T) {
	s := &natsfake.Server{}
	n := fakeJetStream(t, s, varzDefault)
	w := natsWorkload()
	w.Partitions, w.Producers = 1, 1
	if err := n.Create(t.Context(), "topic", w); err != nil {
		t.Fatal(err)
	}
	var ended []error
	c, err := n.NewClient("topic", w, func(_ []byte, err error) { ended = append(ended, err) })
	if err != nil {
		t.Fatal(err)
	}
	send := func() { c.Send(0, [][]byte{[]byte("value")}) }
	send()
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Hangup()
	for !c.(*natsClient).conn.IsClosed() {
		sleep(time.Millisecond)
	}
	send()
	if err := c.Drain(over); err == nil {
		t.Error("drained with one in flight")
	}
	c.Close()
	send()
	c.Close()
	if len(ended) != 3 || ended[0] != nil || ended[1] == nil || ended[2] == nil {
		t.Errorf("ended with %v", ended)
	}
}

func TestNATSSettingsComeFromTheServer(t *testing.T) {
	w := natsWorkload()
	s := &natsfake.Server{Config: `,"persist_mode":"async"`}
	n := fakeJetStream(t, s, varzAlways)
	if err := n.Create(t.Context(), "topic", w); err != nil {
		t.Fatal(err)
	}
	settings, err := n.Settings(t.Context(), "topic")
	if err != nil || settings["persist_mode"] != "async" || classOf(settings) != Cached {
		t.Errorf("%v %v: what is persisted asynchronously is not flushed", settings, err)
	}
	s.Config = ""
	if err := n.createStream(t.Context(), "topic", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Settings(t.Context(), "topic"); err == nil || !strings.Contains(err.Error(), "stream topic-2 has other settings") {
		t.Errorf("streams that differ: %v", err)
	}
	n = fakeJetStream(t, &natsfake.Server{}, `{}`)
	if err := n.Create(t.Context(), "topic", w); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Settings(t.Context(), "topic"); err == nil || !strings.Contains(err.Error(), "no configuration of JetStream") {
		t.Errorf("a server without JetStream: %v", err)
	}
}

func TestNATSRefusesWhatItHasNot(t *testing.T) {
	for args, want := range map[string]string{
		"--acks 0":                               "acks 0",
		"--compression lz4":                      "does not compress",
		"--replication-factor 3":                 "3 replicas",
		"--topic-config flush.messages=1":        `no setting "flush.messages"`,
		"--partitions 1,4 --acks 0":              "acks 0",
		"--topic-config max.message.bytes=90000": "",
	} {
		p, err := parseProduce(append([]string{"--peer", "n=nats+sync_interval=always"}, strings.Fields(args)...), io.Discard)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", args, err)
		case want == "":
			rows, err := p.rows(Confinement{Broker: []int{0}})
			if err != nil || len(rows) != 1 || rows[0].Name != "n" || len(rows[0].Config) != 0 {
				t.Fatalf("%+v %v", rows, err)
			}
			if m, ok := rows[0].Target.(*ManagedNATS); !ok || len(m.CPUs) != 1 {
				t.Errorf("%+v", rows[0].Target)
			}
		}
	}
	w := natsWorkload()
	w.Size = 2 << 20
	if err := fakeJetStream(t, &natsfake.Server{}, varzDefault).Create(t.Context(), "topic", w); err == nil || !strings.Contains(err.Error(), "max_payload of 1048576") {
		t.Errorf("records over max_payload: %v", err)
	}
}

func TestNATSInFlightKeepsBelowTheServersBounds(t *testing.T) {
	for _, w := range []Workload{
		{Rate: 1, Size: 32, Producers: 1}, {Rate: 1, Size: 32, Producers: 500}, {Rate: 1, Size: 1 << 20, Producers: 8}, {Rate: 1, Size: 1 << 20, Producers: 90},
	} {
		if all := natsInFlight(w) * w.Producers; all > 100_000 || all*w.Size > 128<<20 || natsInFlight(w) < 1 || natsInFlight(w) > natsInFlightEach {
			t.Errorf("%+v: %d each", w, natsInFlight(w))
		}
	}
}

// numbered are n values, which say which they are.
func numbered(n int) (all [][]byte) {
	for i := range n {
		all = append(all, fmt.Appendf(nil, "value %d", i))
	}
	return all
}

// againClient is a client that sends again, and what it was told of each value.
func againClient(t *testing.T, n *NATS, w Workload) (Client, map[string]error) {
	t.Helper()
	n.Again = true
	w.Partitions, w.Producers, w.Rate, w.InFlight = 1, 1, 0, 100
	if err := n.Create(t.Context(), "topic", w); err != nil {
		t.Fatal(err)
	}
	ended := map[string]error{}
	c, err := n.NewClient("topic", w, func(value []byte, err error) {
		if _, twice := ended[string(value)]; twice {
			t.Errorf("told twice of %s", value)
		}
		ended[string(value)] = err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, ended
}

// What was not acknowledged when the connection broke is sent again, in order: what the server has is acknowledged and not stored again.
func TestNATSSendsAgain(t *testing.T) {
	arrived, publishes := make(chan int, 100), 0
	s := &natsfake.Server{Publish: func(stream string, sequence int, _ []byte) (string, bool) {
		publishes++
		defer func(n int) { arrived <- n }(publishes)
		ok := fmt.Sprintf(`{"stream":%q,"seq":%d}`, stream, sequence)
		switch {
		case publishes <= 2 || publishes > 8: // before what breaks the connection, and after it
			return ok, true
		case publishes <= 5:
			return "", true // stored, and nobody hears of it
		}
		return "", false
	}}
	n := fakeJetStream(t, s, varzAlways)
	if note := n.Info().Notes[0]; !strings.Contains(note, "no message ids") {
		t.Error(note)
	}
	c, ended := againClient(t, n, natsWorkload())
	c.Send(0, numbered(8))
	for <-arrived < 8 {
	}
	s.Hangup()
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Stop(), n.Start(t.Context())); err != nil { // it had been hung up on as well; it knows the topic still
		t.Fatal(err)
	}
	if note := n.Info().Notes[0]; !strings.HasSuffix(note, "message ids (what is not acknowledged is sent again)") || strings.Contains(note, "no message ids") {
		t.Error(note)
	}
	var read [][]byte
	if err := n.ReadBack(t.Context(), "topic", func(_ int32, value []byte) { read = append(read, value) }); err != nil {
		t.Fatal(err)
	}
	ends, err := n.EndOffsets(t.Context(), "topic")
	if err != nil || ends[0] != 8 || !reflect.DeepEqual(read, numbered(8)) {
		t.Errorf("read %q, ends %v, %v", read, ends, err)
	}
	if publishes != 8+3 {
		t.Errorf("%d messages for which there is no duplicate", publishes)
	}
	for _, value := range numbered(8) {
		if err, told := ended[string(value)]; err != nil || !told {
			t.Errorf("%s: told %v, %v", value, told, err)
		}
	}
}

// What is refused is sent again once; what is refused again is given up, and so is what is open when the client is closed.
func TestNATSSendsAgainOnce(t *testing.T) {
	refusals := map[string]int{"value 1": 1, "value 2": 2}
	s := &natsfake.Server{Publish: func(stream string, sequence int, value []byte) (string, bool) {
		if refusals[string(value)] > 0 {
			refusals[string(value)]--
			return `{"error":{"code":503,"err_code":10077,"description":"input/output error"}}`, false
		}
		return fmt.Sprintf(`{"stream":%q,"seq":%d}`, stream, sequence), true
	}}
	c, ended := againClient(t, fakeJetStream(t, s, varzAlways), natsWorkload())
	c.Send(0, numbered(3))
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(ended) != 3 || ended["value 0"] != nil || ended["value 1"] != nil || ended["value 2"] == nil || !strings.Contains(ended["value 2"].Error(), "input/output error") {
		t.Errorf("%v", ended)
	}
	s.Stop()
	c.Send(0, [][]byte{[]byte("late")})
	if err := c.Drain(t.Context()); err == nil {
		t.Error("drained without a server")
	}
	c.Close()
	if ended["late"] == nil || len(ended) != 4 {
		t.Errorf("%v", ended)
	}
}

// A client that had nothing open when the connection broke has another one after Drain: else it would send nothing in the next life.
func TestNATSConnectsAgain(t *testing.T) {
	s := &natsfake.Server{}
	c, ended := againClient(t, fakeJetStream(t, s, varzAlways), natsWorkload())
	c.Send(0, numbered(3))
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := c.(*natsAgain).client
	closed := first.conn.StatusChanged(nats.CLOSED)
	s.Hangup()
	<-closed
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := c.(*natsAgain).client; again == first || again.conn.IsClosed() {
		t.Error("no connection after Drain")
	}
	c.Send(0, [][]byte{[]byte("later")})
	if err := c.Drain(t.Context()); err != nil || len(ended) != 4 {
		t.Errorf("%v, %v", ended, err)
	}
}

// What can be read of a topic is read, whatever became of the rest.
func TestNATSReadsTheOtherStreams(t *testing.T) {
	n := fakeJetStream(t, &natsfake.Server{}, varzDefault)
	w := natsWorkload()
	if err := n.Create(t.Context(), "topic", w); err != nil {
		t.Fatal(err)
	}
	if err := n.js.DeleteStream(t.Context(), natsStream("topic", 0)); err != nil {
		t.Fatal(err)
	}
	c, err := n.NewClient("topic", w, func([]byte, error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Send(3, numbered(2))
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := 0
	if err := n.ReadBack(t.Context(), "topic", func(int32, []byte) { read++ }); err == nil || !strings.Contains(err.Error(), "stream topic-0") || read != 2 {
		t.Errorf("%d read, %v", read, err)
	}
	if _, err := n.EndOffsets(t.Context(), "topic"); err == nil || !strings.Contains(err.Error(), "stream topic-0") {
		t.Error(err)
	}
}

// natsPeer is a peer whose server is within this process.
type natsPeer struct {
	pretendPeer
	server  natsfake.Server
	monitor string
}

func (p *natsPeer) Info() peer.Info {
	return peer.Info{Address: p.server.Address(), Monitor: p.monitor, Version: "NATS server", DataDir: "/data", Ready: 0.5}
}

func TestManagedNATSIsStartedAndStopped(t *testing.T) {
	p := &natsPeer{monitor: "127.0.0.1:1"}
	if err := p.server.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer p.server.Stop()
	m := &ManagedNATS{NATS: NATS{Name: "nats"}, Peer: p, CPUs: []int{0}}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info := m.Info(); info.Version != "NATS server 2.99.0" || info.Ready != 0.5 || info.CPUs != "0" || info.DataDir != "/data" || info.Address != p.server.Address() || m.Monitor != p.monitor {
		t.Errorf("%+v", info)
	}
	if err := m.Stop(); err != nil || p.starts != 1 || p.stops != 1 {
		t.Errorf("%d starts, %d stops, %v", p.starts, p.stops, err)
	}
}

// cutPeer is a NATS server within this process that keeps no file: what a cut takes of it is said here.
type cutPeer struct {
	natsPeer
	forgets int // messages of each stream
	address string
}

func (p *cutPeer) Start(context.Context) error {
	err := p.server.Start(p.address)
	if err == nil {
		p.starts++
		p.address = p.server.Address() // that of all further starts
	}
	return err
}

func (p *cutPeer) Kill() {
	if p.starts > p.kills {
		p.kills++
		p.server.Stop()
		p.server.Forget(p.forgets)
	}
}

func (p *cutPeer) Stop() error { return nil }

// The ledger of a NATS server, with its clients: what comes back after a cut is counted once, what does not as lost.
func TestPowerLossOfNATS(t *testing.T) {
	ringtest.NeedFUSE(t, forgetfs.Available())
	for forgets, always := range map[int]bool{0: true, 3: true, 5: false} {
		varz := varzDefault
		if always {
			varz = varzAlways
		}
		p := &cutPeer{natsPeer: natsPeer{monitor: monitor(t, varz)}, forgets: forgets, address: "127.0.0.1:0"}
		kind := peer.Kind{Name: "nats", Protocol: peer.NATS, New: func(peer.Options) peer.Peer { return p }}
		row := PowerLoss{Peer: &peer.Spec{Label: "nats", Kind: kind}, Parent: t.TempDir(), Cuts: 2, Life: 100 * time.Millisecond, Partitions: 2, Producers: 2, Rate: 2000, Seed: 1}.Run(t.Context(), "nats")
		if row.Cuts != 2 || row.Acknowledged == 0 || row.Failed != 0 || row.Promises != always || !row.Foreign || row.OK() != (forgets == 0 || !always) || row.Error != "" {
			t.Errorf("%d forgotten: %+v", forgets, row)
		}
		f := row.Findings
		if f.Lost > 2*2*int64(forgets) || (f.Lost == 0) != (forgets == 0) || f.Duplicated+f.Reordered+f.Corrupt+f.Holes != 0 || f.Read == 0 {
			t.Errorf("%d forgotten of each stream at each cut: %+v", forgets, f)
		}
	}
}

// A life in which nothing was acknowledged is no cut that took nothing.
func TestPowerLossWithoutLoad(t *testing.T) {
	ringtest.NeedFUSE(t, forgetfs.Available())
	p := &cutPeer{natsPeer: natsPeer{monitor: monitor(t, varzAlways)}, address: "127.0.0.1:0"}
	p.server.Publish = func(string, int, []byte) (string, bool) {
		return `{"error":{"code":503,"err_code":10077,"description":"input/output error"}}`, false
	}
	kind := peer.Kind{Name: "nats", Protocol: peer.NATS, New: func(peer.Options) peer.Peer { return p }}
	row := PowerLoss{Peer: &peer.Spec{Label: "nats", Kind: kind}, Parent: t.TempDir(), Cuts: 2, Life: 40 * time.Millisecond, Partitions: 1, Producers: 1, Rate: 2000, Seed: 1}.Run(t.Context(), "nats")
	if row.Cuts != 1 || len(row.EachCut) != 1 || row.Acknowledged != 0 || row.OK() || !strings.Contains(row.Error, "nothing was acknowledged") {
		t.Errorf("%+v", row)
	}
}
