// Package kafkafake stands in for a broker that speaks Kafka's protocol and has just started, in tests only: it answers what asks
// whether it is ready, and nothing else.
package kafkafake

import (
	"encoding/binary"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Serve answers the listener's connections until it is closed, and returns why. The listener is on TCP.
func Serve(listener net.Listener) error {
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(c, listener.Addr().(*net.TCPAddr))
	}
}

// answer replies to ApiVersions, Metadata and CreateTopics until the connection ends, or asks something else.
func answer(c net.Conn, self *net.TCPAddr) {
	defer c.Close()
	var size [4]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		r := kbin.Reader{Src: frame}
		key, version, correlation := r.Int16(), r.Int16(), r.Int32()
		var resp kmsg.Response
		switch key {
		case 3:
			v := kmsg.NewPtrMetadataResponse()
			b := kmsg.NewMetadataResponseBroker()
			b.Host, b.Port = self.IP.String(), int32(self.Port)
			v.Brokers, v.ControllerID = append(v.Brokers, b), b.NodeID
			resp = v
		case 18:
			v := kmsg.NewPtrApiVersionsResponse()
			for k, last := range map[int16]int16{3: 4, 18: 3, 19: 4} { // without tagged fields in the headers of answers
				v.ApiKeys = append(v.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k, MaxVersion: last})
			}
			resp, version = v, min(version, 3)
		case 19:
			v := kmsg.NewPtrCreateTopicsResponse()
			v.Topics = append(v.Topics, kmsg.NewCreateTopicsResponseTopic())
			resp = v
		default:
			return
		}
		resp.SetVersion(version)
		out := resp.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(correlation)))
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...)); err != nil {
			return
		}
	}
}
