package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/bench/peer"
	"github.com/millrace/millrace/bench/process"
)

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
)

// Serve is a `millrace serve` process that the harness starts on an empty
// directory and a free loopback port, and ends and clears away in Stop.
type Serve struct {
	Kafka

	Binary    string   // this program
	Parent    string   // directory in which the data directory is made
	Overrides []string // key=value, passed as --override
	CPUs      []int    // what it is confined to from its first instruction; empty: nothing

	// Dir is a data directory to keep, over all starts, with the address of the first.
	// "" makes one for each start and removes it in Stop.
	Dir string
	// Command starts another broker instead, by sh; {dir}, {address} and {port} in it
	// are replaced.
	Command string
	Output  io.Writer // is given what the process prints; may be nil

	process *process.Process
	dir     string
	admin   string // address of its admin listener
}

// Start implements Target. The time from exec until the broker would make a
// topic is in Info.
func (s *Serve) Start(ctx context.Context) error {
	dir, err := s.Dir, error(nil)
	if dir == "" {
		if dir, err = os.MkdirTemp(s.Parent, "millrace-bench-"); err != nil {
			return fmt.Errorf("data directory of %s: %w", s.Name, err)
		}
		s.dir = dir
	}
	if s.Dir == "" || s.Address == "" {
		addresses, err := peer.FreeAddresses(2)
		if err != nil {
			return err
		}
		s.Address, s.admin = addresses[0], addresses[1]
	}
	args := []string{"serve", "--override", "log.dirs=" + dir, "--override", "listeners=PLAINTEXT://" + s.Address,
		"--override", "admin.listener=" + s.admin}
	for _, o := range s.Overrides {
		args = append(args, "--override", o)
	}
	binary := s.Binary
	if s.Command != "" {
		_, port, _ := strings.Cut(s.Address, ":")
		binary, args = "/bin/sh", []string{"-c", strings.NewReplacer("{dir}", dir, "{address}", s.Address, "{port}", port).Replace(s.Command)}
	}
	s.process = &process.Process{Path: binary, Args: args, CPUs: s.CPUs, Output: s.Output}
	began := time.Now()
	if err := s.process.Start(); err != nil {
		return errors.Join(err, s.Stop())
	}
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.process.Poll(waiting, 2*time.Millisecond, func(ctx context.Context) error { return peer.TakesTopics(ctx, s.Address) }); err != nil {
		s.process.Kill() // Stop would tell again how it ended
		return errors.Join(err, s.Stop())
	}
	s.info = TargetInfo{PID: s.process.PID(), DataDir: dir, Command: append([]string{"millrace"}, args...), Ready: time.Since(began).Seconds(), CPUs: cpuList(s.CPUs)}
	if s.Command == "" {
		s.info.Admin = s.admin
	}
	if err := s.Kafka.Start(ctx); err != nil {
		return errors.Join(err, s.Stop())
	}
	s.info.Version = toolVersion()
	return nil
}

// Stop implements Target: SIGTERM, then SIGKILL after stopTimeout, which is an
// error; then the data directory is removed.
func (s *Serve) Stop() error {
	errs := []error{s.Kafka.Stop()}
	if s.process != nil {
		errs = append(errs, s.process.Stop(stopTimeout))
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
		s.dir = ""
	}
	return errors.Join(errs...)
}

// Kill ends the process and all it started with SIGKILL, and closes the
// connections of s itself. The data directory stays; Stop clears away the rest.
func (s *Serve) Kill() error {
	if s.process != nil {
		s.process.Kill()
	}
	return s.Kafka.Stop()
}

func cpuList(cpus []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(cpus), " ", ","), "[]")
}
