package acceptance_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// explained is what explain durability --json prints.
type explained struct {
	Broker string
	Policy string `json:"flush_policy"`
	Own    bool   `json:"flush_policy_is_the_topics"`
	Sync   bool   `json:"flushed_before_acknowledged"`
	Faults []struct {
		Fault, Acks, Text string
		Survives          bool
		Unbounded         bool
		Lose              *struct{ Ms, Records, Bytes int64 } `json:"can_lose"`
	}
	Seen struct {
		Told     bool
		Appended int64   `json:"records_appended"`
		Records  int64   `json:"most_records"`
		Bytes    int64   `json:"most_bytes_about"`
		Ms       float64 `json:"oldest_ms"`
	}
	Prices *struct {
		Policies []struct {
			Policy  string
			Own     bool     `json:"is_the_topics"`
			Takes   string   `json:"power_loss_takes"`
			Samples int64    `json:"samples"`
			P50     *float64 `json:"p50_micros"`
			P99     *float64 `json:"p99_micros"`
			Bytes   *float64 `json:"saturated_bytes_per_second"`
		}
	}
	Disk struct {
		Local     bool   `json:"on_this_machine"`
		File      string `json:"disk_json"`
		Journal   string `json:"journal_choice"`
		Judgement struct{ Trust, Reason string }
	}
	Notes []string
}

func (b *broker) explain(t *testing.T, topic string, args ...string) explained {
	t.Helper()
	var x explained
	must(t, json.Unmarshal([]byte(b.millrace(t, "", "explain durability", append([]string{topic, "--json"}, args...)...)), &x))
	return x
}

// fault is what is said of one, for acks=1 and acks=all.
func (x *explained) fault(t *testing.T, fault string) string {
	t.Helper()
	var texts []string
	for _, f := range x.Faults {
		if f.Fault == fault && f.Acks != "0" && !slices.Contains(texts, f.Text) {
			texts = append(texts, f.Text)
		}
	}
	return strings.Join(texts, " | ")
}

// What each fault takes under each policy, what is off disk beside it, and what the policies cost.
func commandExplain(t *testing.T, b *broker) {
	if standIn() {
		explainKafka(t, b)
		return
	}
	const quick, look = "--measure=false", "--watch=0s"
	bound := "can lose up to 70 ms, 500 records or 8.4 MB of each partition, whichever comes first"
	for policy, takes := range map[string]string{"os": "can lose without bound", "interval": bound, "write": "survives", "file": "survives", "journal": "survives"} {
		x := b.explain(t, b.topic(t, 2, "flush.policy="+policy, "flush.ms=70", "flush.messages=500"), quick, look)
		if x.Broker != "millrace" || x.Policy != policy || !x.Own || x.Sync != (takes == "survives") || len(x.Faults) != 12 || x.Prices != nil {
			t.Fatalf("%s: %+v", policy, x)
		}
		equal(t, policy+": killed", x.fault(t, "kill"), "survives")
		for _, fault := range []string{"panic", "power", "fsync"} {
			equal(t, policy+": "+fault, x.fault(t, fault), takes)
		}
		if wants := policy != "interval"; wants != (len(x.Notes) == 1) {
			t.Fatalf("%s: notes %q", policy, x.Notes)
		}
	}
	x := b.explain(t, b.topic(t, 1), quick, look)
	equal(t, "the broker's policy", x.Policy, "journal")
	equal(t, "the topic's own", x.Own, false)
	contains(t, fails(t, 1, "", "explain", "durability", "-b", b.bootstrap, unique(t)), "does not exist")
	contains(t, fails(t, 2, "", "explain", "durability", "-b", b.bootstrap), "name one topic")

	// What is acknowledged and off disk is seen: all of it under os, none under a synchronous policy, also while it comes.
	standing := b.topic(t, 2, "flush.policy=os")
	b.millrace(t, "a0\na1\na2\n", "produce", standing, "-p", "1")
	x = b.explain(t, standing, quick, "--watch", "200ms")
	if x.Seen.Records != 3 || x.Seen.Bytes < 6 || x.Seen.Ms <= 0 || !x.Seen.Told {
		t.Fatalf("three records off disk: %+v", x.Seen)
	}
	for policy, most := range map[string]int64{"file": 0, "journal": 0, "interval": 500} {
		topic := b.topic(t, 2, "flush.policy="+policy, "flush.messages=500")
		stop := b.load(t, topic)
		x := b.explain(t, topic, quick, "--watch", "1s")
		stop()
		if x.Seen.Records > most || x.Seen.Appended == 0 {
			t.Fatalf("%s under load: %+v, where at most %d records may be off disk", policy, x.Seen, most)
		}
	}

	topic := b.topic(t, 2, "flush.policy=interval")
	x = b.explain(t, topic, look, "--seconds", "5")
	if x.Prices == nil || len(x.Prices.Policies) != 5 {
		t.Fatalf("prices: %+v", x.Prices)
	}
	for i, policy := range []string{"os", "interval", "write", "file", "journal"} {
		p := x.Prices.Policies[i]
		if p.Policy != policy || p.Own != (policy == "interval") || (p.P50 == nil) != (p.Samples < 200) || (p.P99 == nil) != (p.Samples < 10_000) || p.Samples == 0 || p.Bytes == nil || *p.Bytes <= 0 || p.Takes == "" {
			t.Fatalf("price of %s: %+v", policy, p)
		}
	}
	equal(t, "topics that are left behind", b.benchTopics(t), 0)
	b.explainInterrupted(t, topic)
	b.explainDisk(t)
}

// load writes to a topic until it is stopped.
func (b *broker) load(t *testing.T, topic string) (stop func()) {
	t.Helper()
	cmd := exec.Command(millraceBinary(), "produce", "-b", b.bootstrap, topic)
	in, err := cmd.StdinPipe()
	must(t, err)
	p := startProcess(t, cmd)
	t.Cleanup(p.kill)
	go func() { // ends when the pipe breaks or is closed
		line := []byte(strings.Repeat("x", 200) + "\n")
		for {
			if _, err := in.Write(line); err != nil {
				return
			}
		}
	}()
	eventually(t, waitTimeout, "the first records", func() bool {
		return strings.TrimSpace(b.millrace(t, "", "consume", topic, "--from-beginning", "-n", "1", "--timeout", "5s")) != ""
	})
	return p.kill
}

// benchTopics counts the topics that the measurement makes.
func (b *broker) benchTopics(t *testing.T) int {
	t.Helper()
	return strings.Count(b.millrace(t, "", "topic list"), "millrace-bench-")
}

// explainInterrupted: Ctrl-C ends the measurement, leaves no topic, and what is known is printed.
func (b *broker) explainInterrupted(t *testing.T, topic string) {
	said := &output{}
	cmd := exec.Command(millraceBinary(), "explain", "durability", "-b", b.bootstrap, topic, "--watch", "0s", "--seconds", "3600")
	cmd.Stdout = said
	p := startProcess(t, cmd)
	t.Cleanup(p.kill)
	eventually(t, waitTimeout, "a topic to measure on", func() bool { return b.benchTopics(t) == 1 })
	p.cmd.Process.Signal(os.Interrupt)
	<-p.done
	equal(t, "exit code after Ctrl-C", p.cmd.ProcessState.ExitCode(), 1)
	equal(t, "topics that are left behind", b.benchTopics(t), 0)
	contains(t, said.String(), "topic "+topic+", partitions 2, replicas 1, flush.policy=interval", "\nFAULT ", "\nSEEN NOW, ")
	for line := range strings.Lines(said.String()) {
		if utf8.RuneCountInString(line) > 101 {
			t.Fatalf("wider than 100 columns: %q", line)
		}
	}
}

// explainDisk: what bench disk has left in the broker's directory qualifies a power loss.
func (b *broker) explainDisk(t *testing.T) {
	if b.dir == "" {
		return
	}
	topic := b.topic(t, 1)
	x := b.explain(t, topic, "--measure=false", "--watch=0s")
	equal(t, "on this machine", x.Disk.Local, true)
	contains(t, x.Disk.Judgement.Reason, "not measured: millrace bench disk --dir "+b.dir)
	file := filepath.Join(b.dir, "disk.json")
	t.Cleanup(func() {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	millrace(t, "", "bench", "disk", "--dir", b.dir, "--seconds", "4")
	x = b.explain(t, topic, "--measure=false", "--watch=0s")
	equal(t, "disk.json", x.Disk.File, file)
	text := strings.Join(strings.Fields(b.millrace(t, "", "explain durability", topic, "--measure=false", "--watch=0s")), " ")
	contains(t, text, x.Disk.Judgement.Reason, "DISK, by "+file)
}

// explainKafka: Apache Kafka's topics, by its own settings.
func explainKafka(t *testing.T, b *broker) {
	for config, takes := range map[string]string{"flush.messages=9223372036854775807": "can lose without bound", "flush.messages=1": "survives", "flush.messages=50": "can lose up to 50 records of each partition"} {
		x := b.explain(t, b.topic(t, 2, config), "--measure=false", "--watch=0s")
		if x.Broker != "kafka" || x.Policy != "" || x.Sync != (takes == "survives") || x.Seen.Told {
			t.Fatalf("%s: %+v", config, x)
		}
		equal(t, config+": killed", x.fault(t, "kill"), "survives")
		equal(t, config+": power", x.fault(t, "power"), takes)
	}
	x := b.explain(t, b.topic(t, 1, "flush.messages=50"), "--seconds", "3")
	if x.Prices == nil || len(x.Prices.Policies) != 3 || !x.Prices.Policies[1].Own || x.Prices.Policies[2].Samples == 0 {
		t.Fatalf("%+v", x.Prices)
	}
	equal(t, "topics that are left behind", b.benchTopics(t), 0)
}
