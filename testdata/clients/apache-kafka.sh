#!/bin/sh
# Apache Kafka's broker with millrace's command line, to check the acceptance tests themselves:
#   testdata/clients/install.sh kafka
#   MILLRACE_BIN=$PWD/testdata/clients/apache-kafka.sh go test ./engine/acceptance
kafka=${MILLRACE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace-test}/kafka
exec java -Xmx1g -Dlog4j2.configurationFile="$kafka/log4j2.xml" -cp "$kafka/libs/*" "$(dirname "$0")/java/StandIn.java" "$@"
