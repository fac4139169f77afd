package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// disk is a broker's disk for a gate: how far each partition is on it, and how often somebody asked.
type disk struct {
	flushed map[spot]int64
	asked   int
	err     error
}

func (d *disk) ask(_ context.Context, spots []spot) (map[spot]wire.LogDirOffsets, error) {
	d.asked++
	told := map[spot]wire.LogDirOffsets{}
	for _, s := range spots {
		told[s] = wire.LogDirOffsets{Flushed: d.flushed[s]}
	}
	return told, d.err
}

// offsets are records as "partition:offset", in order.
func offsets(records []*kgo.Record) string {
	var all []string
	for _, r := range records {
		all = append(all, fmt.Sprint(r.Partition, ":", r.Offset))
	}
	return strings.Join(all, " ")
}

func fetched(partition int32, from, to int64) (all []*kgo.Record) {
	for o := from; o < to; o++ {
		all = append(all, &kgo.Record{Topic: "t", Partition: partition, Offset: o})
	}
	return all
}

func TestGate(t *testing.T) {
	ctx := context.Background()
	d := &disk{flushed: map[spot]int64{{"t", 0}: 2}}
	g := newGate(false, d.ask)
	pass := func(records []*kgo.Record, want string) {
		t.Helper()
		out, err := g.pass(ctx, records)
		if err != nil || offsets(out) != want {
			t.Fatalf("got %q, %v, want %q", offsets(out), err, want)
		}
	}
	if _, holds := g.next(time.Now()); holds {
		t.Fatal("holds something from the start")
	}
	pass(slices.Concat(fetched(0, 0, 4), fetched(1, 0, 1)), "0:0 0:1") // it asks at once
	if wait, holds := g.next(time.Now()); d.asked != 1 || !holds || wait <= 0 || wait > askMin {
		t.Fatalf("asked %d times, holds %t, next in %v", d.asked, holds, wait)
	}
	pause, resume := g.switches()
	if slices.Sort(pause["t"]); fmt.Sprint(pause, resume) != "map[t:[0 1]] map[]" {
		t.Fatalf("pause %v, resume %v", pause, resume)
	}
	if pause, resume = g.switches(); len(pause)+len(resume) > 0 {
		t.Fatalf("pause %v, resume %v, again", pause, resume)
	}
	if left := g.left(); left != "held back 3 records that would not survive power loss yet (t-0: 2, flushed 2; t-1: 1, flushed 0)" {
		t.Fatal(left)
	}

	d.flushed[spot{"t", 0}] = 3
	pass(fetched(0, 4, 5), "") // not asked again so soon; behind what is held nothing passes
	if d.asked != 1 {
		t.Fatalf("asked %d times", d.asked)
	}
	g.askAt = time.Time{}
	pass(nil, "0:2")
	for i := range 10 { // less and less often while nothing comes
		g.askAt = time.Time{}
		pass(nil, "")
		if want := min(askMin<<(i+1), askMax); g.wait != want {
			t.Fatalf("waits %v, want %v", g.wait, want)
		}
	}
	d.flushed[spot{"t", 0}], d.flushed[spot{"t", 1}] = 5, 1
	g.askAt = time.Time{}
	out, err := g.pass(ctx, nil)
	slices.SortStableFunc(out, func(a, b *kgo.Record) int { return int(a.Partition - b.Partition) })
	if err != nil || offsets(out) != "0:3 0:4 1:0" || g.wait != askMin || g.left() != "" {
		t.Fatalf("%q, %v, %v, %q", offsets(out), err, g.wait, g.left())
	}
	if pause, resume = g.switches(); len(pause["t"]) != 0 || len(resume["t"]) != 2 {
		t.Fatalf("pause %v, resume %v", pause, resume)
	}

	// Another member of the group gets a partition: what is held of it is not ours to print.
	pass(fetched(1, 1, 3), "")
	g.forget(spot{"t", 1})
	if _, holds := g.next(time.Now()); holds || g.left() != "" {
		t.Fatalf("still holds: %q", g.left())
	}

	d.err = errNotTold
	g.askAt = time.Time{}
	if _, err := g.pass(ctx, fetched(0, 5, 6)); !errors.Is(err, errNotTold) || !strings.HasPrefix(err.Error(), "--durable: the broker does not tell") {
		t.Fatal(err)
	}
}

// --exit --durable reads to what was on disk at the start, never asks again, and says what it left.
func TestGateAtExit(t *testing.T) {
	d := &disk{flushed: map[spot]int64{{"t", 0}: 3, {"t", 1}: 9}}
	k := &consumer{exit: true, known: true, ends: map[spot]int64{}, gate: newGate(true, d.ask)}
	if err := k.gate.learn(context.Background(), []spot{{"t", 0}, {"t", 1}, {"t", 2}}); err != nil {
		t.Fatal(err)
	}
	k.readTo(spot{"t", 0}, 0, 5)
	k.readTo(spot{"t", 1}, 2, 7) // on disk beyond what can be read
	k.readTo(spot{"t", 2}, 4, 6) // starts above what is on disk
	if fmt.Sprint(k.ends) != "map[{t 0}:3 {t 1}:7]" {
		t.Fatal(k.ends)
	}
	if left := k.gate.left(); left != "held back 4 records that would not survive power loss yet (t-0: 2, flushed 3; t-2: 2, flushed 0)" {
		t.Fatal(left)
	}
	d.flushed[spot{"t", 0}] = 5
	out, err := k.gate.pass(context.Background(), fetched(0, 0, 5))
	if err != nil || offsets(out) != "0:0 0:1 0:2" || d.asked != 1 {
		t.Fatalf("%q, %v, asked %d times", offsets(out), err, d.asked)
	}
	for _, r := range k.gate.first() { // that suffices, were 0:2 not there
		k.reach(r, r.Offset)
	}
	if fmt.Sprint(k.ends) != "map[{t 1}:7]" {
		t.Fatal(k.ends)
	}
}

// --timeout counts from what came last, however often the broker is asked in between.
func TestGateAndTimeout(t *testing.T) {
	k := &consumer{known: true, idle: time.Hour, gate: newGate(false, nil), came: time.Now()}
	if wait, counts := k.wake(time.Hour, true); wait != time.Hour || !counts {
		t.Errorf("nothing held: %v, %t", wait, counts)
	}
	k.gate.held[spot{"t", 0}] = fetched(0, 0, 1)
	k.gate.askAt = time.Now().Add(time.Minute)
	if wait, counts := k.wake(time.Hour, true); wait > time.Minute || counts {
		t.Errorf("held: %v, %t", wait, counts)
	}
	k.came = time.Now().Add(-2 * time.Hour)
	if wait, counts := k.wake(time.Hour, true); wait != 0 || !counts {
		t.Errorf("held for too long: %v, %t", wait, counts)
	}
}

// What brokers answer to DescribeLogDirs: of replicas the one that is least on disk counts.
func TestToldOffsets(t *testing.T) {
	answer := func(tell bool, partitions map[int32]int64) kgo.ResponseShard {
		a := kmsg.NewPtrDescribeLogDirsResponse()
		at := kmsg.DescribeLogDirsResponseDirTopic{Topic: "t"}
		for p, flushed := range partitions {
			x := kmsg.DescribeLogDirsResponseDirTopicPartition{Partition: p}
			if tell {
				wire.LogDirOffsets{Flushed: flushed, LogEnd: 9}.SetTags(&x.UnknownTags)
			}
			at.Partitions = append(at.Partitions, x)
		}
		a.Dirs = []kmsg.DescribeLogDirsResponseDir{{Topics: []kmsg.DescribeLogDirsResponseDirTopic{at}}}
		return kgo.ResponseShard{Resp: a}
	}
	asked := []spot{{"t", 0}, {"t", 1}}
	down := kgo.ResponseShard{Err: errors.New("the broker is down")}
	for _, c := range []struct {
		shards []kgo.ResponseShard
		want   string
		err    string
	}{
		{[]kgo.ResponseShard{answer(true, map[int32]int64{0: 4, 1: 7}), answer(true, map[int32]int64{0: 3, 1: 8})}, "3 7", ""},
		{[]kgo.ResponseShard{answer(true, map[int32]int64{0: 4})}, "4 -", "t-1: no broker has it"},
		{[]kgo.ResponseShard{answer(false, map[int32]int64{0: 4, 1: 4})}, "- -", "does not tell"},
		{[]kgo.ResponseShard{answer(true, map[int32]int64{0: 4}), down}, "4 -", "the broker is down"},
	} {
		told, err := readTold(asked, c.shards)
		got := ""
		for _, s := range asked {
			if o, ok := told[s]; ok {
				got += fmt.Sprint(" ", o.Flushed)
			} else {
				got += " -"
			}
		}
		if got != " "+c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("got %q, %v, want %q, %q", got, err, c.want, c.err)
		}
	}
}
