package main

import (
	"fmt"
	"runtime"
)

type versionCommand struct {
	Tensors bool `help:"Ask the tensor build, which also knows its libtorch."`
}

func (versionCommand) Help() string {
	return "Example:\n\n    ldalign version\n    ldalign version --tensors\n    ldalign version --json | jq -r .version"
}

func (versionCommand) Run(e *env) error {
	program, missing := tensorProgram()
	out := map[string]any{
		"version": buildVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "tensors": program,
	}
	text := fmt.Sprintf("ldalign %s\n%s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	switch {
	case withTensors:
		version, cuda, err := torch()
		if err != nil {
			return err
		}
		out["libtorch"], out["cuda"] = version, cuda
		text += fmt.Sprintf("libtorch %s (CUDA available: %v)\n", version, cuda)
	case missing != nil:
		text += fmt.Sprintf("tensors: none: %v\n", missing)
	default:
		text += fmt.Sprintf("tensors: %s\n", program)
	}
	if e.json {
		return printJSON(e.stdout, []map[string]any{out})
	}
	_, err := fmt.Fprint(e.stdout, text)
	return err
}
