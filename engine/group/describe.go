package group

import (
	"slices"
	"strings"

	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Describe is DescribeGroups (key 15) for one group. Version 6 says of a group that
// is not there that it is not there; earlier ones, that it is dead.
func (c *Coordinator) Describe(id string, version int16) kmsg.DescribeGroupsResponseGroup {
	r := kmsg.NewDescribeGroupsResponseGroup()
	r.Group = id
	g, code := c.find(id)
	if code != 0 {
		r.ErrorCode = code
		return r
	}
	if g == nil {
		r.State = dead.String()
		if version >= 6 {
			r.ErrorCode = wire.GroupIDNotFound
			text := "Group " + id + " not found."
			r.ErrorMessage = &text
		}
		return r
	}
	r.State, r.ProtocolType = g.state.String(), g.protocolType
	for _, m := range g.members {
		x := kmsg.NewDescribeGroupsResponseGroupMember()
		x.MemberID, x.InstanceID, x.ClientID, x.ClientHost = m.id, m.instance, m.clientID, m.host
		x.MemberAssignment, x.ProtocolMetadata = []byte{}, []byte{}
		if g.state == stable {
			r.Protocol = g.protocol
			x.ProtocolMetadata, x.MemberAssignment = m.metadata(g.protocol), m.assignment
		}
		r.Members = append(r.Members, x)
	}
	return r
}

// List is ListGroups (key 16): the groups of this core whose state and type are asked
// for. An error code other than 0: some partition is still loading.
func (c *Coordinator) List(q *kmsg.ListGroupsRequest) ([]kmsg.ListGroupsResponseGroup, int16) {
	among := func(list []string, s string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, s) })
	}
	if !among(q.TypesFilter, "classic") {
		return nil, 0
	}
	code := int16(0)
	for _, p := range c.sortedParts() {
		if p.loading {
			code = wire.CoordinatorLoadInProgress
		}
	}
	var out []kmsg.ListGroupsResponseGroup
	for _, g := range c.all() {
		if !among(q.StatesFilter, g.state.String()) {
			continue
		}
		x := kmsg.NewListGroupsResponseGroup()
		x.Group, x.ProtocolType, x.GroupState, x.GroupType = g.id, g.protocolType, g.state.String(), "classic"
		out = append(out, x)
	}
	return out, code
}
