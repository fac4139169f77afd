package api

// InitProducerId (key 22), versions 0-5. Idempotent producers only: a request with a
// transactional id is refused.

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyInitProducerID] = initProducerID }

// idBlock is what this core has of the producer ids: it takes a block at a time
// from the controller.
type idBlock struct {
	next, end int64
	asked     bool
	waiting   []func(id int64, err error)
}

// producerID gives an id that nobody had and nobody will have.
func (c *Core) producerID(done func(id int64, err error)) {
	b := &c.ids
	if b.next < b.end {
		b.next++
		done(b.next-1, nil)
		return
	}
	b.waiting = append(b.waiting, done)
	if b.asked {
		return
	}
	b.asked = true
	c.On(0, func(at *Core) {
		at.Controller.ProducerIDs(func(first int64, n int, err error) {
			at.On(c.Loop.ID, func(*Core) {
				b.asked = false
				if err == nil {
					b.next, b.end = first, first+int64(n)
				}
				waiting := b.waiting
				b.waiting = nil
				for _, w := range waiting {
					if err != nil {
						w(0, err)
					} else {
						c.producerID(w)
					}
				}
			})
		})
	})
}

func initProducerID(c *call, r kmsg.Request) {
	req := r.(*kmsg.InitProducerIDRequest)
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = wire.TransactionalIDAuthorizationFailed
		c.Log("%s: InitProducerId: transactions are not served (transactional.id %q)", c.host, *req.TransactionalID)
		c.reply(resp)
		return
	}
	// An idempotent producer that bumps its epoch (KIP-360) gets a new id: nothing
	// ties it to its old one.
	c.producerID(func(id int64, err error) {
		if err != nil {
			c.Log("producer ids: %v", err)
			resp.ErrorCode = wire.CoordinatorNotAvailable
		} else {
			resp.ProducerID, resp.ProducerEpoch = id, 0
		}
		c.reply(resp)
	})
}
