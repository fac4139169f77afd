package bench

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// outlive lets this process outlive who reads what it prints: a write to a pipe that nobody reads is an error, and not the end of
// the process, which would leave a broker and its directory behind. Standard output has what was measured, at the end: who has seen
// enough of it ends nothing. Standard error shows what goes on: gone is called when nobody reads that any more. undo is for the
// process's end.
func outlive(stderr io.Writer, gone func()) (progress io.Writer, undo func()) {
	// Not signal.Ignore: children would inherit that.
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGPIPE)
	undo = func() { signal.Stop(never) }
	if isTerminal(stderr) { // is asked for again by who shows more there
		return stderr, undo
	}
	return &pipe{stderr, gone}, undo
}

// pipe tells when nobody reads it.
type pipe struct {
	io.Writer
	gone func()
}

func (p *pipe) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		p.gone()
	}
	return n, err
}

// stopSignals are those that end a bench early, as Ctrl-C does: so does a terminal that goes, unless nohup has said that it does not matter.
func stopSignals() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // to ask for it would have it delivered
		all = append(all, syscall.SIGHUP)
	}
	return all
}
