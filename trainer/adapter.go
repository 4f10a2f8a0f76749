package trainer

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/fit"
)

// Files of an adapter in a checkpoint. A policy has the adapter that was merged into it, as a folder that PEFT opens; a state
// has only the matrices.
const (
	adapterFolder      = "adapter/"
	adapterConfigFile  = adapterFolder + architecture.AdapterConfigFile
	adapterWeightsFile = adapterFolder + architecture.AdapterWeightsFile
)

// addAdapter gives the model a fresh adapter for an iteration, when the spec trains one.
func (t *Trainer) addAdapter(ctx context.Context, iteration uint32) error {
	l, ok := fit.LoRA(t.Spec.Training)
	if !ok {
		return nil
	}
	return t.model.AddAdapter(ctx, l, schemas.SubSeed(t.Spec.Seed, "adapter", uint64(iteration)))
}

// policyFile is the name of the file of a state that contains the trained weights of the policy phase.
func (t *Trainer) policyFile() string {
	if t.Spec.Training.LoRA != nil {
		return adapterWeightsFile
	}
	return checkpoints.WeightsFile
}

// loadTrained loads the trained weights of a state: the adapter, or all weights.
func (t *Trainer) loadTrained(ctx context.Context, path string) (err error) {
	if _, ok := t.model.Adapter(); !ok {
		return t.model.LoadWeights(ctx, path)
	}
	file, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return t.model.ReplaceAdapter(ctx, file)
}

// mergeAdapter merges the model's adapter, if it has one, into its weights and returns the adapter's files. It keeps them in
// memory, because merging removes the adapter.
func (t *Trainer) mergeAdapter(ctx context.Context) ([]checkpoints.Source, error) {
	if _, ok := t.model.Adapter(); !ok {
		return nil, nil
	}
	config, err := t.model.AdapterConfig()
	if err != nil {
		return nil, err
	}
	var weights bytes.Buffer
	if err := t.model.WriteAdapter(ctx, &weights); err != nil {
		return nil, err
	}
	if err := t.model.MergeAdapter(ctx); err != nil {
		return nil, err
	}
	return []checkpoints.Source{
		checkpoints.FromBytes(adapterConfigFile, config), checkpoints.FromBytes(adapterWeightsFile, weights.Bytes()),
	}, nil
}

// inherited reports whether a policy takes over a file of its parent policy: all files that training does not make.
func inherited(name string) bool {
	made := []string{checkpoints.WeightsFile, curves.File, checkpoints.BatchesFile}
	return !slices.Contains(made, name) && !strings.HasPrefix(name, adapterFolder)
}
