package journal

import "fmt"

// Attach makes a partition known.
func (c *Core) Attach(p Partition, s *Stake) {
	if s.partition != nil {
		panic(fmt.Sprintf("BUG: journal %s: partition %v attached twice", c.path, p.JournalKey()))
	}
	*s = Stake{partition: p, index: len(c.stakes), first: -1, later: -1}
	c.stakes = append(c.stakes, s)
}

// Detach forgets it, with all that it has here.
func (c *Core) Detach(s *Stake) {
	if s.partition == nil {
		return
	}
	c.loose = c.loose || s.fenced && s.first >= 0
	c.release(s)
	last := len(c.stakes) - 1
	moved := c.stakes[last]
	c.stakes[s.index], moved.index = moved, s.index
	c.stakes[last] = nil
	c.stakes = c.stakes[:last]
	for at := &c.toAsk; *at != nil; at = &(*at).ask {
		if *at == s {
			*at = s.ask
			break
		}
	}
	*s = Stake{}
}

// release: of what the partition has put here so far, nothing is needed.
func (c *Core) release(s *Stake) {
	s.first, s.later, s.last = -1, -1, 0
	c.served(s)
}

// served: the cut waits for it no longer.
func (c *Core) served(s *Stake) {
	if !s.awaited {
		return
	}
	s.awaited = false
	c.waiting--
	if s.asked {
		c.asking--
	}
}

// Cut moves the partition's stake forward, where that is known to be all that
// is needed: past everything, or to the mark of the cut.
func (c *Core) Cut(s *Stake, offset int64) {
	s.durable = max(s.durable, offset)
	switch {
	case s.first < 0:
	case offset >= s.last:
		c.release(s)
	case s.awaited && offset >= s.target:
		s.first, s.later = s.later, -1
		c.served(s)
	}
}

// Fence: nobody waits for the partition. What it has here is copied out of the way by the next cut.
func (c *Core) Fence(s *Stake) {
	s.fenced = true
	c.served(s)
}

// cut begins a cut when half of the file is in use, goes on with one, and ends it.
func (c *Core) cut() {
	if !c.cutting {
		// What fenced partitions keep may be in use for long: a cut begins when there is
		// something new.
		if c.Used() < c.size/2 || c.head-c.mark < c.size/8 {
			return
		}
		c.begin()
	}
	// A few at a time: syncs and the journal's own writes share the device.
	width := 2
	switch free := c.size - c.Used(); {
	case free < c.size/8:
		width = 64
	case free < c.size/4:
		width = 8
	}
	for c.asking < width && c.toAsk != nil {
		s := c.toAsk
		c.toAsk, s.ask = s.ask, nil
		if s.awaited {
			s.asked = true
			c.asking++
			s.partition.WriteBack(s.target)
		}
	}
	if c.waiting == 0 {
		c.end()
	}
}

func (c *Core) begin() {
	c.cutting, c.mark = true, c.head
	c.waiting, c.asking, c.toAsk = 0, 0, nil
	for _, s := range c.stakes {
		s.later, s.asked, s.awaited = -1, false, false
		if s.first >= 0 && !s.fenced {
			s.awaited, s.target = true, s.last
			c.waiting++
			s.ask, c.toAsk = c.toAsk, s
		}
	}
}

func (c *Core) end() {
	c.cutting = false
	c.stats.Cuts++
	c.toAsk = nil
	c.free()
	c.aside.due = c.pinned()
}

// free moves the tail to the oldest frame that is needed.
func (c *Core) free() {
	tail := c.head
	if c.aside.busy {
		tail = c.aside.part.from
	}
	for _, s := range c.stakes {
		if s.first >= 0 {
			tail = min(tail, s.first)
		}
	}
	if tail < c.tail {
		panic(fmt.Sprintf("BUG: journal %s: tail %d -> %d", c.path, c.tail, tail))
	}
	c.tail = tail
	if c.full && !c.Full() {
		for _, f := range c.onRoom {
			f()
		}
	}
}
