package trainer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// TestTwoIterations takes LD-Align through two iterations and holds what it leaves against the method.
func TestTwoIterations(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("ld")
	w.finish(spec)
	guide := w.latest("ld", checkpoints.Guide)
	if len(w.records(guide)) != 3 {
		t.Errorf("%d steps of the guide, want 3", len(w.records(guide)))
	}
	for i := range uint32(2) {
		base, trained := w.policy("ld", i), w.policy("ld", i+1)
		if trained.Parent != base.Digest {
			t.Errorf("policy %d has parent %.12s, want %.12s", i+1, trained.Parent, base.Digest)
		}
		if w.file(base, checkpoints.WeightsFile).SHA256 == w.file(trained, checkpoints.WeightsFile).SHA256 {
			t.Errorf("iteration %d left the weights as they were", i)
		}
		var distances []float64
		for _, m := range w.collect(schemas.Scored, "ld", i) {
			scored := m.(*events.Scored)
			if scored.GetPair().GetPolicyDigest() != base.Digest || scored.GetGuide() != guide.Digest {
				t.Fatalf("pair %s was made by other weights", m.ID())
			}
			distances = append(distances, scored.GetDistance())
		}
		weights, normaliser, err := objective.Weights(distances, spec, i, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := metric(trained, objective.NormaliserMetric); got != normaliser {
			t.Errorf("iteration %d: normaliser %v, want %v", i, got, normaliser)
		}
		records := w.records(trained)
		if len(records) != 3 || trained.Step != 3 {
			t.Fatalf("iteration %d: %d records, step %d; want 3", i, len(records), trained.Step)
		}
		// at step 0 the policy is the reference: every margin is 0 and the loss is log 2 times the batch's mean weight
		var sum float64
		for _, k := range schedule.Permutation(len(weights), spec.Seed, "policy", i, 0)[:spec.Training.Batch] {
			sum += weights[k]
		}
		first := records[0]
		within(t, "loss at step 0", first.Loss, math.Ln2*sum/float64(spec.Training.Batch), 1e-4)
		within(t, "margin at step 0", first.Pairs.Margin, 0, 1e-4)
		if records[2].Pairs.Margin <= 1e-3 {
			t.Errorf("iteration %d: the margin stays at %v", i, records[2].Pairs.Margin)
		}
	}
}

// TestWeightOneIsSPIN: with w = 1 the scored stream, the guide and its training change nothing: same samples, same steps,
// same weights to the last bit.
func TestWeightOneIsSPIN(t *testing.T) {
	w := newWorld(t)
	w.finish(testSpec("one", func(s *schemas.Spec) { s.Objective.Weight = "one" }))
	w.finish(testSpec("spin", func(s *schemas.Spec) { s.Objective.Kind = "spin" }))
	w.finish(testSpec("weighted"))
	for i := range uint32(3) {
		one, spin := w.file(w.policy("one", i), checkpoints.WeightsFile), w.file(w.policy("spin", i), checkpoints.WeightsFile)
		if one.SHA256 != spin.SHA256 {
			t.Errorf("policy %d: weight one gives %.12s, SPIN %.12s", i, one.SHA256, spin.SHA256)
		}
		weighted := w.file(w.policy("weighted", i), checkpoints.WeightsFile)
		if same := weighted.SHA256 == spin.SHA256; same != (i == 0) {
			t.Errorf("policy %d: weighted and SPIN are the same: %v", i, same)
		}
	}
}

// pairTexts are an iteration's pairs without what names their run.
func (w *world) pairTexts(run string, iteration uint32) []string {
	w.t.Helper()
	var out []string
	for _, m := range w.collect(schemas.Pairs, run, iteration) {
		p := proto.Clone(m).(*events.Pair)
		p.Prompt.Run, p.Prompt.PairId, p.Prompt.Checkpoint, p.PolicyDigest = "", "", "", ""
		out = append(out, p.String())
	}
	return out
}

// TestNumberOfGeneratorsDoesNotMatter: two generators share the prompts in whatever way; pairs and weights are the same.
func TestNumberOfGeneratorsDoesNotMatter(t *testing.T) {
	w := newWorld(t)
	spin := func(s *schemas.Spec) { s.Objective.Kind, s.Generation.SamplesPerPrompt = "spin", 2 }
	w.finish(testSpec("by-one", spin))
	w.generators = 2
	w.finish(testSpec("by-two", spin))
	for i := range uint32(2) {
		one, two := w.pairTexts("by-one", i), w.pairTexts("by-two", i)
		if len(one) != 24 {
			t.Fatalf("iteration %d: %d pairs, want 2 for each of 12 prompts", i, len(one))
		}
		// texts of protobuf messages are not stable between programs, but are within one
		if diff := cmp.Diff(one, two); diff != "" {
			t.Errorf("pairs of iteration %d (-one +two):\n%s", i, diff)
		}
	}
	if diff := cmp.Diff(w.results("by-one"), w.results("by-two")); diff != "" {
		t.Errorf("checkpoints (-one +two):\n%s", diff)
	}
}

// TestFixedFirst: all iterations are normalised by the mean distance of the first.
func TestFixedFirst(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("fixed", func(s *schemas.Spec) { s.Objective.Normaliser = "fixed_first" })
	w.finish(spec)
	var means [2]float64
	for i := range means {
		var distances []float64
		for _, m := range w.collect(schemas.Scored, "fixed", uint32(i)) {
			distances = append(distances, m.(*events.Scored).GetDistance())
		}
		means[i] = mean(distances)
		got, ok := metric(w.policy("fixed", uint32(i+1)), objective.NormaliserMetric)
		if !ok || got != means[0] {
			t.Errorf("iteration %d: normaliser %v, want S_0 = %v", i, got, means[0])
		}
	}
	if means[0] == means[1] {
		t.Error("both iterations have the same mean distance: the test shows nothing")
	}
}

func TestSecondTrainerIsRefused(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("held", func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "sft", 1 })
	lease, err := w.streams.AcquireLease(t.Context(), spec.Run, "elsewhere/42", trainer.LeaseTTL)
	if err != nil {
		t.Fatal(err)
	}
	err = w.work(t.Context(), spec, silent)
	var held *streams.ErrHeld
	if !errors.As(err, &held) || held.Holder != "elsewhere/42" {
		t.Fatalf("got %v, want ErrHeld that names the holder", err)
	}
	if runs, err := w.checkpoints.Runs(t.Context()); err != nil || len(runs) != 0 {
		t.Errorf("the refused trainer wrote checkpoints of %v (%v)", runs, err)
	}
	if err := lease.Release(); err != nil {
		t.Fatal(err)
	}
	w.finish(spec)
}

func TestAnotherSpecIsRefused(t *testing.T) {
	w := newWorld(t)
	sft := func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "sft", 1 }
	w.finish(testSpec("named", sft))
	before := w.results("named")
	other := testSpec("named", sft, func(s *schemas.Spec) { s.Optimizer.LR *= 2 })
	for _, where := range []string{"declared", "only its checkpoints are there"} {
		err := w.work(t.Context(), other, silent)
		if err == nil || !strings.Contains(err.Error(), "another spec") {
			t.Errorf("%s: got %v, want an error about another spec", where, err)
		}
		if diff := cmp.Diff(before, w.results("named")); diff != "" {
			t.Errorf("%s: the run has changed:\n%s", where, diff)
		}
		w.openStreams(t.TempDir()) // forgets what was declared
	}
	harmless := testSpec("named", sft, func(s *schemas.Spec) { s.Training.CheckpointEvery = 7 })
	if err := w.work(t.Context(), harmless, silent); err != nil {
		t.Errorf("a spec that differs in what cannot change a result is refused: %v", err)
	}
}

// The first declaration counts. A second one, which a program stored after the server had forgotten the first one's id, changes
// nothing. A trainer with another spec gets an error that names both.
func TestTheFirstDeclarationCounts(t *testing.T) {
	w := newWorld(t)
	sft := func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "sft", 1 }
	spec := testSpec("named", sft)
	other := testSpec("named", sft, func(s *schemas.Spec) { s.Optimizer.LR *= 2 })
	w.finish(spec)
	text, err := other.YAML()
	if err != nil {
		t.Fatal(err)
	}
	second, err := streams.EntryOf(schemas.Control, &events.Control{
		Schema: events.Version, Run: "named", Kind: events.ControlSpec, Spec: text, SpecDigest: other.Digest(),
	}, "2")
	if err == nil {
		err = w.streams.Store(t.Context(), schemas.Control, second)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.work(t.Context(), spec, silent); err != nil {
		t.Errorf("the run does not continue with the spec that it was declared with: %v", err)
	}
	if got, err := lineage.Spec(t.Context(), w.streams, "named"); err != nil || got.Digest() != spec.Digest() {
		t.Errorf("workers get the spec %.12s, want %.12s: %v", got.Digest(), spec.Digest(), err)
	}
	first, err := lineage.Declare(t.Context(), w.streams, other)
	if err != nil || first.Digest != spec.Digest() {
		t.Errorf("declaring another spec gives %+v, %v", first, err)
	}
	err = w.work(t.Context(), other, silent)
	for _, part := range []string{
		spec.Digest()[:12], other.Digest()[:12], fmt.Sprintf("sequence %d of LDALIGN_named_FACTS", first.Seq),
		first.Time.UTC().Format(time.RFC3339),
	} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not have %q: %v", part, err)
		}
	}
}

// TestStartFromElsewhere starts runs from a folder and from policies of another run.
func TestStartFromElsewhere(t *testing.T) {
	w := newWorld(t)
	sft := func(from string) func(*schemas.Spec) {
		return func(s *schemas.Spec) {
			s.Objective.Kind = "sft"
			if from != "" {
				s.Model.From, s.Model.Scratch, s.Iterations = from, nil, 1
			}
		}
	}
	w.finish(testSpec("origin", sft("")))
	folder := t.TempDir()
	if err := w.checkpoints.Materialise(t.Context(), w.policy("origin", 1), folder); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		run, from string
		want      uint32
	}{{"from-newest", "run:origin", 2}, {"from-1", "run:origin@1", 1}, {"from-0", "run:origin@0", 0}, {"from-folder", folder, 1}} {
		spec := testSpec(test.run, sft(test.from))
		w.finish(spec)
		origin, start := w.policy("origin", test.want), w.policy(test.run, 0)
		for _, name := range []string{checkpoints.WeightsFile, "config.json", "tokenizer.json", "tokenizer_config.json"} {
			if w.file(origin, name).SHA256 != w.file(start, name).SHA256 {
				t.Errorf("model.from %s: %s is not that of policy %d", test.from, name, test.want)
			}
		}
		if _, ok := start.File(curves.File); ok {
			t.Errorf("model.from %s: policy 0 carries the other run's records", test.from)
		}
		if w.policy(test.run, 1).Step == 0 {
			t.Errorf("model.from %s: nothing was trained", test.from)
		}
	}
	// what cannot begin is not declared, so the next try may have the same name
	for from, says := range map[string]string{
		"run:origin@7": "run:origin@7", "run:nobody": "run:nobody", filepath.Join(folder, "missing"): "missing",
		"../models/testdata/llama": "tokenizer.json",
	} {
		err := w.work(t.Context(), testSpec("nowhere", sft(from)), silent)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("model.from %s: got %v, want an error that names it", from, err)
		}
	}
	if err := os.Truncate(filepath.Join(folder, checkpoints.WeightsFile), 100); err != nil {
		t.Fatal(err)
	}
	err := w.work(t.Context(), testSpec("cut", sft(folder)), silent)
	if err == nil || !strings.Contains(err.Error(), checkpoints.WeightsFile) {
		t.Errorf("a truncated model file: got %v, want an error that names it", err)
	}
}

// TestDPO trains from annotated pairs: nothing is sampled, and records without annotation are left out.
func TestDPO(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "pairs.jsonl")
	var lines strings.Builder
	for i := range 6 {
		fmt.Fprintf(&lines, `{"id":"p%d","prompt":"What is %d?","response":"A number.","rejected":"A word %d."}`+"\n", i, i, i)
	}
	lines.WriteString(`{"id":"bare","prompt":"Which?","response":"None."}` + "\n")
	writeFile(t, path, lines.String())
	spec := testSpec("dpo", func(s *schemas.Spec) {
		s.Objective.Kind, s.Data.Train, s.Iterations, s.Training.Epochs = "dpo", path, 1, 3
		s.Data.MaxResponseTokens = 16
	})
	w.finish(spec)
	pairs := w.collect(schemas.Pairs, "dpo", 0)
	if len(pairs) != 6 {
		t.Fatalf("%d pairs, want 6", len(pairs))
	}
	for _, m := range pairs {
		p := m.(*events.Pair)
		if p.GetFinishReason() != "annotated" || p.GetRejected() != p.GetPrompt().GetRejected() {
			t.Errorf("pair %s has rejected %q (%s)", p.ID(), p.GetRejected(), p.GetFinishReason())
		}
	}
	records := w.records(w.policy("dpo", 1))
	if len(records) != 6 {
		t.Fatalf("%d steps, want 3 epochs of 2", len(records))
	}
	within(t, "loss at step 0", records[0].Loss, math.Ln2, 1e-4)
	if last := records[5]; last.Loss >= math.Ln2 || last.Pairs.Accuracy != 1 {
		t.Errorf("loss %v and accuracy %v at the end: nothing was learnt", last.Loss, last.Pairs.Accuracy)
	}
}

// TestSFTCountsWhatTheLengthRuleRefuses: overlong records are not trained on, and the manifest says how many.
func TestSFTCountsWhatTheLengthRuleRefuses(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "data.jsonl")
	long := strings.Repeat("many words ", 50)
	writeFile(t, path, `{"id":"a","prompt":"One?","response":"Yes."}
{"id":"b","prompt":"`+long+`?","response":"Yes."}
{"id":"c","prompt":"Two?","response":"`+long+`."}
{"id":"d","prompt":"Three?","response":"No."}
`)
	sft := func(overlong string) func(*schemas.Spec) {
		return func(s *schemas.Spec) {
			s.Objective.Kind, s.Data.Train, s.Data.Overlong, s.Iterations = "sft", path, overlong, 1
		}
	}
	w.finish(testSpec("reject", sft("reject")))
	w.finish(testSpec("truncate", sft("truncate")))
	for run, want := range map[string][2]float64{"reject": {2, 2}, "truncate": {4, 0}} {
		pairs, _ := metric(w.policy(run, 1), "pairs")
		refused, _ := metric(w.policy(run, 1), "refused")
		if got := [2]float64{pairs, refused}; got != want {
			t.Errorf("overlong: %s: %v trained and refused, want %v", run, got, want)
		}
	}
	writeFile(t, path, `{"id":"b","prompt":"`+long+`?","response":"Yes."}`)
	err := w.work(t.Context(), testSpec("all-refused", sft("reject")), silent)
	if err == nil || !strings.Contains(err.Error(), "were refused") {
		t.Errorf("got %v, want an error: there is nothing to train on", err)
	}
}

// byteTokenizer writes a GPT-2 tokenizer of single bytes: 256 tokens and <|endoftext|>.
func byteTokenizer(t *testing.T, dir string) {
	t.Helper()
	vocab := map[string]int{"<|endoftext|>": 256}
	next := rune(256)
	for b := range rune(256) {
		r := b // printable bytes stand for themselves, others for letters from U+0100 on, as GPT-2 has it
		if !(b >= '!' && b <= '~' || b >= '¡' && b <= '¬' || b >= '®' && b <= 'ÿ') {
			r, next = next, next+1
		}
		vocab[string(r)] = int(b)
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	data, err := json.Marshal(map[string]any{
		"version": "1.0", "pre_tokenizer": byteLevel, "decoder": byteLevel,
		"added_tokens": []any{map[string]any{
			"id": 256, "content": "<|endoftext|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
			"normalized": false,
		}},
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "tokenizer.json"), string(data))
	writeFile(t, filepath.Join(dir, "tokenizer_config.json"), `{"eos_token": "<|endoftext|>"}`)
}

// gpt2Folder is a GPT-2 of random weights that reads bytes.
func gpt2Folder(t *testing.T, engine *tensor.Engine, positions int) string {
	t.Helper()
	return modelFolder(t, engine, architecture.Config{
		Family: architecture.GPT2, Vocab: 257, Hidden: 16, Layers: 1, Heads: 2, MaxPositions: positions, TieEmbeddings: true,
	})
}

// modelFolder is a model of random weights that reads bytes.
func modelFolder(t *testing.T, engine *tensor.Engine, config architecture.Config) string {
	t.Helper()
	dir := t.TempDir()
	byteTokenizer(t, dir)
	model, err := models.Scratch(t.Context(), engine, config, 1)
	if err != nil {
		t.Fatal(err)
	}
	text, err := model.Config().JSON()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "config.json"), string(text))
	var weights bytes.Buffer
	if err := errors.Join(model.WriteWeights(t.Context(), &weights), model.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, checkpoints.WeightsFile), weights.String())
	return dir
}

// TestGuideWithItsOwnTokenizer: encoder and decoder are a GPT-2 that reads the texts by its own tokenizer, as in the paper.
func TestGuideWithItsOwnTokenizer(t *testing.T) {
	w := newWorld(t)
	folder := gpt2Folder(t, w.engine, 100)
	spec := testSpec("gpt2-guide", func(s *schemas.Spec) {
		s.Guide.Encoder, s.Guide.Decoder, s.Iterations = folder, folder, 1
	})
	w.finish(spec)
	guide := w.latest(spec.Run, checkpoints.Guide)
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", architecture.GuideWeightsFile, architecture.GuideConfigFile, curves.File} {
		w.file(guide, name)
	}
	if own, _ := metric(guide, "reconstruction"); !(own > 0) {
		t.Errorf("reconstruction %v", own)
	}
	for _, r := range w.records(guide) {
		if r.Phase != "guide" || r.Pairs != nil || !(r.Loss > 0) {
			t.Errorf("record %+v", r)
		}
	}
	for _, m := range w.collect(schemas.Scored, spec.Run, 0) {
		if d := m.(*events.Scored).GetDistance(); !(d > 0) {
			t.Errorf("pair %s has distance %v", m.ID(), d)
		}
	}
}

// TestGuideWithFewPositions: texts that are longer than the guide's positions are cut for the guide, whose limit is not the
// policy's: GPT-2 has 1024, here 24.
func TestGuideWithFewPositions(t *testing.T) {
	w := newWorld(t)
	folder := gpt2Folder(t, w.engine, 24)
	spec := testSpec("short-guide", func(s *schemas.Spec) {
		s.Guide.Encoder, s.Guide.Decoder, s.Guide.Pooling, s.Guide.Injection = folder, folder, "last", "memory"
		s.Iterations = 1
	})
	w.finish(spec)
	differing := 0
	for _, m := range w.collect(schemas.Scored, spec.Run, 0) {
		if m.(*events.Scored).GetDistance() > 0 {
			differing++
		}
	}
	if differing < 12 {
		t.Errorf("%d of 12 pairs have a distance", differing)
	}
}

// TestScratchDecoderOfALocalModel: fresh layers of a family whose layers are of two kinds.
func TestScratchDecoderOfALocalModel(t *testing.T) {
	w := newWorld(t)
	folder := modelFolder(t, w.engine, architecture.Config{
		Family: architecture.Gemma3, Vocab: 257, Hidden: 16, Layers: 4, Heads: 2, HeadDim: 8, Intermediate: 32, MaxPositions: 200,
		SlidingWindow: 8, LocalLayers: []bool{true, false, true, false}, TieEmbeddings: true,
	})
	spec := testSpec("gemma", func(s *schemas.Spec) { s.Model.From, s.Model.Scratch, s.Iterations = folder, nil, 1 })
	w.finish(spec)
	if own, _ := metric(w.latest(spec.Run, checkpoints.Guide), "reconstruction"); !(own > 0) {
		t.Errorf("reconstruction %v", own)
	}
}

// TestWhatDoesNotFitBeginsNothing: a spec that asks for more than its models have is refused before the first policy, after
// which it could not be changed any more.
func TestWhatDoesNotFitBeginsNothing(t *testing.T) {
	w := newWorld(t)
	bytes, short := gpt2Folder(t, w.engine, 24), modelFolder(t, w.engine, architecture.Config{
		Family: architecture.GPT2, Vocab: 512, Hidden: 16, Layers: 1, Heads: 2, MaxPositions: 40, TieEmbeddings: true,
	})
	for says, change := range map[string]func(*schemas.Spec){
		"the guide has 70 positions":  func(s *schemas.Spec) { s.Model.Scratch.MaxPositions = 72 },
		"the decoder's 512":           func(s *schemas.Spec) { s.Guide.Encoder, s.Guide.Decoder = bytes, "policy" },
		"the decoder's 257":           func(s *schemas.Spec) { s.Guide.Decoder = bytes },
		"the decoder's 24":            func(s *schemas.Spec) { s.Guide.Encoder, s.Guide.Decoder, s.Guide.PrefixTokens = bytes, bytes, 24 },
		"the guide has 36 positions":  func(s *schemas.Spec) { s.Guide.Decoder, s.Guide.PrefixTokens = short, 4 },
		"guide.encoder: ../no-folder": func(s *schemas.Spec) { s.Guide.Encoder = "../no-folder" },
	} {
		spec := testSpec("misfit", change)
		err := w.trainer(spec, silent).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error with %q", err, says)
		}
		if m, err := w.checkpoints.Latest(t.Context(), spec.Run, checkpoints.Policy); !errors.Is(err, checkpoints.ErrNoCheckpoint) {
			t.Fatalf("%s: policy %s was made (%v)", says, m.Key, err)
		}
	}
}
