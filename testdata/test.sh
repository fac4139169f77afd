#!/bin/sh
# usage: testdata/test.sh short|full      (from the top; make test, make acceptance)
#
# Runs every test: short is one reduced case of everything, full the full counts.
# Needs Go; what else tests need (a C compiler, kcat, lsof, Kafka's jars, a Python
# client) they install themselves. A test whose means cannot be had is left
# out and listed at the end.
set -eu
mode=${1:?short or full}
short=-short
fuzz=40000 # inputs for each target, not seconds: go test -fuzz now and then reports its own time limit as a failure
if [ "$mode" = full ]; then
	short=
	fuzz=800000
	export MILLRACE_TEST_FULL=1 SIMTEST_SEEDS=200
fi
MILLRACE_TEST_SKIPS=$(mktemp)
MILLRACE_MAKE=1
export MILLRACE_TEST_SKIPS MILLRACE_MAKE
trap 'rm -f "$MILLRACE_TEST_SKIPS"' EXIT
began=$(date +%s)
step() { echo "== $* ($(($(date +%s) - began)) s)"; }

step "form"
unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted"; exit 1; }
go vet ./...

step "without the ring: plain go builds and vets"
GOFLAGS= go vet ./...

step "unit tests"
go test $short -timeout 15m $(go list ./... | grep -v /engine/acceptance)

step "under the race detector: what runs on several threads"
if bash testdata/clients/install.sh cc; then
	go test -short -race -timeout 20m ./ring/... ./netio ./engine/shard ./engine
elif [ $? = 69 ]; then # see install.sh
	echo "the race detector: no C compiler, and none could be installed" >>"$MILLRACE_TEST_SKIPS"
else
	exit 1
fi

step "fuzz, $fuzz inputs each; a tenth where an input is a directory to recover"
for pkg in ./engine/record ./engine/wire ./engine/log; do
	[ $pkg = ./engine/log ] && fuzz=$((fuzz / 10))
	for f in $(go test -list '^Fuzz' $pkg | grep ^Fuzz); do
		go test -run '^$' -fuzz "^$f\$" -fuzztime ${fuzz}x -fuzzminimizetime 20x $pkg
	done
done

step "real clients against bin/millrace"
go test $short -timeout 90m ./engine/acceptance

step "done"
if [ -s "$MILLRACE_TEST_SKIPS" ]; then
	echo "left out, for want of means:"
	sed 's/^/  /' "$MILLRACE_TEST_SKIPS"
else
	echo "nothing was left out"
fi
