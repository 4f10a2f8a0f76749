package encoder_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/encoder"
	"github.com/ldalign/ldalign/stages/generator"
	"github.com/ldalign/ldalign/stages/stagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, f *stagetest.Fixture) *encoder.Stage {
	t.Helper()
	s := encoder.New(f.Spec, f.Checkpoints, f.Engine)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// pairs are those of iteration 0 of the fixture's run.
func pairs(t *testing.T, f *stagetest.Fixture) []*events.Pair {
	t.Helper()
	stage := generator.New(f.Spec, f.Checkpoints, f.Engine)
	out, errs := stage.Process(t.Context(), f.Prompts(f.Policy(0, 1)), nil)
	if err := errors.Join(append(errs, stage.Close(t.Context()))...); err != nil {
		t.Fatal(err)
	}
	return out
}

func encode(t *testing.T, s *encoder.Stage, in []*events.Pair) []*events.Encoded {
	t.Helper()
	out, errs := s.Process(t.Context(), in)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLatents holds the stage against the guide itself, and against itself with other batches: the numbers are the same
// to the last bit.
func TestLatents(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) { s.Generation.SamplesPerPrompt = 2 })
	in := pairs(t, f)
	manifest := f.Guide(7)
	whole := encode(t, open(t, f), in)
	folder, err := f.Checkpoints.Folder(t.Context(), manifest)
	if err != nil {
		t.Fatal(err)
	}
	g, err := guide.LoadEncoder(t.Context(), f.Engine, folder)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	direct := func(prompt, response []int64) []float32 {
		t.Helper()
		latents, err := g.Latents(t.Context(), []models.Sequence{models.Join(prompt, response)})
		if err != nil {
			t.Fatal(err)
		}
		return latents[0]
	}
	for i, e := range whole {
		p := in[i]
		if !proto.Equal(e.GetPair(), p) || e.GetGuide() != manifest.Digest || e.GetSchema() != events.Version {
			t.Errorf("message %d is of pair %s by guide %.12s", i, e.ID(), e.GetGuide())
		}
		if want := direct(p.GetPromptIds(), p.GetChosenIds()); !slices.Equal(e.GetChosenLatent(), want) {
			t.Errorf("pair %d: chosen latent %v, want %v", i, e.GetChosenLatent(), want)
		}
		if want := direct(p.GetPromptIds(), p.GetRejectedIds()); !slices.Equal(e.GetRejectedLatent(), want) {
			t.Errorf("pair %d: rejected latent %v, want %v", i, e.GetRejectedLatent(), want)
		}
		if slices.Equal(e.GetChosenLatent(), e.GetRejectedLatent()) {
			t.Errorf("pair %d: both latents are the same", i)
		}
	}
	other := open(t, f)
	for from := 0; from < len(in); from += 3 {
		for k, e := range encode(t, other, in[from:min(from+3, len(in))]) {
			if !proto.Equal(e, whole[from+k]) {
				t.Errorf("pair %d has another latent in another batch", from+k)
			}
		}
	}
}

// TestChosenIsEncodedOnce: the human response is the same in every iteration and for every sample, so a second pair of its
// prompt costs one row of the encoder and not two. Here the second pair's response is changed: the latent stays.
func TestChosenIsEncodedOnce(t *testing.T) {
	f := stagetest.New(t)
	in := pairs(t, f)[:2]
	f.Guide(7)
	stage := open(t, f)
	first := encode(t, stage, in)
	again := []*events.Pair{proto.Clone(in[0]).(*events.Pair), proto.Clone(in[1]).(*events.Pair)}
	again[0].ChosenIds = in[1].GetChosenIds()
	again[1].RejectedIds = in[0].GetRejectedIds()
	for i, e := range encode(t, stage, again) {
		if !slices.Equal(e.GetChosenLatent(), first[i].GetChosenLatent()) {
			t.Errorf("pair %d: the human response was encoded again", i)
		}
	}
	if e := encode(t, open(t, f), again[:1])[0]; slices.Equal(e.GetChosenLatent(), first[0].GetChosenLatent()) {
		t.Error("another response has the same latent: the test shows nothing")
	}
}

// lookedAt is a store that tells when somebody has looked for checkpoints.
type lookedAt struct {
	checkpoints.Store
	tell func()
}

func (s lookedAt) List(ctx context.Context, prefix string) ([]string, error) {
	keys, err := s.Store.List(ctx, prefix)
	s.tell()
	return keys, err
}

// TestWaitForGuide: an encoder that starts before the guide is trained goes on when it is there, and ends with its context
// when it never comes.
func TestWaitForGuide(t *testing.T) {
	f := stagetest.New(t)
	in := pairs(t, f)[:1]
	store, err := checkpoints.OpenDir(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	never := f.Spec
	never.Guide.From = "run:empty"
	for _, wait := range []func(*encoder.Stage, context.Context) error{
		(*encoder.Stage).Ready,
		func(s *encoder.Stage, ctx context.Context) error { _, errs := s.Process(ctx, in); return errs[0] },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		repository := checkpoints.New(lookedAt{store, cancel}, t.TempDir(), zerolog.Nop())
		err := wait(encoder.New(never, repository, f.Engine), ctx)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run empty has no guide yet") {
			t.Errorf("got %v, want the context's error and what was waited for", err)
		}
	}
	stage := open(t, f)
	type result struct {
		out  []*events.Encoded
		errs []error
	}
	done := make(chan result)
	go func() {
		out, errs := stage.Process(t.Context(), in)
		done <- result{out, errs}
	}()
	manifest := f.Guide(7)
	got := <-done
	if got.errs[0] != nil || got.out[0].GetGuide() != manifest.Digest {
		t.Errorf("%v, %v; want a latent of the guide that came", got.out[0], got.errs[0])
	}
}

func TestGuideOfAnotherRun(t *testing.T) {
	f := stagetest.New(t)
	in := pairs(t, f)[:1]
	manifest := f.Guide(7)
	f.Spec.Run, f.Spec.Guide.From = "another", "run:r"
	if e := encode(t, open(t, f), in)[0]; e.GetGuide() != manifest.Digest {
		t.Errorf("guide %.12s, want run r's", e.GetGuide())
	}
	if got := f.Spec.GuideRun(""); got != "another" {
		t.Errorf("without a reference the guide is run %s's, want the run's own", got)
	}
}

// TestBadGuideFailsTheBatch: what is wrong with the guide concerns all pairs, and is not their fault.
func TestBadGuideFailsTheBatch(t *testing.T) {
	f := stagetest.New(t)
	in := pairs(t, f)[:2]
	manifest := f.Commit(checkpoints.Draft{Kind: checkpoints.Guide, Files: []checkpoints.Source{
		checkpoints.FromBytes(architecture.GuideConfigFile, []byte(`{"latent_dim": "many"}`)),
		checkpoints.FromBytes(architecture.GuideWeightsFile, []byte("no tensors")),
	}})
	_, errs := open(t, f).Process(t.Context(), in)
	for i, err := range errs {
		var reject *schemas.Reject
		if err == nil || errors.As(err, &reject) || !strings.Contains(err.Error(), manifest.Digest[:12]) {
			t.Errorf("pair %d: got %v, want an error that names the guide and rejects nothing", i, err)
		}
	}
}
