package shard

// Timer is embedded in what waits for a time. A Timer belongs to one loop.
type Timer struct {
	fire  interface{ Fire(now int64) }
	when  int64
	place int // in the heap, from 1; 0 when not set
}

// SetTimer makes f.Fire be called once when the ring's clock reaches when (ns). A
// timer that is set already is moved.
func (l *Loop) SetTimer(t *Timer, when int64, f interface{ Fire(now int64) }) {
	t.fire = f
	if t.place == 0 {
		t.when = when
		l.timers.push(t)
		return
	}
	t.when = when
	l.timers.fix(t.place - 1)
}

// StopTimer takes t back. It is no error when t is not set.
func (l *Loop) StopTimer(t *Timer) {
	if t.place != 0 {
		l.timers.remove(t.place - 1)
	}
}

// Set says whether the timer is waiting.
func (t *Timer) Set() bool { return t.place != 0 }

// timerHeap is a binary heap by time; equal times keep no order but the same one for the same history.
type timerHeap struct{ a []*Timer }

func (h *timerHeap) len() int      { return len(h.a) }
func (h *timerHeap) first() *Timer { return h.a[0] }

func (h *timerHeap) put(i int, t *Timer) {
	h.a[i] = t
	t.place = i + 1
}

func (h *timerHeap) push(t *Timer) {
	h.a = append(h.a, t)
	t.place = len(h.a)
	h.up(len(h.a) - 1)
}

func (h *timerHeap) pop() *Timer {
	t := h.a[0]
	h.remove(0)
	return t
}

func (h *timerHeap) remove(i int) {
	t := h.a[i]
	last := len(h.a) - 1
	moved := h.a[last]
	h.a[last] = nil
	h.a = h.a[:last]
	t.place = 0
	if i != last {
		h.put(i, moved)
		h.fix(i)
	}
}

func (h *timerHeap) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *timerHeap) up(i int) {
	t := h.a[i]
	for i > 0 {
		parent := (i - 1) / 2
		if h.a[parent].when <= t.when {
			break
		}
		h.put(i, h.a[parent])
		i = parent
	}
	h.put(i, t)
}

func (h *timerHeap) down(i int) bool {
	t, start := h.a[i], i
	for {
		child := 2*i + 1
		if child >= len(h.a) {
			break
		}
		if child+1 < len(h.a) && h.a[child+1].when < h.a[child].when {
			child++
		}
		if t.when <= h.a[child].when {
			break
		}
		h.put(i, h.a[child])
		i = child
	}
	h.put(i, t)
	return i != start
}
