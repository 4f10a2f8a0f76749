package main

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
)

// loadSpecs reads a spec file and applies the command line's changes. It does not fill in defaults.
func loadSpecs(path string, set []string, servers serverFlags) ([]schemas.Spec, error) {
	specs, err := schemas.LoadRuns(path, set)
	for i := range specs {
		s := &specs[i]
		s.Servers = servers.over(s.Servers)
		if s.Servers.NATS == "" && s.Streams.Replicas > 1 {
			return nil, fmt.Errorf("%w: %s: streams.replicas: %d replicas need a cluster: set servers.nats or --nats",
				errUsage, path, s.Streams.Replicas)
		}
	}
	return specs, err
}
