package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// target says where group reset moves offsets to.
type target struct {
	kind   string // the name of the flag: to-earliest, shift-by, ...
	offset int64  // to-offset, shift-by
	millis int64  // to-datetime, by-duration
}

func groupReset(c *cli, args []string) error {
	f := newFlags("group reset", "GROUP",
		"Moves the committed offsets of a group that has no active members. Without --execute it only prints where they "+
			"would move. An offset outside the log becomes the nearest one inside it. A time stands for the first record that "+
			"is not older, or the log's end.",
		"millrace group reset billing --topic orders --to-earliest\nmillrace group reset billing --topic orders:0,2 --by-duration PT1H --execute")
	bootstrap := f.bootstrapFlag()
	topics := f.list("topic", "`TOPIC[:0,1]` to reset; may be repeated")
	all := f.Bool("all-topics", false, "all topics that the group has committed offsets for")
	f.Bool("to-earliest", false, "to the log start")
	f.Bool("to-latest", false, "to the log end")
	f.Bool("to-current", false, "to where it is (the log end where nothing is committed)")
	at := f.String("to-datetime", "", "to the first record at or after `YYYY-MM-DDTHH:mm:ss.sss`, UTC unless it ends in a zone")
	offset := f.Int64("to-offset", 0, "to this `offset`")
	shift := f.Int64("shift-by", 0, "forward by `n` records, back where negative")
	ago := f.String("by-duration", "", "to the first record of the last `PnDTnHnMnS` (or 90m)")
	execute := f.Bool("execute", false, "do it")
	dry := f.Bool("dry-run", false, "only print it, which is the default")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	var to []target
	for _, kind := range []string{"to-earliest", "to-latest", "to-current", "to-datetime", "to-offset", "shift-by", "by-duration"} {
		if f.given(kind) {
			to = append(to, target{kind: kind})
		}
	}
	switch {
	case len(f.rest) != 1:
		return usagef("name one group")
	case len(to) != 1:
		return usagef("give one of --to-earliest, --to-latest, --to-current, --to-datetime, --to-offset, --shift-by, --by-duration")
	case *execute && *dry:
		return usagef("--execute and --dry-run exclude each other")
	case *all == (len(*topics) > 0):
		return usagef("give either --topic or --all-topics")
	}
	switch to[0].kind {
	case "to-offset":
		to[0].offset = *offset
	case "shift-by":
		to[0].offset = *shift
	case "to-datetime":
		t, err := parseDatetime(*at)
		if err != nil {
			return err
		}
		to[0].millis = t.UnixMilli()
	case "by-duration":
		d, err := parseDuration(*ago)
		if err != nil {
			return err
		}
		to[0].millis = time.Now().Add(-d).UnixMilli()
	}
	var scopes []scope
	for _, s := range *topics {
		sc, err := parseScope(s)
		if err != nil {
			return err
		}
		scopes = append(scopes, sc)
	}

	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	group := f.rest[0]
	// An unknown group is legal: the reset makes it.
	if d, err := describeGroup(c, adm, group); err == nil && d.State != "Empty" && d.State != "Dead" {
		return fmt.Errorf("group %q: offsets move only while it has no active members, and it is %s", group, d.State)
	} else if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return about("group", group, err, "")
	}
	moved, err := resetOffsets(c, adm, group, scopes, to[0])
	if err != nil {
		return err
	}
	if *execute && len(moved) > 0 {
		if err := adm.CommitAllOffsets(c.ctx, group, moved); err != nil {
			return about("group", group, err, "")
		}
	}
	if *asJSON {
		lines := []map[string]any{}
		for _, o := range moved.Sorted() {
			lines = append(lines, map[string]any{"group": group, "topic": o.Topic, "partition": o.Partition, "new_offset": o.At})
		}
		return printJSON(c.out, lines)
	}
	table := newTable(c.out, "GROUP", "TOPIC", "PARTITION", "NEW-OFFSET")
	for _, o := range moved.Sorted() {
		table.row(group, o.Topic, o.Partition, o.At)
	}
	table.Flush()
	if !*execute {
		c.warnf("nothing was changed: this is what --execute would do")
	}
	return nil
}

// resetOffsets works out the new offsets of group in scopes; no scopes: where it has committed.
func resetOffsets(c *cli, adm *kadm.Client, group string, scopes []scope, to target) (kadm.Offsets, error) {
	committed, err := adm.FetchOffsets(c.ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, about("group", group, fmt.Errorf("committed offsets: %w", err), "")
	}
	if len(scopes) == 0 {
		byTopic := map[string][]int32{}
		committed.Each(func(o kadm.OffsetResponse) { byTopic[o.Topic] = append(byTopic[o.Topic], o.Partition) })
		for topic, ps := range byTopic {
			scopes = append(scopes, scope{topic, ps})
		}
		if len(scopes) == 0 {
			return nil, fmt.Errorf("group %q has no committed offsets", group)
		}
	}
	var names []string
	for _, s := range scopes {
		names = append(names, s.topic)
	}
	starts, err := adm.ListStartOffsets(c.ctx, names...)
	if err != nil {
		return nil, err
	}
	ends, err := adm.ListEndOffsets(c.ctx, names...)
	if err != nil {
		return nil, err
	}
	var after kadm.ListedOffsets
	if to.kind == "to-datetime" || to.kind == "by-duration" {
		if after, err = adm.ListOffsetsAfterMilli(c.ctx, to.millis, names...); err != nil {
			return nil, err
		}
	}
	moved := kadm.Offsets{}
	for _, s := range scopes {
		if o, ok := starts.Lookup(s.topic, -1); ok {
			return nil, about("topic", s.topic, o.Err, "")
		}
		if s.partitions == nil {
			for p := range starts[s.topic] {
				s.partitions = append(s.partitions, p)
			}
		}
		for _, p := range s.partitions {
			start, ok := starts.Lookup(s.topic, p)
			end := ends[s.topic][p]
			if !ok {
				return nil, fmt.Errorf("topic %q has no partition %d", s.topic, p)
			}
			if err := errors.Join(start.Err, end.Err); err != nil {
				return nil, about("topic", s.topic, fmt.Errorf("partition %d: %w", p, err), "")
			}
			current := int64(-1)
			if o, ok := committed.Lookup(s.topic, p); ok && o.Err == nil {
				current = o.At
			}
			want, err := to.resolve(start.Offset, end.Offset, current, after[s.topic][p].Offset)
			if err != nil {
				return nil, fmt.Errorf("%s-%d: %w", s.topic, p, err)
			}
			inside := min(max(want, start.Offset), end.Offset)
			if inside != want {
				c.warnf("%s-%d: offset %d is outside the log (%d to %d), taking %d", s.topic, p, want, start.Offset, end.Offset, inside)
			}
			moved.Add(kadm.Offset{Topic: s.topic, Partition: p, At: inside, LeaderEpoch: -1})
		}
	}
	return moved, nil
}

// resolve is the offset that the target means in a partition. current is -1 where nothing is committed.
func (t target) resolve(start, end, current, after int64) (int64, error) {
	switch t.kind {
	case "to-earliest":
		return start, nil
	case "to-latest":
		return end, nil
	case "to-current":
		if current < 0 {
			return end, nil
		}
		return current, nil
	case "to-offset":
		return t.offset, nil
	case "shift-by":
		if current < 0 {
			return 0, errors.New("no committed offset to shift")
		}
		return current + t.offset, nil
	case "to-datetime", "by-duration":
		if after < 0 {
			return end, nil
		}
		return after, nil
	}
	panic("BUG: reset target " + t.kind)
}

// parseDatetime reads the time form of Kafka's tool; without a zone it is UTC.
func parseDatetime(s string) (time.Time, error) {
	for _, layout := range []string{"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999Z0700", "2006-01-02T15:04:05.999999999",
		"2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%q is not a time like 2026-01-31T09:30:00.000", s)
}

var isoDuration = regexp.MustCompile(`^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$`)

// parseDuration reads an ISO 8601 duration of days and smaller, or Go's form; not negative.
func parseDuration(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d, nil
	}
	m := isoDuration.FindStringSubmatch(strings.ToUpper(s))
	if m == nil || strings.Join(m[1:], "") == "" {
		return 0, usagef("%q is not a duration like P1DT2H30M or 90m", s)
	}
	var d float64
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		if m[i+1] != "" {
			n, err := strconv.ParseFloat(m[i+1], 64)
			if err != nil {
				return 0, usagef("%q: %v", s, err)
			}
			d += n * float64(unit)
		}
	}
	return time.Duration(d), nil
}

// parsePartitions reads 0,1,2.
func parsePartitions(s string) ([]int32, error) {
	var all []int32
	for _, part := range strings.Split(s, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(part), 10, 32)
		if err != nil || n < 0 {
			return nil, usagef("%q is not a list of partitions like 0,1,2", s)
		}
		all = append(all, int32(n))
	}
	return all, nil
}
