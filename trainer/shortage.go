package trainer

import (
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models/tensor"
)

// outOfMemory adds to an error that reports short memory what to change.
func outOfMemory(err error, change string) error {
	if !errors.As(err, new(*tensor.OutOfMemory)) {
		return err
	}
	return fmt.Errorf("%w: %s, or free memory there", err, change)
}

// smallerStep says what to change so that training an iteration takes less memory.
func (t *Trainer) smallerStep() string {
	change := "lower training.micro_tokens or training.micro_batch"
	if !t.Spec.Training.GradientCheckpointing {
		change += ", set training.gradient_checkpointing"
	}
	if t.Spec.Training.LoRA == nil {
		change += ", train an adapter (training.lora: {})"
	}
	return change + ", or take a smaller model (model.from)"
}
