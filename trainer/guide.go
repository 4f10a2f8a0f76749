package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/fit"
)

// trainGuide trains the guide once, from the pairs of iteration 0, and publishes it. Encoders wait for it.
func (t *Trainer) trainGuide(ctx context.Context) (err error) {
	_, err = t.Checkpoints.Latest(ctx, t.Spec.Run, checkpoints.Guide)
	if err == nil || !errors.Is(err, checkpoints.ErrNoCheckpoint) {
		return err
	}
	messages, upTo, err := t.messages(ctx, guidePhase, schemas.Pairs, 0)
	if err != nil {
		return err
	}
	g, err := t.newGuide(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close(context.WithoutCancel(ctx))) }()
	batches := checkpoints.Batches{}
	messages = slices.DeleteFunc(messages, func(m events.Message) bool {
		p := pairOf(m)
		return p != nil && g.tokenizer == nil && t.skips(p, &batches) // another tokenizer reads the texts
	})
	if batches.Pairs = ids(messages); len(messages) == 0 {
		return fmt.Errorf("trainer: all %d pairs of the guide's iteration were refused; the log says why for each",
			len(batches.Skipped))
	}
	task, err := g.task(messages, t.Spec)
	if err != nil {
		return err
	}
	spec := t.Spec.Guide
	p := &phase{
		name: guidePhase, seed: t.Spec.Seed, task: task, batches: batches, spec: spec.Optimizer,
		epochs: spec.Epochs, batch: spec.Batch, micro: min(spec.Batch, t.Spec.Training.MicroBatch),
		microTokens: t.Spec.Training.MicroTokens, every: t.Spec.Training.CheckpointEvery, hold: t.Hold,
		pieces: pieces{size: t.pieceSize},
	}
	var probed error
	p.progress = task.watch(ctx, t.Engine, p, t.showStep(guidePhase, p), &probed)
	if err := g.model.SetTrainable(ctx, true); err != nil {
		return err
	}
	p.params = g.model.Params()
	if err := p.prepare(ctx, t.Engine); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close(context.WithoutCancel(ctx), t.Engine)) }()
	p.save = func(ctx context.Context, cursor checkpoints.Cursor) (func() error, error) {
		cursor.Stream, cursor.Sequence = streams.StreamName(schemas.Pairs), upTo
		return t.saveState(ctx, p, cursor, g.model.Weights())
	}
	step, err := t.restore(ctx, p, g.model.LoadWeights)
	if err != nil {
		return err
	}
	if err := errors.Join(p.run(ctx, t.Engine, step), probed); err != nil {
		return err
	}
	return t.publishGuide(ctx, g, task, p)
}

// publishGuide commits and announces the guide with its Probe, and warns when that shows a guide of no use.
func (t *Trainer) publishGuide(ctx context.Context, g *trainedGuide, task *guideTask, p *phase) error {
	if task.final == nil {
		probe, err := task.probe(ctx, t.Engine, probeAtEnd)
		if err != nil {
			return err
		}
		task.final = &probe
	}
	probe := *task.final
	probed, err := probe.JSON()
	if err != nil {
		return err
	}
	config, err := g.model.ConfigJSON()
	if err != nil {
		return err
	}
	manifest, err := t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Guide, Step: uint64(p.made()), Parent: t.base.Digest, SpecDigest: t.Spec.Digest(),
		Machine: t.machine(), Metrics: probe.Metrics(),
		Files: slices.Concat(g.files, t.wholeLines(ctx, p), []checkpoints.Source{
			g.weights(ctx), checkpoints.FromBytes("guide.json", config),
			checkpoints.FromBytes(curves.ProbeFile, probed),
		}),
	})
	if err != nil {
		return err
	}
	t.resume = nil
	t.Log.Info().Str("run", t.Spec.Run).Str("checkpoint", manifest.Key).Float64("reconstruction", probe.True).
		Float64("reconstruction_shuffled", probe.Shuffled).Float64("distance", probe.Distance).Msg("guide published")
	if wrong := probe.Collapsed(); wrong != "" {
		t.Log.Warn().Str("run", t.Spec.Run).Msg("the guide's distances mean little: " + wrong)
	}
	return t.publishEvent(ctx, manifest)
}

// trainedGuide is the guide in training, with the tokenizer files that travel with it.
type trainedGuide struct {
	model     *guide.Guide
	tokenizer *tokenizer.Tokenizer
	files     []checkpoints.Source
}

// weights is the file of the guide's weights as they are when it is written.
func (g *trainedGuide) weights(ctx context.Context) checkpoints.Source {
	return checkpoints.Source{Name: guideFile, Write: func(w io.Writer) error { return g.model.WriteWeights(ctx, w) }}
}

func (g *trainedGuide) close(ctx context.Context) error {
	err := g.model.Close(ctx)
	if g.tokenizer != nil {
		err = errors.Join(err, g.tokenizer.Close())
	}
	return err
}

// newGuide makes encoder and decoder as the spec has them, with fresh projections.
func (t *Trainer) newGuide(ctx context.Context) (_ *trainedGuide, err error) {
	spec := t.Spec.Guide
	g := &trainedGuide{}
	defer func() {
		if err != nil && g.tokenizer != nil {
			err = errors.Join(err, g.tokenizer.Close())
		}
	}()
	if fit.OwnTokenizer(spec) {
		tok, err := tokenizer.Load(spec.Encoder)
		if err != nil {
			return nil, fmt.Errorf("trainer: guide.encoder: %w", err)
		}
		g.tokenizer = tok
		files, err := folderFiles(os.DirFS(spec.Encoder))
		if err != nil {
			return nil, err
		}
		g.files = files
	}
	planned, err := fit.PlanGuide(spec, t.model.Config())
	if err != nil {
		return nil, fmt.Errorf("trainer: %w", err)
	}
	encoder, err := t.guideModel(ctx, spec.Encoder, "encoder", planned.Encoder)
	if err != nil {
		return nil, err
	}
	decoder, err := t.guideModel(ctx, spec.Decoder, "decoder", planned.Decoder)
	if err != nil {
		return nil, errors.Join(err, encoder.Close(ctx))
	}
	g.model, err = guide.New(ctx, encoder, decoder, planned.Config, schemas.SubSeed(t.Spec.Seed, "guide", 0))
	if err != nil {
		return nil, errors.Join(err, encoder.Close(ctx), decoder.Close(ctx))
	}
	return g, nil
}

// guideModel is the encoder or decoder of a configuration of fit.PlanGuide.
func (t *Trainer) guideModel(ctx context.Context, from, role string, config architecture.Config) (*models.Model, error) {
	switch {
	case strings.HasPrefix(from, "scratch:"):
		return models.Scratch(ctx, t.Engine, config, schemas.SubSeed(t.Spec.Seed, "guide/"+role, 0))
	case from == "policy":
		return t.model.Clone(ctx) // at iteration 0 the model is still the run's first policy
	default:
		model, err := models.Load(ctx, t.Engine, from, models.Options{})
		if err != nil {
			return nil, fmt.Errorf("trainer: guide.%s: %w", role, err)
		}
		return model, nil
	}
}

// task makes the guide's examples: every pair's prompt with y and with y'.
func (g *trainedGuide) task(messages []events.Message, spec schemas.Spec) (*guideTask, error) {
	reader, err := guide.NewReader(g.tokenizer, tokenizer.Limits{
		Prompt: spec.Data.MaxPromptTokens, Response: spec.Data.MaxResponseTokens,
	}, g.model.MaxLength())
	if err != nil {
		return nil, err
	}
	out := &guideTask{guide: g.model, seed: spec.Seed, compute: compute(spec.Training)}
	for _, m := range messages {
		p, ok := m.(*events.Pair)
		if !ok {
			return nil, fmt.Errorf("trainer: a %T cannot train the guide", m)
		}
		prompt := p.GetPrompt()
		chosen, err := reader.Sequence(guide.Text{
			Prompt: prompt.GetPrompt(), Response: prompt.GetResponse(), PromptIDs: p.GetPromptIds(), ResponseIDs: p.GetChosenIds(),
		})
		if err != nil {
			return nil, fmt.Errorf("trainer: pair %s, chosen response: %w", p.ID(), err)
		}
		rejected, err := reader.Sequence(guide.Text{
			Prompt: prompt.GetPrompt(), Response: p.GetRejected(), PromptIDs: p.GetPromptIds(), ResponseIDs: p.GetRejectedIds(),
		})
		if err != nil {
			return nil, fmt.Errorf("trainer: pair %s, rejected response: %w", p.ID(), err)
		}
		out.chosen, out.rejected = append(out.chosen, chosen), append(out.rejected, rejected)
	}
	return out, nil
}
