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

// FreeMemory returns the free memory of the devices other than the CPU that specs compute on, by name. A device that this machine
// does not have is left out.
func FreeMemory(specs []schemas.Spec) (map[string]int64, error) {
	free := map[string]int64{}
	for _, s := range specs {
		where, err := Device(s.Compute.Device)
		if err != nil {
			return nil, err
		}
		if n, err := tensor.FreeMemory(where); err == nil {
			free[s.Compute.Device] = n
		}
	}
	return free, nil
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
