// Package acceptance holds the tests that drive a broker process with clients
// that are not ours: kcat, Kafka's own tool classes, Python's confluent-kafka,
// the Java client and franz-go; and our own commands as a user runs them. There is no code in it, only
// tests; those of the broker run once per kernel backend.
//
//	go test -short ./engine/acceptance   one reduced case of everything
//	go test ./engine/acceptance          the full counts
//
// What the tests drive:
//
//   - by default bin/millrace (or $MILLRACE_BIN), started and stopped by the
//     fixture, on the backends of $MILLRACE_TEST_BACKENDS (uring,posix);
//   - with MILLRACE_BIN=testdata/clients/apache-kafka.sh, Apache Kafka behind
//     the same command line: a test that passes on it is a right test;
//   - with MILLRACE_TEST_BOOTSTRAP=host:port, a broker that runs already;
//     tests that must kill it or open its files are then left out.
//
// The clients come from testdata/clients/install.sh, which is run by the
// tests themselves. A test whose means the machine lacks is skipped and
// written to $MILLRACE_TEST_SKIPS, which testdata/test.sh prints at the end;
// under CI=true a skip is a failure unless the machine cannot fetch the means.
//
// The tests whose names begin with TestWalkthrough belong to the pages in
// docs/walkthroughs; with -v they print what a reader sees there.
package acceptance
