package api

// DescribeCluster (key 60), versions 0-2. 1 endpoint type; 2 fenced brokers (there are none).

import (
	"github.com/millrace/millrace/engine/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() { handlers[wire.KeyDescribeCluster] = describeCluster }

func describeCluster(c *call, r kmsg.Request) {
	req := r.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.EndpointType = 1
	resp.ClusterAuthorizedOperations = noAuthorized
	if req.Version >= 1 && req.EndpointType != 1 { // controllers
		resp.EndpointType = req.EndpointType
		resp.ErrorCode = wire.MismatchedEndpointType
		resp.ErrorMessage = text("this is a broker's listener")
		c.reply(resp)
		return
	}
	resp.ClusterID, resp.ControllerID = c.ClusterID, c.NodeID
	resp.Brokers = []kmsg.DescribeClusterResponseBroker{{NodeID: c.NodeID, Host: c.Host, Port: c.Port}}
	c.reply(resp)
}
