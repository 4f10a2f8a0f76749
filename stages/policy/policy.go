// Package policy keeps the policy of a stage in memory: one checkpoint at a time, replaced in place when a message names
// another.
package policy

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
)

// Policy is a policy checkpoint in memory. It is not safe for concurrent use: a stage owns one.
type Policy struct {
	Model  *models.Model
	Format *tokenizer.Format
	// Digest is the manifest digest of the weights in Model.
	Digest string

	spec        schemas.Spec
	checkpoints *checkpoints.Repository
	engine      *tensor.Engine
	tokenizer   *tokenizer.Tokenizer
}

// New returns a Policy without a checkpoint; Use loads the first one.
func New(spec schemas.Spec, repository *checkpoints.Repository, engine *tensor.Engine) *Policy {
	return &Policy{spec: spec, checkpoints: repository, engine: engine}
}

// Use makes sure that the policy of an iteration, which a message names by its manifest digest, is in memory. If another one is,
// Use reads the weights into the existing tensors. If the run has another policy for the iteration, or the digest names no
// policy, the message is wrong and the error is a plain one. Every other error is a *schemas.Unavailable: the store does not
// answer, it lacks the policy, or a blob, which the error names, is missing or corrupt. It is Permanent if the weights do not
// compute the value in the manifest (models.Model.Canary), or memory is short. After an error the Policy has no digest, so the
// next Use tries again.
func (p *Policy) Use(ctx context.Context, iteration uint32, digest string) error {
	if digest != "" && p.Digest == digest { // p.Digest is empty after a Use that failed
		return nil
	}
	manifest, err := p.checkpoints.ByDigest(ctx, p.spec.Run, digest)
	if errors.Is(err, checkpoints.ErrNoCheckpoint) {
		other, missing := p.checkpoints.Policy(ctx, p.spec.Run, iteration)
		if missing == nil {
			return fmt.Errorf("policy: checkpoint %.12s: %w: the policy of iteration %d is %.12s", digest, err, iteration, other.Digest)
		}
	}
	if err != nil {
		return &schemas.Unavailable{Err: fmt.Errorf("policy: checkpoint %.12s: %w", digest, err)}
	}
	if manifest.Kind != checkpoints.Policy {
		return fmt.Errorf("policy: checkpoint %.12s is of kind %s, not a policy", digest, manifest.Kind)
	}
	p.Digest = ""
	if err := p.read(ctx, manifest); err != nil {
		return OfMachine(&schemas.Unavailable{Err: fmt.Errorf("policy: checkpoint %.12s: %w", digest, err)}, smallerModel)
	}
	if err := p.check(ctx, manifest); err != nil {
		err = &schemas.Unavailable{Err: fmt.Errorf("policy: checkpoint %.12s: %w", digest, err), Permanent: true}
		return OfMachine(err, smallerModel)
	}
	p.Digest = digest
	return nil
}

// read takes the checkpoint's weights into memory.
func (p *Policy) read(ctx context.Context, manifest checkpoints.Manifest) error {
	if p.Model == nil {
		return p.load(ctx, manifest)
	}
	weights, ok := manifest.File(checkpoints.WeightsFile)
	if !ok {
		return fmt.Errorf("checkpoint %s has no model.safetensors", manifest.Key)
	}
	path, err := p.checkpoints.Local(ctx, p.spec.Run, weights)
	if err != nil {
		return err
	}
	return p.Model.LoadWeights(ctx, path)
}

// check compares the canary with the manifest's, if it has one.
func (p *Policy) check(ctx context.Context, manifest checkpoints.Manifest) error {
	want, ok := manifest.Metric(checkpoints.CanaryMetric)
	if !ok {
		return nil
	}
	got, err := p.Model.Canary(ctx)
	if err != nil {
		return err
	}
	if math.Abs(got-want) <= p.Model.CanaryTolerance()*math.Abs(want) { // false for NaN
		return nil
	}
	return fmt.Errorf("the model gives a fixed text the log-prob %.6g, but the manifest %s says %.6g: "+
		"this machine or build computes different numbers and cannot be used for the run", got, manifest.Key, want)
}

// load reads a whole checkpoint: configuration, tokenizer, weights.
func (p *Policy) load(ctx context.Context, manifest checkpoints.Manifest) error {
	folder, err := p.checkpoints.Folder(ctx, manifest)
	if err != nil {
		return err
	}
	tok, err := tokenizer.Load(folder)
	if err != nil {
		return err
	}
	format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: p.spec.Model.Template, System: p.spec.Model.System})
	if err != nil {
		return errors.Join(err, tok.Close())
	}
	model, err := models.Load(ctx, p.engine, folder, models.Options{
		Packed: true, Rounded: p.spec.Compute.Weights == "bfloat16",
	})
	if err != nil {
		return errors.Join(err, tok.Close())
	}
	p.Model, p.Format, p.tokenizer = model, format, tok
	return nil
}

// Tokenizer is the checkpoint's tokenizer; nil before the first Use.
func (p *Policy) Tokenizer() *tokenizer.Tokenizer { return p.tokenizer }

// Tokenise turns a prompt and a response into token ids by the run's template and length rule. The error is a
// *schemas.Reject if these refuse a text.
func (p *Policy) Tokenise(prompt, response string) (tokenizer.Tokens, error) {
	data := p.spec.Data
	tokens, err := p.Format.Fit(prompt, response, tokenizer.Limits{
		Prompt: data.MaxPromptTokens, Response: data.MaxResponseTokens, Reject: data.Overlong == "reject",
	})
	if err == nil {
		return tokens, nil
	}
	reason := schemas.ReasonInvalid
	switch {
	case errors.Is(err, tokenizer.ErrEmpty):
		reason = schemas.ReasonEmpty
	case errors.Is(err, tokenizer.ErrTooLong):
		reason = schemas.ReasonTooLong
	}
	return tokens, &schemas.Reject{Reason: reason, Err: err}
}

// What to change when memory is short for a policy's weights, and for answering with it.
const (
	smallerModel = "take a smaller model (model.from)"
	// SmallerDecoder is for OfMachine.
	SmallerDecoder = "lower generation.slots, data.max_prompt_tokens or generation.max_new_tokens, or " + smallerModel
)

// OfMachine returns an error about short memory, or about a device that has failed, as a permanent *schemas.Unavailable that says
// what to do: no message is to blame, and waiting does not help. It returns every other error as it is. smaller says what to
// change for less memory.
func OfMachine(err error, smaller string) error {
	switch {
	case errors.As(err, new(*tensor.OutOfMemory)):
		err = fmt.Errorf("%w: %s, or free memory there", err, smaller)
	case errors.As(err, new(*tensor.DeviceFailure)):
		err = fmt.Errorf("%w: start this worker again, and if that fails look at the GPU (nvidia-smi)", err)
	default:
		return err
	}
	return &schemas.Unavailable{Err: err, Permanent: true}
}

// Close frees the model and the tokenizer.
func (p *Policy) Close(ctx context.Context) error {
	if p.Model == nil {
		return nil
	}
	err := errors.Join(p.Model.Close(ctx), p.tokenizer.Close())
	p.Model, p.Digest = nil, ""
	return err
}
