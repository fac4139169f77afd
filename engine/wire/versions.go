package wire

// API is one API of the protocol as it is served here.
type API struct {
	Name     string // Kafka's; "" where the key is not served
	Min, Max int16  // served versions
	Flexible int16  // first version with compact lengths and tagged fields
	// Request is the shape of the request, checked before kmsg parses it (see
	// shape). Empty for those that have a view here.
	Request string
}

// The keys of the served APIs.
const (
	KeyProduce                    int16 = 0
	KeyFetch                      int16 = 1
	KeyListOffsets                int16 = 2
	KeyMetadata                   int16 = 3
	KeyOffsetCommit               int16 = 8
	KeyOffsetFetch                int16 = 9
	KeyFindCoordinator            int16 = 10
	KeyJoinGroup                  int16 = 11
	KeyHeartbeat                  int16 = 12
	KeyLeaveGroup                 int16 = 13
	KeySyncGroup                  int16 = 14
	KeyDescribeGroups             int16 = 15
	KeyListGroups                 int16 = 16
	KeyAPIVersions                int16 = 18
	KeyCreateTopics               int16 = 19
	KeyDeleteTopics               int16 = 20
	KeyDeleteRecords              int16 = 21
	KeyInitProducerID             int16 = 22
	KeyOffsetForLeaderEpoch       int16 = 23
	KeyDescribeConfigs            int16 = 32
	KeyDescribeLogDirs            int16 = 35
	KeyCreatePartitions           int16 = 37
	KeyDeleteGroups               int16 = 42
	KeyIncrementalAlterConfigs    int16 = 44
	KeyListPartitionReassignments int16 = 46
	KeyOffsetDelete               int16 = 47
	KeyDescribeCluster            int16 = 60
	KeyDescribeTopicPartitions    int16 = 75
)

const never = 1<<15 - 1 // Flexible of an API that has no flexible version

// APIs are the served APIs by key, with the stable versions of Apache Kafka 4.4.
// It is not to be changed while anything runs.
var APIs = [...]API{
	KeyProduce:      {"Produce", 3, 13, 9, ""},
	KeyFetch:        {"Fetch", 4, 18, 12, ""},
	KeyListOffsets:  {"ListOffsets", 1, 11, 6, "4 1@2 [ s [ 4 4@4 8 ] ] 4@10"},
	KeyMetadata:     {"Metadata", 0, 13, 9, "[ 16@10 s ] 1@4 1@8-10 1@8"},
	KeyOffsetCommit: {"OffsetCommit", 2, 10, 8, "s 4 s s@7 8@2-4 [ s@0-9 16@10 [ 4 8 4@6 s ] ]"},
	KeyOffsetFetch: {"OffsetFetch", 1, 10, 6,
		"s@0-7 [ s *4 ]@0-7 [ s s@9 4@9 [ s@8-9 16@10 *4 ] ]@8 1@7"},
	KeyFindCoordinator:         {"FindCoordinator", 0, 6, 3, "s@0-3 1@1 *s@4"},
	KeyJoinGroup:               {"JoinGroup", 0, 9, 6, "s 4 4@1 s s@5 s [ s b ] s@8"},
	KeyHeartbeat:               {"Heartbeat", 0, 4, 4, "s 4 s s@3"},
	KeyLeaveGroup:              {"LeaveGroup", 0, 5, 4, "s s@0-2 [ s s s@5 ]@3"},
	KeySyncGroup:               {"SyncGroup", 0, 5, 4, "s 4 s s@3 s@5 s@5 [ s b ]"},
	KeyDescribeGroups:          {"DescribeGroups", 0, 6, 5, "*s 1@3"},
	KeyListGroups:              {"ListGroups", 0, 5, 3, "*s@4 *s@5"},
	KeyAPIVersions:             {"ApiVersions", 0, 5, 3, "s@3 s@3 s@5 4@5"},
	KeyCreateTopics:            {"CreateTopics", 2, 7, 5, "[ s 4 2 [ 4 *4 ] [ s s ] ] 4 1"},
	KeyDeleteTopics:            {"DeleteTopics", 1, 6, 4, "*s@0-5 [ s 16 ]@6 4"},
	KeyDeleteRecords:           {"DeleteRecords", 0, 2, 2, "[ s [ 4 8 ] ] 4"},
	KeyInitProducerID:          {"InitProducerId", 0, 5, 2, "s 4 8@3 2@3"},
	KeyOffsetForLeaderEpoch:    {"OffsetForLeaderEpoch", 2, 4, 4, "4@3 [ s [ 4 4 4 ] ]"},
	KeyDescribeConfigs:         {"DescribeConfigs", 1, 4, 4, "[ 1 s *s ] 1 1@3"},
	KeyDescribeLogDirs:         {"DescribeLogDirs", 1, 5, 2, "[ s *4 ]"},
	KeyCreatePartitions:        {"CreatePartitions", 0, 3, 2, "[ s 4 [ *4 ] ] 4 1"},
	KeyDeleteGroups:            {"DeleteGroups", 0, 3, 2, "*s"},
	KeyIncrementalAlterConfigs: {"IncrementalAlterConfigs", 0, 1, 1, "[ 1 s [ s 1 s ] ] 1"},
	KeyListPartitionReassignments: {"ListPartitionReassignments", 0, 0, 0,
		"4 [ s *4 ]"},
	KeyOffsetDelete:            {"OffsetDelete", 0, 0, never, "s [ s [ 4 ] ]"},
	KeyDescribeCluster:         {"DescribeCluster", 0, 2, 0, "1 1@1 1@2"},
	KeyDescribeTopicPartitions: {"DescribeTopicPartitions", 0, 0, 0, "[ s ] 4 ?{ s 4 }"},
}

// Served says whether requests of that key and version are answered. (ApiVersions
// is answered at every version: see APIVersions.)
func Served(key, version int16) bool {
	return key >= 0 && int(key) < len(APIs) && APIs[key].Name != "" &&
		version >= APIs[key].Min && version <= APIs[key].Max
}

// Name is the API's name, for logs and metrics; "Unknown" where it is not served.
func Name(key int16) string {
	if key < 0 || int(key) >= len(APIs) || APIs[key].Name == "" {
		return "Unknown"
	}
	return APIs[key].Name
}

// Flexible says whether that version of a served API has compact lengths and
// tagged fields.
func Flexible(key, version int16) bool {
	return key >= 0 && int(key) < len(APIs) && APIs[key].Name != "" && version >= APIs[key].Flexible
}
