package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/ops/guides"
	"github.com/ldalign/ldalign/ops/runs"
)

const pairsSpec = `run: pairs
iterations: 1
model: {from: model}
data: {train: pairs.jsonl, max_prompt_tokens: 64, max_response_tokens: 16}
objective: {kind: KIND, beta: 0.5}
guide: {encoder: policy, decoder: "scratch:1", latent_dim: 8, epochs: 1, batch: 16}
generation: {slots: 4}
optimizer: {kind: rmsprop, lr: 1.0e-4}
training: {batch: 2, micro_batch: 2, checkpoint_every: 1}
compute: {threads: 1}
`

// pairsFolder is a folder with a model, pairs in SPIN's form, and a spec of one objective on them.
func pairsFolder(t *testing.T, kind string, more ...string) own {
	t.Helper()
	o := newOwn(t)
	o.data = filepath.Join(o.dir, "pairs.jsonl")
	write(t, o.spec, strings.Replace(pairsSpec, "KIND", kind, 1)+strings.Join(more, "\n"))
	var text strings.Builder
	for i, word := range []string{"tree", "pear", "house", "bird", "stone", "river"} {
		pair := map[string]any{
			"id":        i,
			"real":      []map[string]string{{"role": "user", "content": "Repeat the word " + word + "."}, {"role": "assistant", "content": word}},
			"generated": []map[string]string{{"role": "user", "content": "Repeat the word " + word + "."}, {"role": "assistant", "content": "I say " + word}},
			"distance":  0.5 + float64(i),
		}
		line, err := json.Marshal(pair)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s\n", line)
	}
	write(t, o.data, text.String())
	return o
}

func (o own) train(t *testing.T, args ...string) output {
	t.Helper()
	return ldalign(t, append([]string{"train", o.spec, "--dir", o.folder()}, args...)...)
}

// weightsFile is the sha256 of the newest policy's weights.
func (o own) weights(t *testing.T, run string, iteration int) string {
	t.Helper()
	return outcomeOf(t, o.folder(), run).Weights[fmt.Sprintf("%s policy %d model.safetensors", run, iteration)]
}

// TestTrainFromFiles trains each objective from pairs in a file, without sampling, writes the policy, and is done when it is
// called again.
func TestTrainFromFiles(t *testing.T) {
	weights := map[string]string{}
	for _, kind := range []string{"spin", "dpo", "ldalign", "sft"} {
		o := pairsFolder(t, kind)
		out := filepath.Join(o.dir, "out")
		o.train(t, "--dry-run", "--set", "training.lora.targets=q_proj,v_proj").
			want(t, 0, "6 records of 6 rows", "kind: \""+kind+"\"", `targets: "q_proj,v_proj"`)
		o.train(t, "--out", out).want(t, 0, "policy of run pairs after iteration 1")
		if _, err := os.Stat(filepath.Join(out, "model.safetensors")); err != nil {
			t.Error(err)
		}
		weights[kind] = o.weights(t, "pairs", 1)
		ldalign(t, "audit", "pairs", "--dir", o.folder()).want(t, 0)
		o.train(t).want(t, 0)
		o.train(t, "--out", out).want(t, exitUsage, "exists; name a folder that does not")
		o.up(t).want(t, map[bool]int{true: 0, false: exitFailed}[kind == "dpo" || kind == "sft"]) // the same spec, or one that samples
		if kind == "ldalign" {
			ldalign(t, "guide", "inspect", "pairs", "--dir", o.folder()).want(t, 0, "distances of 6 pairs of iteration 0 (scored)")
		}
	}
	if weights["spin"] != weights["dpo"] {
		t.Error("on given pairs, SPIN and DPO with the same settings give different weights")
	}
	if weights["spin"] == weights["ldalign"] || weights["spin"] == weights["sft"] || weights["spin"] == "" {
		t.Errorf("weights %v", weights)
	}
}

// TestTrainGoesOn kills a training from files between two states and starts it again by the same command: the weights are
// those of one that was left alone.
func TestTrainGoesOn(t *testing.T) {
	o, whole := pairsFolder(t, "dpo"), pairsFolder(t, "dpo")
	for _, o := range []own{o, whole} {
		edit(t, o.spec, "batch: 2, micro_batch: 2", "epochs: 15, batch: 2, micro_batch: 2")
	}
	whole.train(t).want(t, 0)
	p := start(t, command("train", o.spec, "--dir", o.folder()))
	if !p.eventually(t, "a state", func() bool { return manifests(o.folder()) > 3 }) {
		t.Fatalf("it ended before it could be killed:\n%s", p.stderr.String())
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	o.train(t).want(t, 0)
	if o.weights(t, "pairs", 1) != whole.weights(t, "pairs", 1) {
		t.Error("other weights than without the kill")
	}
	ldalign(t, "audit", "pairs", "--dir", o.folder()).want(t, 0)
}

// TestTrainGivenDistances: distances of the data take the place of a guide; equal ones make LD-Align SPIN.
func TestTrainGivenDistances(t *testing.T) {
	given := func(edits ...string) own {
		o := pairsFolder(t, "ldalign")
		edit(t, o.spec, "beta: 0.5", "beta: 0.5, distance: given")
		for i := 0; i < len(edits); i += 2 {
			edit(t, o.data, edits[i], edits[i+1])
		}
		return o
	}
	o := given()
	o.train(t).want(t, 0)
	scored := 0
	attached(t, o.folder(), func(n *node) {
		out := n.outcome(t, "pairs")
		scored = out.Pairs["pairs 0"]
		for key := range out.Checkpoints {
			if strings.Contains(key, "guide") {
				t.Error("a guide was trained")
			}
		}
	})
	if scored != 6 {
		t.Errorf("%d pairs were scored", scored)
	}
	ldalign(t, "audit", "pairs", "--dir", o.folder()).want(t, 0)
	ldalign(t, "guide", "inspect", "pairs", "--dir", o.folder()).want(t, exitFailed, "uses no guide")
	spin := pairsFolder(t, "spin")
	spin.train(t).want(t, 0)
	if o.weights(t, "pairs", 1) == spin.weights(t, "pairs", 1) {
		t.Error("the given distances change nothing")
	}
	given(`"distance":0.5`, `"distance":-1`).train(t, "--dry-run").want(t, 0, "5 records of 6 rows; dropped: 1 bad number")
	pairsFolder(t, "ldalign").train(t, "--set", "iterations=3").want(t, exitUsage, "set iterations: 1")
	pairsFolder(t, "spin").train(t, "--set", "objective.distance=given").want(t, exitUsage, "objective.distance")
}

// TestTrainGivenReference: log-probabilities of the data are used when they are of the model that the run starts from, and
// otherwise the run stops and says so.
func TestTrainGivenReference(t *testing.T) {
	o := pairsFolder(t, "spin")
	var prompts strings.Builder
	for i, word := range []string{"tree", "pear", "house", "bird", "stone", "river"} {
		fmt.Fprintf(&prompts, `{"id": "c%d", "prompt": "Repeat the word %s.", "response": "%s"}`+"\n", i, word, word)
		fmt.Fprintf(&prompts, `{"id": "r%d", "prompt": "Repeat the word %s.", "response": "I say %s"}`+"\n", i, word, word)
	}
	in, out := filepath.Join(o.dir, "score.jsonl"), filepath.Join(o.dir, "scored.jsonl")
	write(t, in, prompts.String())
	ldalign(t, "score", "--model", o.model, "--input", in, "--out", out, "--threads", "1").want(t, 0)
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	logp := map[string]float64{}
	for line := range strings.Lines(string(data)) {
		var r struct {
			ID      string
			Logprob float64
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		logp[r.ID] = r.Logprob
	}
	give := func(off float64) own {
		o := pairsFolder(t, "spin")
		for i := range 6 {
			edit(t, o.data, fmt.Sprintf(`"distance":%g`, 0.5+float64(i)), fmt.Sprintf(`"ref_chosen_logp":%v,"ref_rejected_logp":%v`,
				logp[fmt.Sprintf("c%d", i)]+off, logp[fmt.Sprintf("r%d", i)]))
		}
		return o
	}
	o.train(t).want(t, 0)
	good := give(0)
	good.train(t).want(t, 0)
	loss := func(o own) float64 {
		var first struct{ Loss float64 }
		data, err := os.ReadFile(filepath.Join(o.folder(), "runs", "pairs", "metrics.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if err := json.Unmarshal([]byte(line), &first); err != nil {
			t.Fatal(err)
		}
		return first.Loss
	}
	for _, o := range []own{o, good} {
		if got := loss(o); math.Abs(got-math.Ln2) > 1e-4 {
			t.Errorf("the first loss is %v, want ln 2", got)
		}
	}
	give(0.5).train(t).want(t, exitFailed, "they are of other weights or of another template", "leave the columns out")
}

// TestTrainFromParquet trains DPO on pairs of conversations as ultrafeedback_binarized has them.
func TestTrainFromParquet(t *testing.T) {
	o := pairsFolder(t, "dpo")
	parquet, err := filepath.Abs("../../dataset/testdata/ultrafeedback.parquet")
	if err != nil {
		t.Fatal(err)
	}
	o.train(t, "--set", "data.train="+parquet).want(t, 0, "3 records of 6 rows; dropped: 1 no rejected response, 1 equal responses")
	s := lines[runs.Status](t, ldalign(t, "status", "pairs", "--json", "--dir", o.folder()))[0]
	if s.Policy != 1 || !strings.HasPrefix(s.Data, "3 records of 6 rows") || s.Iterations[0].Pairs != 3 {
		t.Errorf("%+v", s)
	}
	other := pairsFolder(t, "dpo")
	other.train(t, "--set", "data.train="+parquet, "--set", "data.columns.rejected=worse").want(t, exitFailed, "no column for data.columns.rejected (worse)", "score_chosen")
}

// TestGuideTrain trains a guide alone, shows it, and goes on with it; another run takes it.
func TestGuideTrain(t *testing.T) {
	shared, _ := finished(t)
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(shared)); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(t.TempDir(), "run.yaml")
	text, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	_, second, _ := strings.Cut(string(text), "\n---\n")
	write(t, spec, strings.Replace(second, "run: tiny-ld", "run: alone", 1))
	ld := func(args ...string) output { return ldalign(t, append(args, "--dir", dir)...) }
	ld("guide", "train", spec, "--set", "guide.from=run:tiny-ld").want(t, exitUsage, "trains no guide of its own")
	ld("guide", "train", tiny).want(t, exitUsage, "has 2 runs, want one")
	ld("guide", "train", spec, "--dry-run").want(t, 0, "run: \"alone\"")
	ld("guide", "inspect", "alone").want(t, exitFailed, "no such run")
	ld("guide", "train", spec).want(t, 0, "latent: 8 numbers, pooling mean, injection prefix", "of 32 pairs of iteration 0 (probe)", "SFT: in ")
	exported := filepath.Join(t.TempDir(), "guide")
	ld("checkpoints", "export", "alone", exported, "--guide").want(t, 0, "guide of run alone")
	for _, name := range []string{"guide.json", "guide.safetensors"} {
		if _, err := os.Stat(filepath.Join(exported, name)); err != nil {
			t.Error(err)
		}
	}
	in := lines[guides.Guide](t, ld("guide", "inspect", "alone", "--json"))[0]
	if in.Distances.Pairs != 32 || !(in.True > 0) || in.Gap != in.Shuffled-in.True || len(in.TwoSample) != 1 || in.TwoSample[0].Pairs != 16 {
		t.Errorf("%+v", in)
	}
	if s := lines[runs.Status](t, ld("status", "alone", "--json"))[0]; s.Policy != 0 || !s.Guide {
		t.Errorf("after the guide: %+v", s)
	}
	ld("up", spec).want(t, 0)
	alone, whole := outcomeOf(t, dir, "alone").Weights, outcomeOf(t, shared, "tiny-ld").Weights
	for _, key := range []string{"guide 0 guide.safetensors", "policy 2 model.safetensors"} {
		if alone["alone "+key] != whole["tiny-ld "+key] || alone["alone "+key] == "" {
			t.Errorf("%s: another weight than in one go", key)
		}
	}
	ld("up", spec, "--set", "run=taker", "--set", "guide.from=run:alone", "--set", "iterations=1").want(t, 0)
	taken := lines[guides.Guide](t, ld("guide", "inspect", "taker", "--json"))[0]
	if taken.GuideRun != "alone" || taken.Digest != in.Digest || taken.Distances.Of != "scored" {
		t.Errorf("taken: %+v", taken)
	}
}

// TestDataInspect shows a file, and what a script reads.
func TestDataInspect(t *testing.T) {
	o := pairsFolder(t, "spin")
	ldalign(t, "data", "inspect", o.data).want(t, 0, "6 records of 6 rows", "prompt from real, response from real, rejected from generated",
		"rejected, in characters: 10 to 11", "I say tree")
	in := lines[dataset.Inspection](t, ldalign(t, "data", "inspect", o.data, "--model", o.model, "--pairs", "--examples", "1", "--json"))[0]
	if in.Kept != 6 || in.Unit != "tokens" || len(in.Lengths) != 3 || len(in.Examples) != 1 || *in.Examples[0].Distance != 0.5 {
		t.Errorf("%+v", in)
	}
	sum := 0
	for _, b := range in.Lengths[0].Histogram {
		sum += b.Count
	}
	if sum != 6 || in.Lengths[0].Max < in.Lengths[0].Median || in.Lengths[0].Min < 1 {
		t.Errorf("lengths %+v", in.Lengths[0])
	}
	ldalign(t, "data", "inspect", o.data, "--columns", "prompt=question,response=answer").want(t, exitFailed, `no "question"`)
	ldalign(t, "data", "inspect", o.data, "--columns", "promt=question").want(t, exitUsage, "promt", "prompt")
	ldalign(t, "data", "inspect", filepath.Join(o.dir, "none.parquet")).want(t, exitFailed, "none.parquet")
}
