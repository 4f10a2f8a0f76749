package checkpoints

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Machine describes the machine that made a checkpoint, as far as it may affect the last bits of a result. It is stored beside
// the manifest, so that equal work gives equal manifests on every machine.
type Machine struct {
	// CPU is the processor's name; empty if the system does not tell.
	CPU string `json:"cpu"`
	// Device is the device of the tensors: cpu or cuda:N.
	Device string `json:"device"`
	// Threads is the number of threads of one operation.
	Threads int `json:"threads"`
	// Libtorch is the version of libtorch.
	Libtorch string `json:"libtorch"`
}

// Differences lists what differs between two machines, for example "3 threads, here 2". It is empty if they agree.
func (m Machine) Differences(here Machine) []string {
	var out []string
	for _, d := range []struct{ name, was, is string }{
		{"processor", m.CPU, here.CPU},
		{"device", m.Device, here.Device},
		{"threads", fmt.Sprint(m.Threads), fmt.Sprint(here.Threads)},
		{"libtorch", m.Libtorch, here.Libtorch},
	} {
		if d.was != d.is {
			out = append(out, fmt.Sprintf("%s %q, here %q", d.name, d.was, d.is))
		}
	}
	return out
}

// maxNote is the greatest size of a note in bytes.
const maxNote = 64 << 10

func machineKey(run string, number uint64) string {
	return fmt.Sprintf("runs/%s/machines/%08d.json", run, number)
}

// note stores a machine under the number of a manifest that is about to be created.
func (r *Repository) note(ctx context.Context, run string, number uint64, m *Machine) error {
	if m == nil {
		return nil
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("checkpoints: machine: %w", err)
	}
	data = append(data, '\n')
	return r.store.Put(ctx, machineKey(run, number), bytes.NewReader(data), int64(len(data)))
}

// Machine returns the machine that a checkpoint was made on. ok is false if there is no note, or it is unreadable.
func (r *Repository) Machine(ctx context.Context, m Manifest) (machine Machine, ok bool, err error) {
	body, err := r.store.Get(ctx, machineKey(m.Run, m.Number))
	if errors.Is(err, ErrNotFound) {
		return Machine{}, false, nil
	}
	if err != nil {
		return Machine{}, false, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxNote))
	if err != nil {
		return Machine{}, false, fmt.Errorf("checkpoints: read %s: %w", machineKey(m.Run, m.Number), err)
	}
	if json.Unmarshal(data, &machine) != nil {
		return Machine{}, false, nil
	}
	return machine, true, nil
}
