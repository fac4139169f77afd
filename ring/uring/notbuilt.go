//go:build !uring

package uring

import "github.com/millrace/millrace/ring"

// Available is nil when this binary contains the backend and the kernel lets us
// use it; otherwise the reason.
func Available() error { return ErrNotBuilt }

// Probe asks the kernel what it supports.
func Probe() (Features, error) { return Features{}, ErrNotBuilt }

// New makes a ring.
func New(host ring.Host, cfg Config) (ring.IO, error) { return nil, ErrNotBuilt }
