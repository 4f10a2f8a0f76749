package main

import (
	"fmt"
	"runtime"

	"github.com/ldalign/ldalign/models/tensor"
)

type versionCommand struct{}

func (versionCommand) Help() string { return "Example:\n\n    ldalign version" }

func (versionCommand) Run(e *env) error {
	torch, err := tensor.Version()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "ldalign %s\nlibtorch %s (CUDA available: %v)\n%s %s/%s\n",
		buildVersion(), torch, tensor.CUDAAvailable(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
