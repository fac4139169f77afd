package cluster

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
)

// What a controller refuses. The API turns them into Kafka's error codes.
var (
	ErrTopicExists       = errors.New("topic already exists")
	ErrUnknownTopic      = errors.New("unknown topic or partition")
	ErrInvalidTopic      = errors.New("invalid topic name")
	ErrInvalidPartitions = errors.New("invalid number of partitions")
	ErrInvalidReplicas   = errors.New("invalid replication factor")
	ErrInvalidAssignment = errors.New("invalid replica assignment")
	ErrInvalidConfig     = errors.New("invalid config")
	ErrInternalTopic     = errors.New("not with the broker's own topic")
	ErrStore             = errors.New("metadata store")
)

// Controller changes metadata. There is one, on one core, and it does one thing
// after the other. A change is first durable in the store, then made real by
// Apply (logs made or removed), then published, then acknowledged. After a crash
// in between the store is right, and the start makes real what it says.
type Controller struct {
	Store  Store
	NodeID int32
	// Apply makes a change real: the logs of topics that appeared, grew or went.
	// old or new is nil for a topic that appears or goes.
	Apply func(old, new *Topic, done func(error))
	// Publish shows a new image to everybody.
	Publish func(*Image)
	// CheckTopic checks what is to be set for a topic, and may put it in order.
	CheckTopic func(map[string]string) error
	// NewID makes a topic id.
	NewID func() ID

	image *Image
	queue []func()
	busy  bool
}

// Start begins with the image that the store held.
func (c *Controller) Start(im *Image) { c.image = im }

// Image is the newest one.
func (c *Controller) Image() *Image { return c.image }

func (c *Controller) do(f func()) {
	c.queue = append(c.queue, f)
	c.next()
}

func (c *Controller) next() {
	if c.busy || len(c.queue) == 0 {
		return
	}
	f := c.queue[0]
	c.queue = c.queue[1:]
	c.busy = true
	f()
}

func (c *Controller) idle() {
	c.busy = false
	c.next()
}

// TopicSpec is a topic to be made.
type TopicSpec struct {
	Name       string
	Partitions int32 // -1: len(Assignment)
	Replicas   int16
	Assignment map[int32][]int32 // by partition, or nil
	Config     map[string]string
}

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// ValidTopic says whether a topic may have that name.
func ValidTopic(name string) bool { return topicName.MatchString(name) && name != "." && name != ".." }

// PartitionsMax bounds the partitions of one topic.
const PartitionsMax = 100000

func (c *Controller) check(s *TopicSpec) error {
	if !ValidTopic(s.Name) {
		return fmt.Errorf("%w %q: up to 249 of a-z A-Z 0-9 . _ -, and not . or ..", ErrInvalidTopic, s.Name)
	}
	if c.image.Topics[s.Name] != nil {
		return fmt.Errorf("%w: %s", ErrTopicExists, s.Name)
	}
	if there := c.colliding(s.Name); there != "" {
		return fmt.Errorf("%w: %s differs only in '.' and '_' from the existing topic %s", ErrInvalidTopic, s.Name, there)
	}
	if s.Assignment != nil {
		if s.Partitions != -1 && int(s.Partitions) != len(s.Assignment) {
			return fmt.Errorf("%w: both partitions and an assignment", ErrInvalidAssignment)
		}
		for i := range int32(len(s.Assignment)) {
			r, ok := s.Assignment[i]
			if !ok {
				return fmt.Errorf("%w: partition %d of %d is missing", ErrInvalidAssignment, i, len(s.Assignment))
			}
			if len(r) != 1 || r[0] != c.NodeID {
				return fmt.Errorf("%w: partition %d on %v: there is only broker %d", ErrInvalidAssignment, i, r, c.NodeID)
			}
		}
		s.Partitions, s.Replicas = int32(len(s.Assignment)), 1
	}
	if s.Partitions < 1 || s.Partitions > PartitionsMax {
		return fmt.Errorf("%w: %d is not between 1 and %d", ErrInvalidPartitions, s.Partitions, PartitionsMax)
	}
	if s.Replicas != 1 {
		return fmt.Errorf("%w: %d is larger than the number of brokers, 1", ErrInvalidReplicas, s.Replicas)
	}
	if err := c.CheckTopic(s.Config); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	return nil
}

// colliding is the topic that a new one of that name would collide with, or "". Kafka refuses it too (Topic.hasCollision):
// names of metrics are made of topics', with '_' for '.'.
func (c *Controller) colliding(name string) string {
	if !strings.ContainsAny(name, "._") {
		return ""
	}
	want := unified(name)
	for _, there := range c.image.Names {
		if len(there) == len(name) && unified(there) == want {
			return there
		}
	}
	return ""
}

// unified is a topic's name as names of metrics have it.
func unified(name string) string { return strings.ReplaceAll(name, ".", "_") }

// CreateTopic makes a topic. With dry it only says whether it would.
func (c *Controller) CreateTopic(s TopicSpec, dry bool, done func(*Topic, error)) {
	c.do(func() {
		end := func(t *Topic, err error) {
			done(t, err)
			c.idle()
		}
		if err := c.check(&s); err != nil {
			end(nil, err)
			return
		}
		t := &Topic{Name: s.Name, ID: c.NewID(), Config: maps.Clone(s.Config)}
		for range s.Partitions {
			t.Partitions = append(t.Partitions, c.newPartition())
		}
		if dry {
			end(t, nil)
			return
		}
		puts := []Put{{TopicKey(t.Name), EncodeTopic(t)}, {ConfigKey("topics", t.Name), EncodeConfig(t.Config)}}
		for i := range t.Partitions {
			puts = append(puts, Put{StateKey(t.Name, int32(i)), EncodeState(&t.Partitions[i])})
		}
		c.commit([]Compare{{TopicKey(t.Name), 0}}, puts, func(rev int64, err error) {
			if err != nil {
				end(nil, err)
				return
			}
			t.Rev = rev
			c.Apply(nil, t, func(err error) {
				if err != nil {
					// The disk would not have it: the topic must not be there after a restart either.
					c.commit(nil, remove(t), func(_ int64, undo error) { end(nil, errors.Join(err, undo)) })
					return
				}
				c.publish(c.image.With(t))
				end(t, nil)
			})
		})
	})
}

func (c *Controller) newPartition() Partition {
	only := []int32{c.NodeID}
	return Partition{Replicas: only, ISR: only, Leader: c.NodeID}
}

func remove(t *Topic) []Put {
	puts := []Put{{TopicKey(t.Name), nil}, {ConfigKey("topics", t.Name), nil}}
	for i := range t.Partitions {
		puts = append(puts, Put{StateKey(t.Name, int32(i)), nil})
	}
	return puts
}

// commit writes to the store; that the compares do not hold is an error too: a
// single controller changes these keys.
func (c *Controller) commit(compares []Compare, puts []Put, done func(rev int64, err error)) {
	c.Store.Txn(compares, puts, func(ok bool, rev int64, err error) {
		switch {
		case err != nil:
			done(0, fmt.Errorf("%w: %w", ErrStore, err))
		case !ok:
			done(0, fmt.Errorf("%w: somebody else changed %s", ErrStore, puts[0].Key))
		default:
			done(rev, nil)
		}
	})
}

func (c *Controller) publish(im *Image) {
	c.image = im
	c.Publish(im)
}

// DeleteTopic removes a topic, by name or, where name is empty, by id.
func (c *Controller) DeleteTopic(name string, id ID, done func(*Topic, error)) {
	c.do(func() {
		end := func(t *Topic, err error) {
			done(t, err)
			c.idle()
		}
		t := c.image.Topics[name]
		if name == "" {
			t = c.image.ByID[id]
		}
		switch {
		case t == nil:
			end(nil, ErrUnknownTopic)
			return
		case t.Internal():
			end(nil, fmt.Errorf("%w: %s cannot be deleted", ErrInternalTopic, t.Name))
			return
		}
		c.commit([]Compare{{TopicKey(t.Name), t.Rev}}, remove(t), func(_ int64, err error) {
			if err != nil {
				end(nil, err)
				return
			}
			c.publish(c.image.Without(t.Name))
			c.Apply(t, nil, func(err error) { end(t, err) })
		})
	})
}

// CreatePartitions makes a topic have total partitions, which must be more than it has.
func (c *Controller) CreatePartitions(name string, total int32, dry bool, done func(error)) {
	c.do(func() {
		end := func(err error) {
			done(err)
			c.idle()
		}
		old := c.image.Topics[name]
		switch {
		case old == nil:
			end(ErrUnknownTopic)
			return
		case old.Internal():
			end(fmt.Errorf("%w: what belongs to which partition of %s would change", ErrInternalTopic, name))
			return
		case int(total) <= len(old.Partitions):
			end(fmt.Errorf("%w: topic currently has %d partitions, %d is not more", ErrInvalidPartitions, len(old.Partitions), total))
			return
		case total > PartitionsMax:
			end(fmt.Errorf("%w: %d is more than %d", ErrInvalidPartitions, total, PartitionsMax))
			return
		case dry:
			end(nil)
			return
		}
		t := *old
		t.Partitions = append([]Partition(nil), old.Partitions...)
		for len(t.Partitions) < int(total) {
			t.Partitions = append(t.Partitions, c.newPartition())
		}
		puts := []Put{{TopicKey(name), EncodeTopic(&t)}}
		for i := len(old.Partitions); i < int(total); i++ {
			puts = append(puts, Put{StateKey(name, int32(i)), EncodeState(&t.Partitions[i])})
		}
		c.commit([]Compare{{TopicKey(name), old.Rev}}, puts, func(rev int64, err error) {
			if err != nil {
				end(err)
				return
			}
			t.Rev = rev
			c.Apply(old, &t, func(err error) {
				if err == nil {
					c.publish(c.image.With(&t))
					end(nil)
					return
				}
				// The disk would not have them: they must not be there after a restart either.
				puts[0].Value = EncodeTopic(old)
				for i := range puts[1:] {
					puts[1+i].Value = nil
				}
				c.commit(nil, puts, func(rev int64, undo error) {
					if undo == nil {
						back := *old
						back.Rev = rev
						c.publish(c.image.With(&back))
					}
					end(errors.Join(err, undo))
				})
			})
		})
	})
}

// SetTopicConfig replaces what is set for a topic by what change makes of it.
func (c *Controller) SetTopicConfig(name string, dry bool, change func(map[string]string) error, done func(error)) {
	c.do(func() {
		end := func(err error) {
			done(err)
			c.idle()
		}
		old := c.image.Topics[name]
		if old == nil {
			end(ErrUnknownTopic)
			return
		}
		t := *old
		t.Config = maps.Clone(old.Config)
		if t.Config == nil {
			t.Config = map[string]string{}
		}
		if err := change(t.Config); err != nil {
			end(fmt.Errorf("%w: %w", ErrInvalidConfig, err))
			return
		}
		if err := c.CheckTopic(t.Config); err != nil {
			end(fmt.Errorf("%w: %w", ErrInvalidConfig, err))
			return
		}
		if dry {
			end(nil)
			return
		}
		c.commit(nil, []Put{{ConfigKey("topics", name), EncodeConfig(t.Config)}}, func(_ int64, err error) {
			if err != nil {
				end(err)
				return
			}
			c.Apply(old, &t, func(err error) {
				c.publish(c.image.With(&t))
				end(err)
			})
		})
	})
}

// producerIDBlock is how many producer ids are taken from the store at once. What
// a broker has not used of its block when it ends is never used.
const producerIDBlock = 1000

// ProducerIDs takes a block of producer ids: [first, first+n). No two calls, ever,
// give the same id.
func (c *Controller) ProducerIDs(done func(first int64, n int, err error)) {
	c.do(func() {
		first := c.image.NextProducerID
		next := first + producerIDBlock
		puts := []Put{{ProducerIDKey, []byte(strconv.FormatInt(next, 10))}}
		c.commit([]Compare{{ProducerIDKey, c.image.ProducerIDRev}}, puts, func(rev int64, err error) {
			if err == nil {
				im := *c.image
				im.NextProducerID, im.ProducerIDRev = next, rev
				c.publish(&im)
			}
			done(first, producerIDBlock, err)
			c.idle()
		})
	})
}

// NewEpochs begins an incarnation of this broker: it leads all its partitions under
// the next epoch, durably, before any of them takes a record. For the start.
func (c *Controller) NewEpochs(done func(error)) {
	c.do(func() {
		var puts []Put
		topics := make([]*Topic, 0, len(c.image.Names))
		for _, name := range c.image.Names {
			t := *c.image.Topics[name]
			t.Partitions = append([]Partition(nil), t.Partitions...)
			for i := range t.Partitions {
				p := &t.Partitions[i]
				p.Leader = c.NodeID
				p.LeaderEpoch++
				puts = append(puts, Put{StateKey(name, int32(i)), EncodeState(p)})
			}
			topics = append(topics, &t)
		}
		if len(puts) == 0 {
			done(nil)
			c.idle()
			return
		}
		c.commit(nil, puts, func(_ int64, err error) {
			if err == nil {
				c.publish(c.image.With(topics...))
			}
			done(err)
			c.idle()
		})
	})
}
