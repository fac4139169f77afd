package engine

import (
	"github.com/millrace/millrace/engine/api"
	"github.com/millrace/millrace/engine/journal"
	"github.com/millrace/millrace/ring"
)

// chooseWay sets how frames of the journals become durable, by journal.sync.
func (b *Broker) chooseWay(io ring.IO) {
	switch how := b.cfg.Set.String("journal.sync"); how {
	case journal.DSync.String():
		b.way = journal.DSync
	case journal.Linked.String():
		b.way = journal.Linked
	default:
		var told string
		var err error
		if b.way, told, err = b.files.Measure(io); err != nil {
			told = "not measured: " + err.Error()
		}
		b.cfg.Log("journal.sync=auto: %v (%s)", b.way, told)
	}
}

// useWay tells the journals, before anything is appended.
func (b *Broker) useWay(done func()) {
	b.each(func(c *api.Core, end func(error)) {
		c.Journal.Use(b.way)
		end(nil)
	}, func(error) { done() })
}

// JournalWay is how frames of the journals become durable. After Setup of core 0.
func (b *Broker) JournalWay() journal.Way { return b.way }
