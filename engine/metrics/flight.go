package metrics

import "slices"

// Stage is a point on a produce request's way through the broker. Of a request with many
// partitions it is that of the partition which was acknowledged last.
type Stage int

// The stages, in their order.
const (
	Received     Stage = iota // its last bytes were read: the beginning of the core's step
	Decoded                   // parsed, and its partitions found
	Started                   // at the core that owns the partition
	Appended                  // the log has it, in memory
	Submitted                 // the write or sync that flush.policy asks for is submitted
	Flushed                   // that is done
	Acknowledged              // it is below the high watermark
	Replied                   // the reply is handed to the connection
	stageCount
)

// Stages names what lies between a stage and the one before it.
var Stages = [stageCount]string{
	Decoded: "decode", Started: "queue", Appended: "append", Submitted: "wait", Flushed: "flush", Acknowledged: "replicate", Replied: "reply",
}

// Stamps is when a request was at each stage, ns on the ring's clock.
type Stamps [stageCount]int64

// Total is how long the request took, ns.
func (s *Stamps) Total() int64 { return s[Replied] - s[Received] }

// Longest is the stage that took longest to reach.
func (s *Stamps) Longest() Stage {
	longest := Decoded
	for i := Decoded; i < stageCount; i++ {
		if s[i]-s[i-1] > s[longest]-s[longest-1] {
			longest = i
		}
	}
	return longest
}

// settle puts stamps in order: a flush that one batch waits for may have been submitted before it
// was appended, where a duplicate waits for its original.
func (s *Stamps) settle() {
	for i := Decoded; i < stageCount; i++ {
		s[i] = max(s[i], s[i-1])
	}
}

// Request is one that the recorder kept.
type Request struct {
	Topic     string
	Partition int32 // the one that was acknowledged last
	Parts     int32 // partitions in the request
	Bytes     int64 // of the request
	Core      int   // that has the connection
	Owner     int   // core that has the partition
	Stamps    Stamps
}

const (
	// worstKept is how many of the slowest requests a core keeps for each window.
	worstKept = 16
	// worstWindow is how long a window is, ns: the last whole one is kept too.
	worstWindow = 60e9
)

// Flight is a core's flight recorder: where produce requests spend their time, all of them in
// histograms and the slowest one by one. Recording allocates nothing.
type Flight struct {
	Stages  [stageCount]Histogram // by the stage that ends it; [Received] is the whole
	Durable Histogram             // from Appended to Flushed

	worst [2][worstKept]Request
	count [2]int
	least [2]int // the fastest of those kept
	now   int    // the window that is being filled
	until int64
}

// Record takes a request in. r is the caller's again on return; its stamps are put in order.
func (f *Flight) Record(r *Request) {
	s := &r.Stamps
	s.settle()
	for i := Decoded; i < stageCount; i++ {
		f.Stages[i].Record(s[i] - s[i-1])
	}
	total := s.Total()
	f.Stages[Received].Record(total)
	f.Durable.Record(s[Flushed] - s[Appended])
	if s[Replied] >= f.until {
		f.turn(s[Replied])
	}
	w, n := &f.worst[f.now], f.count[f.now]
	switch {
	case n < worstKept:
		w[n] = *r
		f.count[f.now]++
	case total > w[f.least[f.now]].Stamps.Total():
		w[f.least[f.now]] = *r
	default:
		return
	}
	least := 0
	for i := range f.count[f.now] {
		if w[i].Stamps.Total() < w[least].Stamps.Total() {
			least = i
		}
	}
	f.least[f.now] = least
}

// turn begins another window.
func (f *Flight) turn(now int64) {
	if now >= f.until+worstWindow { // the last one is too old as well
		f.count[f.now] = 0
	}
	f.now = 1 - f.now
	f.count[f.now], f.least[f.now] = 0, 0
	f.until = now + worstWindow
}

// Worst is the slowest requests of the last one to two windows, the slowest first.
func (f *Flight) Worst() []Request {
	all := slices.Concat(f.worst[0][:f.count[0]], f.worst[1][:f.count[1]])
	SortWorst(all)
	return all
}

// SortWorst puts the slowest first.
func SortWorst(all []Request) {
	slices.SortStableFunc(all, func(a, b Request) int { return int(b.Stamps.Total() - a.Stamps.Total()) })
}

// Merge adds the histograms of another core; its requests stay where they are.
func (f *Flight) Merge(o *Flight) {
	for i := range f.Stages {
		f.Stages[i].Merge(&o.Stages[i])
	}
	f.Durable.Merge(&o.Durable)
}
