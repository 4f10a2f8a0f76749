// Package fit checks whether a model fits a spec, and plans the spec's adapter and guide for it. It needs no tensors.
package fit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/schemas"
)

// Policy returns an error if the policy's context is too short for the spec, or if it has no layer for the spec's adapter.
func Policy(spec schemas.Spec, config architecture.Config) error {
	if err := Context(spec, config); err != nil {
		return err
	}
	if l, ok := LoRA(spec.Training); ok {
		if err := l.Fits(config); err != nil {
			return fmt.Errorf("training.lora: %w", err)
		}
	}
	return nil
}

// Context returns an error if the longest prompt and response that the spec allows have more tokens than the model has
// positions.
func Context(spec schemas.Spec, config architecture.Config) error {
	if limit := config.MaxLength(); longest(spec) > limit {
		return fmt.Errorf("data.max_prompt_tokens and max_response_tokens allow %d tokens, "+
			"but the model has %d positions: lower them", longest(spec), limit)
	}
	return nil
}

// Rounded returns a warning if the generator computes the reference log-probs with other weights than the trainer's, else "".
func Rounded(spec schemas.Spec) string {
	if spec.Compute.Weights != "bfloat16" || spec.Training.Precision != "float32" || spec.Objective.Kind == "sft" {
		return ""
	}
	return "the reference log-probs are those of weights rounded to bfloat16 (compute.weights), and the trainer computes in " +
		"float32 (training.precision): the margins at the first step of an iteration are not zero"
}

// longest is the most tokens that a prompt and its response can have together.
func longest(spec schemas.Spec) int {
	return spec.Data.MaxPromptTokens + max(spec.Data.MaxResponseTokens, spec.Generation.MaxNewTokens)
}

// LoRA returns the adapter that a spec trains. ok is false if all weights are trained.
func LoRA(spec schemas.TrainingSpec) (l architecture.LoRA, ok bool) {
	if spec.LoRA == nil {
		return architecture.LoRA{}, false
	}
	l = architecture.LoRA{Rank: spec.LoRA.Rank, Alpha: spec.LoRA.Alpha, RSLoRA: spec.LoRA.Scaling == "rslora"}
	l.Targets.Names, l.Targets.Pattern = spec.LoRA.Modules()
	return l, true
}

// Guide returns an error if the spec's guide cannot be made beside the policy, or if its context is too short for the spec.
func Guide(spec schemas.Spec, policy architecture.Config) error {
	if !spec.TrainsGuide() {
		return nil
	}
	planned, err := PlanGuide(spec.Guide, policy)
	if err != nil {
		return err
	}
	// a guide with its own tokenizer cuts the texts to its length
	if limit := planned.MaxLength(); !OwnTokenizer(spec.Guide) && longest(spec) > limit {
		return fmt.Errorf("data.max_prompt_tokens and max_response_tokens allow %d tokens, but the guide has %d positions "+
			"for them: lower these keys or guide.prefix_tokens, or use another guide.decoder", longest(spec), limit)
	}
	return nil
}

// PlanGuide describes the guide that a spec makes beside a policy. The error names the key that does not fit.
func PlanGuide(spec schemas.GuideSpec, policy architecture.Config) (architecture.Guide, error) {
	return architecture.PlanGuide(policy, spec.Encoder, spec.Decoder, architecture.GuideConfig{
		LatentDim: spec.LatentDim, Pooling: spec.Pooling, Injection: spec.Injection, PrefixTokens: spec.PrefixTokens,
		WordDropout: spec.WordDropout, Reduction: spec.Reduction,
	})
}

// OwnTokenizer reports whether the guide has its own tokenizer, because its encoder is a Hugging Face folder.
func OwnTokenizer(spec schemas.GuideSpec) bool {
	return spec.Encoder != "policy" && !strings.HasPrefix(spec.Encoder, "scratch:")
}

// ModelError wraps the error of a model.from folder that cannot be read, and adds a hint where there is one.
func ModelError(dir string, err error) error {
	hint := ""
	if _, none := os.Stat(filepath.Join(dir, architecture.AdapterConfigFile)); none == nil {
		hint = " (an adapter alone, but a run needs a whole model: merge it with PEFT's merge_and_unload and save the result)"
	} else if errors.Is(err, fs.ErrNotExist) {
		hint = " (`ldalign models inspect ORG/NAME` downloads a model from the Hugging Face Hub and prints its folder)"
	}
	return fmt.Errorf("model.from: %s: %w%s", dir, err, hint)
}
