package peer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/bench/process"
)

// child is what all peers share: a process with a directory of its own and two addresses.
type child struct {
	Options

	dir       string   // its own: configuration, logs, and data unless Options has it
	addresses []string // of what clients use, and of what else it listens on
	process   *process.Process
	began     time.Time
	info      Info
}

func (c *child) file(name string) string { return filepath.Join(c.dir, name) }

func (c *child) data() string {
	if c.Data != "" {
		return c.Data
	}
	return c.file("data")
}

// prepare makes the directory, whose name has that of the kind in it, finds addresses, and calls configure for the
// files; unless that has been done.
func (c *child) prepare(kind string, configure func() error) (err error) {
	if c.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp(c.Parent, "millrace-bench-"+kind+"-")
	if err != nil {
		return err
	}
	c.dir = dir
	if c.dir, err = filepath.Abs(dir); err != nil { // its name goes into the configuration
		return err
	}
	if c.addresses == nil {
		if c.addresses, err = FreeAddresses(2); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.data(), 0o755); err != nil {
		return err
	}
	return configure()
}

// start starts the program at path, which info calls name.
func (c *child) start(path string, args []string, name, version string) error {
	c.process = &process.Process{Path: path, Args: args, CPUs: c.CPUs}
	c.began = time.Now()
	if err := c.process.Start(); err != nil {
		return err
	}
	c.info = Info{Address: c.addresses[0], Version: version, PID: c.process.PID(), DataDir: c.data(), Command: append([]string{name}, args...)}
	return nil
}

// ready waits until takes succeeds with the first address.
func (c *child) ready(ctx context.Context, every time.Duration, takes func(ctx context.Context, address string) error) error {
	err := c.process.Poll(ctx, every, func(ctx context.Context) error { return takes(ctx, c.addresses[0]) })
	if err == nil {
		c.info.Ready = time.Since(c.began).Seconds()
	}
	return err
}

// Info implements Peer.
func (c *child) Info() Info { return c.info }

// Kill implements Peer.
func (c *child) Kill() {
	if c.process != nil {
		c.process.Kill()
	}
}

// stop ends the process and removes the directory. told adds to what is wrong with the process, while the directory is there.
func (c *child) stop(within time.Duration, told func(error) error) error {
	var errs []error
	if c.process != nil {
		if err := c.process.Stop(within); err != nil {
			errs = append(errs, told(err))
		}
		c.process = nil
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	c.dir = ""
	if c.Data == "" { // else the next Start is one on what is there
		c.addresses = nil
	}
	return errors.Join(errs...)
}
