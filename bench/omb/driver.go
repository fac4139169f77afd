package omb

import "strings"

// Driver is one Kafka driver file.
type Driver struct {
	Path        string
	Name        string
	Class       string // driverClass
	Replication int    // of each topic; -1: not said, the broker's default
	Reset       bool   // delete what topics earlier runs left behind

	Topic, Common, Producer, Consumer Properties

	document
}

// ReadDriver reads and checks a driver file.
func ReadDriver(path string) (Driver, error) {
	d := Driver{Path: path, Replication: -1}
	var err error
	d.document, err = read(path, fields{
		"name": &d.Name, "driverClass": &d.Class, "replicationFactor": &d.Replication, "reset": &d.Reset,
		"topicConfig": &d.Topic, "commonConfig": &d.Common, "producerConfig": &d.Producer, "consumerConfig": &d.Consumer,
	})
	switch {
	case err != nil:
		return d, err
	case d.Class != "" && !strings.HasSuffix(d.Class, ".KafkaBenchmarkDriver") && !strings.HasSuffix(d.Class, ".RedpandaBenchmarkDriver"):
		return d, d.errorf("driverClass", "%s is not a driver of the Kafka protocol", d.Class)
	case d.Replication == 0 || d.Replication < -1:
		return d, d.errorf("replicationFactor", "%d", d.Replication)
	}
	if d.Name == "" {
		d.Name = "Kafka"
	}
	return d, nil
}

// Bootstrap is commonConfig's bootstrap.servers, or "".
func (d Driver) Bootstrap() string { return d.Common.Map()["bootstrap.servers"] }
