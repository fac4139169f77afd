package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Every key of a Kafka 4 broker is one of ours, or a warning, or refused on purpose.
// The list is what AbstractKafkaConfig.CONFIG_DEF.names() of Kafka 4.3.1 says.
func TestEveryKeyOfKafka(t *testing.T) {
	names, err := os.ReadFile("testdata/kafka-4.3.1-broker-keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, name := range strings.Fields(string(names)) {
		if to, ok := aliases[name]; ok {
			name = to
		}
		if brokerByName[name] != nil {
			continue
		}
		_, warnings, err := Parse("f", name+"=x", nil)
		switch {
		case err != nil && strings.Contains(err.Error(), "neither authenticates"):
			refused = append(refused, name)
		case err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "f:1: "+name):
			t.Errorf("%s: warnings %q, error %v", name, warnings, err)
		}
	}
	if want := []string{
		"authorizer.class.name", "delegation.token.secret.key", "principal.builder.class",
		"sasl.enabled.mechanisms", "sasl.jaas.config", "sasl.server.callback.handler.class",
		"ssl.client.auth", "ssl.engine.factory.class", "ssl.key.password",
		"ssl.keystore.certificate.chain", "ssl.keystore.key", "ssl.keystore.location", "ssl.keystore.password", "ssl.keystore.type",
		"ssl.truststore.certificates", "ssl.truststore.location", "ssl.truststore.password", "ssl.truststore.type",
	}; !slices.Equal(refused, want) {
		t.Errorf("refused: %q", refused)
	}
}

// What would give a false feeling of safety is refused wherever it is set, unless it
// asks for nothing.
func TestRefusedKeys(t *testing.T) {
	for line, refused := range map[string]bool{
		"super.users=User:admin":                             true,
		"allow.everyone.if.no.acl.found=false":               true,
		"allow.everyone.if.no.acl.found=true":                false,
		"listener.name.internal.ssl.keystore.location=/k":    true,
		"listener.name.internal.plain.sasl.jaas.config=x":    true,
		"listener.name.internal.max.connections=5":           false,
		"listener.name.internal.connections.max.reauth.ms=5": false,
		"ssl.client.auth=none":                               false,
		"ssl.client.auth=required":                           true,
		"authorizer.class.name=":                             false,
		"ssl.protocol=TLSv1.3":                               false,
		"sasl.kerberos.ticket.renew.jitter=0.05":             false,
		"config.providers.file.class=org.example.Provider":   false,
		"remote.log.storage.manager.impl.prefix=rsm.config.": false,
		"sasl.mechanism.inter.broker.protocol=PLAIN":         false,
		"connection.failed.authentication.delay.ms=100":      false,
	} {
		_, warnings, err := Parse("f", line, nil)
		if (err != nil) != refused || (len(warnings) == 1) == refused {
			t.Errorf("%s: warnings %q, error %v", line, warnings, err)
		}
	}
}
