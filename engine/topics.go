package engine

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/cluster"
	"github.com/millrace/millrace/engine/log"
	"github.com/millrace/millrace/engine/replica"
	"github.com/millrace/millrace/engine/wire"
)

func splitList(s string) []string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// coreOf says which core owns a partition: neighbours go to different cores, and
// topics begin at different ones.
func (b *Broker) coreOf(id cluster.ID, partition int) int {
	h := fnv.New32a()
	h.Write(id[:])
	return (int(h.Sum32()%uint32(len(b.cores))) + partition) % len(b.cores)
}

// part is a partition on its way to its core.
type part struct {
	topic *cluster.Topic
	index int
	log   *log.Log
}

// spread runs f(i) on core(i) for each i below n, and done on core 0, with the first
// error, when all of them have called end. f's are grouped: a core gets one message.
// To be called on core 0.
func (b *Broker) spread(n int, core func(i int) int, f func(i int, c *api.Core, end func(error)), done func(error)) {
	if n == 0 {
		done(nil)
		return
	}
	left := n
	var first error
	for id := range b.cores {
		var mine []int
		for i := range n {
			if core(i) == id {
				mine = append(mine, i)
			}
		}
		if len(mine) == 0 {
			continue
		}
		b.cores[0].On(id, func(c *api.Core) {
			for _, i := range mine {
				f(i, c, func(err error) {
					c.On(0, func(*api.Core) {
						if first == nil {
							first = err
						}
						if left--; left == 0 {
							done(first)
						}
					})
				})
			}
		})
	}
}

// each runs f on every core, and done on core 0 when all have ended.
func (b *Broker) each(f func(c *api.Core, end func(error)), done func(error)) {
	b.spread(len(b.cores), func(i int) int { return i }, func(_ int, c *api.Core, end func(error)) { f(c, end) }, done)
}

// stray is a topic's partitions that no metadata claims. They are kept, as Kafka keeps
// them: that a topic was deleted cannot be told from metadata that was lost.
type stray struct {
	topic      string
	partitions int
	path       string // one of their directories
}

// attachAll gives every partition of the image its log: the recovered one, or a new
// one where there is none (the broker ended between the store and the disk). What
// the image does not know is set aside, and stays.
func (b *Broker) attachAll(done func(error)) {
	im := b.shared.Image.Load()
	found := map[cluster.ID]map[int32]*log.Log{}
	var strays []stray
	for _, l := range b.dir.Logs() {
		if err := b.name(l, im); err != nil {
			done(err)
			return
		}
		id := cluster.ID(l.TopicID())
		if t := im.Topics[l.Topic()]; t != nil && int(l.Partition()) < len(t.Partitions) {
			id = t.ID
		}
		if t := im.ByID[id]; t == nil || t.Name != l.Topic() || int(l.Partition()) >= len(t.Partitions) {
			to, err := b.dir.SetAside(l)
			if err != nil {
				done(fmt.Errorf("%s: %w", l.Path(), err))
				return
			}
			if n := len(strays); n > 0 && strays[n-1].topic == l.Topic() { // logs come by topic
				strays[n-1].partitions++
			} else {
				strays = append(strays, stray{l.Topic(), 1, to})
			}
			continue
		}
		if found[id] == nil {
			found[id] = map[int32]*log.Log{}
		}
		found[id][l.Partition()] = l
	}
	for _, s := range strays {
		b.cfg.Log("%d partitions of %s are of no topic in the metadata: set aside as %s and the like. "+
			"They stay until somebody removes them: a broker that was killed while it deleted the topic leaves such, and so does metadata that was lost",
			s.partitions, s.topic, s.path)
	}
	var parts []part
	for _, name := range im.Names {
		t := im.Topics[name]
		for i := range t.Partitions {
			l := found[t.ID][int32(i)]
			if l == nil {
				b.cfg.Log("%s-%d is in the metadata and not in %s: it begins empty", name, i, b.dir.Path())
			}
			parts = append(parts, part{t, i, l})
		}
	}
	b.attach(parts, func(routes []api.Route, err error) {
		if err != nil {
			done(err)
			return
		}
		at := 0
		next := &api.Routes{ByName: map[string]*api.TopicRoute{}, ByID: map[[16]byte]*api.TopicRoute{}}
		for _, name := range im.Names {
			t := im.Topics[name]
			addRoute(next, t, routes[at:at+len(t.Partitions)])
			at += len(t.Partitions)
		}
		b.shared.Routes.Store(next)
		b.loadGroups(im.Topics[cluster.OffsetsTopic], done)
	})
}

// name settles whose a log is where its partition.metadata does not say, or says what cannot be. A
// partition of that name without another directory is the one: a topic's directories are
// renamed before its name is free for another.
func (b *Broker) name(l *log.Log, im *cluster.Image) error {
	t := im.Topics[l.Topic()]
	if t == nil || int(l.Partition()) >= len(t.Partitions) || l.TopicID() == t.ID {
		return nil
	}
	path := filepath.Join(l.Path(), "partition.metadata")
	if why := l.Nameless(); why != nil {
		b.cfg.Log("%s-%d: %v: the topic's id is written to it again", l.Topic(), l.Partition(), why)
		return b.dir.Adopt(l, t.ID)
	}
	l.Refuse(path, fmt.Errorf("it has the topic id %v, and the topic %s has %v: the file is damaged, or the directory is another topic's", cluster.ID(l.TopicID()), t.Name, t.ID))
	return nil
}

func addRoute(to *api.Routes, t *cluster.Topic, routes []api.Route) {
	r := &api.TopicRoute{Name: t.Name, NameBytes: []byte(t.Name), ID: t.ID, Internal: t.Internal(), Partitions: routes}
	to.ByName[t.Name], to.ByID[t.ID] = r, r
}

// attach brings partitions to their cores, with new logs for those that have none;
// done on core 0 when all are there. With an error some may be.
func (b *Broker) attach(parts []part, done func([]api.Route, error)) {
	var fresh []log.NewPartition
	for i := range parts {
		if p := &parts[i]; p.log == nil {
			fresh = append(fresh, log.NewPartition{
				Topic: p.topic.Name, Partition: int32(p.index), TopicID: p.topic.ID, Config: b.topicConfig(p.topic.Config),
			})
		}
	}
	if len(fresh) == 0 {
		b.attachLogs(parts, done)
		return
	}
	var logs []*log.Log
	b.cores[0].Task(func() (err error) {
		logs, err = b.dir.CreateAll(fresh)
		return err
	}, func(err error) {
		if err != nil {
			done(nil, err)
			return
		}
		for i := range parts {
			if p := &parts[i]; p.log == nil {
				p.log, logs = logs[0], logs[1:]
			}
		}
		b.attachLogs(parts, done)
	})
}

func (b *Broker) attachLogs(parts []part, done func([]api.Route, error)) {
	routes := make([]api.Route, len(parts))
	core := func(i int) int { return b.coreOf(parts[i].topic.ID, parts[i].index) }
	b.spread(len(parts), core, func(i int, c *api.Core, end func(error)) {
		p := &parts[i]
		err := p.log.SetConfig(b.topicConfig(p.topic.Config))
		p.log.LimitEpochs(p.topic.Partitions[p.index].LeaderEpoch)
		if err == nil {
			q := replica.New(p.topic.Name, p.topic.ID, int32(p.index), p.topic.Partitions[p.index].LeaderEpoch, p.log)
			q.Say = b.cfg.Log
			if err = p.log.Attach(c.Logs, q); err == nil {
				q.Start()
				c.Add(q)
				routes[i] = api.Route{Core: c.Loop.ID, Partition: q, Published: p.log.Published()}
			}
		}
		end(err)
	}, func(err error) { done(routes, err) })
}

// apply is the controller's: it makes a change of a topic real.
func (b *Broker) apply(old, new *cluster.Topic, done func(error)) {
	switch {
	case new == nil:
		b.drop(old, done)
	case old == nil || len(old.Partitions) < len(new.Partitions):
		from := 0
		if old != nil {
			from = len(old.Partitions)
		}
		var parts []part
		for i := from; i < len(new.Partitions); i++ {
			parts = append(parts, part{topic: new, index: i})
		}
		b.attach(parts, func(routes []api.Route, err error) {
			if err != nil { // not all could be made: none of them stays
				b.remove(routes, func(undo error) { done(errors.Join(err, undo)) })
				return
			}
			next := b.copyRoutes()
			if r := next.ByName[new.Name]; r != nil {
				routes = append(append([]api.Route(nil), r.Partitions...), routes...)
			}
			addRoute(next, new, routes)
			b.shared.Routes.Store(next)
			if new.Name == cluster.OffsetsTopic {
				b.loadGroups(new, done)
				return
			}
			done(nil)
		})
	default:
		b.configure(new, done)
	}
}

func (b *Broker) copyRoutes() *api.Routes {
	now := b.shared.Routes.Load()
	return &api.Routes{ByName: maps.Clone(now.ByName), ByID: maps.Clone(now.ByID)}
}

// drop removes a topic's logs. Requests under way for it are refused.
func (b *Broker) drop(t *cluster.Topic, done func(error)) {
	next := b.copyRoutes()
	r := next.ByName[t.Name]
	delete(next.ByName, t.Name)
	delete(next.ByID, t.ID)
	b.shared.Routes.Store(next)
	b.remove(r.Partitions, func(err error) {
		b.each(func(c *api.Core, end func(error)) {
			c.Groups.TopicDeleted(t.Name)
			end(err)
		}, done)
	})
}

// remove removes logs; where a route leads nowhere there is none.
func (b *Broker) remove(routes []api.Route, done func(error)) {
	core := func(i int) int { return routes[i].Core }
	b.spread(len(routes), core, func(i int, c *api.Core, end func(error)) {
		q := routes[i].Partition
		if q == nil {
			end(nil)
			return
		}
		c.Remove(q)
		q.Leave(wire.UnknownTopicOrPartition, "the topic was deleted")
		q.Log().Delete(log.DoneFunc(func(_ *log.Log, err error) { end(err) }))
	}, done)
}

// configure gives a topic's logs their new settings.
func (b *Broker) configure(t *cluster.Topic, done func(error)) {
	routes := b.shared.Routes.Load().ByName[t.Name].Partitions
	cfg := b.topicConfig(t.Config)
	core := func(i int) int { return routes[i].Core }
	b.spread(len(routes), core, func(i int, _ *api.Core, end func(error)) {
		end(routes[i].Partition.Log().SetConfig(cfg))
	}, done)
}

// loadGroups reads the committed offsets and groups back.
func (b *Broker) loadGroups(t *cluster.Topic, done func(error)) {
	if t == nil {
		done(nil)
		return
	}
	n := len(t.Partitions)
	core := func(i int) int { return b.coreOf(t.ID, i) }
	b.spread(n, core, func(i int, c *api.Core, end func(error)) {
		c.LoadGroups(int32(i), int32(n), func(err error) {
			if err != nil { // the groups of this partition stay COORDINATOR_LOAD_IN_PROGRESS; the others serve
				b.cfg.Log("GROUPS NOT LOADED: %v", err)
			}
			end(nil)
		})
	}, done)
}
