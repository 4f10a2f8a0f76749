package main

import (
	"fmt"
	"runtime"

	"github.com/ldalign/ldalign/models/tensor"
)

type versionCommand struct{}

func (versionCommand) Help() string {
	return "Example:\n\n    ldalign version\n    ldalign version --json | jq -r .version"
}

func (versionCommand) Run(e *env) error {
	torch, err := tensor.Version()
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []map[string]any{{
			"version": buildVersion(), "libtorch": torch, "cuda": tensor.CUDAAvailable() == nil, "go": runtime.Version(),
			"platform": runtime.GOOS + "/" + runtime.GOARCH,
		}})
	}
	_, err = fmt.Fprintf(e.stdout, "ldalign %s\nlibtorch %s (CUDA available: %v)\n%s %s/%s\n",
		buildVersion(), torch, tensor.CUDAAvailable() == nil, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
