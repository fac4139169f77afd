package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Records of __consumer_offsets as JSON, in the fields and the order of Kafka's
// tools (OffsetsMessageParser). Types 0 to 2 are decoded whole; of the other
// types (KIP-848, share and streams groups) the key is, and the value is printed
// as base64.

type typed struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

type versioned struct {
	Version string `json:"version"`
	Data    any    `json:"data"`
}

// laterKeys are the string fields of the keys of types 3 and above.
var laterKeys = map[int16][]string{
	3: {"groupId"}, 4: {"groupId"}, 5: {"groupId", "memberId"}, 6: {"groupId"}, 7: {"groupId", "memberId"}, 8: {"groupId", "memberId"},
	10: {"groupId", "memberId"}, 11: {"groupId"}, 12: {"groupId"}, 13: {"groupId", "memberId"}, 14: {"groupId", "memberId"}, 15: {"groupId"},
	16: {"groupId", "regularExpression"}, 17: {"groupId"}, 19: {"groupId", "memberId"}, 20: {"groupId"}, 21: {"groupId", "memberId"},
	22: {"groupId", "memberId"}, 23: {"groupId"},
}

// decodeGroupRecord is key and value of a record of __consumer_offsets as JSON;
// a deleted value is <DELETE>. What can not be decoded says so in place of the key.
func decodeGroupRecord(offset int64, key, value []byte) (k, v *string) {
	fail := func(err error) (*string, *string) {
		s := fmt.Sprintf("Error at offset %d, skipping. %v", offset, err)
		return &s, nil
	}
	if len(key) < 2 {
		return fail(fmt.Errorf("a key of %d bytes has no type", len(key)))
	}
	kind := int16(binary.BigEndian.Uint16(key))
	data, err := groupKey(kind, key)
	if err != nil {
		return fail(err)
	}
	if data == nil {
		s := fmt.Sprintf("Unknown record type %d at offset %d, skipping.", kind, offset)
		return &s, nil
	}
	k = compact(typed{strconv.Itoa(int(kind)), data})
	if value == nil {
		s := "<DELETE>"
		return k, &s
	}
	if len(value) < 2 {
		return fail(fmt.Errorf("a value of %d bytes has no version", len(value)))
	}
	if data, err = groupValue(kind, value); err != nil {
		return fail(err)
	}
	return k, compact(versioned{strconv.Itoa(int(int16(binary.BigEndian.Uint16(value)))), data})
}

func compact(v any) *string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("BUG: %T as JSON: %v", v, err))
	}
	s := string(bytes.TrimSpace(b.Bytes()))
	return &s
}

// groupKey decodes a key; nil where its type is unknown.
func groupKey(kind int16, key []byte) (any, error) {
	switch kind {
	case 0, 1:
		var m kmsg.OffsetCommitKey
		if err := m.ReadFrom(key); err != nil {
			return nil, err
		}
		return struct {
			Group     string `json:"group"`
			Topic     string `json:"topic"`
			Partition int32  `json:"partition"`
		}{m.Group, m.Topic, m.Partition}, nil
	case 2:
		var m kmsg.GroupMetadataKey
		if err := m.ReadFrom(key); err != nil {
			return nil, err
		}
		return struct {
			Group string `json:"group"`
		}{m.Group}, nil
	}
	names, ok := laterKeys[kind]
	if !ok {
		return nil, nil
	}
	fields := map[string]string{} // encoding/json sorts: groupId comes before memberId and regularExpression
	for b := key[2:]; len(names) > 0; names = names[1:] {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, fmt.Errorf("the key of type %d ends early", kind)
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		fields[names[0]] = string(b[2:n])
		b = b[n:]
	}
	return fields, nil
}

func groupValue(kind int16, value []byte) (any, error) {
	switch kind {
	case 0, 1:
		return offsetValue(value)
	case 2:
		return metadataValue(value)
	}
	return base64.StdEncoding.EncodeToString(value[2:]), nil
}

func offsetValue(value []byte) (any, error) {
	var m kmsg.OffsetCommitValue
	if err := m.ReadFrom(value); err != nil {
		return nil, err
	}
	v := struct {
		Offset          int64   `json:"offset"`
		LeaderEpoch     *int32  `json:"leaderEpoch,omitempty"`
		Metadata        string  `json:"metadata"`
		CommitTimestamp int64   `json:"commitTimestamp"`
		ExpireTimestamp *int64  `json:"expireTimestamp,omitempty"`
		TopicID         *string `json:"topicId,omitempty"`
	}{Offset: m.Offset, Metadata: m.Metadata, CommitTimestamp: m.CommitTimestamp}
	if m.Version >= 3 {
		v.LeaderEpoch = &m.LeaderEpoch
	}
	if m.Version == 1 {
		v.ExpireTimestamp = &m.ExpireTimestamp
	}
	if m.Version >= 4 {
		id := base64.RawURLEncoding.EncodeToString(m.TopicID[:])
		v.TopicID = &id
	}
	return v, nil
}

type groupMember struct {
	MemberID         string  `json:"memberId"`
	GroupInstanceID  *string `json:"groupInstanceId"`
	ClientID         string  `json:"clientId"`
	ClientHost       string  `json:"clientHost"`
	RebalanceTimeout int32   `json:"rebalanceTimeout"`
	SessionTimeout   int32   `json:"sessionTimeout"`
	Subscription     any     `json:"subscription"`
	Assignment       any     `json:"assignment"`
}

func metadataValue(value []byte) (any, error) {
	var m kmsg.GroupMetadataValue
	if err := m.ReadFrom(value); err != nil {
		return nil, err
	}
	v := struct {
		ProtocolType          string        `json:"protocolType"`
		Generation            int32         `json:"generation"`
		Protocol              *string       `json:"protocol"`
		Leader                *string       `json:"leader"`
		CurrentStateTimestamp int64         `json:"currentStateTimestamp"`
		Members               []groupMember `json:"members"`
	}{m.ProtocolType, m.Generation, m.Protocol, m.Leader, m.CurrentStateTimestamp, []groupMember{}}
	for _, g := range m.Members {
		v.Members = append(v.Members, groupMember{g.MemberID, g.InstanceID, g.ClientID, g.ClientHost, g.RebalanceTimeoutMillis,
			g.SessionTimeoutMillis, subscription(m.ProtocolType, g.Subscription), assigned(m.ProtocolType, g.Assignment)})
	}
	return v, nil
}

type topicPartitions struct {
	Topic      string  `json:"topic"`
	Partitions []int32 `json:"partitions"`
}

// subscription decodes what a consumer joined with; of other protocols, and where it does not decode, it is base64.
func subscription(protocol string, b []byte) any {
	var m kmsg.ConsumerMemberMetadata
	if protocol != "consumer" || m.ReadFrom(b) != nil {
		return b
	}
	v := struct {
		Topics          []string           `json:"topics"`
		UserData        []byte             `json:"userData"`
		OwnedPartitions *[]topicPartitions `json:"ownedPartitions,omitempty"`
		GenerationID    *int32             `json:"generationId,omitempty"`
		RackID          json.RawMessage    `json:"rackId,omitempty"`
	}{Topics: m.Topics, UserData: m.UserData}
	if m.Version >= 1 {
		v.OwnedPartitions = &[]topicPartitions{}
		for _, o := range m.OwnedPartitions {
			*v.OwnedPartitions = append(*v.OwnedPartitions, topicPartitions{o.Topic, o.Partitions})
		}
	}
	if m.Version >= 2 {
		v.GenerationID = &m.Generation
	}
	if m.Version >= 3 {
		v.RackID = json.RawMessage(*compact(m.Rack))
	}
	return v
}

// assigned decodes what the leader gave a consumer, as subscription does.
func assigned(protocol string, b []byte) any {
	var m kmsg.ConsumerMemberAssignment
	if protocol != "consumer" || m.ReadFrom(b) != nil {
		return b
	}
	v := struct {
		AssignedPartitions []topicPartitions `json:"assignedPartitions"`
		UserData           []byte            `json:"userData"`
	}{[]topicPartitions{}, m.UserData}
	for _, t := range m.Topics {
		v.AssignedPartitions = append(v.AssignedPartitions, topicPartitions{t.Topic, t.Partitions})
	}
	return v
}
