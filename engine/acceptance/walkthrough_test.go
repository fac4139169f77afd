package acceptance_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The walk-throughs of docs/walkthroughs, one test a page, named in it. With -v they print what a reader sees.

// Every page names a test that exists, and every test has a page.
func TestWalkthroughPages(t *testing.T) {
	named := map[string]bool{}
	pages, err := filepath.Glob("../../docs/walkthroughs/*.md")
	must(t, err)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		must(t, err)
		for _, name := range regexp.MustCompile(`TestWalkthrough\w+`).FindAllString(string(text), -1) {
			named[name] = true
		}
	}
	tests := map[string]bool{}
	files, err := filepath.Glob("walkthrough*_test.go")
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, match := range regexp.MustCompile(`(?m)^func (TestWalkthrough\w+)`).FindAllSubmatch(text, -1) {
			tests[string(match[1])] = true
		}
	}
	delete(tests, t.Name())
	equalSlices(t, "tests named by the pages", slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(tests)))
}

// Auto-commit on, auto.offset.reset=latest: old records are not read, and CURRENT-OFFSET
// follows LOG-END-OFFSET in steps of auto.commit.interval.ms.
func TestWalkthroughAutoCommitLatest(t *testing.T) {
	walkthrough(t, []string{"kcat", "kafka"}, func(t *testing.T, b *broker) {
		topic, group := b.topic(t, 1), unique(t)
		b.produce(t, topic, 0, numbered("old-", 5)...)
		member := startKcatMember(t, b, group, topic, "-X", "auto.offset.reset=latest", "-X", "auto.commit.interval.ms=1000")
		eventually(t, waitTimeout, "the member to stand at the end", func() bool { return strings.Contains(member.err.String(), "at offset 5") })
		b.produce(t, topic, 0, numbered("new-", 10)...)
		eventually(t, waitTimeout, "ten records", func() bool { return strings.Count(member.out.String(), "\n") == 10 })
		equal(t, "what was read", member.out.String(), strings.Join(numbered("new-", 10), "\n")+"\n")
		eventually(t, waitTimeout, "the commit", func() bool { return b.committed(t, group, topic)[0] == 15 })
		showGroup(t, b, group, groupRow{topic, "0", "15", "15", "0"})
		member.proc.cmd.Process.Signal(os.Interrupt)
		<-member.proc.done
		b.produce(t, topic, 0, numbered("unread-", 5)...)
		showGroup(t, b, group, groupRow{topic, "0", "15", "20", "5"})
	})
}

// Auto-commit off, auto.offset.reset=earliest: all is read, and the group has no current offset.
func TestWalkthroughEarliestNoCommit(t *testing.T) {
	walkthrough(t, []string{"kcat", "kafka"}, func(t *testing.T, b *broker) {
		topic, group := b.topic(t, 1), unique(t)
		b.produce(t, topic, 0, numbered("v", 10)...)
		member := startKcatMember(t, b, group, topic, "-X", "enable.auto.commit=false")
		eventually(t, waitTimeout, "ten records", func() bool { return strings.Count(member.out.String(), "\n") == 10 })
		showGroup(t, b, group, groupRow{topic, "0", "-", "10", "-"})
	})
}

// A commit every so often: a kill before it means duplicates, a kill after it but before the work is done means loss.
// The course's 15 s are used in the full run; with -short it is 3 s.
func TestWalkthroughAutoCommitInterval(t *testing.T) {
	interval := time.Duration(count(3, 15)) * time.Second
	walkthrough(t, []string{"kcat"}, func(t *testing.T, b *broker) {
		const records = 100
		args := []string{"-X", "enable.auto.commit=true", "-X", fmt.Sprintf("auto.commit.interval.ms=%d", interval.Milliseconds())}

		t.Run("duplicates", func(t *testing.T) {
			topic := b.topic(t, 1)
			b.produce(t, topic, 0, numbered("v", records)...)
			var group string
			var first *kcatMember
			for try := 1; ; try++ {
				group = unique(t)
				start := time.Now()
				first = startKcatMember(t, b, group, topic, args...)
				eventually(t, waitTimeout, "all records", func() bool { return strings.Count(first.out.String(), "\n") == records })
				first.proc.kill()
				if time.Since(start) >= interval && try < 10 {
					continue // on a machine so busy the commit may have come first
				}
				equal(t, "commits before the kill", len(b.committed(t, group, topic)), 0)
				break
			}
			second := startKcatMember(t, b, group, topic, args...)
			eventually(t, waitTimeout, "all records again", func() bool { return strings.Count(second.out.String(), "\n") == records })
			duplicates := 0
			for line := range strings.Lines(second.out.String()) {
				if strings.Contains(first.out.String(), line) {
					duplicates++
				}
			}
			equal(t, "duplicates", duplicates, records)
			t.Logf("killed before the first commit: %d records, %d of them read twice", records, duplicates)
		})

		t.Run("loss", func(t *testing.T) {
			topic, group := b.topic(t, 1), unique(t)
			b.produce(t, topic, 0, numbered("v", records)...)
			pipe, into, err := os.Pipe() // the consumer runs ahead of a slow worker by what fits in here
			must(t, err)
			defer pipe.Close()
			member := startKcat(t, b, into, io.Discard, kcatMemberArgs(group, topic, args...)...)
			into.Close()
			lines, worked := bufio.NewScanner(pipe), 0
			for worked < 20 && lines.Scan() {
				worked++
			}
			eventually(t, interval+waitTimeout, "the commit of records that were not worked on", func() bool { return b.committed(t, group, topic)[0] == records })
			member.kill()
			rest := startKcatMember(t, b, group, topic, args...)
			eventually(t, waitTimeout, "the next member to stand at the end", func() bool { return strings.Contains(rest.err.String(), fmt.Sprintf("at offset %d", records)) })
			again := strings.Count(rest.out.String(), "\n")
			equal(t, "records that the next member reads", again, 0)
			t.Logf("killed after the commit: %d records, %d worked on, %d lost", records, worked, records-worked-again)
		})
	})
}

// One consumer has both partitions; a second one takes one over; when it leaves, the first has both again.
func TestWalkthroughRebalance(t *testing.T) {
	walkthrough(t, nil, func(t *testing.T, b *broker) {
		topic, group := b.topic(t, 2), unique(t)
		one := b.join(t, group, topic)
		eventually(t, waitTimeout, "one consumer to own both", func() bool { return one.owns() == 2 })
		two := b.join(t, group, topic)
		eventually(t, waitTimeout, "two consumers to own one each", func() bool { return one.owns() == 1 && two.owns() == 1 })
		_, generation := one.client.GroupMetadata()
		for p := range int32(2) {
			b.produce(t, topic, p, numbered(fmt.Sprintf("p%d-", p), 10)...)
		}
		eventually(t, waitTimeout, "ten records each", func() bool { return one.count() == 10 && two.count() == 10 })
		two.leave(t)
		eventually(t, waitTimeout, "the first to own both again", func() bool { return one.owns() == 2 })
		for p := range int32(2) {
			b.produce(t, topic, p, numbered(fmt.Sprintf("p%d-", p), 10)...)
		}
		eventually(t, waitTimeout, "the rest", func() bool { return one.count() == 30 })
		_, after := one.client.GroupMetadata()
		if after <= generation {
			t.Fatalf("the generation was %d and is %d after a rebalance", generation, after)
		}
		t.Logf("generation %d with two consumers, %d with one; %d records read by the first, %d by the second, none twice", generation, after, one.count(), two.count())
	})
}

// One consumer that owns two partitions gets records of both in one poll.
func TestWalkthroughTwoPartitionsOnePoll(t *testing.T) {
	walkthrough(t, nil, func(t *testing.T, b *broker) {
		topic := b.topic(t, 2)
		c := b.client(t, kgo.ConsumerGroup(unique(t)), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.FetchMinBytes(15_000), kgo.FetchMaxWait(2*time.Second)) // one partition alone does not fill it
		for poll := 1; ; poll++ {
			for p := range int32(2) {
				b.produce(t, topic, p, strings.Repeat("x", 10_000))
			}
			fetches := c.PollFetches(timeout(t))
			must(t, fetches.Err())
			counts := map[int32]int{}
			fetches.EachRecord(func(r *kgo.Record) { counts[r.Partition]++ })
			t.Logf("poll %d: %d records of partition 0 and %d of partition 1", poll, counts[0], counts[1])
			if counts[0] > 0 && counts[1] > 0 {
				return
			}
		}
	})
}

// Commits by hand, in three grains, and offsets that Kafka never sees.
func TestWalkthroughManualCommit(t *testing.T) {
	walkthrough(t, nil, func(t *testing.T, b *broker) {
		const records = 20 // in each of two partitions
		topic := b.topic(t, 2)
		for p := range int32(2) {
			b.produce(t, topic, p, numbered(fmt.Sprintf("p%d-", p), records)...)
		}
		reader := func(group string) *kgo.Client {
			return b.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		}
		for _, grain := range []struct {
			name   string
			commit func(c *kgo.Client, fetches kgo.Fetches) (commits int)
		}{
			{"per record", func(c *kgo.Client, fetches kgo.Fetches) (commits int) {
				fetches.EachRecord(func(r *kgo.Record) {
					must(t, c.CommitRecords(timeout(t), r)) // commits r.Offset + 1
					commits++
				})
				return commits
			}},
			{"per partition", func(c *kgo.Client, fetches kgo.Fetches) (commits int) {
				fetches.EachPartition(func(p kgo.FetchTopicPartition) {
					if len(p.Records) > 0 {
						must(t, c.CommitRecords(timeout(t), p.Records[len(p.Records)-1]))
						commits++
					}
				})
				return commits
			}},
			{"per poll", func(c *kgo.Client, fetches kgo.Fetches) (commits int) {
				must(t, c.CommitUncommittedOffsets(timeout(t)))
				return 1
			}},
		} {
			group := unique(t)
			c, read, polls, commits := reader(group), 0, 0, 0
			for read < 2*records {
				fetches := c.PollRecords(timeout(t), 8)
				must(t, fetches.Err())
				read += fetches.NumRecords()
				polls++
				commits += grain.commit(c, fetches)
			}
			equal(t, grain.name+": committed", fmt.Sprint(b.committed(t, group, topic)), fmt.Sprint(map[int32]int64{0: records, 1: records}))
			t.Logf("%-13s %d records in %d polls, %d commits", grain.name+":", read, polls, commits)
			c.Close()
		}

		// Outside: the results and the offsets go into one file, in one write; the next consumer seeks.
		store := filepath.Join(t.TempDir(), "results.json")
		type saved struct {
			Results []string
			Offsets map[int32]int64 // of the next record, by partition
		}
		state := saved{Offsets: map[int32]int64{0: 0, 1: 0}}
		for run := 1; len(state.Results) < 2*records; run++ {
			at := map[int32]kgo.Offset{}
			for p, offset := range state.Offsets {
				at[p] = kgo.NewOffset().At(offset)
			}
			c := b.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}))
			fetches := c.PollRecords(timeout(t), 15)
			must(t, fetches.Err())
			fetches.EachRecord(func(r *kgo.Record) {
				state.Results = append(state.Results, string(r.Value))
				state.Offsets[r.Partition] = r.Offset + 1
			})
			text, err := json.Marshal(state)
			must(t, err)
			must(t, os.WriteFile(store, text, 0o644))
			c.Close() // the consumer is gone; what it knew is in the file
			text, err = os.ReadFile(store)
			must(t, err)
			state = saved{}
			must(t, json.Unmarshal(text, &state))
			t.Logf("outside, run %d: %d results, next offsets %v", run, len(state.Results), state.Offsets)
		}
		slices.Sort(state.Results)
		equal(t, "results, each once", len(slices.Compact(state.Results)), 2*records)
	})
}

// A time becomes an offset by .timeindex, the offset a position by .index, and there in .log is the record.
func TestWalkthroughPointInTime(t *testing.T) {
	walkthrough(t, []string{"kafka", "kcat", "process"}, func(t *testing.T, b *broker) {
		topic := b.topic(t, 1, "retention.ms=-1", "index.interval.bytes=500")
		c := b.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()))
		const base = 1_700_000_000_000
		const records = 120      // our broker writes index entries in blocks of some fifty
		for i := range records { // one a second
			record := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 1000)), Timestamp: time.UnixMilli(base + int64(i)*1000)}
			must(t, c.ProduceSync(timeout(t), record).FirstErr())
		}
		const when, want = base + 60_500, 61 // the first record at or after it

		dir := filepath.Join(b.dir, topic+"-0", "00000000000000000000")
		dump := tool(t, "kafka-dump-log", "--files", dir+".timeindex,"+dir+".index,"+dir+".log")
		ints := func(pattern string) (found [][2]int64) {
			for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(dump, -1) {
				one, _ := strconv.ParseInt(match[1], 10, 64)
				two, _ := strconv.ParseInt(match[2], 10, 64)
				found = append(found, [2]int64{one, two})
			}
			return found
		}
		floor := func(entries [][2]int64, key int64) (value int64) {
			for _, entry := range entries {
				if entry[0] <= key {
					value = entry[1]
				}
			}
			return value
		}
		times, positions, batches := ints(`(?m)^timestamp: (\d+) offset: (\d+)$`), ints(`(?m)^offset: (\d+) position: (\d+)$`), ints(`position: (\d+) CreateTime: (\d+)`)
		if len(times) < 20 || len(positions) < 20 || len(batches) != records {
			t.Fatalf("%d time index entries, %d index entries, %d batches:\n%s", len(times), len(positions), len(batches), dump)
		}
		offset := floor(times, when)
		position := floor(positions, offset)
		found := slices.IndexFunc(batches, func(b [2]int64) bool { return b[0] >= position && b[1] >= when })
		equal(t, "offset found by hand", found, want)
		equal(t, "offset that the broker finds", b.listAfter(t, topic, time.UnixMilli(when)), want)
		t.Logf("time %d -> .timeindex: offset %d -> .index: position %d -> .log: offset %d at position %d", when, offset, position, found, batches[found][0])
		got := kcat(t, b, "", "-C", "-t", topic, "-o", fmt.Sprintf("s@%d", when), "-c", "1", "-q", "-f", `%o`)
		equal(t, "offset where kcat starts", got, fmt.Sprint(want))
	})
}

// Records with a key land where murmur2 of the key says, whichever client sends them.
func TestWalkthroughKeyedRecords(t *testing.T) {
	walkthrough(t, []string{"kcat", "kafka"}, func(t *testing.T, b *broker) {
		const partitions, keys = 5, 40
		expected := map[string]int32{}
		partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("any")
		var lines strings.Builder
		for i := range keys {
			key := fmt.Sprint("key-", i)
			expected[key] = int32(partitioner.Partition(&kgo.Record{Key: []byte(key)}, partitions))
			fmt.Fprintf(&lines, "%s=v\n", key)
		}
		equal(t, "key-0 by Kafka's murmur2", expected["key-0"], int32(toPositive(murmur2([]byte("key-0")))%partitions))
		for name, send := range map[string]func(topic string){
			"franz-go": func(topic string) {
				for key := range expected {
					must(t, b.client(t).ProduceSync(timeout(t), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte("v")}).FirstErr())
				}
			},
			"kcat": func(topic string) {
				kcat(t, b, lines.String(), "-P", "-t", topic, "-K=", "-X", "topic.partitioner=murmur2_random")
			},
			"kafka-console-producer": func(topic string) {
				toolWithInput(t, lines.String(), "kafka-console-producer", "--bootstrap-server", b.bootstrap, "--topic", topic,
					"--reader-property", "parse.key=true", "--reader-property", "key.separator==")
			},
		} {
			topic, seen := b.topic(t, partitions), 0
			send(topic)
			for p, records := range b.readAll(t, topic) {
				for _, r := range records {
					equal(t, name+": partition of "+string(r.Key), p, expected[string(r.Key)])
					seen++
				}
			}
			equal(t, name+": records", seen, keys)
		}
		t.Logf("key -> partition: %v", expected)
	})
}

// murmur2 is the hash of Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2).
func murmur2(data []byte) uint32 {
	const m = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := (uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24) * m
		h = h*m ^ (k^k>>24)*m
	}
	for i := len(data) - 1; i >= 0; i-- {
		h ^= uint32(data[i]) << (8 * i)
		if i == 0 {
			h *= m
		}
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}

func toPositive(h uint32) uint32 { return h & 0x7fffffff }

// Where a group starts that has no committed offset, or one that is no longer there.
func TestWalkthroughResetPolicies(t *testing.T) {
	walkthrough(t, []string{"kcat"}, func(t *testing.T, b *broker) {
		topic := b.topic(t, 1)
		b.produce(t, topic, 0, numbered("v", 10)...)
		_, err := kadm.NewClient(b.client(t)).DeleteRecords(timeout(t), kadm.Offsets{topic: {0: {Topic: topic, At: 4}}})
		must(t, err)
		for _, committed := range []int64{-1, 2} { // none, and one below the log's start
			for _, c := range [][2]string{{"earliest", "v4"}, {"latest", "new"}, {"error", ""}} { // error is librdkafka's word for none
				policy, want, group := c[0], c[1], unique(t)
				if committed >= 0 {
					must(t, kadm.NewClient(b.client(t)).CommitAllOffsets(timeout(t), group, kadm.Offsets{topic: {0: {Topic: topic, At: committed, LeaderEpoch: -1}}}))
				}
				member := startKcatMember(t, b, group, topic, "-X", "auto.offset.reset="+policy, "-X", "enable.auto.commit=false")
				said := "Reached end of topic"
				if policy == "error" {
					said = "ERROR: "
				}
				eventually(t, waitTimeout, policy+" to take effect", func() bool { return strings.Contains(member.err.String(), said) })
				b.produce(t, topic, 0, "new")
				first := ""
				if policy != "error" {
					eventually(t, waitTimeout, "a record", func() bool { return strings.Contains(member.out.String(), "\n") })
					first, _, _ = strings.Cut(member.out.String(), "\n")
				}
				equal(t, fmt.Sprintf("first record with %s and committed offset %d", policy, committed), first, want)
				t.Logf("committed offset %2d, auto.offset.reset=%-8s first record %q", committed, policy+":", first)
				member.proc.kill()
			}
		}
	})
}

// A worker for each partition; each commits the offset of the last record that it has done, plus one.
func TestWalkthroughWorkerPerPartition(t *testing.T) {
	walkthrough(t, nil, func(t *testing.T, b *broker) {
		const partitions, records = 3, 50
		topic, group := b.topic(t, partitions), unique(t)
		for p := range int32(partitions) {
			b.produce(t, topic, p, numbered("v", records)...)
		}
		c := b.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		var done [partitions][]string
		work := func(p kgo.FetchTopicPartition) { // one job: the records of one partition, in order
			for _, r := range p.Records {
				if p.Partition == 2 && len(done[2]) == 30 {
					return // this worker gets stuck
				}
				done[p.Partition] = append(done[p.Partition], string(r.Value))
				if len(done[p.Partition])%10 == 0 {
					next := map[string]map[int32]kgo.EpochOffset{topic: {p.Partition: {Epoch: r.LeaderEpoch, Offset: r.Offset + 1}}}
					c.CommitOffsetsSync(timeout(t), next, nil)
				}
			}
		}
		for len(done[0])+len(done[1])+len(done[2]) < 2*records+30 {
			fetches := c.PollRecords(timeout(t), 60)
			must(t, fetches.Err())
			var jobs sync.WaitGroup // jobs of one poll run side by side, polls one after the other
			fetches.EachPartition(func(p kgo.FetchTopicPartition) { jobs.Go(func() { work(p) }) })
			jobs.Wait()
			c.AllowRebalance()
		}
		for p := range int32(partitions) {
			equalSlices(t, fmt.Sprintf("done in partition %d", p), done[p], numbered("v", len(done[p])))
			equal(t, fmt.Sprintf("committed in partition %d", p), b.committed(t, group, topic)[p], int64(len(done[p])))
		}
		c.Close()
		next := b.join(t, group, topic)
		eventually(t, waitTimeout, "what the stuck worker left", func() bool { return next.count() == 20 })
		equal(t, "the first of it", string(next.records()[0].Value), "v30")
		t.Logf("done and committed: %d, %d and %d; the next consumer starts with %s of partition 2", len(done[0]), len(done[1]), len(done[2]), "v30")
	})
}

// lsof shows the indexes as mapped files of 10 MiB and the log as a plain open file.
func TestWalkthroughLsof(t *testing.T) {
	walkthrough(t, []string{"lsof", "process"}, func(t *testing.T, b *broker) {
		topic := b.topic(t, 1)
		b.produce(t, topic, 0, numbered("v", 10)...)
		text := run(t, "", "lsof", "-Pnp", fmt.Sprint(b.proc.cmd.Process.Pid))
		size := map[string]int{".index": 10 << 20, ".timeindex": 10 << 20 / 12 * 12} // whole entries of 8 and of 12 bytes
		for ext, want := range map[string]string{".index": `mem`, ".timeindex": `mem`, ".log": `\d+[ruw]`} {
			line := regexp.MustCompile(`(?m)^.*`+regexp.QuoteMeta(topic)+`-0/0+`+regexp.QuoteMeta(ext)+`$`).FindAllString(text, -1)
			if len(line) == 0 {
				t.Fatalf("lsof does not show the %s of %s:\n%s", ext, topic, text)
			}
			found := slices.IndexFunc(line, func(l string) bool { return regexp.MustCompile(`^` + want + `$`).MatchString(strings.Fields(l)[3]) })
			if found < 0 {
				t.Fatalf("%s is not open as %s:\n%s", ext, want, strings.Join(line, "\n"))
			}
			if want, ok := size[ext]; ok {
				equal(t, "bytes of "+ext, strings.Fields(line[found])[6], fmt.Sprint(want))
			}
			t.Log(line[found])
		}
	})
}

// walkthrough runs one on the shared broker of every backend.
func walkthrough(t *testing.T, means []string, run func(t *testing.T, b *broker)) {
	needs(t, means...)
	eachBackend(t, func(t *testing.T, backend string) { run(t, shared(t, backend)) })
}

// showGroup checks what kafka-consumer-groups --describe shows, and prints it.
func showGroup(t *testing.T, b *broker, group string, want ...groupRow) {
	t.Helper()
	text := b.tool(t, "kafka-consumer-groups", "--describe", "--group", group)
	t.Logf("kafka-consumer-groups --describe:%s", text)
	equalSlices(t, "rows", groupRows(text, group), want)
}
