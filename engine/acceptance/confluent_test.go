package acceptance_test

import (
	"path/filepath"
	"testing"
)

// The cases are in testdata/clients/confluent_test.py, one Python process each.
func TestConfluentKafka(t *testing.T) {
	needs(t, "confluent")
	var scenarios []scenario
	for _, name := range []string{"producer", "commit", "seek", "admin", "groups"} {
		scenarios = append(scenarios, scenario{name, func(t *testing.T, b *broker) {
			python := filepath.Join(cacheDir(t), "python", "bin", "python")
			run(t, "", python, filepath.Join(clientsDir, "confluent_test.py"), b.bootstrap, name)
		}})
	}
	eachShared(t, scenarios)
}
