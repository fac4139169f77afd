#!/usr/bin/env bash
# install.sh MEANS...: fetch the foreign clients that the acceptance tests drive, and what else tests need, unless it is there.
#   kcat, lsof   from the distribution's packages (apt)
#   cc           a C compiler and libc's headers, likewise: Go's race detector needs them
#   kafka        Apache Kafka's tools as jars, through Maven; launchers with the names of Kafka's own bin/*.sh
#   maven        Maven and a JDK, from the distribution's packages: the managed peers of the bench are fetched with it
#   confluent    Python's confluent-kafka, through pip, in a virtual environment
# What is not a distribution package is kept under $MILLRACE_TEST_CACHE (default ~/.cache/millrace-test).
# Exit 69: the machine cannot fetch it (no package manager, or it found no source). Anything else but 0 is our fault.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${MILLRACE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace-test}

unavailable() { echo "install.sh: $*" >&2; exit 69; }

# quietly COMMAND...: show the end of its output only when it fails.
quietly() { local out; out=$("$@" 2>&1 </dev/null) || { tail -5 <<<"$out" >&2; return 1; }; }

apt() { # package...
  command -v apt-get >/dev/null || unavailable "no $1, and no apt-get to install it with"
  local root=(); [ "$(id -u)" = 0 ] || root=(sudo -n)
  export DEBIAN_FRONTEND=noninteractive
  quietly "${root[@]}" apt-get install -y --no-install-recommends "$@" \
    || { quietly "${root[@]}" apt-get update && quietly "${root[@]}" apt-get install -y --no-install-recommends "$@"; } \
    || unavailable "apt-get could not install $*"
}

# have_cc: the compiler that Go takes makes a program.
have_cc() { echo '#include <stdlib.h>
int main(void) { return EXIT_SUCCESS; }' | ${CC:-gcc} -x c -o /dev/null - 2>/dev/null; }

cc() {
  have_cc && return
  apt gcc libc6-dev
  have_cc || unavailable "${CC:-gcc} makes no program, although gcc and libc6-dev are installed"
}

have_java() { [ "$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')" -ge 17 ] 2>/dev/null && command -v javac >/dev/null; }

maven() {
  have_java || apt default-jdk-headless
  have_java || unavailable "Kafka needs a JDK of version 17 or newer"
  command -v mvn >/dev/null || apt maven
}

kafka() {
  have_java || apt default-jdk-headless
  have_java || unavailable "Kafka's tools need a JDK of version 17 or newer"
  local dir=$cache/kafka stamp
  stamp=$(cat "$here/install.sh" "$here"/kafka/* | cksum)
  [ "$(cat "$dir/complete" 2>/dev/null)" = "$stamp" ] && return
  command -v mvn >/dev/null || apt maven
  rm -rf "$dir"; mkdir -p "$dir/bin"
  quietly mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$dir/libs" \
    || unavailable "Maven could not fetch Kafka's jars"
  cp "$here/kafka/log4j2.xml" "$dir/"
  local name class
  while read -r name class; do
    # The archive of loaded classes halves a tool's start; where it does not fit, Java goes without it.
    cat > "$dir/bin/$name.sh" <<L
#!/bin/sh
exec java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:SharedArchiveFile=$dir/classes.jsa -Xlog:disable \\
  -Dlog4j2.configurationFile=$dir/log4j2.xml \$KAFKA_OPTS -cp "$dir/libs/*" $class "\$@"
L
    chmod +x "$dir/bin/$name.sh"
  done < "$here/kafka/tools.txt"
  # A listing that finds no broker loads most of what every tool loads.
  java -XX:ArchiveClassesAtExit="$dir/classes.jsa" -XX:+UseSerialGC -Dlog4j2.configurationFile="$dir/log4j2.xml" \
    -cp "$dir/libs/*" org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server 127.0.0.1:1 --topic none --timeout-ms 500 \
    >/dev/null 2>&1 || true
  echo "$stamp" > "$dir/complete"
}

confluent() {
  command -v python3 >/dev/null || apt python3
  local dir=$cache/python
  cmp -s "$here/requirements.txt" "$dir/complete" && return
  rm -rf "$dir"
  quietly python3 -m venv "$dir" || { apt python3-venv; rm -rf "$dir"; python3 -m venv "$dir"; }
  quietly "$dir/bin/pip" install --disable-pip-version-check -r "$here/requirements.txt" \
    || unavailable "pip could not fetch confluent-kafka"
  cp "$here/requirements.txt" "$dir/complete"
}

mkdir -p "$cache"
exec 9> "$cache/lock"; flock 9 # test binaries of several packages may install at once
for means in "$@"; do
  case $means in
    kcat | lsof) command -v "$means" >/dev/null || apt "$means" ;;
    cc) cc ;;
    kafka) kafka ;;
    maven) maven ;;
    confluent) confluent ;;
    *) echo "install.sh: no such means: $means (kcat, lsof, cc, kafka, maven, confluent)" >&2; exit 2 ;;
  esac
done
