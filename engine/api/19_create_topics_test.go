package api

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/millrace/millrace/engine/cluster"
)

func TestColliding(t *testing.T) {
	im := &cluster.Image{Topics: map[string]*cluster.Topic{}}
	for _, name := range []string{"a.b", "ab", "x_y.z", "plain"} {
		im.Names = append(im.Names, name)
		im.Topics[name] = &cluster.Topic{Name: name}
	}
	for name, want := range map[string]string{
		"a_b": "a.b", "a.b": "", "ab": "", "a-b": "", "a.b.": "", "x.y_z": "x_y.z", "x_y_z": "x_y.z", "x.y.z": "x_y.z", "plain": "", "": "",
	} {
		if got := colliding(im, name); got != want {
			t.Errorf("%q collides with %q, want %q", name, got, want)
		}
	}
}

// slowStore completes when it is told to.
type slowStore struct {
	cluster.Store
	rev  int64
	fail error
	wait []func()
}

func (s *slowStore) Txn(_ []cluster.Compare, _ []cluster.Put, done func(bool, int64, error)) {
	err := s.fail
	s.wait = append(s.wait, func() {
		s.rev++
		done(true, s.rev, err)
	})
}

func (s *slowStore) run() {
	for len(s.wait) > 0 {
		f := s.wait[0]
		s.wait = s.wait[1:]
		f()
	}
}

// Of two names that collide and are asked for at once the second is refused, unless
// the first came to nothing.
func TestCollisionsUnderWay(t *testing.T) {
	for _, broken := range []bool{false, true} {
		store := &slowStore{}
		c := &Core{Shared: &Shared{Controller: &cluster.Controller{
			Store: store, Publish: func(*cluster.Image) {}, NewID: func() cluster.ID { return cluster.ID{1} },
			CheckTopic: func(map[string]string) error { return nil },
			Apply:      func(_, _ *cluster.Topic, done func(error)) { done(nil) },
		}}}
		im, err := cluster.Decode(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Controller.Start(im)
		if broken {
			store.fail = errors.New("broken")
		}
		var got []string
		for _, name := range []string{"a.b", "a_b", "other"} {
			c.create(cluster.TopicSpec{Name: name, Partitions: 1, Replicas: 1}, false, func(_ *cluster.Topic, err error) {
				code := int16(0)
				if err != nil {
					code, _ = clusterError(err)
				}
				got = append(got, fmt.Sprint(name, " ", code))
			})
			store.fail = nil
		}
		store.run()
		want := []string{"a.b 0", "a_b 17", "other 0"}
		if broken {
			want = []string{"a.b -1", "other 0", "a_b 0"}
		}
		if !reflect.DeepEqual(got, want) || len(c.making) != 0 {
			t.Errorf("broken %v: %q, want %q; left: %v", broken, got, want, c.making)
		}
	}
}
