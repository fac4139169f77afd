package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/log"
	"github.com/twmb/franz-go/pkg/kadm"
)

// answer is an outcome in short: survives, or what can be lost.
func answer(o outcome) string {
	switch {
	case o.Survives && o.Loses == nil && !o.Unbounded:
		return "survives"
	case o.Survives || o.Loses == nil || o.Unbounded != (*o.Loses == bounds{}):
		return fmt.Sprintf("BUG: %+v", o)
	}
	return o.Loses.String()
}

var (
	window  = bounds{Ms: 100, Records: 10_000, Bytes: 8 << 20}
	lagging = bounds{Ms: 30_000}
)

// What each fault takes under each policy, by acks. Of one replica acks=1 and acks=all are the same.
func TestDerive(t *testing.T) {
	ours := func(p log.Policy, b bounds) standing {
		return standing{Policy: p, Sync: p.Synchronous(), Bounds: b, Replicas: 1, ISR: 1, MinISR: 1, LagMs: 30_000}
	}
	kafka := func(replicas, isr, min int, sync bool, b bounds) standing {
		return standing{Kafka: true, Sync: sync, Bounds: b, Replicas: replicas, ISR: isr, MinISR: min, LagMs: 30_000}
	}
	with := func(s standing, change func(*standing)) standing { change(&s); return s }
	all := func(kill, panics, power, fsync string) map[string]string {
		return map[string]string{"kill": kill, "panic": panics, "power": power, "fsync": fsync}
	}
	const ok, none = "survives", "no bound"
	w := window.String()
	for _, c := range []struct {
		name string
		s    standing
		want map[string]string // by fault, scope and acks; "kill" stands for acks 1 and all of one replica
	}{
		{"os", ours(log.OS, bounds{}), all(ok, none, none, none)},
		{"interval", ours(log.Interval, window), all(ok, w, w, w)},
		{"write", ours(log.Write, bounds{}), all(ok, ok, ok, ok)},
		{"file", ours(log.File, bounds{}), all(ok, ok, ok, ok)},
		{"journal", ours(log.Journal, bounds{}), all(ok, ok, ok, ok)},
		{"journal in memory", with(ours(log.Journal, bounds{}), func(s *standing) { s.Memory = true }), all(ok, none, none, ok)},
		{"journal, a sync that does nothing", with(ours(log.Journal, bounds{}), func(s *standing) { s.Disk.Trust = bench.TrustNone }), all(ok, ok, none, ok)},
		{"file, flushes that do not arrive", with(ours(log.File, bounds{}), func(s *standing) { s.Disk.Trust = bench.TrustDoubtful }), all(ok, ok, none, ok)},
		{"interval, flushes that do not arrive", with(ours(log.Interval, window), func(s *standing) { s.Disk.Trust = bench.TrustDoubtful }), all(ok, w, none, w)},
		{"file, a cache", with(ours(log.File, bounds{}), func(s *standing) { s.Disk.Trust = bench.TrustCache }), all(ok, ok, ok, ok)},
		{"Kafka, one replica", kafka(1, 1, 1, false, bounds{}), all(ok, none, none, none)},
		{"Kafka, flush.messages=1", kafka(1, 1, 1, true, bounds{}), all(ok, ok, ok, ok)},
		{"Kafka, flush.messages=50", kafka(1, 1, 1, false, bounds{Records: 50}), all(ok, "50 records", "50 records", "50 records")},
		{"Kafka, three replicas, min 2", kafka(3, 3, 2, false, bounds{}), map[string]string{
			"kill one all": ok, "panic one all": ok, "power one all": ok, "fsync one all": ok,
			"kill all all": ok, "panic all all": none, "power all all": none,
			"kill one 1": lagging.String(), "panic one 1": lagging.String(), "power one 1": lagging.String(), "fsync one 1": lagging.String(),
			"kill all 1": lagging.String(), "panic all 1": none, "power all 1": none,
		}},
		{"Kafka, three replicas, min 1", kafka(3, 2, 1, false, bounds{}), map[string]string{
			"kill one all": ok, "panic one all": none, "power one all": none, "fsync one all": none,
			"kill all all": ok, "power all all": none, "power one 1": lagging.String(), "power all 1": none,
		}},
		{"Kafka, three replicas, synced", kafka(3, 3, 1, true, bounds{}), map[string]string{
			"kill one all": ok, "power one all": ok, "power all all": ok, "fsync one all": ok, "power one 1": lagging.String(), "power all 1": lagging.String(),
		}},
		{"Kafka, three replicas, both bounds", kafka(3, 3, 2, false, bounds{Ms: 1500, Records: 50}), map[string]string{
			"power all all": "1,500 ms or 50 records", "power all 1": "31,500 ms", "power one all": ok,
		}},
		{"Kafka, unclean election", with(kafka(3, 3, 2, true, bounds{}), func(s *standing) { s.Unclean = true }), map[string]string{
			"kill one all": ok, "power one all": ok, "kill all all": none, "power all all": none, "power one 1": lagging.String(),
		}},
		{"Kafka, unclean election, min 1", with(kafka(3, 3, 1, true, bounds{}), func(s *standing) { s.Unclean = true }), map[string]string{
			"kill one all": none, "power one all": none,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := map[string]string{}
			for _, o := range derive(c.s) {
				if len(o.Why) < 20 || o.Acks == "0" && answer(o) != none {
					t.Errorf("%+v", o)
				}
				if o.Survives != (o.Text == "survives") {
					t.Errorf("%s reads %q", answer(o), o.Text)
				}
				key := strings.Join(strings.Fields(o.Fault+" "+o.Scope+" "+o.Acks), " ")
				if found[key] != "" {
					t.Errorf("%s twice", key)
				}
				found[key] = answer(o)
			}
			for key, want := range c.want {
				keys := []string{key}
				if !strings.Contains(key, " ") {
					keys = []string{key + " 1", key + " all"}
				}
				for _, key := range keys {
					if found[key] != want {
						t.Errorf("%s: %q, want %q", key, found[key], want)
					}
				}
			}
			if want := map[bool]int{true: 12, false: 21}[c.s.Replicas == 1]; len(found) != want {
				t.Errorf("%d outcomes, want %d: %v", len(found), want, found)
			}
		})
	}
}

// The disk's word qualifies a power loss, and nothing else.
func TestDeriveQualifies(t *testing.T) {
	const reason = "as far as can be told: a cache answered"
	s := standing{Policy: log.Journal, Sync: true, Replicas: 1, Disk: bench.Judgement{Trust: bench.TrustCache, Reason: reason}}
	for _, o := range derive(s) {
		if want := o.Fault == faultPower && o.Acks != "0"; strings.Contains(o.Why, reason) != want {
			t.Errorf("%s, acks %s: %s", o.Fault, o.Acks, o.Why)
		}
	}
}

func TestSettingsOfTopics(t *testing.T) {
	const never = int64(log.Never)
	for _, c := range []struct {
		messages, ms, every int64
		sync                bool
		want                bounds
		notes               int
	}{
		{never, never, never, false, bounds{}, 0},
		{1, never, never, true, bounds{}, 0},
		{50, never, never, false, bounds{Records: 50}, 0},
		{never, 1000, never, false, bounds{}, 1}, // nobody looks
		{50, 1000, 500, false, bounds{Ms: 1500, Records: 50}, 0},
	} {
		l := &look{}
		l.resolveKafka(plainSettings("flush.messages", c.messages, "flush.ms", c.ms), plainSettings("log.flush.scheduler.interval.ms", c.every))
		if s := l.standing; !s.Kafka || s.Sync != c.sync || s.Bounds != c.want || len(l.notes) != c.notes {
			t.Errorf("%+v: %+v, notes %q", c, s, l.notes)
		}
	}
	l := &look{set: map[string]string{"flush.policy": "interval"}}
	topic := plainSettings("flush.messages", never, "flush.ms", never, "flush.bytes", int64(8<<20))
	topic["flush.policy"] = setting("flush.policy", "interval")
	if err := l.resolveMillrace(topic, plainSettings("flush.ms", 100, "flush.messages", 10_000)); err != nil || l.standing.Bounds != window || !l.own {
		t.Errorf("%+v, %v", l.standing, err)
	}
}

func TestPriceRows(t *testing.T) {
	names := func(s standing, set map[string]string) string {
		var all []string
		for _, row := range (&measurement{look: &look{standing: s, set: set}}).rows() {
			own := ""
			if row.Own {
				own = "*"
			}
			all = append(all, row.Policy+own+" "+row.Takes)
		}
		return strings.Join(all, ", ")
	}
	for _, c := range []struct {
		s    standing
		want string
	}{
		{standing{Kafka: true}, "no flush* no bound, flush.messages=1 nothing"},
		{standing{Kafka: true, Sync: true}, "no flush no bound, flush.messages=1* nothing"},
		{standing{Kafka: true, Bounds: bounds{Records: 9}}, "no flush no bound, as it is* 9 records, flush.messages=1 nothing"},
		{standing{Policy: log.Interval, Bounds: bounds{Ms: 5}}, "os no bound, interval* 5 ms, write nothing, file nothing, journal nothing"},
	} {
		if got := names(c.s, nil); got != c.want {
			t.Errorf("%+v: %s", c.s, got)
		}
	}
}

// A topic whose partitions are all out of service is explained by who has them.
func TestWhoHas(t *testing.T) {
	topic := func(leaders ...int32) kadm.TopicDetail {
		d := kadm.TopicDetail{Partitions: kadm.PartitionDetails{}}
		for i, leader := range leaders {
			d.Partitions[int32(i)] = kadm.PartitionDetail{Partition: int32(i), Leader: leader, Replicas: []int32{7, 8}}
		}
		return d
	}
	if a, b, c := whoHas(topic(-1, 8)), whoHas(topic(-1, -1)), whoHas(topic()); a != 8 || b != 7 || c != -1 {
		t.Errorf("%d, %d, %d", a, b, c)
	}
}
