package main

import "github.com/ldalign/ldalign/schemas"

// loadSpecs reads a spec file and applies the command line's changes. It does not fill in defaults.
func loadSpecs(path string, set []string, servers serverFlags) ([]schemas.Spec, error) {
	specs, err := schemas.LoadRuns(path, set)
	for i := range specs {
		specs[i].Servers = servers.over(specs[i].Servers)
	}
	return specs, err
}
