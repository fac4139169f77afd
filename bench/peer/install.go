package peer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/bench/process"
	"golang.org/x/sys/unix"
)

// installed is the directory for what is installed under that name, in the user's cache directory. Deleting it is safe while
// nothing runs.
func installed(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("the user's cache directory: %w", err)
	}
	return filepath.Join(cache, "millrace", "peers", name), nil
}

// jarsOf is the directory for the jars that a pom names. A pom that changes has another one.
func jarsOf(name string, pom []byte) (string, error) {
	sum := sha256.Sum256(pom)
	return installed(fmt.Sprintf("%s-%x", name, sum[:6]))
}

// fetch makes dir, unless it is there: get fetches into the directory that it is given, and returns the one within it that
// becomes dir. dir appears whole, or not at all. Several processes may do so at once.
func fetch(ctx context.Context, dir string, get func(work string) (string, error)) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := waitForLock(ctx, lock); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(dir); err == nil { // another process has fetched it meanwhile
		return nil
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "fetching-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	whole, err := get(work)
	if err != nil {
		return err
	}
	return os.Rename(whole, dir)
}

// lockEvery is how often it is asked whether a lock is free.
const lockEvery = 50 * time.Millisecond

// waitForLock locks f for this process alone, when the one that has it is done or gone; or fails when ctx ends.
func waitForLock(ctx context.Context, f *os.File) error {
	for ctx.Err() == nil {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(lockEvery):
		}
	}
	return ctx.Err()
}

// fetchJars makes Maven copy all that a pom depends on into dir, unless it is there.
func fetchJars(ctx context.Context, dir string, pom []byte, say func(string, ...any)) error {
	return fetch(ctx, dir, func(work string) (string, error) {
		mvn, err := exec.LookPath("mvn")
		if err != nil {
			return "", errors.New("the jars are fetched with Maven, and there is no mvn in PATH: install maven")
		}
		say("fetching the jars into %s with Maven", dir)
		if err := os.WriteFile(filepath.Join(work, "pom.xml"), pom, 0o644); err != nil {
			return "", err
		}
		libs := filepath.Join(work, "libs")
		maven := process.Process{Path: mvn, Args: []string{"-q", "-B", "-f", filepath.Join(work, "pom.xml"),
			"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=" + libs}}
		if err := maven.Start(); err != nil {
			return "", err
		}
		if err := maven.Wait(ctx); err != nil {
			return "", fmt.Errorf("Maven could not fetch the jars: %w", err)
		}
		if jars, err := filepath.Glob(filepath.Join(libs, "*.jar")); err != nil || len(jars) == 0 {
			return "", fmt.Errorf("Maven fetched no jars and did not say why\n%s", maven.Tail())
		}
		return libs, nil
	})
}
