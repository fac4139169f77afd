package log

import (
	"bytes"
	"errors"
	"testing"

	"github.com/millrace/millrace/engine/record"
)

func TestAppendRollReadReopen(t *testing.T) {
	for _, policy := range []Policy{OS, Interval, Write, File} {
		t.Run(policy.String(), func(t *testing.T) {
			r := newRig(t, 1)
			r.config.Policy = policy
			if policy == Interval {
				r.config.FlushMessages = 20
			}
			r.open()
			l := r.create("t")
			r.fill(l, 200)
			r.idle(l)
			if l.LogEnd() != 400 || l.Stable() < 380 || policy.Synchronous() && l.Flushed() != 400 {
				t.Fatalf("end %d written %d flushed %d stable %d", l.LogEnd(), l.Written(), l.Flushed(), l.Stable())
			}
			if len(l.segments) < 5 {
				t.Fatalf("%d segments", len(l.segments))
			}
			fromTail, err := r.all(l, 400)
			if err != nil {
				t.Fatal(err)
			}
			r.dropTail()
			if l.tail.len() != 0 && policy != Interval {
				t.Fatalf("%d chunks left", l.tail.len())
			}
			fromFiles, err := r.all(l, 400)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(fromTail, fromFiles) {
				t.Fatal("memory and files differ")
			}
			if err := r.closeAll(); err != nil {
				t.Fatal(err)
			}
			if open := r.disk.OpenFiles(); len(open) > 0 {
				t.Fatalf("left open: %v", open)
			}
			r.open()
			if !r.report.Clean || !r.report.Logs[0].Clean {
				t.Fatalf("not clean: %v", r.report)
			}
			l = r.find("t")
			again, err := r.all(l, 400)
			if err != nil || !bytes.Equal(again, fromTail) {
				t.Fatalf("reopened: %v, %d bytes of %d", err, len(again), len(fromTail))
			}
			r.fill(l, 10)
			r.idle(l)
			if _, err := r.all(l, 420); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, 1).open()
	l := r.create("t")
	code := func(err error) int16 {
		var e *record.Error
		if !errors.As(err, &e) {
			return -1
		}
		return e.Code
	}
	bad := batch(1, "x")
	bad[30] ^= 1
	if _, err := l.Append(bad, Client, 0, 0); code(err) != 2 {
		t.Errorf("corrupt: %v", err)
	}
	if _, err := l.Append(stamped(1, 2<<20), Client, 0, 0); code(err) != 10 {
		t.Errorf("too large: %v", err)
	}
	if _, err := l.Append(stamped(1, 8000), Client, 0, 0); code(err) != 18 {
		t.Errorf("larger than a segment: %v", err)
	}
	r.must("epoch", func(d Done) { l.StartEpoch(3, d) })
	if _, err := l.Append(batch(1, "x"), Client, 2, 0); code(err) != 74 {
		t.Errorf("old epoch: %v", err)
	}
	if l.LogEnd() != 0 {
		t.Errorf("log end %d", l.LogEnd())
	}
	if _, err := r.read(l, 1, 10, 10); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("read above the end: %v", err)
	}
	if b, err := r.read(l, 0, 10, 10); err != nil || len(b) > 0 {
		t.Errorf("read at the end: %v", err)
	}
}
