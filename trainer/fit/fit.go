// Package fit says which adapter and guide a spec makes of a model, and whether the model fits the spec. It needs no
// tensors.
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

// Policy refuses a policy whose context is too short for the spec, or in which its adapter finds no layer.
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

// Context refuses a spec whose longest prompt and response have more tokens than the model has positions.
func Context(spec schemas.Spec, config architecture.Config) error {
	if limit := config.MaxLength(); longest(spec) > limit {
		return fmt.Errorf("data.max_prompt_tokens and max_response_tokens allow %d tokens, "+
			"but the model has %d positions: lower them", longest(spec), limit)
	}
	return nil
}

// longest is how many tokens a prompt and its response have at most.
func longest(spec schemas.Spec) int {
	return spec.Data.MaxPromptTokens + max(spec.Data.MaxResponseTokens, spec.Generation.MaxNewTokens)
}

// LoRA is the adapter that a spec trains; ok is false when all weights are trained.
func LoRA(spec schemas.TrainingSpec) (l architecture.LoRA, ok bool) {
	if spec.LoRA == nil {
		return architecture.LoRA{}, false
	}
	l = architecture.LoRA{Rank: spec.LoRA.Rank, Alpha: spec.LoRA.Alpha, RSLoRA: spec.LoRA.Scaling == "rslora"}
	l.Targets.Names, l.Targets.Pattern = spec.LoRA.Modules()
	return l, true
}

// Guide refuses a policy beside which the spec makes no guide, or one that is too short for what it reads.
func Guide(spec schemas.Spec, policy architecture.Config) error {
	if !spec.TrainsGuide() {
		return nil
	}
	planned, err := PlanGuide(spec.Guide, policy)
	if err != nil {
		return err
	}
	// a guide with a tokenizer of its own cuts the texts to its length
	if limit := planned.MaxLength(); !OwnTokenizer(spec.Guide) && longest(spec) > limit {
		return fmt.Errorf("data.max_prompt_tokens and max_response_tokens allow %d tokens, but the guide has %d positions "+
			"for them: lower these or guide.prefix_tokens, or take another guide.decoder", longest(spec), limit)
	}
	return nil
}

// PlanGuide describes the guide that a spec makes beside a policy. The error names the key.
func PlanGuide(spec schemas.GuideSpec, policy architecture.Config) (architecture.Guide, error) {
	return architecture.PlanGuide(policy, spec.Encoder, spec.Decoder, architecture.GuideConfig{
		LatentDim: spec.LatentDim, Pooling: spec.Pooling, Injection: spec.Injection, PrefixTokens: spec.PrefixTokens,
		WordDropout: spec.WordDropout, Reduction: spec.Reduction,
	})
}

// OwnTokenizer tells whether the guide's encoder brings a tokenizer: a folder does.
func OwnTokenizer(spec schemas.GuideSpec) bool {
	return spec.Encoder != "policy" && !strings.HasPrefix(spec.Encoder, "scratch:")
}

// ModelError says that the folder of model.from holds no readable model, and how to get one.
func ModelError(dir string, err error) error {
	hint := ""
	if _, none := os.Stat(filepath.Join(dir, architecture.AdapterConfigFile)); none == nil {
		hint = " (an adapter alone; a run starts from a whole model: merge it in PEFT, by merge_and_unload, and save the result)"
	} else if errors.Is(err, fs.ErrNotExist) {
		hint = " (`ldalign models inspect ORG/NAME` downloads a model from the Hugging Face Hub and prints its folder)"
	}
	return fmt.Errorf("model.from: %s: %w%s", dir, err, hint)
}
