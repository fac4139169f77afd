package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/bench/forgetfs"
	"github.com/millrace/millrace/bench/peer"
	"github.com/twmb/franz-go/pkg/kgo"
)

// PowerLoss cuts the power of a broker, again and again.
type PowerLoss struct {
	Binary     string        // this program
	Command    string        // another broker instead: see Serve.Command
	Peer       *peer.Spec    // another broker instead, which is started as it says; may be nil
	Parent     string        // directory in which the mount point is made
	Overrides  []string      // key=value, for millrace serve
	Cuts       int           // under load
	Life       time.Duration // the longest time of load before a cut; the shortest is a quarter of it
	Recovering float64       // the chance that a start is cut as well
	Partitions int
	Producers  int
	Rate       int64 // records/s, of each producer
	Seed       uint64
	Ordered    bool // fsync of a file makes its name durable too
	SyncTime   time.Duration
	Say        func(format string, args ...any)
	Each       func() // told of each cut under load; may be nil
}

// PowerRow is the ledger of one policy.
type PowerRow struct {
	Policy       string         `json:"policy"`                    // of our broker, or what another one's row is called
	Foreign      bool           `json:"foreign,omitempty"`         // another broker: what it cuts off at recovery is not known
	Points       string         `json:"points,omitempty"`          // of a simulation: which points were cut
	Promises     bool           `json:"flushedBeforeAcknowledged"` // by its settings
	Cuts         int            `json:"cuts"`
	InRecovery   int            `json:"cutsInRecovery"` // further ones, during a start
	Acknowledged int64          `json:"acknowledged"`
	Survived     int64          `json:"survived"`
	Failed       int64          `json:"failed"`                       // records that the clients gave up
	Forgotten    int64          `json:"producersForgotten,omitempty"` // of a simulation: how often a log did not know where an idempotent producer was
	TornBytes    int64          `json:"tornBytes"`                    // cut off segments at recovery, as the broker reports it
	TornFrames   int            `json:"tornFrames"`                   // of the journal, left out at recovery
	DamagedLogs  int64          `json:"damagedLogs"`                  // that came up fenced
	Findings     Findings       `json:"findings"`
	BeyondBound  int64          `json:"lostBeyondBound,omitempty"` // of a simulation, under interval: lost, and the bound does not allow it
	Disk         forgetfs.Stats `json:"disk,omitzero"`
	DiskLost     int64          `json:"diskLostBytes"` // unsynced bytes that the cuts took
	EachCut      []PowerCut     `json:"eachCut"`
	Error        string         `json:"error,omitempty"` // what ended the row early

	Settings map[string]string `json:"settings,omitempty"` // of the topic, as the broker reports them; not of a simulation
}

// PowerCut is what one cut did.
type PowerCut struct {
	Seed     uint64          `json:"seed"`                // of what the disk lost; in a simulation, of its history
	Cut      int             `json:"cutOfSeed,omitempty"` // in a simulation: the how many-eth cut of that history, from 1
	Point    int             `json:"diskEvent,omitempty"` // in a simulation: before which event of the disk, since the load began
	Outcome  string          `json:"outcome,omitempty"`   // in a simulation: what became of what was not synced
	After    float64         `json:"loadSeconds"`
	Disk     []forgetfs.Loss `json:"disk,omitempty"` // several when starts were cut
	Ready    float64         `json:"readySeconds"`   // of the start that was not cut
	Findings Findings        `json:"findings"`
}

// OK reports whether the row keeps its promise.
func (r *PowerRow) OK() bool {
	return r.Error == "" && r.DamagedLogs == 0 && r.BeyondBound == 0 && (!r.Promises || r.Findings.Whole() && r.Forgotten == 0)
}

// powerTarget is a broker on a directory that stays, which can be killed and started again.
type powerTarget interface {
	Target
	Kill() error
	EndOffsets(ctx context.Context, topic string) (map[int32]int64, error)
}

// powerRun is one policy at work.
type powerRun struct {
	PowerLoss
	row       *PowerRow
	random    *rand.Rand
	disk      *forgetfs.Disk
	mount     *forgetfs.Mount
	dir       string
	target    powerTarget
	output    recoveryOutput
	ledger    *PowerLedger
	producers []*powerProducer
	workload  Workload
	topic     string
	starting  int64 // changes and syncs of the last start that was not cut
}

// Run makes one row. See PowerGround.
func (p PowerLoss) Run(ctx context.Context, policy string) *PowerRow {
	r := &powerRun{
		PowerLoss: p, row: &PowerRow{Policy: policy, Foreign: p.Peer != nil || p.Command != ""}, topic: "power",
		disk: forgetfs.NewDisk(forgetfs.Options{Ordered: p.Ordered, SyncTime: p.SyncTime}),
		workload: Workload{Partitions: p.Partitions, Replication: -1, Size: powerValueMax, Batch: powerBatchMax, Producers: p.Producers, Acks: "all", Idempotent: true, Compression: "none", RandomBytes: 1, Duration: 1,
			InFlight: p.Producers * powerInFlight}, // all that the producers' tokens let through
	}
	r.random = r.draws(0)
	err := r.workload.Validate()
	if err == nil {
		err = r.all(ctx)
	}
	if err = errors.Join(err, r.end()); err != nil {
		r.row.Error = err.Error()
	}
	if r.ledger != nil {
		r.row.Acknowledged = r.ledger.Acknowledged()
		r.row.Survived = r.row.Acknowledged - r.row.Findings.Lost
	}
	r.row.Disk = r.disk.Stats()
	return r.row
}

func (r *powerRun) all(ctx context.Context) (err error) {
	if r.dir, err = os.MkdirTemp(r.Parent, "millrace-power-"); err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	r.target = r.broker()
	if r.mount, err = r.disk.Mount(r.dir); err != nil {
		return err
	}
	before := r.disk.Events()
	if err := r.target.Start(ctx); err != nil {
		return err
	}
	r.starting = r.disk.Events() - before
	if err := r.target.Create(ctx, r.topic, r.workload); err != nil {
		return err
	}
	settings, err := r.target.Settings(ctx, r.topic)
	if err != nil {
		return err
	}
	r.row.Promises, r.row.Settings = classOf(settings) == Flushed, settings
	if r.row.Foreign && !r.row.Promises { // its topic is older than the load: what a new one loses besides would end the row
		r.disk.Sync()
	}
	r.ledger = NewPowerLedger(r.random.Uint32(), r.Producers, r.Partitions, time.Now)
	for id := range r.Producers {
		r.producers = append(r.producers, &powerProducer{
			id: uint32(id), ledger: r.ledger, next: make([]uint64, r.Partitions), tokens: make(chan struct{}, powerInFlight),
			random: rand.New(rand.NewPCG(r.Seed, 1+uint64(id))),
		})
	}
	for i := range r.Cuts {
		r.random = r.draws(uint64(i) + 1)
		if err := r.cut(ctx); err != nil {
			return fmt.Errorf("cut %d: %w", r.row.Cuts, err)
		}
	}
	return nil
}

// broker is what the power is cut of. Segments and journal are small, so that a few seconds roll segments and turn
// the journal.
func (r *powerRun) broker() powerTarget {
	client := Kafka{Name: r.row.Policy, ProducerOptions: []kgo.Opt{
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.DialTimeout(time.Second), kgo.MetadataMinAge(50 * time.Millisecond),
	}}
	if r.Peer != nil {
		started := r.Peer.Kind.New(peer.Options{Parent: r.Parent, Data: r.dir, Settings: r.Peer.Server})
		if r.Peer.Kind.Protocol == peer.NATS {
			return &ManagedNATS{NATS: NATS{Name: r.row.Policy, Again: true}, Peer: started}
		}
		r.workload = r.workload.with(map[string]string{"segment.bytes": "1048576"}).with(r.Peer.Config)
		return &Managed{Kafka: client, Peer: started}
	}
	overrides := []string{"log.segment.bytes=1048576", "journal.bytes=4194304", "flush.policy=" + r.row.Policy}
	return &Serve{Kafka: client, Binary: r.Binary, Command: r.Command, Parent: r.Parent, Dir: r.dir, Overrides: append(overrides, r.Overrides...), Output: &r.output}
}

// draws are the random numbers of one cut: its time and what it leaves do not depend
// on how many starts of earlier ones were cut.
func (r *powerRun) draws(cut uint64) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, r.row.Policy)
	return rand.New(rand.NewPCG(r.Seed, h.Sum64()+cut))
}

// end clears away, whatever happened.
func (r *powerRun) end() error {
	var errs []error
	for _, p := range r.producers {
		p.close()
	}
	if r.target != nil {
		errs = append(errs, r.target.Kill(), r.target.Stop())
	}
	if r.mount != nil {
		errs = append(errs, r.mount.Unmount())
	}
	if r.dir != "" {
		errs = append(errs, os.Remove(r.dir)) // not RemoveAll: it may still be a mount
	}
	return errors.Join(errs...)
}

// cut is one life under load, its end, and the start after it.
func (r *powerRun) cut(ctx context.Context) error {
	for _, p := range r.producers {
		if err := p.connect(r.target, r.topic, r.workload); err != nil {
			return err
		}
	}
	life, before := r.Life/4+time.Duration(r.random.Int64N(int64(r.Life-r.Life/4))), r.ledger.Acknowledged()
	loading, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	for _, p := range r.producers {
		wait.Go(func() { p.load(loading, r.Rate) })
	}
	began := time.Now()
	select {
	case <-time.After(life):
	case <-ctx.Done():
	}
	// The disk first, then the process: nothing that is written from now on is there,
	// so nothing that is acknowledged from now on may have needed it.
	r.disk.Cut()
	at := time.Now()
	idle := r.ledger.Acknowledged() == before
	killed := r.target.Kill()
	stop()
	wait.Wait()
	r.row.Cuts++
	c := PowerCut{After: at.Sub(began).Seconds()}
	if killed != nil || ctx.Err() != nil {
		return errors.Join(killed, ctx.Err())
	}
	if err := r.powerUp(ctx, &c); err != nil {
		if ctx.Err() == nil { // nobody can read anything
			r.row.Findings.Add(r.ledger.Compare().Finish(nil, at))
		}
		return err
	}
	for _, p := range r.producers {
		r.row.Failed += p.settle(ctx)
	}
	err := r.readBack(ctx, at, &c)
	r.row.Findings.Add(c.Findings)
	r.row.EachCut = append(r.row.EachCut, c)
	if r.Each != nil {
		r.Each()
	}
	if r.Say != nil {
		var loss forgetfs.Loss // of this cut and those of the starts after it
		for _, l := range c.Disk {
			loss.Files += l.Files
			loss.Bytes += l.Bytes
			loss.Kept += l.Kept
			loss.Names += l.Names
		}
		r.Say("%s cut %d/%d after %.2f s: %s; ready in %.2f s; %d read, %d lost, %d duplicated, %d reordered, window %.1f ms", r.row.Policy, r.row.Cuts, r.Cuts,
			c.After, loss, c.Ready, c.Findings.Read, c.Findings.Lost, c.Findings.Duplicated, c.Findings.Reordered, c.Findings.LossWindow)
	}
	if idle { // nothing was at stake: such a cut must not stand among those that took nothing
		err = errors.Join(err, fmt.Errorf("nothing was acknowledged in %.2f s of load before the cut (--seconds)", c.After))
	}
	return err
}

// powerUp starts the broker on what the cut has left, cutting starts as it is drawn: among as many changes and syncs as the last one
// that was not cut made, so that every part of a start is met, also of a broker that changes little.
func (r *powerRun) powerUp(ctx context.Context, c *PowerCut) error {
	for {
		if err := r.mount.Unmount(); err != nil {
			return err
		}
		c.Seed = r.random.Uint64()
		loss, err := r.disk.Restore(c.Seed)
		if err != nil {
			return err
		}
		c.Disk = append(c.Disk, loss)
		r.row.DiskLost += loss.Bytes
		if r.mount, err = r.disk.Mount(r.dir); err != nil {
			return err
		}
		again := r.random.Float64() < r.Recovering
		starting, cancel := context.WithCancel(ctx)
		dark := r.disk.Dark()
		if again {
			r.disk.CutAfter(1 + r.random.Int64N(max(1, r.starting)))
			go func() {
				select {
				case <-dark:
					cancel()
				case <-starting.Done():
				}
			}()
		}
		before := r.disk.Events()
		err = r.target.Start(starting)
		r.disk.CutAfter(0)
		changes := r.disk.Events() - before
		cancel()
		select {
		case <-dark:
			r.row.InRecovery++
			if err := r.target.Kill(); err != nil {
				return err
			}
			r.output.take(r.row)
			continue
		default:
		}
		r.starting = changes
		r.output.take(r.row)
		c.Ready = r.target.Info().Ready
		return err
	}
}

// readBack compares what is there with what was acknowledged.
func (r *powerRun) readBack(ctx context.Context, at time.Time, c *PowerCut) error {
	compared := r.ledger.Compare()
	err := r.target.ReadBack(ctx, r.topic, compared.Visit)
	var ends map[int32]int64
	if err == nil {
		ends, err = r.target.EndOffsets(ctx, r.topic)
	}
	if err != nil {
		if ctx.Err() == nil { // what could not be read counts as lost: nobody else can read it either
			c.Findings = compared.Finish(nil, at)
		}
		return fmt.Errorf("read back: %w", err)
	}
	c.Findings = compared.Finish(ends, at)
	return nil
}
