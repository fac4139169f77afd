package netio

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// lines are the log's about the peer of the n-th connection that ended.
func (r *rig) lines(n int) (about []string) {
	for _, line := range r.log {
		if strings.HasPrefix(line, r.gone[n].Peer.String()+": ") {
			about = append(about, line)
		}
	}
	return about
}

// Who leaves inside a frame or with replies unsent is named in the log, once; who
// leaves otherwise is not.
func TestWhoLeavesHow(t *testing.T) {
	large := noise(1, 3<<20)
	for i, x := range []struct {
		how  string
		send []byte
		do   func(r *rig, p *peer)
		want string // part of the line; empty: none
	}{
		{"at once", nil, nil, ""},
		{"between frames", frames("one", "two"), func(r *rig, p *peer) { r.want(p, "one", "two") }, ""},
		{"with a request in the works", frames("never"), nil, ""},
		{"after a byte of a size", []byte{0}, nil, "left inside a frame: 1 bytes of its size had come"},
		{"after a size", []byte{0, 0, 1, 0}, nil, "left inside a frame: 0 of its 256 bytes had come"},
		{"in a frame behind a whole one", append(frames("one"), 0, 0, 0, 9, 'x'), func(r *rig, p *peer) { r.want(p, "one") }, "left inside a frame: 1 of its 9 bytes had come"},
		{"in a large frame", frame(noise(2, 100<<10))[:50<<10], nil, "left inside a frame: 51196 of its 102400 bytes had come"},
		{"with a reply unsent", frames("large"), func(r *rig, p *peer) {
			p.deaf = true // takes what its armed receive takes
			r.until("some of the reply", func() bool { return len(p.got) > 0 })
		}, "bytes of replies unsent"},
	} {
		r := simRig(t, uint64(10+i), Config{}, "")
		r.serve = func(x *Exchange) {
			switch string(x.Frame) {
			case "never":
				x.Conn.User = x
			case "large":
				m := r.pooled(frame(large))
				x.Reply(append(x.Pieces(), Piece{Mem: m}), m, nil)
			default:
				r.echo(x)
			}
		}
		p := r.dial()
		p.write(x.send)
		if x.do != nil {
			x.do(r, p)
		}
		r.settle(100 * time.Millisecond)
		p.close()
		r.until(x.how+": it is closed", func() bool { return len(r.gone) == 1 })
		if waits, ok := r.gone[0].User.(*Exchange); ok {
			waits.Silent()
		}
		r.settle(100 * time.Millisecond)
		switch got := r.lines(0); {
		case x.want == "" && len(r.log) > 0:
			t.Errorf("%s: the log: %q", x.how, r.log)
		case x.want != "" && (len(got) != 1 || len(r.log) != 1 || !strings.Contains(got[0], x.want)):
			t.Errorf("%s: the log: %q, want %q", x.how, r.log, x.want)
		}
		r.nothingHeld(0)
	}
}

// The first offence of a connection is told, and no other.
func TestOneLineAConnection(t *testing.T) {
	r := simRig(t, 30, Config{}, "")
	r.serve = func(x *Exchange) {
		x.Conn.Say("said %q", x.Frame)
		r.echo(x)
	}
	p := r.dial()
	p.write(frames("first", "second"))
	r.want(p, "first", "second")
	p.write([]byte{0xff, 0xff, 0xff, 0xff})
	r.until("it is closed", func() bool { return p.over })
	if got := r.lines(0); len(got) != 1 || !strings.HasSuffix(got[0], `: said "first"`) {
		t.Errorf("the log: %q", r.log)
	}
}

// A flood of connections with bad bytes does not flood the log: what is left out is counted.
func TestFloodOfBadConnections(t *testing.T) {
	r := simRig(t, 31, Config{}, "")
	const flood = 3 * saysAtOnce
	begin := r.world.Now()
	for range flood {
		p := r.dial()
		p.write([]byte{0xff, 0xff, 0xff, 0xff})
		r.until("it is closed", func() bool { return p.over })
		p.close()
	}
	// One more is said for each sayEvery.
	most := saysAtOnce + int((r.world.Now()-begin)/sayEvery) + 1
	r.until("all are told or counted", func() bool { return r.srv.unsaid == 0 })
	told, counted := 0, 0
	for _, line := range r.log {
		n := 0
		if _, err := fmt.Sscanf(line, "%d more lines about connections were left out", &n); err == nil {
			counted += n
		} else {
			told++
		}
	}
	if told < saysAtOnce || told > most || told+counted != flood || counted != int(r.srv.Stats.Unsaid) || counted == 0 {
		t.Fatalf("%d told (at most %d), %d counted, of %d", told, most, counted, flood)
	}
	// Once it is over, whoever comes next is named again.
	r.settle(time.Second)
	p := r.dial()
	p.write([]byte{0xff, 0xff, 0xff, 0xff})
	r.until("it is closed", func() bool { return p.over })
	if got := r.lines(flood); len(got) != 1 {
		t.Errorf("after the flood: %q", r.log)
	}
}
