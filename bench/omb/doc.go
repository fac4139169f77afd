// Package omb reads and writes the files of the OpenMessaging Benchmark: workloads and Kafka drivers as they are, and
// results in its shape. It measures nothing; package bench does.
//
// The benchmark itself skips fields that it does not know. Here they are an error that names file, line and field: a
// misspelt one would measure something else than was asked.
//
// Meaning as in openmessaging/benchmark at 85599891 (Workload.java, KafkaBenchmarkDriver.java, TestResult.java).
package omb
