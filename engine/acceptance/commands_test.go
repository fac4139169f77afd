package acceptance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Every command of ours that is not serve, against a running broker. They speak
// the Kafka protocol: with Apache Kafka standing in, its broker must satisfy them too.
func TestCommands(t *testing.T) {
	eachShared(t, []scenario{
		{"topic", commandTopic},
		{"records", commandRecords},
		{"starts", commandStarts},
		{"durable", commandDurable},
		{"group", commandGroup},
		{"reset", commandReset},
		{"log", commandLog},
		{"explain", commandExplain},
		{"bench", commandBench},
		{"machine", commandMachine},
		{"mistakes", commandMistakes},
	})
}

// millrace runs a client command against the broker and returns what it prints.
func (b *broker) millrace(t *testing.T, stdin, command string, args ...string) string {
	t.Helper()
	return millrace(t, stdin, append(append(strings.Fields(command), "--bootstrap-server", b.bootstrap), args...)...)
}

// fails runs a command that must end with the exit code, and returns what it says on standard error.
func fails(t *testing.T, code int, stdin string, args ...string) string {
	t.Helper()
	out, stderr, err := tryRun(t, stdin, millraceBinary(), args...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != code {
		t.Fatalf("millrace %s: %v, want exit code %d\n%s%s", strings.Join(args, " "), err, code, out, stderr)
	}
	return stderr
}

// rows are the lines of a table below its header, cell by cell.
func rows(t *testing.T, text string, header ...string) [][]string {
	t.Helper()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if !slices.Equal(strings.Fields(line), header) {
			continue
		}
		var all [][]string
		for _, line := range lines[i+1:] {
			all = append(all, strings.Fields(line))
		}
		return all
	}
	t.Fatalf("no table of %v in:\n%s", header, text)
	return nil
}

func commandTopic(t *testing.T, b *broker) {
	topic, other := unique(t), unique(t)
	equal(t, "topic create", b.millrace(t, "", "topic create", topic, "--partitions", "2", "--replication-factor", "1", "--config", "retention.ms=3600000"),
		fmt.Sprintf("created topic %q: 2 partitions, 1 replicas\n", topic))
	b.millrace(t, "", "topic create", other, "--partitions", "1")
	contains(t, fails(t, 1, "", "topic", "create", "-b", b.bootstrap, topic), fmt.Sprintf("topic %q: already exists", topic))
	equal(t, "topic create --if-not-exists", b.millrace(t, "", "topic create", topic, "--if-not-exists"), fmt.Sprintf("topic %q exists\n", topic))
	contains(t, fails(t, 1, "", "topic", "create", "-b", b.bootstrap, unique(t), "--config", "no.such.key=1"), "no.such.key")

	listed := func() map[string][]string {
		found := map[string][]string{}
		for _, row := range rows(t, b.millrace(t, "", "topic list"), "TOPIC", "PARTITIONS", "REPLICAS", "ID") {
			found[row[0]] = row[1:]
		}
		return found
	}
	eventually(t, waitTimeout, "both topics to be listed", func() bool { l := listed(); return l[topic] != nil && l[other] != nil })
	equal(t, "partitions and replicas of "+topic, strings.Join(listed()[topic][:2], " "), "2 1")
	equal(t, "partitions and replicas of "+other, strings.Join(listed()[other][:2], " "), "1 1")
	type topicLine struct {
		Topic, ID  string
		Partitions int
	}
	var asJSON []topicLine
	must(t, json.Unmarshal([]byte(b.millrace(t, "", "topic list", "--json", "--internal")), &asJSON))
	at := slices.IndexFunc(asJSON, func(l topicLine) bool { return l.Topic == topic })
	if at < 0 || asJSON[at].ID != listed()[topic][2] || len(asJSON[at].ID) != 22 {
		t.Fatalf("%s with its id is not in %v", topic, asJSON)
	}

	partitions := func() [][]string {
		return rows(t, b.millrace(t, "", "topic describe", topic), "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "LOG-START", "HIGH-WATERMARK", "LOG-END", "FLUSHED")
	}
	b.millrace(t, "a\nb\nc\n", "produce", topic, "-p", "1")
	found := partitions()
	equal(t, "partitions", len(found), 2)
	for p, latest := range []string{"0", "3"} {
		row := found[p]
		equal(t, "partition, log start, high watermark", strings.Join([]string{row[0], row[5], row[6]}, " "), fmt.Sprint(p, " 0 ", latest))
		if logEnd := row[7]; standIn() && (logEnd != "-" || row[8] != "-") || !standIn() && logEnd != latest {
			t.Fatalf("log end and flushed are %v", row)
		}
		if row[1] == "-" || row[1] != row[3] || row[1] != row[4] {
			t.Fatalf("leader, replicas and ISR of one broker are %v", row)
		}
	}
	contains(t, b.millrace(t, "", "topic describe", topic), "topic "+topic+"  id "+asJSON[at].ID+"  partitions 2  replicas 1\n", "  retention.ms=3600000\n")
	contains(t, b.millrace(t, "", "topic describe", topic, "--all-configs"), "  segment.bytes=1073741824\n", "  max.message.bytes=1048588\n")

	equal(t, "topic alter", b.millrace(t, "", "topic alter", topic, "--partitions", "4", "--config", "max.message.bytes=2000000", "--delete-config", "retention.ms"),
		fmt.Sprintf("altered topic %q\n", topic))
	eventually(t, waitTimeout, "leaders of four partitions", func() bool {
		found := partitions()
		return len(found) == 4 && !slices.ContainsFunc(found, func(row []string) bool { return row[1] == "-" })
	})
	described := b.millrace(t, "", "topic describe", topic)
	contains(t, described, "  max.message.bytes=2000000\n")
	if strings.Contains(described, "retention.ms") {
		t.Fatalf("retention.ms is still set:\n%s", described)
	}
	contains(t, fails(t, 1, "", "topic", "alter", "-b", b.bootstrap, topic, "--partitions", "3"), topic, "INVALID_PARTITIONS")

	equal(t, "topic delete", b.millrace(t, "", "topic delete", other), fmt.Sprintf("deleted topic %q\n", other))
	eventually(t, waitTimeout, "the topic to be gone from the list", func() bool { return listed()[other] == nil })
	equal(t, "what is left of the other", listed()[topic][0], "4")
	contains(t, fails(t, 1, "", "topic", "describe", "-b", b.bootstrap, other), fmt.Sprintf("topic %q: does not exist", other))
	contains(t, fails(t, 1, "", "topic", "delete", "-b", b.bootstrap, other), fmt.Sprintf("topic %q: does not exist", other))
	equal(t, "topic delete --if-exists", b.millrace(t, "", "topic delete", other, "--if-exists"), "")
}

// What produce reads from standard input or a file consume prints: keys, headers, partitions, every codec.
func commandRecords(t *testing.T, b *broker) {
	topic := b.topic(t, 3)
	began := time.Now().UnixMilli()
	_, stderr, err := tryRun(t, "k1:v1\nk2:\nk3:v:3\n", millraceBinary(), "produce", "-b", b.bootstrap, topic, "-p", "1", "-K", ":", "-H", "colour=blue,size=3", "-H", "empty=")
	must(t, err)
	contains(t, stderr, "produced 3 records, 11 B in ", "latency p50 ")
	out := b.millrace(t, "", "consume", topic, "--from-beginning", "--exit", "--format", `%t|%p|%o|%K|%k|%S|%s|%h|%T\n`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	equal(t, "records", len(lines), 3)
	for i, want := range []string{"1|0|2|k1|2|v1|", "1|1|2|k2|0||", "1|2|2|k3|3|v:3|"} {
		head, stamp, _ := strings.Cut(lines[i], "colour=blue,size=3,empty=|")
		equal(t, "record", head, topic+"|"+want)
		if ms, err := strconv.ParseInt(stamp, 10, 64); err != nil || ms < began || ms > time.Now().UnixMilli() {
			t.Fatalf("timestamp %q is not of between %d and now", stamp, began)
		}
	}
	equal(t, "--print-key --headers", b.millrace(t, "", "consume", topic, "--offset", "-1", "-p", "1", "--exit", "--print-key", "--headers"),
		"colour=blue,size=3,empty=\tk3\tv:3\n")

	plain := b.topic(t, 1)
	var want []string
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		sent := numbered(codec+"-"+strings.Repeat("x", 100)+"-", 200)
		file := filepath.Join(t.TempDir(), codec)
		must(t, os.WriteFile(file, []byte(strings.Join(sent, "\n")), 0o644)) // the last line has no end
		b.millrace(t, "", "produce", plain, "--file", file, "-z", codec, "--linger", "20ms")
		want = append(want, sent...)
	}
	for _, acks := range []string{"1", "0"} {
		b.millrace(t, "acks="+acks+"\n", "produce", plain, "--acks", acks)
		eventually(t, waitTimeout, "the record with acks="+acks, func() bool {
			return strings.HasSuffix(b.millrace(t, "", "consume", plain, "--offset", "-1", "--exit"), "acks="+acks+"\n")
		})
		want = append(want, "acks="+acks)
	}
	equal(t, "all that was produced", b.millrace(t, "", "consume", plain, "--from-beginning", "-e"), strings.Join(want, "\n")+"\n")
	equal(t, "an empty topic", b.millrace(t, "", "consume", b.topic(t, 1), "--from-beginning", "-e"), "")
	contains(t, fails(t, 1, "k:v\nno key\n", "produce", "-b", b.bootstrap, plain, "-K", ":"), "line 2: no key")
}

// Where consume starts and where it ends.
func commandStarts(t *testing.T, b *broker) {
	topic := b.topic(t, 2)
	consume := func(args ...string) string {
		t.Helper()
		return strings.Join(strings.Fields(b.millrace(t, "", "consume", append(args, topic)...)), " ")
	}
	b.millrace(t, "a0\na1\na2\n", "produce", topic, "-p", "0")
	first := lastTimestamp(t, b, topic)
	eventually(t, waitTimeout, "the clock to move on", func() bool { return time.Now().UnixMilli() > first+1 })
	b.millrace(t, "b3\nb4\n", "produce", topic, "-p", "0")
	b.millrace(t, "c0\n", "produce", topic, "-p", "1")
	after := strconv.FormatInt(first+1, 10)
	iso := time.UnixMilli(first + 1).UTC().Format("2006-01-02T15:04:05.000Z07:00")
	for _, c := range []struct{ args, want string }{
		{"--from-beginning -e -p 0", "a0 a1 a2 b3 b4"},
		{"-o earliest -e -p 1", "c0"},
		{"-o 2 -e -p 0", "a2 b3 b4"},
		{"-o -2 -e -p 0", "b3 b4"},
		{"-o latest -e", ""},
		{"--from-time " + after + " -e -p 0", "b3 b4"},
		{"--from-time " + iso + " -e -p 0", "b3 b4"},
		{"--from-time -1h -e -p 0", "a0 a1 a2 b3 b4"},
		{"--from-time 2100-01-01T00:00:00Z -e", ""},
		{"--from-beginning -n 2 -p 0", "a0 a1"},
		{"--from-beginning --timeout 5s -p 1", "c0"}, // the first must come within it, on a busy machine too
		{"--from-beginning -e -p 0 --read-committed", "a0 a1 a2 b3 b4"},
	} {
		equal(t, "consume "+c.args, consume(strings.Fields(c.args)...), c.want)
	}
	both := strings.Fields(consume("--from-beginning", "--exit"))
	slices.Sort(both)
	equal(t, "both partitions", strings.Join(both, " "), "a0 a1 a2 b3 b4 c0")
	both = strings.Fields(consume("--from-beginning", "--exit", "-p", "0,1"))
	equal(t, "both partitions, named", len(both), 6)

	// Without --exit it goes on: records that come later are printed when they come.
	tail := &output{}
	cmd := exec.Command(millraceBinary(), "consume", "-b", b.bootstrap, topic, "-p", "1", "-o", "0")
	cmd.Stdout = tail
	p := startProcess(t, cmd)
	t.Cleanup(p.kill)
	eventually(t, waitTimeout, "the record that is there", func() bool { return tail.String() == "c0\n" })
	b.millrace(t, "c1\n", "produce", topic, "-p", "1")
	eventually(t, waitTimeout, "the record that came", func() bool { return tail.String() == "c0\nc1\n" })
	p.cmd.Process.Signal(os.Interrupt)
	<-p.done
	equal(t, "exit code after Ctrl-C", p.cmd.ProcessState.ExitCode(), 0)
}

// Records that are acknowledged and not on disk: topic describe and /status show them, consume --durable holds
// them back, and hands them out once another flush.policy, or flush.ms, has put them on disk.
func commandDurable(t *testing.T, b *broker) {
	if standIn() {
		topic := b.topic(t, 1)
		contains(t, fails(t, 1, "", "consume", "-b", b.bootstrap, topic, "--from-beginning", "-e", "--durable"), "--durable: the broker does not tell")
		return
	}
	topic := b.topic(t, 2, "flush.policy=os")
	offsets := func() string {
		var all []string
		for _, row := range rows(t, b.millrace(t, "", "topic describe", topic), "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "LOG-START", "HIGH-WATERMARK", "LOG-END", "FLUSHED") {
			all = append(all, strings.Join(row[5:], " "))
		}
		return strings.Join(all, ", ")
	}
	// started starts a consumer that goes on until it is told to stop.
	started := func(args ...string) (said *output, stop func()) {
		said = &output{}
		cmd := exec.Command(millraceBinary(), append([]string{"consume", "-b", b.bootstrap, topic, "--from-beginning", "--durable"}, args...)...)
		cmd.Stdout = said
		p := startProcess(t, cmd)
		t.Cleanup(p.kill)
		return said, func() {
			t.Helper()
			p.cmd.Process.Signal(os.Interrupt)
			<-p.done
			equal(t, "exit code after Ctrl-C", p.cmd.ProcessState.ExitCode(), 0)
		}
	}
	durable := func(args ...string) (out, stderr string) {
		t.Helper()
		out, stderr, err := tryRun(t, "", millraceBinary(), append([]string{"consume", "-b", b.bootstrap, topic, "--from-beginning", "--durable"}, args...)...)
		must(t, err)
		return out, stderr
	}

	b.millrace(t, "a0\na1\na2\n", "produce", topic, "-p", "0")
	equal(t, "log start, high watermark, log end, flushed", offsets(), "0 3 3 0, 0 0 0 0")
	if b.admin != "" {
		type partition struct {
			Topic     string
			Partition int
			Policy    string `json:"flush_policy"`
			LogEnd    int64  `json:"log_end"`
			Flushed   int64
		}
		var status struct{ Partitions []partition }
		response, err := http.Get("http://" + b.admin + "/status")
		must(t, err)
		defer response.Body.Close()
		must(t, json.NewDecoder(response.Body).Decode(&status))
		i := slices.IndexFunc(status.Partitions, func(p partition) bool { return p.Topic == topic })
		if i < 0 || status.Partitions[i] != (partition{topic, 0, "os", 3, 0}) {
			t.Fatalf("status: %+v", status.Partitions)
		}
	}
	out, stderr := durable("--exit")
	equal(t, "what is on disk", out, "")
	contains(t, stderr, "consumed 0 records", "held back 3 records", topic+"-0: 3, flushed 0")
	out, stderr = durable("--timeout", "2s")
	equal(t, "what came onto disk in 2 s", out, "")
	contains(t, stderr, "held back 3 records")
	equal(t, "consume without --durable", b.millrace(t, "", "consume", topic, "--from-beginning", "-e"), "a0\na1\na2\n")

	// A synchronous policy flushes what the other one had left.
	tail, stop := started()
	group := unique(t)
	member, leave := started("--group", group)
	b.millrace(t, "", "topic alter", topic, "--config", "flush.policy=file")
	eventually(t, waitTimeout, "the records, once they are on disk", func() bool { return tail.String() == "a0\na1\na2\n" && member.String() == tail.String() })
	equal(t, "log start, high watermark, log end, flushed", offsets(), "0 3 3 3, 0 0 0 0")

	// Back to os: one partition's records wait, and do not hold up the other's nor what was there.
	b.millrace(t, "", "topic alter", topic, "--config", "flush.policy=os")
	b.millrace(t, "a3\na4\n", "produce", topic, "-p", "0")
	equal(t, "log start, high watermark, log end, flushed", offsets(), "0 5 5 3, 0 0 0 0")
	out, stderr = durable("--exit")
	equal(t, "what is on disk", out, "a0\na1\na2\n")
	contains(t, stderr, "consumed 3 records", "held back 2 records", topic+"-0: 2, flushed 3")
	out, stderr = durable("--exit", "--group", unique(t))
	equal(t, "what is on disk, for a group", out, "a0\na1\na2\n")
	contains(t, stderr, "held back 2 records")
	equal(t, "printed", tail.String(), "a0\na1\na2\n")
	leave()
	equal(t, "committed, of what was printed", b.committed(t, group, topic)[0], 3)

	// flush.ms puts them on disk in its time.
	b.millrace(t, "", "topic alter", topic, "--delete-config", "flush.policy", "--config", "flush.ms=500")
	b.millrace(t, "a5\n", "produce", topic, "-p", "0")
	b.millrace(t, "b0\n", "produce", topic, "-p", "1")
	eventually(t, waitTimeout, "the records, once flush.ms has passed", func() bool {
		lines := strings.Fields(tail.String())
		slices.Sort(lines)
		return strings.Join(lines, " ") == "a0 a1 a2 a3 a4 a5 b0"
	})
	stop()
	equal(t, "log start, high watermark, log end, flushed", offsets(), "0 6 6 6, 0 1 1 1")
	out, stderr = durable("--exit")
	equal(t, "records", len(strings.Fields(out)), 7)
	if strings.Contains(stderr, "held back") {
		t.Fatal(stderr)
	}
}

// lastTimestamp is the largest timestamp of partition 0, in ms.
func lastTimestamp(t *testing.T, b *broker, topic string) int64 {
	t.Helper()
	largest := int64(0)
	for _, stamp := range strings.Fields(b.millrace(t, "", "consume", topic, "-p", "0", "--from-beginning", "--exit", "--format", `%T\n`)) {
		ms, err := strconv.ParseInt(stamp, 10, 64)
		must(t, err)
		largest = max(largest, ms)
	}
	return largest
}

var groupHeader = []string{"GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"}

// showCommandGroup checks what group describe shows: for each partition the current offset, the log end and the lag.
func showCommandGroup(t *testing.T, b *broker, group string, want ...groupRow) {
	t.Helper()
	text := b.millrace(t, "", "group describe", group)
	rows(t, text, groupHeader...)
	equalSlices(t, "rows of group describe", groupRows(text, group), want)
}

func commandGroup(t *testing.T, b *broker) {
	topic, group := b.topic(t, 2), unique(t)
	b.millrace(t, strings.Join(numbered("v", 5), "\n")+"\n", "produce", topic, "-p", "0")
	b.millrace(t, strings.Join(numbered("w", 2), "\n")+"\n", "produce", topic, "-p", "1")
	all := append(numbered("v", 5), numbered("w", 2)...)

	read := strings.Fields(b.millrace(t, "", "consume", topic, "--group", group, "--from-beginning", "--max-messages", "3"))
	equal(t, "records with --max-messages", len(read), 3)
	read = append(read, strings.Fields(b.millrace(t, "", "consume", topic, "--group", group, "--from-beginning", "--exit"))...)
	slices.Sort(read)
	equalSlices(t, "records read in two runs, none twice", read, all)
	showCommandGroup(t, b, group, groupRow{topic, "0", "5", "5", "0"}, groupRow{topic, "1", "2", "2", "0"})
	b.millrace(t, "w2\nw3\nw4\n", "produce", topic, "-p", "1")
	showCommandGroup(t, b, group, groupRow{topic, "0", "5", "5", "0"}, groupRow{topic, "1", "2", "5", "3"})
	equal(t, "what the group has not read", strings.Join(strings.Fields(b.millrace(t, "", "consume", topic, "-g", group, "-e")), " "), "w2 w3 w4")

	state := func() string {
		for _, row := range rows(t, b.millrace(t, "", "group list"), "GROUP", "STATE", "PROTOCOL-TYPE", "COORDINATOR") {
			if row[0] == group {
				return strings.Join(row[1:3], " ")
			}
		}
		return "not listed"
	}
	equal(t, "group list", state(), "Empty consumer")
	contains(t, b.millrace(t, "", "group list", "--state", "Empty"), group)

	member := b.join(t, group, topic)
	eventually(t, waitTimeout, "the member to own both partitions", func() bool { return member.owns() == 2 })
	eventually(t, waitTimeout, "the group to be stable", func() bool { return state() == "Stable consumer" })
	if strings.Contains(b.millrace(t, "", "group list", "--state", "Empty"), group) {
		t.Fatal("a group with a member is listed as empty")
	}
	described := rows(t, b.millrace(t, "", "group describe", group), groupHeader...)
	equal(t, "rows", len(described), 2)
	for _, row := range described {
		if row[6] == "-" || row[6] != described[0][6] || !strings.Contains(row[7], "127.0.0.1") {
			t.Fatalf("the member and its host are not in %v", row)
		}
	}
	members := rows(t, b.millrace(t, "", "group describe", group, "--members"), "GROUP", "CONSUMER-ID", "HOST", "CLIENT-ID", "#PARTITIONS")
	equal(t, "members", len(members), 1)
	equal(t, "partitions of the member", members[0][4], "2")
	contains(t, b.millrace(t, "", "group describe", group, "--members", "--verbose"), topic+":0,1")
	contains(t, b.millrace(t, "", "group describe", group, "--state"), "Stable", b.bootstrap)
	var asJSON []struct {
		Group, State string
		Members      []struct {
			ClientID   string `json:"client_id"`
			Assignment string
		}
		Offsets []struct {
			Topic     string
			Partition int32
			Current   int64 `json:"current_offset"`
			End       int64 `json:"log_end_offset"`
			Lag       int64
		}
	}
	must(t, json.Unmarshal([]byte(b.millrace(t, "", "group describe", group, "--json")), &asJSON))
	if len(asJSON) != 1 || asJSON[0].State != "Stable" || len(asJSON[0].Members) != 1 || asJSON[0].Members[0].Assignment != topic+":0,1" ||
		len(asJSON[0].Offsets) != 2 || asJSON[0].Offsets[1].Current != 5 || asJSON[0].Offsets[1].End != 5 || asJSON[0].Offsets[1].Lag != 0 {
		t.Fatalf("group describe --json: %+v", asJSON)
	}
	contains(t, fails(t, 1, "", "group", "reset", "-b", b.bootstrap, group, "--topic", topic, "--to-earliest", "--execute"), "has no active members", "Stable")
	contains(t, fails(t, 1, "", "group", "delete", "-b", b.bootstrap, group), fmt.Sprintf("group %q: has active members", group))

	member.leave(t)
	equal(t, "group delete", b.millrace(t, "", "group delete", group), fmt.Sprintf("deleted group %q\n", group))
	equal(t, "group list", state(), "not listed")
	contains(t, fails(t, 1, "", "group", "describe", "-b", b.bootstrap, group), fmt.Sprintf("group %q: does not exist", group))
	contains(t, fails(t, 1, "", "group", "delete", "-b", b.bootstrap, group), fmt.Sprintf("group %q: does not exist", group))
}

func commandReset(t *testing.T, b *broker) {
	topic, group := b.topic(t, 2), unique(t)
	b.millrace(t, "a0\na1\na2\n", "produce", topic, "-p", "0")
	b.millrace(t, "a0\n", "produce", topic, "-p", "1")
	first := lastTimestamp(t, b, topic)
	eventually(t, waitTimeout, "the clock to move on", func() bool { return time.Now().UnixMilli() > first+1 })
	b.millrace(t, "b3\nb4\n", "produce", topic, "-p", "0")
	after := time.UnixMilli(first + 1).UTC().Format("2006-01-02T15:04:05.000")
	b.millrace(t, "", "consume", topic, "-g", group, "--from-beginning", "-e")
	show := func(p0, p1 int) {
		t.Helper()
		row := func(p, at, end int) groupRow {
			return groupRow{topic, fmt.Sprint(p), fmt.Sprint(at), fmt.Sprint(end), fmt.Sprint(end - at)}
		}
		showCommandGroup(t, b, group, row(0, p0, 5), row(1, p1, 1))
	}
	show(5, 1)
	for _, c := range []struct {
		args   string
		p0, p1 int // where the offsets are then
		moved  int // partitions
	}{
		{"--topic TOPIC --to-earliest", 5, 1, 2}, // without --execute nothing moves
		{"--topic TOPIC --to-earliest --execute", 0, 0, 2},
		{"--topic TOPIC:1 --to-latest --execute", 0, 1, 1},
		{"--all-topics --to-latest --execute", 5, 1, 2},
		{"--topic TOPIC:0 --to-datetime " + after + " --execute", 3, 1, 1},
		{"--topic TOPIC --to-datetime 1970-01-01T00:00:00.000 --execute", 0, 0, 2},
		{"--topic TOPIC --to-offset 2 --execute", 2, 1, 2}, // partition 1 has only one record
		{"--topic TOPIC --shift-by -1 --execute", 1, 0, 2},
		{"--topic TOPIC --by-duration PT1H --execute", 0, 0, 2},
		{"--topic TOPIC:0 --to-offset 4 --execute", 4, 0, 1},
	} {
		args := strings.Fields(strings.ReplaceAll(c.args, "TOPIC", topic))
		moved := rows(t, b.millrace(t, "", "group reset", append([]string{group}, args...)...), "GROUP", "TOPIC", "PARTITION", "NEW-OFFSET")
		equal(t, "partitions moved by "+c.args, len(moved), c.moved)
		if strings.Contains(c.args, "--execute") {
			for _, row := range moved {
				equal(t, "new offset of partition "+row[2]+" by "+c.args, row[3], fmt.Sprint([]int{c.p0, c.p1}[row[2][0]-'0']))
			}
		}
		show(c.p0, c.p1)
	}
	read := strings.Fields(b.millrace(t, "", "consume", topic, "-g", group, "-e"))
	slices.Sort(read)
	equal(t, "what the group reads from there", strings.Join(read, " "), "a0 b4")
	show(5, 1)

	made := unique(t) // a reset makes a group that is not there
	b.millrace(t, "", "group reset", made, "--topic", topic, "--to-offset", "1", "--execute")
	equal(t, "offsets of the new group", fmt.Sprint(b.committed(t, made, topic)), fmt.Sprint(map[int32]int64{0: 1, 1: 1}))
	equal(t, "group delete", b.millrace(t, "", "group delete", made, group), fmt.Sprintf("deleted group %q\ndeleted group %q\n", min(made, group), max(made, group)))
}

// log dump and log verify on the files of a broker that runs.
func commandLog(t *testing.T, b *broker) {
	ownProcess(t)
	topic := b.topic(t, 1, "index.interval.bytes=500")
	b.millrace(t, "k1:v1\nk2:v2\n", "produce", topic, "-K", ":", "-H", "h=x")
	for i := range 60 {
		b.produce(t, topic, 0, fmt.Sprint(i, " ", strings.Repeat("x", 1000)))
	}
	b.millrace(t, strings.Join(numbered("z", 50), "\n")+"\n", "produce", topic, "-z", "zstd", "--linger", "50ms")
	dir := filepath.Join(b.dir, topic+"-0")
	segment := filepath.Join(dir, "00000000000000000000")

	// Under journal the segment follows the acknowledgement, a little later.
	eventually(t, time.Minute, "everything in the segment's file", func() bool {
		return strings.Contains(millrace(t, "", "log", "dump", "--files", segment+".log", "--print-data-log"), "payload: z49\n")
	})
	records := millrace(t, "", "log", "dump", "--files", segment+".log", "--print-data-log")
	contains(t, records, "Dumping "+segment+".log\nLog starting offset: 0\nbaseOffset: 0 lastOffset: ", " position: 0 CreateTime: ", "compresscodec: zstd",
		"| offset: 0 CreateTime: ", " keySize: 2 valueSize: 2 sequence: 0 headerKeys: [h] key: k1 payload: v1\n", "key: k2 payload: v2\n", "payload: z49\n")
	equal(t, "records", strings.Count(records, "\n| offset: "), 112)
	equal(t, "valid batches", strings.Count(records, "isvalid: true"), strings.Count(records, "baseOffset: "))
	batches := millrace(t, "", "log", "dump", segment+".log")
	equal(t, "lines of records where only batches are asked for", strings.Count(batches, "| offset: "), 0)
	positions := regexp.MustCompile(`position: (\d+) CreateTime: (\d+)`).FindAllStringSubmatch(batches, -1)
	known, times := map[string]bool{}, map[string]bool{}
	for _, p := range positions {
		known[p[1]], times[p[2]] = true, true
	}

	indexes := millrace(t, "", "log", "dump", segment+".index", segment+".timeindex")
	entries := regexp.MustCompile(`(?m)^offset: (\d+) position: (\d+)$`).FindAllStringSubmatch(indexes, -1)
	stamps := regexp.MustCompile(`(?m)^timestamp: (\d+) offset: (\d+)$`).FindAllStringSubmatch(indexes, -1)
	if len(entries) < 40 || len(stamps) < 2 {
		t.Fatalf("%d index entries and %d time index entries:\n%s", len(entries), len(stamps), indexes)
	}
	for _, e := range entries {
		if !known[e[2]] {
			t.Fatalf("no batch is at position %s of offset %s", e[2], e[1])
		}
	}
	for _, s := range stamps {
		if !times[s[1]] {
			t.Fatalf("no batch has timestamp %s of offset %s", s[1], s[2])
		}
	}
	contains(t, millrace(t, "", "log", "dump", "--index-sanity-check", segment+".index"), segment+".index passed sanity check.\n")
	other := millrace(t, "", "log", "dump", filepath.Join(dir, "leader-epoch-checkpoint"), filepath.Join(dir, "partition.metadata"))
	contains(t, other, "epoch: 0 startOffset: 0\n", "version: 0 topicId: ")

	verified := millrace(t, "", "log", "verify", dir, "--deep")
	contains(t, verified, fmt.Sprintf("1 partitions, 1 segments, %d batches, ", len(positions)), ": 0 damaged, 0 notes\n")

	group := unique(t)
	b.millrace(t, "", "consume", topic, "-g", group, "--from-beginning", "-e")
	offsets, err := filepath.Glob(filepath.Join(b.dir, "__consumer_offsets-*", "00000000000000000000.log"))
	must(t, err)
	decoded := millrace(t, "", append([]string{"log", "dump", "--offsets-decoder"}, offsets...)...)
	contains(t, decoded, fmt.Sprintf(`key: {"type":"1","data":{"group":%q,"topic":%q,"partition":0}}`, group, topic), `"data":{"offset":112,`)

	damaged := filepath.Join(t.TempDir(), topic+"-0")
	must(t, os.CopyFS(damaged, os.DirFS(dir)))
	log, err := os.ReadFile(segment + ".log")
	must(t, err)
	log[len(log)/2] ^= 1
	file := filepath.Join(damaged, "00000000000000000000.log")
	must(t, os.WriteFile(file, log, 0o644))
	out, stderr, err := tryRun(t, "", millraceBinary(), "log", "verify", damaged)
	if err == nil {
		t.Fatalf("a flipped bit is no damage:\n%s%s", out, stderr)
	}
	contains(t, out, "damage "+file+": at ", "the CRC of the batch is wrong")
	fails(t, 1, "", "log", "dump", file)
}

// A short comparison: it prints its table, writes it into a document, and leaves no topic behind.
func commandBench(t *testing.T, b *broker) {
	if standIn() {
		t.Skip("Apache Kafka has no flush.policy to compare")
	}
	dir := t.TempDir()
	document, raw := filepath.Join(dir, "table.md"), filepath.Join(dir, "raw.json")
	must(t, os.WriteFile(document, []byte("# Before\n\n<!-- millrace bench: mine -->\nold\n<!-- end of millrace bench: mine -->\n\nAfter.\n"), 0o644))
	printed := b.millrace(t, "", "bench produce", "--compare", "os,file", "--rate", "300", "--duration", "1s", "--warmup", "200ms",
		"--runs", "1", "--repeats", "0", "--section", "mine", "--update", document, "--out", raw)
	text, err := os.ReadFile(document)
	must(t, err)
	for name, table := range map[string]string{"standard output": printed, "the document": string(text)} {
		for row, means := range map[string]string{"os": "cached", "file": "flushed"} {
			line := regexp.MustCompile(`(?m)^\| ` + row + `(?: \(disturbed\))? \| ` + means + ` \| ([\d.,]+) \| .* \| passed \|$`).FindStringSubmatch(table)
			if line == nil {
				t.Fatalf("no row of %s that is %s and was read back in %s:\n%s", row, means, name, table)
			}
		}
	}
	contains(t, printed, "| row | acknowledged means | records/s |", "Open loop, 300 records/s", "Machine: Linux ", "millrace bench produce --")
	contains(t, string(text), "# Before\n", "<!-- millrace bench: mine -->\nOpen loop", "<!-- end of millrace bench: mine -->\n\nAfter.\n")
	if strings.Contains(string(text), "old") {
		t.Fatalf("the old table is still there:\n%s", text)
	}
	var file struct {
		Command string
		Table   []struct {
			Row, Verified    string
			RecordsPerSecond float64
			P50Micros        float64
		}
		Runs []json.RawMessage
	}
	text, err = os.ReadFile(raw)
	must(t, err)
	must(t, json.Unmarshal(text, &file))
	if len(file.Table) != 2 || len(file.Runs) != 2 || file.Table[0].Verified != "passed" || file.Table[0].RecordsPerSecond <= 0 || file.Table[0].P50Micros <= 0 {
		t.Fatalf("%+v", file.Table)
	}
	if list := b.millrace(t, "", "topic list"); strings.Contains(list, "millrace-bench-") {
		t.Fatalf("a topic of the bench is left behind:\n%s", list)
	}
}

// doctor and version speak of the machine and the binary.
func commandMachine(t *testing.T, b *broker) {
	data := t.TempDir()
	text, _, err := tryRun(t, "", millraceBinary(), "doctor", "--data", data)
	exit, _ := errors.AsType[*exec.ExitError](err)
	if err != nil && (exit == nil || exit.ExitCode() != 1) {
		t.Fatalf("doctor: %v\n%s", err, text)
	}
	equal(t, "an exit code that is not 0, and a line FAIL", err != nil, regexp.MustCompile(`(?m)^FAIL `).MatchString(text))
	for _, name := range []string{"kernel", "io_uring", "open files", "data directory", "file system", "cpus"} {
		if !regexp.MustCompile(`(?m)^(OK|WARN|FAIL)\s+` + name + `\s`).MatchString(text) {
			t.Fatalf("doctor says nothing of %q:\n%s", name, text)
		}
	}
	contains(t, text, data)
	left, err := os.ReadDir(data)
	must(t, err)
	equal(t, "files that doctor left behind", len(left), 0)
	out, _, _ := tryRun(t, "", millraceBinary(), "doctor", "--data", data, "--json")
	var checks []struct{ Check, Status, Found string }
	must(t, json.Unmarshal([]byte(out), &checks))
	if len(checks) < 10 || checks[0].Check != "kernel" || checks[0].Status != "OK" || checks[0].Found == "" {
		t.Fatalf("doctor --json: %+v", checks)
	}

	said := regexp.MustCompile(`^millrace \S+\ncommit   .+\ngo       go\d\S* ` + runtime.GOOS + "/" + runtime.GOARCH + `\nbackends ([a-z, ]+)\n$`).
		FindStringSubmatch(millrace(t, "", "version"))
	if said == nil {
		t.Fatalf("version prints:\n%s", millrace(t, "", "version"))
	}
	var version struct {
		Version, Commit, Go string
		Backends            []string
	}
	must(t, json.Unmarshal([]byte(millrace(t, "", "version", "--json")), &version))
	equal(t, "backends", strings.Join(version.Backends, ", "), said[1])
	if b.backend == "uring" || b.backend == "posix" {
		contains(t, said[1], b.backend)
	}
	equal(t, "--version", millrace(t, "", "--version"), millrace(t, "", "version"))
}

// Whoever asks wrongly is told so, with exit code 2, and where nobody listens it does not take long to say so.
func commandMistakes(t *testing.T, b *broker) {
	for command, want := range map[string]string{
		"":                                        "no command",
		"tpoic list":                              `did you mean "topic"?`,
		"topic crate":                             `did you mean "create"?`,
		"topic create":                            "no topic named",
		"topic alter t":                           "nothing to change",
		"consume":                                 "no topic named",
		"consume t --partition x":                 "not a list of partitions",
		"consume t --group g --partition 0":       "--partition and --offset go without --group",
		"consume t --from-beginning --offset 1":   "exclude each other",
		"consume t --format %q":                   "no field %q",
		"produce t --acks 2":                      `--acks "2" is not all, 1 or 0`,
		"produce t -z brotli":                     `--compression "brotli" is not`,
		"group reset g --topic t":                 "give one of --to-earliest",
		"group reset g --to-latest":               "give either --topic or --all-topics",
		"group reset g --topic t --to-datetime x": "not a time like",
		"log dump":                                "no file named",
		"log verify":                              "no directory named",
		"bench produce --compare fast":            "is not write, file, interval, os",
		"topic list --no-such-flag":               "no-such-flag",
	} {
		contains(t, fails(t, 2, "", strings.Fields(command)...), want)
	}
	nobody := freeAddress(t)
	for _, command := range []string{"topic list", "group list", "consume t", "produce t"} {
		contains(t, fails(t, 1, "", append(strings.Fields(command), "-b", nobody)...), "no broker at "+nobody, "connection refused")
	}
	missing := unique(t)
	contains(t, fails(t, 1, "", "consume", "-b", b.bootstrap, missing, "--from-beginning", "-e"), fmt.Sprintf("topic %q: does not exist", missing))
	help := millrace(t, "", "help")
	for _, command := range []string{"serve", "topic", "group", "produce", "consume", "log", "bench", "doctor", "version"} {
		contains(t, help, command)
		if command != "bench" { // it explains itself on standard error
			contains(t, millrace(t, "", "help", command), "millrace "+command)
		}
	}
}
