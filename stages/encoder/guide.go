package encoder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/policy"
)

// Guide is a frozen guide in memory.
type Guide struct {
	// Digest is the manifest digest of the guide.
	Digest string

	model     *guide.Encoder
	tokenizer *tokenizer.Tokenizer // nil when the guide reads the policy's token ids
	reader    guide.Reader
	spec      schemas.Spec
}

// WaitForGuide returns the manifest of a run's guide. It looks twice a second until there is one or ctx ends. Encoders start
// before there is a guide, because it is trained from the pairs of iteration 0.
func WaitForGuide(ctx context.Context, repository *checkpoints.Repository, run string) (checkpoints.Manifest, error) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		manifest, err := repository.Latest(ctx, run, checkpoints.Guide)
		if err == nil || !errors.Is(err, checkpoints.ErrNoCheckpoint) {
			return manifest, err
		}
		select {
		case <-ctx.Done():
			return checkpoints.Manifest{}, fmt.Errorf("encoder: run %s has no guide yet: %w", run, ctx.Err())
		case <-tick.C:
		}
	}
}

// LoadGuide reads a guide checkpoint of a run.
func LoadGuide(
	ctx context.Context, spec schemas.Spec, repository *checkpoints.Repository, engine *tensor.Engine, manifest checkpoints.Manifest,
) (*Guide, error) {
	folder, err := repository.Folder(ctx, manifest)
	if err != nil {
		return nil, err
	}
	g := &Guide{Digest: manifest.Digest, spec: spec}
	if _, own := manifest.File("tokenizer.json"); own {
		if g.tokenizer, err = tokenizer.Load(folder); err != nil {
			return nil, err
		}
	}
	if g.model, err = guide.LoadEncoder(ctx, engine, folder); err != nil {
		err = errors.Join(fmt.Errorf("encoder: guide %.12s: %w", manifest.Digest, err), g.Close(ctx))
		return nil, policy.OfMachine(err, smallerGuide)
	}
	g.reader, err = guide.NewReader(g.tokenizer, tokenizer.Limits{
		Prompt: spec.Data.MaxPromptTokens, Response: spec.Data.MaxResponseTokens,
	}, g.model.MaxLength())
	if err != nil {
		return nil, errors.Join(err, g.Close(ctx))
	}
	return g, nil
}

// smallerGuide is what to change when memory is short.
const smallerGuide = "take a smaller guide (guide.encoder, in the run that trains it)"

// Latents encodes texts: phi(x, y), [K] for each, in the order given. The numbers of one text do not depend on the others.
func (g *Guide) Latents(ctx context.Context, texts []guide.Text) ([][]float32, error) {
	rows := make([]models.Sequence, len(texts))
	for i, t := range texts {
		row, err := g.reader.Sequence(t)
		if err != nil {
			return nil, err
		}
		rows[i] = row
	}
	latents, err := g.model.Latents(ctx, rows)
	if err != nil {
		return nil, policy.OfMachine(fmt.Errorf("encoder: guide %.12s: %w", g.Digest, err), smallerGuide)
	}
	return latents, nil
}

// Close frees the guide.
func (g *Guide) Close(ctx context.Context) error {
	var err error
	if g.model != nil {
		err = g.model.Close(ctx)
	}
	if g.tokenizer != nil {
		err = errors.Join(err, g.tokenizer.Close())
	}
	return err
}
