package engine

import (
	"math"

	"github.com/millrace/millrace/netio"
	"github.com/millrace/millrace/ring"
)

// choosePaths sets which way ranges of segments go, by fetch.path.
func (b *Broker) choosePaths(io ring.IO) {
	switch how := b.cfg.Set.String("fetch.path"); how {
	case "copy":
		b.paths = netio.Paths{CopyMax: math.MaxInt64, InlineMax: math.MaxInt64}
	case "sendfile":
		b.paths = netio.Paths{InlineMax: math.MaxInt64}
	case "splice":
		b.paths = netio.Paths{}
	default:
		var told string
		var err error
		if b.paths, told, err = netio.MeasurePaths(io, b.cfg.Set.String("log.dirs")); err != nil {
			told = "not measured: " + err.Error()
		}
		b.cfg.Log("fetch.path=auto: %v (%s)", b.paths, told)
	}
}

// FetchPaths is which way ranges of segments go. After Setup of core 0.
func (b *Broker) FetchPaths() netio.Paths { return b.paths }
