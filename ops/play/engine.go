package play

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

// WithEngine opens the tensor engine that a spec asks for, calls f with it, and closes it.
func WithEngine(spec schemas.ComputeSpec, f func(*tensor.Engine) error) (err error) {
	where, err := Device(spec.Device)
	if err != nil {
		return err
	}
	engine, err := tensor.NewEngine(tensor.Options{Device: where, Threads: spec.Threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	return f(engine)
}

// Device parses "cpu" or "cuda:N". It returns runs.ErrSettings for anything else.
func Device(text string) (tensor.Device, error) {
	if text == "cpu" {
		return tensor.CPU, nil
	}
	number, ok := strings.CutPrefix(text, "cuda:")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 {
		return tensor.CPU, fmt.Errorf("%w: compute.device %q: want cpu or cuda:N", runs.ErrSettings, text)
	}
	return tensor.CUDA(n), nil
}
