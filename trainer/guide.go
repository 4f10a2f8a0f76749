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
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/loop"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// trainGuide trains the guide from the pairs of iteration 0 and publishes it, unless the run has one. Encoders wait for it.
func (t *Trainer) trainGuide(ctx context.Context) (err error) {
	_, err = t.Checkpoints.Latest(ctx, t.Spec.Run, checkpoints.Guide)
	if err == nil || !errors.Is(err, checkpoints.ErrNoCheckpoint) {
		return err
	}
	pairs, batches, upTo, err := t.reader().GuidePairs(ctx, fit.OwnTokenizer(t.Spec.Guide))
	if err != nil {
		return err
	}
	g, err := t.newGuide(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close(context.WithoutCancel(ctx))) }()
	examples, err := g.task(pairs, t.Spec)
	if err != nil {
		return err
	}
	if err := g.model.SetTrainable(ctx, true); err != nil {
		return err
	}
	c := loop.Config{Plan: schedule.GuidePlan(t.Spec), Task: examples, Params: g.model.Params(), Batches: batches}
	watch := &guideWatch{stepObserver: t.observer(c.Plan.Phase, c.Plan), probe: func(most int) (curves.Probe, error) {
		return examples.Probe(context.WithoutCancel(ctx), t.Engine, most)
	}}
	c.Observer = watch
	read := func() (string, uint64) { return string(schemas.Pairs), upTo }
	p, err := t.run(ctx, c, t.states(architecture.GuideWeightsFile, g.model.Weights(), g.model.LoadWeights, read))
	defer func() { err = closePhase(ctx, p, err) }()
	if err := errors.Join(err, watch.failed); err != nil {
		return err
	}
	return t.publishGuide(ctx, g, watch, p)
}

// publishGuide commits and announces the guide with its Probe. It warns when the probe shows that distances mean little.
func (t *Trainer) publishGuide(ctx context.Context, g *trainedGuide, watch *guideWatch, p *loop.Phase) error {
	if watch.final == nil {
		probe, err := watch.probe(probeAtEnd)
		if err != nil {
			return fmt.Errorf("trainer: %w", err)
		}
		watch.final = &probe
	}
	probe := *watch.final
	probed, err := probe.JSON()
	if err != nil {
		return err
	}
	config, err := g.model.ConfigJSON()
	if err != nil {
		return err
	}
	manifest, err := t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Guide, Step: uint64(p.Steps()), Parent: t.base.Digest, SpecDigest: t.Spec.Digest(),
		Machine: t.machine(), Metrics: probe.Metrics(),
		Files: slices.Concat(g.files, p.Files(t.readFile(ctx)), []checkpoints.Source{
			g.weights(ctx), checkpoints.FromBytes(architecture.GuideConfigFile, config),
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

// trainedGuide is the guide in training, with its own tokenizer and the tokenizer's files if it has one.
type trainedGuide struct {
	model     *guide.Guide
	tokenizer *tokenizer.Tokenizer
	files     []checkpoints.Source
}

// weights is the file of the guide's weights at the time of writing.
func (g *trainedGuide) weights(ctx context.Context) checkpoints.Source {
	return checkpoints.Source{Name: architecture.GuideWeightsFile, Write: func(w io.Writer) error {
		return g.model.WriteWeights(ctx, w)
	}}
}

func (g *trainedGuide) close(ctx context.Context) error {
	err := g.model.Close(ctx)
	if g.tokenizer != nil {
		err = errors.Join(err, g.tokenizer.Close())
	}
	return err
}

// newGuide makes the spec's encoder and decoder, with fresh projections.
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

// guideModel makes the encoder or decoder. config is its configuration by fit.PlanGuide.
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
func (g *trainedGuide) task(pairs []*events.Pair, spec schemas.Spec) (*task.Guide, error) {
	reader, err := guide.NewReader(g.tokenizer, tokenizer.Limits{
		Prompt: spec.Data.MaxPromptTokens, Response: spec.Data.MaxResponseTokens,
	}, g.model.MaxLength())
	if err != nil {
		return nil, err
	}
	out := &task.Guide{Model: g.model, Seed: spec.Seed, Compute: task.Compute(spec.Training)}
	for _, p := range pairs {
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
		out.Chosen, out.Rejected = append(out.Chosen, chosen), append(out.Rejected, rejected)
	}
	return out, nil
}

// How many pairs a probe reads during training, where it must not slow training down, and at the end.
const (
	probeLeast = 8
	probeWhile = 64
	probeShare = 16 // of the pairs that training computes
	probeAtEnd = 256
)

// guideWatch probes the guide five times while it is trained, and adds the probes to the phase's records.
type guideWatch struct {
	*stepObserver
	probe func(most int) (curves.Probe, error)
	// final is the probe after the last step; nil if this process did not make that step.
	final *curves.Probe
	// failed is the error of the first failed probe, after which there are no more probes.
	failed error
}

// Made is part of loop.Observer.
func (w *guideWatch) Made(last *curves.Step, done, total int) {
	const times = 5
	if w.failed == nil && done*times/total > (done-1)*times/total {
		pairs := min(probeWhile, max(probeLeast, total*w.plan.Batch/probeShare))
		if done == total {
			pairs = probeAtEnd
		}
		probe, err := w.probe(pairs)
		if err != nil {
			w.failed = fmt.Errorf("trainer: %w", err)
		} else {
			if done == total {
				w.final = &probe
			}
			last.Guide = new(probe)
			last.Guide.Distances = nil
		}
	}
	w.stepObserver.Made(last, done, total)
}
