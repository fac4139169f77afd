package cluster_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace/millrace/engine/cluster"
)

// desk is a controller on a store in memory, with a disk that can refuse.
type desk struct {
	*testing.T
	*cluster.Controller
	later
	store *cluster.Memory
	disk  error    // what Apply says
	did   []string // what it was asked
	shown *cluster.Image
	ids   byte
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t}
	d.store = cluster.NewMemory(d.deliver)
	d.begin()
	return d
}

// begin is a start of the broker: the image is what the store holds.
func (d *desk) begin() {
	im, err := cluster.Decode(d.held())
	if err != nil {
		d.Fatal(err)
	}
	d.Controller = &cluster.Controller{
		Store: d.store, NodeID: 1,
		Apply: func(old, new *cluster.Topic, done func(error)) {
			d.did = append(d.did, fmt.Sprint(parts(old), "->", parts(new)))
			d.deliver(func() { done(d.disk) })
		},
		Publish: func(im *cluster.Image) { d.shown = im },
		CheckTopic: func(set map[string]string) error {
			if _, bad := set["bad"]; bad {
				return errors.New("bad")
			}
			return nil
		},
		NewID: func() (id cluster.ID) { d.ids++; id[15] = d.ids; return id },
	}
	d.Start(im)
	d.shown = im
}

func parts(t *cluster.Topic) string {
	if t == nil {
		return "none"
	}
	return fmt.Sprintf("%s:%d", t.Name, len(t.Partitions))
}

func (d *desk) held() (out []cluster.KV) {
	d.store.Range("", func(kvs []cluster.KV, _ int64, _ error) { out = kvs })
	d.run()
	return out
}

// agree: what is shown is what a start would find.
func (d *desk) agree() {
	d.Helper()
	im, err := cluster.Decode(d.held())
	if err != nil {
		d.Fatal(err)
	}
	if !reflect.DeepEqual(im, d.shown) {
		d.Fatalf("the store says\n%+v\nshown is\n%+v", im, d.shown)
	}
}

func (d *desk) create(name string, partitions int32) (err error) {
	err = errors.New("not told")
	d.CreateTopic(cluster.TopicSpec{Name: name, Partitions: partitions, Replicas: 1, Config: map[string]string{}}, false, func(_ *cluster.Topic, e error) { err = e })
	d.run()
	return err
}

func (d *desk) grow(name string, total int32) (err error) {
	err = errors.New("not told")
	d.CreatePartitions(name, total, false, func(e error) { err = e })
	d.run()
	return err
}

func (d *desk) remove(name string) (err error) {
	err = errors.New("not told")
	d.DeleteTopic(name, cluster.ID{}, func(_ *cluster.Topic, e error) { err = e })
	d.run()
	return err
}

func (d *desk) wants(what string, got, want error) {
	d.Helper()
	if !errors.Is(got, want) {
		d.Fatalf("%s: %v, wanted %v", what, got, want)
	}
	d.agree()
}

func TestController(t *testing.T) {
	d := newDesk(t)
	d.wants("create", d.create("a", 2), nil)
	d.wants("create again", d.create("a", 2), cluster.ErrTopicExists)
	d.wants("create another", d.create("b", 1), nil)
	d.wants("grow", d.grow("a", 5), nil)
	d.wants("shrink", d.grow("a", 4), cluster.ErrInvalidPartitions)
	d.wants("grow what is not there", d.grow("c", 4), cluster.ErrUnknownTopic)
	d.wants("delete", d.remove("b"), nil)
	d.wants("delete again", d.remove("b"), cluster.ErrUnknownTopic)
	for _, bad := range []string{"", ".", "..", "a/b", "ä"} {
		d.wants(bad, d.create(bad, 1), cluster.ErrInvalidTopic)
	}
	d.wants("the broker's own", d.create(cluster.OffsetsTopic, 4), nil)
	d.wants("grow it", d.grow(cluster.OffsetsTopic, 5), cluster.ErrInternalTopic)
	d.wants("delete it", d.remove(cluster.OffsetsTopic), cluster.ErrInternalTopic)
	if got := fmt.Sprint(d.did); got != "[none->a:2 none->b:1 a:2->a:5 b:1->none none->__consumer_offsets:4]" {
		t.Fatalf("done: %s", got)
	}
}

// A disk that refuses leaves everything as it was, and the controller at work.
func TestControllerUndoes(t *testing.T) {
	d := newDesk(t)
	broken := errors.New("disk")
	d.wants("create", d.create("a", 2), nil)
	d.disk = broken
	d.wants("create on a broken disk", d.create("b", 2), broken)
	d.wants("grow on a broken disk", d.grow("a", 4), broken)
	d.disk = nil
	d.wants("grow", d.grow("a", 3), nil)
	d.wants("create", d.create("b", 1), nil)
	d.wants("delete", d.remove("a"), nil)
}

func TestControllerConfig(t *testing.T) {
	d := newDesk(t)
	d.wants("create", d.create("a", 1), nil)
	set := func(key string) (err error) {
		err = errors.New("not told")
		d.SetTopicConfig("a", false, func(m map[string]string) error { m[key] = "1"; return nil }, func(e error) { err = e })
		d.run()
		return err
	}
	d.wants("set", set("good"), nil)
	d.wants("bad", set("bad"), cluster.ErrInvalidConfig)
	if got := d.Image().Topics["a"].Config; len(got) != 1 || got["good"] != "1" {
		t.Fatal(got)
	}
}

// A start leads under a new epoch, everywhere, before anything else.
func TestNewEpochs(t *testing.T) {
	d := newDesk(t)
	d.wants("create", d.create("a", 2), nil)
	d.wants("create", d.create("b", 1), nil)
	for epoch := int32(1); epoch < 4; epoch++ {
		d.begin()
		told := errors.New("not told")
		d.NewEpochs(func(err error) { told = err })
		d.run()
		d.wants("epochs", told, nil)
		for _, name := range d.Image().Names {
			for _, p := range d.Image().Topics[name].Partitions {
				if p.LeaderEpoch != epoch || p.Leader != 1 {
					t.Fatalf("%s: %+v, wanted epoch %d", name, p, epoch)
				}
			}
		}
	}
}

// No producer id is given twice, whatever happens in between.
func TestProducerIDs(t *testing.T) {
	d := newDesk(t)
	next := int64(0)
	for i := range 6 {
		if i%2 == 1 {
			d.begin()
		}
		d.ProducerIDs(func(first int64, n int, err error) {
			if err != nil || first < next || n <= 0 {
				t.Fatalf("%d ids from %d, wanted from %d: %v", n, first, next, err)
			}
			next = first + int64(n)
		})
		d.run()
		d.agree()
	}
	if next < 6000 {
		t.Fatalf("not told: %d", next)
	}
}

// What is asked at the same time is done one after the other.
func TestControllerInOrder(t *testing.T) {
	d := newDesk(t)
	var told []string
	note := func(what string) func(*cluster.Topic, error) {
		return func(_ *cluster.Topic, err error) { told = append(told, fmt.Sprint(what, " ", err == nil)) }
	}
	spec := cluster.TopicSpec{Name: "a", Partitions: 1, Replicas: 1, Config: map[string]string{}}
	d.CreateTopic(spec, false, note("create"))
	d.CreateTopic(spec, false, note("create"))
	d.DeleteTopic("a", cluster.ID{}, note("delete"))
	d.CreateTopic(spec, true, note("try"))
	d.CreateTopic(spec, false, note("create"))
	d.run()
	if got := fmt.Sprint(told); got != "[create true create false delete true try true create true]" {
		t.Fatal(got)
	}
	d.agree()
}

// A name that differs from one that is there only in '.' and '_' is refused.
func TestCollidingNames(t *testing.T) {
	d := newDesk(t)
	for _, name := range []string{"a.b", "ab", "x_y.z", "plain"} {
		d.wants("create", d.create(name, 1), nil)
	}
	for name, with := range map[string]string{
		"a_b": "a.b", "a-b": "", "a.b.": "", "x.y_z": "x_y.z", "x_y_z": "x_y.z", "x.y.z": "x_y.z", "p_lain": "",
	} {
		if with == "" {
			d.wants(name, d.create(name, 1), nil)
			d.wants(name, d.remove(name), nil)
			continue
		}
		err := d.create(name, 1)
		d.wants(name, err, cluster.ErrInvalidTopic)
		if !strings.HasSuffix(err.Error(), " "+with) {
			t.Errorf("%s: %v, not %s", name, err, with)
		}
	}
	d.wants("the name itself", d.create("a.b", 1), cluster.ErrTopicExists)
}

// Of two names that collide and are asked for at once the second is refused, unless the first came to nothing.
func TestCollisionsUnderWay(t *testing.T) {
	for _, broken := range []bool{false, true} {
		d := newDesk(t)
		if broken {
			d.disk = errors.New("disk")
		}
		got := map[string]error{}
		for _, name := range []string{"a.b", "a_b", "other"} {
			d.CreateTopic(cluster.TopicSpec{Name: name, Partitions: 1, Replicas: 1, Config: map[string]string{}}, false, func(_ *cluster.Topic, err error) {
				got[name] = err
				d.disk = nil
			})
		}
		d.run()
		if (got["a.b"] != nil) != broken || errors.Is(got["a_b"], cluster.ErrInvalidTopic) == broken || (got["a_b"] == nil) != broken || got["other"] != nil || len(got) != 3 {
			t.Errorf("broken %v: %v", broken, got)
		}
		d.agree()
	}
}

func TestDecodeNamesTheKey(t *testing.T) {
	for _, kv := range []cluster.KV{
		{Key: cluster.TopicKey("t"), Value: []byte("{")},
		{Key: cluster.TopicKey("t"), Value: []byte(`{"topic_id":"x"}`)},
		{Key: cluster.TopicKey("t"), Value: []byte(`{"topic_id":"AAAAAAAAQACAAAAAAAAAAA","partitions":{"1":[1]}}`)},
		{Key: cluster.StateKey("t", 0), Value: []byte("x")},
		{Key: cluster.ConfigKey("topics", "t"), Value: []byte("x")},
		{Key: cluster.ProducerIDKey, Value: []byte("x")},
	} {
		if _, err := cluster.Decode([]cluster.KV{kv}); err == nil || !strings.Contains(err.Error(), kv.Key) {
			t.Errorf("%s=%s: %v", kv.Key, kv.Value, err)
		}
	}
	missing := cluster.KV{Key: cluster.TopicKey("t"), Value: []byte(`{"topic_id":"AAAAAAAAQACAAAAAAAAAAA","partitions":{"0":[1]}}`)}
	if _, err := cluster.Decode([]cluster.KV{missing}); err == nil || !strings.Contains(err.Error(), cluster.StateKey("t", 0)) {
		t.Errorf("no state: %v", err)
	}
}
