package acceptance_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// kcat runs kcat against the broker and returns what it prints.
func kcat(t *testing.T, b *broker, stdin string, args ...string) string {
	t.Helper()
	return run(t, stdin, "kcat", append([]string{"-b", b.bootstrap, "-m", "60"}, args...)...)
}

func TestKcat(t *testing.T) {
	needs(t, "kcat")
	eachShared(t, []scenario{
		{"metadata", kcatMetadata},
		{"records", kcatRecords},
		{"codecs", kcatCodecs},
		{"offsets", kcatOffsets},
		{"group", kcatGroup},
		{"autocreate", kcatAutoCreate},
		{"idempotence", kcatIdempotence},
	})
}

func kcatMetadata(t *testing.T, b *broker) {
	topic := b.topic(t, 3)
	var metadata struct {
		Brokers []struct{ Name string }
		Topics  []struct {
			Topic      string
			Partitions []struct {
				Partition int
				Replicas  []struct{ ID int }
				ISRs      []struct{ ID int }
			}
		}
	}
	must(t, json.Unmarshal([]byte(kcat(t, b, "", "-L", "-J", "-t", topic)), &metadata))
	equal(t, "brokers", len(metadata.Brokers), 1)
	equal(t, "address", metadata.Brokers[0].Name, b.bootstrap)
	equal(t, "topics", len(metadata.Topics), 1)
	equal(t, "partitions", len(metadata.Topics[0].Partitions), 3)
	for _, p := range metadata.Topics[0].Partitions {
		equal(t, fmt.Sprintf("ISR of partition %d", p.Partition), len(p.ISRs), len(p.Replicas))
	}
	contains(t, kcat(t, b, "", "-L"), topic)
}

// Keys, headers, empty and null values, partitions and timestamps come back as they went.
func kcatRecords(t *testing.T, b *broker) {
	topic := b.topic(t, 2)
	kcat(t, b, "k1:v1\nk2:\nk3:v3\n", "-P", "-t", topic, "-p", "1", "-K:", "-Z", "-H", "colour=blue", "-H", "size=3")
	got := kcat(t, b, "", "-C", "-t", topic, "-p", "1", "-o", "beginning", "-e", "-q", "-f", `%p %o %k %S %s %h\n`)
	equal(t, "records", got, "1 0 k1 2 v1 colour=blue,size=3\n1 1 k2 -1  colour=blue,size=3\n1 2 k3 2 v3 colour=blue,size=3\n")
	stamps := kcat(t, b, "", "-C", "-t", topic, "-p", "1", "-o", "beginning", "-e", "-q", "-f", `%T\n`)
	for _, stamp := range strings.Fields(stamps) {
		if len(stamp) != len("1700000000000") {
			t.Fatalf("timestamp %q is not of this age in milliseconds", stamp)
		}
	}
	for from, want := range map[string]string{"1": "k2 k3", "-1": "k3", "end": ""} {
		got := kcat(t, b, "", "-C", "-t", topic, "-p", "1", "-o", from, "-e", "-q", "-f", `%k\n`)
		equal(t, "keys from "+from, strings.Join(strings.Fields(got), " "), want)
	}
}

func kcatCodecs(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	var sent strings.Builder
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		lines := strings.Join(numbered(codec+"-"+strings.Repeat("x", 100)+"-", 200), "\n") + "\n"
		kcat(t, b, lines, "-P", "-t", topic, "-z", codec, "-X", "linger.ms=100")
		sent.WriteString(lines)
	}
	if got := kcat(t, b, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q"); got != sent.String() {
		t.Fatalf("read %d bytes back, sent %d", len(got), sent.Len())
	}
}

func kcatOffsets(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	b.produce(t, topic, 0, numbered("v", 5)...)
	stamps := strings.Fields(kcat(t, b, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", `%T\n`))
	for query, want := range map[string]string{"-2": "0", "-1": "5", stamps[0]: "0", "9999999999999": "-1"} {
		got := kcat(t, b, "", "-Q", "-t", topic+":0:"+query)
		equal(t, "offset at "+query, strings.TrimSpace(got), fmt.Sprintf("%s [0] offset %s", topic, want))
	}
	got := kcat(t, b, "", "-C", "-t", topic, "-o", "s@"+stamps[0], "-e", "-q")
	equal(t, "records from a time", strings.Join(strings.Fields(got), " "), "v0 v1 v2 v3 v4")
}

// Two members share two partitions; the survivor takes over both and resumes at the committed offsets.
func kcatGroup(t *testing.T, b *broker) {
	topic, group := b.topic(t, 2), unique(t)
	patient := []string{"-X", "session.timeout.ms=45000"} // nobody is killed: a member that is slow is not to be missed
	one := startKcatMember(t, b, group, topic, patient...)
	eventually(t, waitTimeout, "one member to own both partitions", func() bool {
		return strings.Contains(one.err.String(), "assigned: "+topic+" [0], "+topic+" [1]")
	})
	two := startKcatMember(t, b, group, topic, patient...)
	eventually(t, waitTimeout, "two members to own one partition each", func() bool {
		return strings.HasSuffix(strings.TrimSpace(one.err.String()), "]") && assignedCount(one) == 1 && assignedCount(two) == 1
	})
	for p := range int32(2) {
		b.produce(t, topic, p, numbered(fmt.Sprintf("p%d-", p), 10)...)
	}
	eventually(t, waitTimeout, "each member to read its ten records", func() bool {
		return strings.Count(one.out.String(), "\n") == 10 && strings.Count(two.out.String(), "\n") == 10
	})
	one.proc.cmd.Process.Signal(os.Interrupt)
	<-one.proc.done
	eventually(t, waitTimeout, "the survivor to own both partitions", func() bool { return assignedCount(two) == 2 })
	for p := range int32(2) {
		b.produce(t, topic, p, "last")
	}
	eventually(t, waitTimeout, "the survivor to read on in both partitions", func() bool {
		return strings.Count(two.out.String(), "last\n") == 2
	})
	equal(t, "records of the survivor, none twice", strings.Count(two.out.String(), "\n"), 12)
}

// kcatMember is one kcat -G process.
type kcatMember struct {
	proc     *process
	out, err output
}

func startKcatMember(t *testing.T, b *broker, group, topic string, args ...string) *kcatMember {
	t.Helper()
	m := &kcatMember{}
	m.proc = startKcat(t, b, &m.out, &m.err, kcatMemberArgs(group, topic, args...)...)
	return m
}

// kcatMemberArgs make kcat a member that prints without buffering and is missed after 6 s, the least that brokers allow.
func kcatMemberArgs(group, topic string, args ...string) []string {
	all := []string{"-G", group, "-u", "-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=200", "-X", "auto.offset.reset=earliest"}
	return append(append(all, args...), topic)
}

// startKcat starts kcat in the background; it is killed when the test ends.
func startKcat(t *testing.T, b *broker, stdout, stderr io.Writer, args ...string) *process {
	t.Helper()
	cmd := exec.Command("kcat", append([]string{"-b", b.bootstrap}, args...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	p := startProcess(t, cmd)
	t.Cleanup(p.kill)
	return p
}

// assignedCount is how many partitions the member's last rebalance gave it.
func assignedCount(m *kcatMember) int {
	log := m.err.String()
	last, _, _ := strings.Cut(log[max(0, strings.LastIndex(log, "assigned: ")):], "\n")
	return strings.Count(last, " [")
}

func kcatAutoCreate(t *testing.T, b *broker) {
	topic := unique(t)
	kcat(t, b, "hello\n", "-P", "-t", topic, "-X", "allow.auto.create.topics=true")
	equal(t, "record", kcat(t, b, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q"), "hello\n")
}

func kcatIdempotence(t *testing.T, b *broker) {
	topic := b.topic(t, 1)
	lines := strings.Join(numbered("v", 1000), "\n") + "\n"
	kcat(t, b, lines, "-P", "-t", topic, "-X", "enable.idempotence=true", "-X", "acks=all", "-X", "batch.num.messages=10")
	if got := kcat(t, b, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q"); got != lines {
		t.Fatalf("read %d bytes back, sent %d", len(got), len(lines))
	}
}
