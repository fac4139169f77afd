package simtest

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "TestSeed: the seed to run; TestSeeds: the first one (0: at random)")
	seedsFlag = flag.Int("seeds", seedsDefault(), "TestSeeds: how many seeds to run (environment: SIMTEST_SEEDS)")
)

// seedsDefault is a reduced case; the full run asks for 200 by the environment.
func seedsDefault() int {
	if n, err := strconv.Atoi(os.Getenv("SIMTEST_SEEDS")); err == nil && n > 0 {
		return n
	}
	return 20
}

// check runs one seed and reports what went wrong, with the end of the run's log.
func check(t *testing.T, seed uint64) *run {
	t.Helper()
	var show func(string)
	if testing.Verbose() && *seedFlag != 0 {
		show = func(line string) { t.Log(line) }
	}
	r, err := simulate(seed, show, nil)
	if err == nil {
		return r
	}
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v\n", seed, err)
	if show == nil {
		for _, line := range r.notes() {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	fmt.Fprintf(&b, "replay: go test ./engine/simtest -run 'TestSeed$' -seed %d -v", seed)
	t.Error(b.String())
	return r
}

// TestSeed replays one seed.
func TestSeed(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = 8431
	}
	r := check(t, seed)
	t.Logf("seed %d: %s", seed, r.summary())
}

// TestSeeds runs seeds that nobody has chosen; with -short always the same, so that a run can be
// repeated: new ones are for who has time to look at what they find.
func TestSeeds(t *testing.T) {
	first := *seedFlag
	if first == 0 && testing.Short() {
		first = 1
	}
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("%d seeds from %d", *seedsFlag, first)
	for i := range *seedsFlag {
		seed := first + uint64(i)
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			t.Log(check(t, seed).summary())
		})
	}
}

// TestKept runs the seeds that have found something.
func TestKept(t *testing.T) {
	f, err := os.Open("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		seed, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			t.Fatalf("testdata/seeds.txt: %v", err)
		}
		n++
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			check(t, seed)
		})
	}
	if n == 0 {
		t.Fatal("testdata/seeds.txt holds no seed")
	}
}

// TestDeterminism runs seeds twice: event by event, both runs are the same.
func TestDeterminism(t *testing.T) {
	for _, seed := range []uint64{1, 2, 8431} {
		a, err := simulate(seed, nil, nil)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		b, _ := simulate(seed, nil, nil)
		if a.trace == b.trace && a.steps == b.steps {
			continue
		}
		t.Errorf("seed %d: traces %016x and %016x after %d and %d steps; %s", seed, a.trace, b.trace, a.steps, b.steps, parting(seed))
	}
}

// parting finds the first event at which two runs of a seed differ.
func parting(seed uint64) string {
	var first []string
	simulate(seed, nil, func(line string) { first = append(first, line) })
	n, at := 0, ""
	simulate(seed, nil, func(line string) {
		if at == "" && (n >= len(first) || first[n] != line) {
			was := "the end"
			if n < len(first) {
				was = first[n]
			}
			at = fmt.Sprintf("event %d: first %q, then %q", n, was, line)
		}
		n++
	})
	if at == "" {
		return "two more runs were the same: what differs is not always met"
	}
	return at
}
