package log

import (
	"slices"

	"github.com/millrace/millrace/ring"
)

// job is cold work on a log's files. Jobs of a log run one at a time, in order: so
// a truncation never meets a roll, and a deletion nothing at all.
type job struct {
	name  string
	ready func() bool  // loop: may it run now? nil: yes
	start func()       // loop, when ready, before run
	run   func() error // worker; touches nothing of the log's state; nil: nothing to do
	done  func(error)  // loop

	always  bool // also on a fenced log
	retry   bool // a full disk is waited for
	started bool
}

// jobOp runs the first job.
type jobOp struct {
	ring.Op
	log  *Log
	busy bool
	err  error
}

// jobsMax bounds the queue; only calls of the log's owner can fill it.
const jobsMax = 1024

// rollJobs is how many jobs a roll brings.
const rollJobs = 4

func (l *Log) enqueue(j *job) {
	l.jobs = append(l.jobs, j)
	if l.core != nil {
		l.kickJobs()
	}
}

// enqueueRelief adds a job that frees space. On a full disk it goes before those that wait
// for space: the caller sees to it that it touches nothing that they do.
func (l *Log) enqueueRelief(j *job) {
	if !l.noSpace || l.jobOp.busy {
		l.enqueue(j)
		return
	}
	l.jobs = slices.Insert(l.jobs, 0, j)
	l.kickJobs()
}

// enqueueFirst adds a job before whatever is queued: one that touches nothing that others do.
func (l *Log) enqueueFirst(j *job) {
	at := 0
	if l.jobOp.busy {
		at = 1
	}
	l.jobs = slices.Insert(l.jobs, at, j)
	l.kickJobs()
}

// refuse answers, later, what is asked of a log that is being closed.
func (l *Log) refuse(done Done) {
	l.enqueue(&job{name: "refuse", always: true, done: func(error) { l.tell(done, ErrClosed) }})
}

// canRoll says whether the queue has room for what a roll brings.
func (l *Log) canRoll() bool { return len(l.jobs) <= jobsMax-rollJobs }

// kickJobs starts the first job when nothing is in its way.
func (l *Log) kickJobs() {
	o := &l.jobOp
	if o.busy || len(l.jobs) == 0 {
		return
	}
	j := l.jobs[0]
	if err := l.jobRefusal(j); err != nil {
		o.err = err
		o.submit(nil)
		return
	}
	if j.retry && l.noSpace || j.ready != nil && !j.ready() {
		return
	}
	if !j.started {
		j.started = true
		if j.start != nil {
			j.start()
		}
	}
	o.err = nil
	o.submit(j.run)
}

// jobRefusal is why a job cannot be done any more, or nil.
func (l *Log) jobRefusal(j *job) error {
	switch {
	case j.always:
	case l.fence != nil:
		return l.fence
	case l.ended:
		return ErrClosed
	case l.closing && l.noSpace && j.retry: // nobody waits for better times
		return ErrNoSpace
	}
	return nil
}

func (o *jobOp) submit(run func() error) {
	o.busy = true
	o.Op = ring.Op{Code: ring.Nop, Done: o}
	if run != nil {
		o.Op = ring.Op{Code: ring.Task, Func: run, Done: o}
	}
	o.log.core.io.Submit(&o.Op)
}

// Complete ends the job and starts the next.
func (o *jobOp) Complete(op *ring.Op) {
	l := o.log
	j := l.jobs[0]
	o.busy = false
	err := o.err
	if err == nil {
		err = op.Error()
	}
	if j.retry && isNoSpace(err) && l.fence == nil && !l.closing {
		l.full()
		l.step()
		return
	}
	l.jobs[0] = nil
	l.jobs = l.jobs[1:]
	if j.done != nil {
		j.done(err)
	}
	l.step()
}

// tell answers whoever asked.
func (l *Log) tell(done Done, err error) {
	if done != nil {
		done.LogDone(l, err)
	}
}
