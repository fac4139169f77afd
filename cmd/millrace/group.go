package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// groupLine is a group as group list --json prints it.
type groupLine struct {
	Group       string `json:"group"`
	Protocol    string `json:"protocol_type"`
	State       string `json:"state"`
	Coordinator int32  `json:"coordinator"`
}

func groupList(c *cli, args []string) error {
	f := newFlags("group list", "", "Lists the groups of the cluster with their state.", "millrace group list --state Stable,Empty")
	bootstrap := f.bootstrapFlag()
	states := f.String("state", "", "only groups in these `states`: Empty, Stable, PreparingRebalance, CompletingRebalance, Dead, ...")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	groups, err := adm.ListGroups(c.ctx, strings.FieldsFunc(*states, func(r rune) bool { return r == ',' || r == ' ' })...)
	if err != nil {
		return err
	}
	lines := []groupLine{}
	for _, g := range groups.Sorted() {
		lines = append(lines, groupLine{g.Group, g.ProtocolType, g.State, g.Coordinator})
	}
	if *asJSON {
		return printJSON(c.out, lines)
	}
	table := newTable(c.out, "GROUP", "STATE", "PROTOCOL-TYPE", "COORDINATOR")
	for _, l := range lines {
		table.row(l.Group, l.State, l.Protocol, l.Coordinator)
	}
	return table.Flush()
}

// groupDetail is a group of either protocol, classic or KIP-848.
type groupDetail struct {
	Group       string         `json:"group"`
	Coordinator string         `json:"coordinator"`
	Assignor    string         `json:"assignment_strategy"`
	State       string         `json:"state"`
	Epoch       int32          `json:"epoch"` // -1: a classic group
	TargetEpoch int32          `json:"target_epoch"`
	Members     []memberDetail `json:"members"`
	Offsets     []groupOffset  `json:"offsets,omitempty"`
}

type memberDetail struct {
	ID          string         `json:"consumer_id"`
	InstanceID  string         `json:"group_instance_id,omitempty"`
	Host        string         `json:"host"`
	ClientID    string         `json:"client_id"`
	Epoch       int32          `json:"epoch"`
	Assigned    kadm.TopicsSet `json:"-"`
	Target      kadm.TopicsSet `json:"-"`
	Assignment  string         `json:"assignment"`
	TargetShown string         `json:"target_assignment,omitempty"`
}

// groupOffset is a line of group describe: a partition that is assigned or has a commit, or a member without any.
type groupOffset struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Epoch     int32  `json:"leader_epoch"`
	Current   int64  `json:"current_offset"` // -1: no commit
	End       int64  `json:"log_end_offset"` // -1: unknown
	Lag       int64  `json:"lag"`            // -1: unknown
	Consumer  string `json:"consumer_id"`
	Host      string `json:"host"`
	ClientID  string `json:"client_id"`
}

func groupDescribe(c *cli, args []string) error {
	f := newFlags("group describe", "[GROUP...]",
		"Shows groups, all of them if none is named: by default each partition's committed offset, log end, lag and "+
			"consumer, in the columns of kafka-consumer-groups.sh; with --members the members, with --state the coordinator and state.",
		"millrace group describe billing\nmillrace group describe billing --members --verbose")
	bootstrap := f.bootstrapFlag()
	members := f.Bool("members", false, "show the members")
	state := f.Bool("state", false, "show the state")
	offsets := f.Bool("offsets", false, "show offsets and lag, which is the default")
	verbose := f.Bool("verbose", false, "show epochs and assignments too")
	asJSON := f.Bool("json", false, "print all of it as JSON")
	if err := f.parse(c, args); err != nil {
		return err
	}
	if *members && *state || *offsets && (*members || *state) {
		return usagef("--offsets, --members and --state exclude each other")
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	names := f.rest
	if len(names) == 0 {
		listed, err := adm.ListGroups(c.ctx)
		if err != nil {
			return err
		}
		names = listed.Groups()
	}
	details := []groupDetail{}
	var errs []error
	for _, name := range names {
		d, err := describeGroup(c, adm, name)
		if err == nil && (*asJSON || (!*members && !*state)) {
			d.Offsets, err = groupOffsets(c, adm, d)
		}
		if err != nil {
			errs = append(errs, about("group", name, err, ""))
			continue
		}
		details = append(details, d)
	}
	if *asJSON {
		return errors.Join(append(errs, printJSON(c.out, details))...)
	}
	for i, d := range details {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		if len(d.Members) == 0 {
			c.warnf("group %q has no active members (%s)", d.Group, d.State)
		}
		switch {
		case *members:
			printMembers(c, d, *verbose)
		case *state:
			printState(c, d, *verbose)
		default:
			printOffsets(c, d, *verbose)
		}
	}
	return errors.Join(errs...)
}

func printOffsets(c *cli, d groupDetail, verbose bool) {
	header := []string{"GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"}
	if verbose {
		header = slices.Insert(header, 3, "LEADER-EPOCH")
	}
	table := newTable(c.out, header...)
	for _, o := range d.Offsets {
		cells := []any{d.Group, o.Topic, o.Partition, o.Current, o.End, o.Lag, o.Consumer, o.Host, o.ClientID}
		if verbose {
			cells = slices.Insert(cells, 3, any(o.Epoch))
		}
		table.row(cells...)
	}
	table.Flush()
}

func printMembers(c *cli, d groupDetail, verbose bool) {
	static := slices.ContainsFunc(d.Members, func(m memberDetail) bool { return m.InstanceID != "" })
	header := []string{"GROUP", "CONSUMER-ID", "HOST", "CLIENT-ID", "#PARTITIONS"}
	if static {
		header = slices.Insert(header, 2, "GROUP-INSTANCE-ID")
	}
	if verbose {
		header = append(header, "CURRENT-EPOCH", "CURRENT-ASSIGNMENT", "TARGET-EPOCH", "TARGET-ASSIGNMENT")
	}
	table := newTable(c.out, header...)
	for _, m := range d.Members {
		cells := []any{d.Group, m.ID, m.Host, m.ClientID, count(m.Assigned)}
		if static {
			cells = slices.Insert(cells, 2, any(m.InstanceID))
		}
		if verbose {
			target := int32(-1)
			if m.TargetShown != "" {
				target = d.TargetEpoch
			}
			cells = append(cells, m.Epoch, m.Assignment, target, m.TargetShown)
		}
		table.row(cells...)
	}
	table.Flush()
}

func printState(c *cli, d groupDetail, verbose bool) {
	header := []string{"GROUP", "COORDINATOR (ID)", "ASSIGNMENT-STRATEGY", "STATE", "#MEMBERS"}
	cells := []any{d.Group, d.Coordinator, d.Assignor, d.State, len(d.Members)}
	if verbose {
		header = slices.Insert(header, 4, "GROUP-EPOCH", "TARGET-ASSIGNMENT-EPOCH")
		cells = slices.Insert(cells, 4, any(d.Epoch), any(d.TargetEpoch))
	}
	table := newTable(c.out, header...)
	table.row(cells...)
	table.Flush()
}

// describeGroup asks as a KIP-848 group first and then as a classic one, as
// Kafka's own tool does: the coordinator knows a group under one of the two.
// A group that is not there is kerr.GroupIDNotFound.
func describeGroup(c *cli, adm *kadm.Client, name string) (groupDetail, error) {
	modern, err := adm.DescribeConsumerGroups(c.ctx, name)
	if g, ok := modern[name]; err == nil && ok && g.Err == nil {
		d := groupDetail{Group: name, Coordinator: address(g.Coordinator), Assignor: g.AssignorName, State: g.State,
			Epoch: g.Epoch, TargetEpoch: g.AssignmentEpoch, Members: []memberDetail{}}
		for _, m := range g.Members {
			d.Members = append(d.Members, memberDetail{ID: m.MemberID, InstanceID: text(m.InstanceID), Host: m.ClientHost, ClientID: m.ClientID,
				Epoch: m.MemberEpoch, Assigned: m.Assignment, Target: m.TargetAssignment,
				Assignment: assignment(m.Assignment), TargetShown: assignment(m.TargetAssignment)})
		}
		return d, nil
	}
	classic, err := adm.DescribeGroups(c.ctx, name)
	if err != nil {
		return groupDetail{}, err
	}
	g := classic[name]
	if g.Err == nil && (g.State == "Dead" || g.State == "") { // DescribeGroups before v6 answers so for what it does not know
		g.Err = kerr.GroupIDNotFound
	}
	if g.Err != nil {
		return groupDetail{}, g.Err
	}
	d := groupDetail{Group: name, Coordinator: address(g.Coordinator), Assignor: g.Protocol, State: g.State, Epoch: -1, TargetEpoch: -1,
		Members: []memberDetail{}}
	for _, m := range g.Members {
		assigned := kadm.TopicsSet{}
		if a, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range a.Topics {
				assigned.Add(t.Topic, t.Partitions...)
			}
		}
		d.Members = append(d.Members, memberDetail{ID: m.MemberID, InstanceID: text(m.InstanceID), Host: m.ClientHost, ClientID: m.ClientID,
			Epoch: -1, Assigned: assigned, Assignment: assignment(assigned)})
	}
	return d, nil
}

// groupOffsets lists what is assigned or committed, by topic and partition; members without a partition come last.
func groupOffsets(c *cli, adm *kadm.Client, d groupDetail) ([]groupOffset, error) {
	committed, err := adm.FetchOffsets(c.ctx, d.Group)
	if err != nil {
		return nil, fmt.Errorf("committed offsets: %w", err)
	}
	owner := map[string]map[int32]memberDetail{}
	parts := kadm.TopicsSet{}
	committed.Each(func(o kadm.OffsetResponse) { parts.Add(o.Topic, o.Partition) })
	var rows, idle []groupOffset
	for _, m := range d.Members {
		if count(m.Assigned) == 0 {
			idle = append(idle, groupOffset{Partition: -1, Epoch: -1, Current: -1, End: -1, Lag: -1, Consumer: m.ID, Host: m.Host, ClientID: m.ClientID})
		}
		for topic, ps := range m.Assigned {
			for p := range ps {
				parts.Add(topic, p)
				if owner[topic] == nil {
					owner[topic] = map[int32]memberDetail{}
				}
				owner[topic][p] = m
			}
		}
	}
	var ends kadm.ListedOffsets
	if len(parts) > 0 {
		// Topics that are gone, and partitions without a leader, have no end; they are shown without one.
		ends, _ = adm.ListEndOffsets(c.ctx, parts.Topics()...)
	}
	for _, t := range parts.Sorted() {
		for _, p := range slices.Sorted(slices.Values(t.Partitions)) {
			m := owner[t.Topic][p]
			o := groupOffset{Topic: t.Topic, Partition: p, Epoch: -1, Current: -1, End: listed(ends, t.Topic, p), Lag: -1,
				Consumer: m.ID, Host: m.Host, ClientID: m.ClientID}
			if at, ok := committed.Lookup(t.Topic, p); ok && at.Err == nil {
				o.Current, o.Epoch = at.At, at.LeaderEpoch
			}
			if o.Current >= 0 && o.End >= 0 {
				o.Lag = o.End - o.Current
			}
			rows = append(rows, o)
		}
	}
	return append(rows, idle...), nil
}

// address is a coordinator as Kafka's tool prints it.
func address(b kadm.BrokerDetail) string { return fmt.Sprintf("%s:%d (%d)", b.Host, b.Port, b.NodeID) }

// assignment is a set of partitions as Kafka's tool prints it: t:0,1;u:2.
func assignment(s kadm.TopicsSet) string {
	var all []string
	for _, topic := range slices.Sorted(maps.Keys(s)) {
		all = append(all, topic+":"+commas(slices.Sorted(maps.Keys(s[topic]))))
	}
	return strings.Join(all, ";")
}

func count(s kadm.TopicsSet) int {
	n := 0
	for _, ps := range s {
		n += len(ps)
	}
	return n
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func groupDelete(c *cli, args []string) error {
	f := newFlags("group delete", "GROUP...", "Deletes groups and their committed offsets. A group with active members is refused.",
		"millrace group delete billing")
	bootstrap := f.bootstrapFlag()
	if err := f.parse(c, args); err != nil {
		return err
	}
	if len(f.rest) == 0 {
		return usagef("no group named")
	}
	adm, err := admin(c, *bootstrap)
	if err != nil {
		return err
	}
	defer adm.Close()
	deleted, err := adm.DeleteGroups(c.ctx, f.rest...)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range slices.SortedFunc(maps.Values(deleted), func(a, b kadm.DeleteGroupResponse) int { return cmp.Compare(a.Group, b.Group) }) {
		if d.Err != nil {
			errs = append(errs, about("group", d.Group, d.Err, ""))
			continue
		}
		fmt.Fprintf(c.out, "deleted group %q\n", d.Group)
	}
	return errors.Join(errs...)
}
