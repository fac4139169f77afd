package main

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/bench"
	"github.com/millrace/millrace/engine/log"
)

// bounds is how much can be lost of each partition: what comes first ends it. 0: no
// such bound; none at all: whatever the kernel has not written back.
type bounds struct {
	Ms      int64 `json:"ms,omitempty"`
	Records int64 `json:"records,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"`
}

func (b bounds) String() string {
	var all []string
	if b.Ms > 0 {
		all = append(all, span(b.Ms))
	}
	if b.Records > 0 {
		all = append(all, thousands(b.Records)+" records")
	}
	if b.Bytes > 0 {
		all = append(all, size(b.Bytes))
	}
	switch n := len(all); n {
	case 0:
		return "no bound"
	case 1:
		return all[0]
	default:
		return strings.Join(all[:n-1], ", ") + " or " + all[n-1]
	}
}

// standing is all that decides what a fault takes from a topic.
type standing struct {
	Kafka    bool       // no flush.policy: Apache Kafka's flush.messages and flush.ms are all there is
	Policy   log.Policy // else
	Sync     bool       // an acknowledged record is on disk
	Bounds   bounds     // where it is not: how far the disk may be behind
	Replicas int        // of the partition that has the fewest
	ISR      int        // likewise
	MinISR   int
	Unclean  bool  // a replica outside the ISR may lead
	LagMs    int64 // a replica leaves the ISR when it has not caught up for so long
	// ExpireSeconds is after how long the kernel writes a dirty page back, 0: not known.
	ExpireSeconds int64
	Memory        bool // the logs lie in memory (tmpfs)
	Disk          bench.Judgement
}

// The faults, in the order in which they are shown.
const (
	faultKill  = "kill"
	faultPanic = "panic"
	faultPower = "power"
	faultFsync = "fsync"
)

// outcome is what a fault does to records that were acknowledged.
type outcome struct {
	Fault     string  `json:"fault"`           // kill, panic, power, fsync
	Scope     string  `json:"scope,omitempty"` // one or all of the replicas; absent where there is one
	Acks      string  `json:"acks"`            // all, 1, 0: the producer's
	Survives  bool    `json:"survives"`
	Loses     *bounds `json:"can_lose,omitempty"`  // of each partition
	Unbounded bool    `json:"unbounded,omitempty"` // there is nothing in can_lose that ends it
	Text      string  `json:"text"`                // the answer in words
	Why       string  `json:"why"`
}

func survives(why string) outcome { return outcome{Survives: true, Text: "survives", Why: why} }

func loses(b bounds, why string) outcome {
	o := outcome{Loses: &b, Unbounded: b == bounds{}, Why: why}
	switch {
	case o.Unbounded:
		o.Text = "can lose without bound"
	case strings.Contains(b.String(), " or "):
		o.Text = "can lose up to " + b.String() + " of each partition, whichever comes first"
	default:
		o.Text = "can lose up to " + b.String() + " of each partition"
	}
	return o
}

// derive says what each fault takes, by the acks that the producer asked for.
func derive(s standing) []outcome {
	var all []outcome
	for _, fault := range []string{faultKill, faultPanic, faultPower, faultFsync} {
		scopes := []string{"one", "all"}
		switch {
		case s.Replicas <= 1:
			scopes = []string{""}
		case fault == faultFsync:
			scopes = []string{"one"}
		}
		for _, scope := range scopes {
			for _, acks := range []string{"all", "1"} {
				o := s.across(fault, scope, acks)
				o.Fault, o.Scope, o.Acks = fault, scope, acks
				all = append(all, o)
			}
			zero := loses(bounds{}, "acks=0 acknowledges nothing; what is on its way when the fault comes is lost without a word, "+
				"what had been appended by then is as safe as with acks=1")
			zero.Fault, zero.Scope, zero.Acks = fault, scope, "0"
			all = append(all, zero)
		}
	}
	return all
}

// across is what a fault of one or all replicas takes.
func (s standing) across(fault, scope, acks string) outcome {
	own := s.local(fault)
	switch {
	case scope == "":
		return own
	case scope == "all" && s.Unclean:
		return loses(bounds{}, "unclean.leader.election.enable=true lets a replica lead that does not have them")
	case acks == "1" && scope == "all" && !own.Survives:
		b := bounds{}
		if own.Loses.Ms > 0 {
			b.Ms = s.LagMs + own.Loses.Ms
		}
		return loses(b, s.leaderAlone()+", and of the rest "+own.Loses.String()+": "+own.Why)
	case acks == "1":
		return loses(bounds{Ms: s.LagMs}, s.leaderAlone())
	case scope == "all":
		return own
	case s.MinISR >= 2:
		why := fmt.Sprintf("with acks=all and min.insync.replicas=%d another in-sync replica has it", s.MinISR)
		if !own.Survives { // the last of the ISR would come back shorter, and lead
			why += "; should the others have left the ISR since, only with eligible leader replicas (KIP-966)"
		}
		return survives(why)
	}
	shrunk := fmt.Sprintf("min.insync.replicas=%d lets the leader acknowledge alone once the others have left the ISR (now %d of %d are in it)", s.MinISR, s.ISR, s.Replicas)
	switch {
	case s.Unclean:
		return loses(bounds{}, shrunk+", and unclean.leader.election.enable=true lets a replica lead that does not have them")
	case own.Survives:
		return own
	}
	own.Why = "nothing while another replica is in sync; but " + shrunk + ". Then: " + own.Why
	return own
}

// leaderAlone is what acks=1 leaves without a second copy. Whoever leads next had all that is
// older than the lag that the ISR allows: else it would not be in it.
func (s standing) leaderAlone() string {
	return "what the leader alone had: the next one is at most " + span(s.LagMs) + " behind (replica.lag.time.max.ms)"
}

// local is what a fault takes from a single replica, whose only copy is on its own disk.
func (s standing) local(fault string) outcome {
	switch fault {
	case faultKill:
		return survives("what is acknowledged is in the page cache at least, and that outlives the process")
	case faultPanic, faultPower:
		return s.dark(fault)
	}
	return s.failingSync()
}

// dark is a kernel panic, which takes the page cache, or a power loss, which takes the
// disk's cache too.
func (s standing) dark(fault string) outcome {
	switch {
	case s.Memory:
		return loses(bounds{}, "the logs lie in memory (tmpfs): all of them are gone")
	case fault == faultPower && (s.Sync || s.Bounds != bounds{}) && (s.Disk.Trust == bench.TrustNone || s.Disk.Trust == bench.TrustDoubtful):
		return loses(bounds{}, "the settings ask for flushes, but "+s.Disk.Reason)
	case fault == faultPower && s.Sync:
		return survives(s.where() + "; " + s.Disk.Reason)
	case s.Sync:
		return survives(s.where())
	case fault == faultPower && s.Bounds != bounds{}:
		return loses(s.Bounds, "as by a kernel panic; "+s.Disk.Reason)
	}
	return loses(s.Bounds, s.behind())
}

// where says where an acknowledged record is, under a synchronous policy.
func (s standing) where() string {
	switch {
	case s.Kafka:
		return "flush.messages=1: each append is synced before its acknowledgement"
	case s.Policy == log.Journal:
		return "acknowledged only when it is on disk, in the core's journal"
	}
	return "acknowledged only when it is on disk, in the segment"
}

// behind says why the disk is behind, and what holds it to the bound.
func (s standing) behind() string {
	switch {
	case s.Bounds == bounds{} && s.ExpireSeconds > 0:
		return fmt.Sprintf("what the kernel has not written back, about the last %d s here", s.ExpireSeconds)
	case s.Bounds == bounds{}:
		return "what the kernel has not written back, about the last 30 s by default"
	case s.Kafka && s.Bounds.Records > 0:
		return "flush.messages is kept by the append itself"
	case s.Kafka:
		return "the flusher does not hold appends back: a slow disk makes it more"
	}
	text := "beyond that appends wait"
	if s.Bounds.Ms > 0 {
		text += " (while the disk stalls, what was acknowledged before grows older than that, and not more)"
	}
	return text
}

// failingSync is an fsync that the disk answers with an error.
func (s standing) failingSync() outcome {
	if s.Kafka {
		const offline = "the broker takes the whole log directory offline, and stops if that was its last; whoever restarts it should reboot the machine first"
		if s.Sync {
			return survives("an append whose sync failed is not acknowledged; " + offline)
		}
		return loses(s.Bounds, "what was not on disk when it failed; "+offline)
	}
	const restart = "The next start writes again what the page cache may hold and the disk may not (sync-failed in the log directory)"
	if !s.Sync {
		late := ""
		if s.Policy == log.OS {
			late = " (there is a sync only when a segment is full or closed, so it is noticed late)"
		}
		return loses(s.Bounds, "what was not on disk when it failed. The partition takes no more records"+late+". "+restart)
	}
	fenced := "the partition takes no more records and keeps what was acknowledged"
	if s.Policy == log.Journal {
		fenced = "one of a segment takes its partition out of service, one of the journal all partitions of its core, and what was acknowledged is kept"
	}
	return survives("what waited for it is not acknowledged; " + fenced + ". " + restart)
}

// summary says in a sentence what an acknowledgement means.
func (s standing) summary() string {
	switch {
	case s.Kafka && s.Sync:
		return "An acknowledged record is on the disk of the leader (flush.messages=1 forces each append)."
	case s.Kafka && s.Bounds == bounds{}:
		return "An acknowledged record is in the page cache: neither flush.messages nor flush.ms bounds how long."
	case s.Kafka:
		return "An acknowledged record is in the page cache, at most " + s.Bounds.String() + " of its partition ahead of the disk."
	case s.Policy == log.OS:
		return "An acknowledged record is in the page cache. The kernel writes it back when it likes; a segment is synced when it is full."
	case s.Policy == log.Interval:
		return "An acknowledged record is in the page cache, at most " + s.Bounds.String() + " of its partition ahead of the disk."
	case s.Policy == log.Journal:
		return "An acknowledged record is on disk: in its core's journal, by one synchronous write for all partitions; the segments follow."
	case s.Policy == log.Write:
		return "An acknowledged record is on disk: each batch is written and synced by itself."
	}
	return "An acknowledged record is on disk: one sync of the segment covers all that arrived while the last one ran."
}

// copies says what the replicas are good for.
func (s standing) copies() string {
	if s.Replicas > 1 {
		return fmt.Sprintf("%d replicas, %d in sync now, min.insync.replicas=%d.", s.Replicas, s.ISR, s.MinISR)
	}
	return "One replica: what strikes its broker strikes the only copy, so one and all are the same fault, and so are acks=1 and acks=all. " +
		"Until the broker is back nothing can be read or written."
}

// faultName is a fault in words.
func faultName(fault, scope string) string {
	name := map[string]string{faultKill: "broker killed", faultPanic: "kernel panic", faultPower: "power loss", faultFsync: "failing fsync"}[fault]
	switch scope {
	case "one":
		return name + ", one"
	case "all":
		return name + ", all"
	}
	return name
}

// span is a time in ms, in the unit that it is a whole number of.
func span(ms int64) string {
	switch {
	case ms >= 60_000 && ms%60_000 == 0:
		return fmt.Sprintf("%d min", ms/60_000)
	case ms >= 1000 && ms%1000 == 0:
		return fmt.Sprintf("%d s", ms/1000)
	}
	return fmt.Sprintf("%s ms", thousands(ms))
}

// thousands prints a number with its thousands apart.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
