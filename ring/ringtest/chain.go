package ringtest

import (
	"errors"
	"syscall"

	"github.com/millrace/millrace/ring"
)

var chainCases = []testCase{
	{"Chain", 0, chain},
	{"ChainFails", 0, chainFails},
	{"ChainLarge", 0, chainLarge},
	{"ChainTask", 0, chainTask},
	{"ChainAgain", 0, chainAgain},
	{"ChainCancelled", 0, chainCancelled},
	{"ChainFollowerCancelled", 0, chainFollowerCancelled},
	{"ChainOfSends", 0, chainOfSends},
	{"ChainBegunInSubmit", 0, chainBegunInSubmit},
}

// link prepares a chain of ops; order gets the index of each as it completes.
func (r *rig) link(order *[]int, ops ...ring.Op) []*call {
	calls := make([]*call, len(ops))
	for i, op := range ops {
		calls[i] = r.prepare(op)
		calls[i].thenDo = func(*call) { *order = append(*order, i) }
		if i > 0 {
			calls[i-1].Next = &calls[i].Op
		}
	}
	return calls
}

func (r *rig) wantOrder(order []int, n int) {
	r.Helper()
	r.settle()
	for i, got := range order {
		if i != got {
			r.Fatalf("a chain completed in the order %v", order)
		}
	}
	if len(order) != n {
		r.Fatalf("%d of %d ops completed: %v", len(order), n, order)
	}
}

func chain(r *rig) {
	for _, flags := range []ring.Flags{0, ring.Inline, ring.DSync} {
		fd, path := r.file()
		var order []int
		calls := r.link(&order,
			ring.Op{Code: ring.Write, FD: fd, Buf: r.text("first "), Flags: flags},
			ring.Op{Code: ring.Write, FD: fd, Bufs: [][]byte{r.text("sec"), r.text("ond")}, Off: 6},
			ring.Op{Code: ring.Sync, FD: fd},
			ring.Op{Code: ring.Truncate, FD: fd, Len: 9},
			ring.Op{Code: ring.Nop},
			ring.Op{Code: ring.Close, FD: fd},
		)
		r.start(calls[0])
		r.panics("submit of a chain's second op", func() { r.io.Submit(&calls[1].Op) })
		calls[5].want(0)
		for i, want := range []int32{6, 6, 0, 0, 0, 0} {
			if calls[i].Result != want {
				r.Fatalf("op %d: result %s", i, resultString(calls[i].Result))
			}
		}
		r.wantOrder(order, 6)
		if got := string(r.content(path)); got != "first sec" {
			r.Fatalf("%q", got)
		}
	}
}

// When one fails, all that follow are cancelled, and none of them is done.
func chainFails(r *rig) {
	for bad := range 3 {
		fd, path := r.file()
		var order []int
		ops := []ring.Op{
			{Code: ring.Write, FD: fd, Buf: r.text("a"), Off: 0},
			{Code: ring.Write, FD: fd, Buf: r.text("b"), Off: 1, Flags: ring.Inline},
			{Code: ring.Write, FD: fd, Buf: r.text("c"), Off: 2},
			{Code: ring.Sync, FD: fd},
			{Code: ring.Write, FD: fd, Buf: r.text("d"), Off: 3},
		}
		ops[bad].FD = 1 << 20
		calls := r.link(&order, ops...)
		r.start(calls[0])
		calls[len(calls)-1].wait()
		for i, c := range calls {
			want := c.Result > 0
			switch {
			case i == bad:
				want = c.Result == -int32(syscall.EBADF)
			case i > bad:
				want = c.Result == -int32(syscall.ECANCELED)
			}
			if !want {
				r.Fatalf("op %d of a chain whose op %d fails: result %s", i, bad, resultString(c.Result))
			}
		}
		r.wantOrder(order, len(ops))
		if got := string(r.content(path)); got != "abcd"[:bad] {
			r.Fatalf("op %d failed and the file is %q", bad, got)
		}
	}
}

// However large a write in a chain is, what follows sees all of its bytes.
func chainLarge(r *rig) {
	fd, _ := r.file()
	var order []int
	calls := r.link(&order,
		ring.Op{Code: ring.Write, FD: fd, Bufs: [][]byte{r.noise(70_000, 1), r.noise(80_000, 2)}},
		ring.Op{Code: ring.Read, FD: fd, Buf: r.bytes(150_000)},
		ring.Op{Code: ring.Nop},
	)
	r.start(calls[0])
	calls[2].want(0)
	calls[1].want(150_000)
	r.wantOrder(order, 3)
}

func chainTask(r *rig) {
	fd, path := r.file()
	var order []int
	odd := errors.New("odd")
	ran := false
	calls := r.link(&order,
		ring.Op{Code: ring.Write, FD: fd, Buf: r.text("a")},
		ring.Op{Code: ring.Task, Func: func() error {
			if got := string(r.content(path)); got != "a" {
				r.Errorf("a task that follows a write sees %q", got)
			}
			return odd
		}},
		ring.Op{Code: ring.Task, Func: func() error { ran = true; return nil }},
	)
	r.start(calls[0])
	calls[2].wantErr(syscall.ECANCELED)
	if !errors.Is(calls[1].Op.Error(), odd) || ran {
		r.Fatalf("error %v; the task after it ran: %v", calls[1].Op.Error(), ran)
	}
	r.wantOrder(order, 3)
}

// A chain may be submitted again as it is, and from inside its last Complete.
func chainAgain(r *rig) {
	fd, _ := r.file()
	var order []int
	calls := r.link(&order,
		ring.Op{Code: ring.Write, FD: fd, Buf: r.text("abc")},
		ring.Op{Code: ring.Sync, FD: fd},
	)
	rounds := 0
	calls[1].thenDo = func(*call) {
		if rounds++; rounds < 5 {
			calls[1].ended = false
			r.start(calls[0])
		}
	}
	r.start(calls[0])
	r.until("five rounds", func() bool { return rounds == 5 })
	if calls[0].count != 5 || calls[1].count != 5 {
		r.Fatalf("%d writes, %d syncs", calls[0].count, calls[1].count)
	}
}

func chainCancelled(r *rig) {
	client, server := r.pair()
	var order []int
	calls := r.link(&order,
		ring.Op{Code: ring.Recv, FD: client, Buf: r.bytes(8)},
		ring.Op{Code: ring.Nop},
		ring.Op{Code: ring.Nop},
	)
	r.start(calls[0])
	r.settle()
	if len(order) != 0 {
		r.Fatalf("completed before there was anything to receive: %v", order)
	}
	r.cancel(calls[0])
	for _, c := range calls {
		c.wantErr(syscall.ECANCELED)
	}
	r.wantOrder(order, 3)
	r.closeAll(client, server)
}

// A follower may be cancelled before its turn. Either it ends so, and with it what
// follows, or the whole chain goes on.
func chainFollowerCancelled(r *rig) {
	client, server := r.pair()
	var order []int
	calls := r.link(&order,
		ring.Op{Code: ring.Recv, FD: client, Buf: r.bytes(8)},
		ring.Op{Code: ring.Send, FD: client, Buf: r.text("yes")},
		ring.Op{Code: ring.Nop},
	)
	r.start(calls[0])
	r.settle()
	r.cancel(calls[1])
	r.sendAll(server, r.text("go"))
	switch calls[2].wait(); {
	case calls[2].Result == 0:
		calls[0].want(2)
		calls[1].want(3)
	default:
		calls[2].wantErr(syscall.ECANCELED)
		calls[1].wantErr(syscall.ECANCELED)
	}
	r.wantOrder(order, 3)
	r.closeAll(client, server)
}

func chainOfSends(r *rig) {
	client, server := r.pair()
	var order []int
	calls := r.link(&order,
		ring.Op{Code: ring.Send, FD: client, Buf: r.text("head "), Flags: ring.MsgMore},
		ring.Op{Code: ring.Send, FD: client, Bufs: [][]byte{r.text("and "), r.text("body")}},
		ring.Op{Code: ring.Nop},
	)
	r.start(calls[0])
	calls[2].want(0)
	back := r.bytes(13)
	r.recvAll(server, back)
	if string(back) != "head and body" {
		r.Fatalf("%q", back)
	}
	r.wantOrder(order, 3)
	r.closeAll(client, server)
}

// A chain whose first op is done at once, begun where another such op completes, keeps
// its order, and what was begun behind it completes too.
func chainBegunInSubmit(r *rig) {
	fd, _ := r.file()
	r.do(ring.Op{Code: ring.Write, FD: fd, Buf: r.noise(64<<10, 1)}).want(64 << 10)
	for range 20 {
		var order []int
		calls := r.link(&order,
			ring.Op{Code: ring.Prefetch, FD: fd, Len: 64 << 10},
			ring.Op{Code: ring.Read, FD: fd, Buf: r.bytes(64 << 10)},
		)
		behind := r.prepare(ring.Op{Code: ring.Prefetch, FD: fd, Len: 64 << 10})
		first := r.prepare(ring.Op{Code: ring.NoReadahead, FD: fd})
		first.thenDo = func(*call) {
			r.start(calls[0])
			r.start(behind)
		}
		r.start(first)
		calls[1].want(64 << 10)
		behind.want(0)
		r.wantOrder(order, 2)
	}
}
