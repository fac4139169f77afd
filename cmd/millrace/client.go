package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	connectTimeout = 5 * time.Second  // for the first broker to answer
	requestTimeout = 20 * time.Second // for one administrative request, its retries included
)

// bootstrapFlag declares --bootstrap-server, alias -b.
func (f *flags) bootstrapFlag() *string {
	s := f.String("bootstrap-server", "127.0.0.1:9092", "brokers to ask first, `host:port,...`")
	f.alias("b", "bootstrap-server")
	return s
}

// connect makes a client and asks one broker for an answer, so that an address
// where nobody listens is an error at once and not a client that retries for ever.
func connect(c *cli, bootstrap string, opts ...kgo.Opt) (*kgo.Client, error) {
	var dialErr error
	dialer := net.Dialer{Timeout: connectTimeout}
	ping, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.RequestRetries(0),
		kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, host)
			if err != nil {
				dialErr = err
			}
			return conn, err
		}))
	if err != nil {
		return nil, usagef("--bootstrap-server %s: %v", bootstrap, err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
	defer cancel()
	err = ping.Ping(ctx)
	ping.Close()
	switch {
	case err != nil && c.ctx.Err() != nil:
		return nil, errors.New("interrupted")
	case err != nil && dialErr != nil: // it names the address
		return nil, fmt.Errorf("no broker at %s: %w", bootstrap, dialErr)
	case err != nil:
		return nil, fmt.Errorf("no broker at %s: %w", bootstrap, err)
	}
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.ClientID("millrace"),
		kgo.RetryTimeout(requestTimeout),
	}, opts...)...)
}

// admin connects for administrative requests. Close the client when done.
func admin(c *cli, bootstrap string) (*kadm.Client, error) {
	cl, err := connect(c, bootstrap)
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(cl), nil
}

// plainErrors are Kafka's errors in the words of someone at a terminal, after the name of the thing.
var plainErrors = map[error]string{
	kerr.TopicAlreadyExists:      "already exists",
	kerr.UnknownTopicOrPartition: "does not exist",
	kerr.UnknownTopicID:          "does not exist",
	kerr.GroupIDNotFound:         "does not exist",
	kerr.NonEmptyGroup:           "has active members",
	kerr.InvalidTopicException:   "not a legal topic name (letters, digits, '.', '_' and '-', at most 249)",
	kerr.LeaderNotAvailable:      "has no leader",
}

// plain words an error in one line.
func plain(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	text := err.Error()
	if k, ok := errors.AsType[*kerr.Error](err); ok {
		word, known := plainErrors[k]
		if !known {
			word = fmt.Sprintf("%s (%s)", strings.TrimSuffix(k.Description, "."), k.Message)
		}
		text = strings.Replace(text, k.Error(), word, 1)
	}
	return strings.Join(strings.Fields(text), " ")
}

// about names the thing an error is about; nil stays nil. The broker's own
// message, where it sent one, says more than the error code.
func about(kind, name string, err error, message string) error {
	if err == nil {
		return nil
	}
	if k, ok := errors.AsType[*kerr.Error](err); ok && message != "" && plainErrors[k] == "" {
		return fmt.Errorf("%s %q: %s (%s)", kind, name, strings.TrimSuffix(message, "."), k.Message)
	}
	return fmt.Errorf("%s %q: %w", kind, name, err)
}

// table writes rows of tab separated cells, aligned.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer, header ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	fmt.Fprintln(t, strings.Join(header, "\t"))
	return t
}

// row prints cells; nil, "" and -1 are printed as "-".
func (t table) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t, "\t")
		}
		switch s := fmt.Sprint(cell); s {
		case "", "-1", "<nil>":
			fmt.Fprint(t, "-")
		default:
			fmt.Fprint(t, s)
		}
	}
	fmt.Fprintln(t)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// topicID prints a topic id as Kafka does.
func topicID(id kadm.TopicID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// commas is a list of numbers as Kafka's tools print it: 1,2,3.
func commas(ids []int32) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(ids), "[]"), " ", ",")
}
