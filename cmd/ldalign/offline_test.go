//go:build cgo

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/hub/hubtest"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/inspection"
)

const rewardFolder = "../../models/reward/testdata/v3"

// chatModel is a folder with a tiny Llama of random weights and a tokenizer with a chat template. spoil may change its
// weights.
func chatModel(t *testing.T, spoil func(s *tensor.Scope, weights []tensor.Named)) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../models/tokenizer/testdata/chatml")); err != nil {
		t.Fatal(err)
	}
	words, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer words.Close()
	engine, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	cfg := architecture.Config{
		Family: architecture.Llama, Vocab: words.Vocab(), Hidden: 32, Layers: 2, Heads: 2, Intermediate: 64, MaxPositions: 160,
		TieEmbeddings: true, InitializerRange: 0.3, EOS: words.EOS(),
	}
	m, err := models.Scratch(t.Context(), engine, cfg, 5)
	if err != nil {
		t.Fatal(err)
	}
	if spoil != nil {
		err := engine.Do(t.Context(), func(s *tensor.Scope) error {
			spoil(s, m.Params())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var weights bytes.Buffer
	if err := m.WriteWeights(t.Context(), &weights); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "model.safetensors"), weights.String())
	config, err := cfg.JSON()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), string(config))
	return dir
}

// written reads a file of JSON lines.
func written[T any](t *testing.T, path string) []T {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return lines[T](t, output{stdout: string(data)})
}

// generated is a line that generate writes.
type generated struct {
	ID       any       `json:"id"`
	Response string    `json:"response"`
	TokenIDs []int64   `json:"token_ids"`
	LogProb  float64   `json:"logprob"`
	Each     []float64 `json:"token_logprobs"`
	Reason   string    `json:"finish_reason"`
	Cut      int       `json:"cut_prompt_tokens"`
	Extra    string    `json:"extra"`
}

// A record's line is the same alone and in any company, and after any interruption; keys of the input stay.
func TestGenerate(t *testing.T) {
	model, dir := chatModel(t, nil), t.TempDir()
	all := []string{
		`{"id": 1, "prompt": "Name a colour.", "extra": "stays"}`,
		`{"id": "b", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Hi"}]}`,
		`{"id": 3, "prompt": "Name a colour.", "max_tokens": 3}`,
		`{"id": 4, "prompt": "Name a colour.", "seed": 7}`,
		`{"id": 5, "prompt": "Name a colour.", "seed": 7}`,
		`{"id": 6, "prompt": "` + strings.Repeat("long ", 200) + `"}`,
	}
	input := func(lines ...string) string {
		path := filepath.Join(t.TempDir(), "in.jsonl")
		write(t, path, strings.Join(lines, "\n")+"\n")
		return path
	}
	args := func(in string, more ...string) []string {
		return append([]string{
			"generate", "--model", model, "--input", in, "--max-tokens", "12", "--temperature", "1.2", "--top-k", "50",
			"--top-p", "0.95", "--min-p", "0.001", "--repetition-penalty", "1.1", "--logprobs", "--threads", "1",
		}, more...)
	}
	whole := ldalign(t, args(input(all...))...)
	whole.want(t, 0, "6 records", "1 cut_prompts")
	got := lines[generated](t, whole)
	tokens := 0
	for i, g := range got {
		sum := 0.0
		tokens += len(g.TokenIDs)
		for _, v := range g.Each {
			sum += v
		}
		if len(g.TokenIDs) == 0 || len(g.Each) != len(g.TokenIDs) || math.Abs(sum-g.LogProb) > 1e-5 || !(g.LogProb < 0) ||
			(g.Reason != "stop" && g.Reason != "length") || (g.Reason == "length") != (len(g.TokenIDs) == map[int]int{2: 3}[i]+map[bool]int{i != 2: 12}[true]) {
			t.Errorf("line %d: %+v", i, g)
		}
	}
	if got[0].Extra != "stays" || got[5].Cut == 0 || got[0].Cut != 0 {
		t.Errorf("extra %q, cut %d and %d", got[0].Extra, got[0].Cut, got[5].Cut)
	}
	if got[3].Response != got[4].Response || got[0].Response == got[3].Response {
		t.Errorf("seeds: %q, %q and %q", got[0].Response, got[3].Response, got[4].Response)
	}
	texts := strings.SplitAfter(whole.stdout, "\n")
	for i, line := range all { // alone
		if alone := ldalign(t, args(input(line), "--slots", "1", "--prefill", "5")...); alone.stdout != texts[i] {
			t.Errorf("alone:\n%swith others:\n%s", alone.stdout, texts[i])
		}
	}
	// What is done is not done again, and the rest is appended.
	short := lines[generated](t, ldalign(t, "generate", "--model", model, "--input", input(all[0]), "--ignore-eos"))
	if got := len(short[0].TokenIDs); got != 80 {
		t.Errorf("%d tokens without --max-tokens, the half of the context is 80", got)
	}
	out := filepath.Join(dir, "out.jsonl")
	ldalign(t, args(input(all[:2]...), "--out", out)...).want(t, 0, "2 records")
	ldalign(t, args(input(all...), "--out", out, "--slots", "3")...).want(t, 0, "4 records, 2 before")
	if data, err := os.ReadFile(out); err != nil || string(data) != whole.stdout {
		t.Errorf("resumed (%v):\n%s\nat once:\n%s", err, data, whole.stdout)
	}
	ldalign(t, args(input(all...), "--out", out, "--seed", "2")...).want(t, exitUsage, "other settings", "name another --out")
	// a file as other tools write it
	other := filepath.Join(t.TempDir(), "in.jsonl.gz")
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(w, "\ufeff"+strings.Join(all, "\r\n")); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	write(t, other, zipped.String())
	again := ldalign(t, args(other, "--json")...)
	if again.stdout != whole.stdout {
		t.Errorf("of a gzipped file:\n%s\nof a plain one:\n%s", again.stdout, whole.stdout)
	}
	again.want(t, 0, fmt.Sprintf(`"tokens":"%d"`, tokens), `"tokens/s":"`)
	write(t, other, zipped.String()[:zipped.Len()/2])
	ldalign(t, args(other)...).want(t, exitFailed, "in.jsonl.gz:", "unexpected EOF")
	ldalign(t, args(input(all...), "--overlong", "reject")...).want(t, exitFailed, "in.jsonl:6:prompt", "tokens, the model has room for 148 beside 12")
}

func TestGenerateStops(t *testing.T) {
	model := chatModel(t, nil)
	in := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, in, `{"id": 1, "prompt": "Name a colour."}`)
	args := []string{"generate", "--raw", "--model", model, "--input", in, "--max-tokens", "40", "--ignore-eos", "--threads", "1"}
	free := lines[generated](t, ldalign(t, args...))[0]
	middle := []rune(free.Response)[len([]rune(free.Response))/2:]
	stop := string(middle[:2])
	want, _, _ := strings.Cut(free.Response, stop)
	got := lines[generated](t, ldalign(t, append(args, "--stop", "not there", "--stop", stop)...))[0]
	if got.Response != want || got.Reason != "stop" || len(free.TokenIDs) != 40 || len(got.TokenIDs) >= 40 {
		t.Errorf("stopped at %q: %q of %q (%s after %d tokens)", stop, got.Response, free.Response, got.Reason, len(got.TokenIDs))
	}
}

// scored is a line that score writes.
type scored struct {
	ID      int       `json:"id"`
	LogProb float64   `json:"logprob"`
	Tokens  int       `json:"tokens"`
	Each    []float64 `json:"token_logprobs"`
	Cut     int       `json:"cut_prompt_tokens"`
}

// What generate says of a response is what score says of it, by the tokens that were sampled: through the demo's template,
// which writes a space before an answer, and in raw text, where random tokens seldom are those of their text.
func TestScoreOfWhatWasGenerated(t *testing.T) {
	runs, _ := finished(t)
	var text strings.Builder
	for i := range 30 {
		fmt.Fprintf(&text, `{"id": %d, "prompt": "Name colour %d."}`+"\n", i, i)
	}
	fmt.Fprintf(&text, `{"id": 30, "messages": [{"role": "user", "content": "Hi"}]}`+"\n")
	long := fmt.Sprintf(`{"id": 31, "prompt": %q}`+"\n", strings.Repeat("long ", 200))
	for name, c := range map[string]struct {
		model []string
		input string
	}{
		"chat": {[]string{"--chat", "--model", "tiny-sft@", "--dir", runs}, text.String() + long},
		"raw": {
			[]string{"--raw", "--model", chatModel(t, nil), "--temperature", "1"},
			text.String()[:strings.Index(text.String(), `{"id": 30`)],
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in, answers, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "answers.jsonl"), filepath.Join(dir, "out.jsonl")
			write(t, in, c.input)
			count := strings.Count(c.input, "\n")
			ldalign(t, append([]string{"generate", "--input", in, "--out", answers, "--max-tokens", "12", "--logprobs"}, c.model...)...).
				want(t, 0)
			sampled := written[generated](t, answers)
			model := slices.DeleteFunc(slices.Clone(c.model), func(s string) bool { return s == "--temperature" || s == "1" })
			score := append([]string{"score", "--step", "32"}, model...)
			ldalign(t, append(score, "--input", answers, "--out", out)...).want(t, 0, fmt.Sprintf("%d by_token_ids", count))
			got := written[scored](t, out)
			if len(got) != count || len(sampled) != count {
				t.Fatalf("%d records, %d generated, %d scored", count, len(sampled), len(got))
			}
			near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 1e-5 })
			for i, s := range got {
				if diff := cmp.Diff(sampled[i].Each, s.Each, near); diff != "" || math.Abs(s.LogProb-sampled[i].LogProb) > 1e-4 ||
					s.Tokens != len(s.Each) || sampled[i].Cut != s.Cut {
					t.Errorf("line %d, %+v (-generate +score):\n%s", i, sampled[i], diff)
				}
			}
			if c := sampled[count-1].Cut; name == "chat" && c == 0 {
				t.Error("no prompt was cut")
			}
		})
	}
}

// A response's text alone, without the ids, is scored as the tokens that the model sampled where the text has those: the space
// that the template writes before an answer is not in the text.
func TestScoreOfATextThroughATemplateWithASpace(t *testing.T) {
	runs, _ := finished(t)
	dir := t.TempDir()
	in, texts := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "texts.jsonl")
	var text strings.Builder
	for i := range 60 {
		fmt.Fprintf(&text, `{"id": %d, "prompt": "Name colour %d."}`+"\n", i, i)
	}
	write(t, in, text.String())
	model := []string{"--model", "tiny-sft@", "--dir", runs}
	sampled := lines[generated](t, ldalign(t, append([]string{
		"generate", "--input", in, "--max-tokens", "3", "--temperature", "1", "--logprobs",
	}, model...)...))
	text.Reset()
	for i, g := range sampled {
		line, err := jsonl.Marshal(map[string]any{"id": i, "prompt": fmt.Sprintf("Name colour %d.", i), "response": g.Response})
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(line + "\n")
	}
	write(t, texts, text.String())
	words, err := tokenizer.Load("../../dataset/demo-tokenizer")
	if err != nil {
		t.Fatal(err)
	}
	defer words.Close()
	same := 0
	for i, s := range lines[scored](t, ldalign(t, append([]string{"score", "--input", texts}, model...)...)) {
		again, err := words.Encode(" "+sampled[i].Response, false)
		if err != nil || len(again) == 0 || !slices.Equal(again, sampled[i].TokenIDs[:min(len(again), len(sampled[i].TokenIDs))]) {
			continue
		}
		same++
		for k := range again {
			if math.Abs(s.Each[k]-sampled[i].Each[k]) > 1e-5 {
				t.Errorf("%q: score %v, generate %v", sampled[i].Response, s.Each, sampled[i].Each)
			}
		}
	}
	if same < 3 {
		t.Errorf("%d responses have the tokens that were sampled: the test says little", same)
	}
}

// The rewards are those of transformers (testdata/make_rewards.py); pairs and single responses, cut and whole, resumed.
func TestReward(t *testing.T) {
	data, err := os.ReadFile("testdata/rewards.json")
	if err != nil {
		t.Fatal(err)
	}
	type rewards struct {
		Chosen    float64 `json:"reward_chosen"`
		Rejected  float64 `json:"reward_rejected"`
		Tokens    int     `json:"tokens"`
		Truncated bool    `json:"truncated"`
	}
	var golden struct {
		Cases []struct {
			rewards
			Most   int    `json:"max_tokens"`
			Prompt string `json:"prompt"`
			A      string `json:"chosen"`
			B      string `json:"rejected"`
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	for _, most := range []int{64, 20} {
		dir := t.TempDir()
		in, singles, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "singles.jsonl"), filepath.Join(dir, "out.jsonl")
		var pairs, single []string
		var want []rewards
		for i, c := range golden.Cases {
			if c.Most != most {
				continue
			}
			want = append(want, c.rewards)
			pairs = append(pairs, fmt.Sprintf(`{"id":%d,"prompt":%q,"chosen":%q,"rejected":%q}`, i, c.Prompt, c.A, c.B))
			single = append(single, fmt.Sprintf(`{"id":%d,"prompt":%q,"response":%q}`, i, c.Prompt, c.A))
		}
		write(t, in, strings.Join(pairs[:1], "\n"))
		args := []string{
			"reward", "--model", rewardFolder, "--input", in, "--out", out, "--max-tokens", fmt.Sprint(most), "--threads", "1",
		}
		ldalign(t, args...).want(t, 0, "1 records")
		write(t, in, strings.Join(pairs, "\n"))
		ldalign(t, args...).want(t, 0, "3 records, 1 before", "chosen_preferred", "mean_margin")
		near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 1e-4 })
		if diff := cmp.Diff(want, written[rewards](t, out), near); diff != "" {
			t.Errorf("at %d tokens (-transformers +reward):\n%s", most, diff)
		}
		write(t, singles, strings.Join(single, "\n"))
		args = []string{"reward", "--model", rewardFolder, "--input", singles, "--max-tokens", fmt.Sprint(most), "--json"}
		for i, s := range lines[struct {
			Reward float64 `json:"reward"`
		}](t, ldalign(t, args...)) {
			if math.Abs(s.Reward-want[i].Chosen) > 1e-4 {
				t.Errorf("at %d tokens: reward %g, transformers %g", most, s.Reward, want[i].Chosen)
			}
		}
	}
	several := filepath.Join(t.TempDir(), "several")
	if err := os.CopyFS(several, os.DirFS("../../models/reward/testdata/v2")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		copyFile(t, filepath.Join(rewardFolder, name), filepath.Join(several, name))
	}
	in := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, in, `{"id":1,"prompt":"What?","response":"Eight."}`)
	ldalign(t, "reward", "--model", several, "--input", in).want(t, exitUsage, "3 outputs", "--label 0 to 2")
	got := lines[struct {
		Reward float64   `json:"reward"`
		Logits []float64 `json:"logits"`
	}](t, ldalign(t, "reward", "--model", several, "--input", in, "--label", "1"))[0]
	if len(got.Logits) != 3 || got.Reward != got.Logits[1] {
		t.Errorf("with three labels: %+v", got)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(data))
}

// A model is found as a folder, as a checkpoint of a run and on the Hub, by every verb, and comes out the same.
func TestModelsByName(t *testing.T) {
	runs, _ := finished(t)
	folder := filepath.Join(t.TempDir(), "exported")
	ldalign(t, "checkpoints", "export", "tiny-sft", folder, "--dir", runs).want(t, 0)
	repository := func(dir string) *hubtest.Repository {
		r := &hubtest.Repository{Branches: []string{"main", "v1"}, Files: map[string][]byte{}}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if r.Files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	policy := repository(folder)
	hub := hubtest.New(map[string]*hubtest.Repository{"acme/tiny": policy, "acme/reward": repository(rewardFolder)})
	defer hub.Close()
	t.Setenv("HF_ENDPOINT", hub.URL)
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("HF_TOKEN", "")
	in := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, in, `{"id":1,"prompt":"Name a colour.","response":"Red."}`)
	for _, verb := range []string{"generate", "score"} {
		args := func(model string) []string {
			return []string{verb, "--raw", "--model", model, "--input", in, "--dir", runs, "--threads", "1"}
		}
		if verb == "generate" {
			plain := args
			args = func(model string) []string { return append(plain(model), "--max-tokens", "8") }
		}
		want := ldalign(t, args(folder)...)
		want.want(t, 0)
		for _, name := range []string{"tiny-sft@1", "tiny-sft@", "acme/tiny", "acme/tiny@v1", "acme/tiny@" + policy.Commit()} {
			got := ldalign(t, args(name)...)
			if got.want(t, 0); got.stdout != want.stdout {
				t.Errorf("%s %s: %s, the folder gives %s", verb, name, got.stdout, want.stdout)
			}
		}
	}
	want := ldalign(t, "reward", "--model", rewardFolder, "--input", in)
	if got := ldalign(t, "reward", "--model", "acme/reward", "--input", in); got.stdout != want.stdout || got.code != 0 {
		t.Errorf("reward: %s, the folder gives %s", got.stdout+got.stderr, want.stdout)
	}
	ldalign(t, "models", "inspect", "tiny-sft@1", "--dir", runs).want(t, 0, "tiny-sft@1", "llama")
	ldalign(t, "models", "inspect", "acme/tiny").want(t, 0, "acme/tiny@"+policy.Commit())
	t.Setenv("HF_HUB_OFFLINE", "1")
	ldalign(t, "models", "inspect", "acme/tiny").want(t, 0, "acme/tiny@"+policy.Commit())
	ldalign(t, "models", "inspect", "acme/none").want(t, exitFailed, "offline (HF_HUB_OFFLINE): acme/none")
	t.Setenv("HF_HUB_OFFLINE", "")
	// What an output was made with is the commit, not the branch.
	out := filepath.Join(t.TempDir(), "out.jsonl")
	args := []string{"generate", "--raw", "--model", "acme/tiny", "--input", in, "--out", out, "--max-tokens", "8"}
	ldalign(t, args...).want(t, 0)
	policy.Files["config.json"] = append(policy.Files["config.json"], '\n')
	ldalign(t, args...).want(t, exitUsage, "other settings")
	for _, c := range []struct{ name, says string }{
		{"acme/none", "there is no such model"},
		{"acme/tiny@v2", "there is no such revision"},
		{"./nowhere", "there is no folder nowhere"},
		{"nowhere", "there is no folder nowhere"},
		{"tiny-sft@9", "iteration 9"},
		{"tiny-sft@9", "`ldalign checkpoints list RUN`"},
		{"tiny-sft@last", "whole number"},
		{in, "is not a folder"},
	} {
		if got := ldalign(t, "generate", "--model", c.name, "--input", in, "--dir", runs); got.code == 0 || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%s: exit code %d, %s", c.name, got.code, got.stderr)
		}
	}
}

// What is wrong is told in one line, with the line of the file; what was done before is kept.
func TestBadInputOfOfflineVerbs(t *testing.T) {
	good := chatModel(t, nil)
	spoiled := chatModel(t, func(s *tensor.Scope, weights []tensor.Named) {
		weights[0].Tensor.Narrow(0, 9, 200).Copy_(s.Full(tensor.Float32, math.NaN(), 1))
	})
	changed := func(spoil func(dir string)) string {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		spoil(dir)
		return dir
	}
	first := `{"id":1,"prompt":"Name a colour.","response":"Red."}` + "\n"
	for _, c := range []struct {
		name, model, input string
		says               string
		kept               int
	}{
		{"empty file", good, "", "holds no records", 0},
		{"blank lines", good, "\n\n", "holds no records", 0},
		{"not JSON", good, first + "{\"id\":2,\n", "in.jsonl:2: ", 1},
		{"not UTF-8", good, first + "{\"id\":2,\"prompt\":\"\xff\"}\n", "in.jsonl:2: the line is not UTF-8", 1},
		{"no prompt", good, first + "{\"id\":2,\"response\":\"x\"}\n", "in.jsonl:2:prompt", 1},
		{"no id", good, first + "{\"prompt\":\"a\",\"response\":\"x\"}\n", "in.jsonl:2:id", 1},
		{"an id twice", good, first + first, "in.jsonl:2:id: 1 is already the id of line 1", 1},
		{"NaN weights", spoiled, first, "not finite", 0},
		{"no weights", changed(func(dir string) { remove(t, filepath.Join(dir, "model.safetensors")) }), first, "model.safetensors", 0},
		{"a missing shard", changed(func(dir string) {
			remove(t, filepath.Join(dir, "model.safetensors"))
			write(t, filepath.Join(dir, "model.safetensors.index.json"), `{"weight_map":{"a":"model-00001-of-00002.safetensors"}}`)
		}), first, "names shard model-00001-of-00002.safetensors, which does not exist", 0},
		{"a small vocabulary", changed(func(dir string) {
			edit(t, filepath.Join(dir, "config.json"), `"vocab_size": 380`, `"vocab_size": 300`)
		}), first, "they do not belong together", 0},
		{"an unknown family", changed(func(dir string) {
			edit(t, filepath.Join(dir, "config.json"), `"model_type": "llama"`, `"model_type": "lama"`)
		}), first, `"lama"`, 0},
	} {
		for _, verb := range []string{"generate", "score"} {
			t.Run(c.name+" "+verb, func(t *testing.T) {
				dir := t.TempDir()
				in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
				write(t, in, c.input)
				args := []string{verb, "--model", c.model, "--input", in, "--out", out, "--threads", "1"}
				if verb == "generate" {
					args = append(args, "--max-tokens", "4")
				}
				got := ldalign(t, args...)
				got.want(t, exitFailed, c.says)
				last := strings.Split(strings.TrimSpace(got.stderr), "\nldalign: ")
				if strings.Contains(last[len(last)-1], "\n") {
					t.Errorf("more than one line:\n%s", got.stderr)
				}
				if c.kept == 0 && strings.Contains(got.stderr, verb+":") {
					t.Errorf("it tells of the progress of nothing:\n%s", got.stderr)
				}
				kept := 0
				if data, err := os.ReadFile(out); !errors.Is(err, fs.ErrNotExist) {
					kept = bytes.Count(data, []byte("\n"))
				}
				if kept != c.kept {
					t.Errorf("%d lines are kept, want %d", kept, c.kept)
				}
			})
		}
	}
	in := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, in, first)
	for _, args := range []string{
		"generate --max-tokens -1", "generate --max-tokens 160", "generate --temperature=-1", "generate --top-p 0", "generate --raw --chat",
		"generate --slots -1", "generate --prefill -1", "score --step 0", "generate --raw --system x",
	} {
		words := strings.Fields(args)
		got := ldalign(t, append(words, "--model", good, "--input", in)...)
		if got.code != exitUsage {
			t.Errorf("%s: exit code %d\n%s", args, got.code, got.stderr)
		}
	}
}

// Ctrl-C ends a verb behind what is done, and the same command goes on.
func TestGenerateIsInterrupted(t *testing.T) {
	model, dir := chatModel(t, nil), t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, `{"id": %d, "prompt": "Name colour %d."}`+"\n", i, i)
	}
	write(t, in, text.String())
	args := []string{"generate", "--model", model, "--input", in, "--max-tokens", "60", "--ignore-eos", "--slots", "2", "--out", out, "--threads", "1"}
	p := start(t, command(args...))
	if !p.eventually(t, "a response", func() bool { info, err := os.Stat(out); return err == nil && info.Size() > 0 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(t); code != exitInterrupted || !strings.HasSuffix(p.stderr.String(), "run the same command to continue\n") {
		t.Errorf("exit code %d\n%s", code, p.stderr.String())
	}
	if n := len(written[generated](t, out)); n == 0 || n == 3000 {
		t.Errorf("%d lines after the interruption", n)
	}
}

// talk is a chat whose input the test writes.
func talk(t *testing.T, args ...string) (*process, io.Writer) {
	t.Helper()
	c := command(append([]string{"chat", "--threads", "1"}, args...)...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, c), in
}

func say(t *testing.T, in io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(in, text); err != nil {
		t.Fatal(err)
	}
}

func TestChat(t *testing.T) {
	model := chatModel(t, nil)
	saved := filepath.Join(t.TempDir(), "saved.jsonl")
	p, in := talk(t, "--model", model, "--max-tokens", "6", "--system", "Be kind.", "-v")
	say(t, in, "Hi.\n\nTwo\\\nlines.\n//slash\n/save "+saved+"\n/nonsense\n/system Be brief.\nHi.\n/save "+saved+"\n/reset\nHi.\n/system\n/save "+saved+"\n/quit\nnever read\n")
	if code := p.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s", code, p.stderr.String())
	}
	type message struct{ Role, Content string }
	var conversations [][]message
	for _, c := range written[struct{ Messages []message }](t, saved) {
		conversations = append(conversations, c.Messages)
	}
	if len(conversations) != 3 || len(conversations[0]) != 7 || len(conversations[1]) != 3 || len(conversations[2]) != 0 {
		t.Fatalf("saved %v", conversations)
	}
	for i, want := range []message{{"system", "Be kind."}, {"user", "Hi."}, {}, {"user", "Two\nlines."}, {}, {"user", "/slash"}} {
		if got := conversations[0][i]; want.Role != "" && got != want || want.Role == "" && (got.Role != "assistant" || got.Content == "") {
			t.Errorf("message %d is %v, want %v", i, got, want)
		}
	}
	var shown []string
	for _, m := range append(conversations[0], conversations[1]...) {
		if m.Role == "assistant" {
			shown = append(shown, m.Content)
		}
	}
	if got := p.stdout.String(); !strings.HasPrefix(got, strings.Join(shown, "\n")) {
		t.Errorf("shown:\n%s\nsaved:\n%s", got, strings.Join(shown, "\n"))
	}
	for _, text := range []string{"tokens/s", "there is no /nonsense", "7 messages saved"} {
		if !strings.Contains(p.stderr.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, p.stderr.String())
		}
	}
	// The answer is what generate gives for the same conversation.
	file := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, file, `{"id":1,"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi."}]}`)
	answer := lines[generated](t, ldalign(t, "generate", "--model", model, "--input", file, "--max-tokens", "6"))[0]
	if answer.Response != shown[0] {
		t.Errorf("chat answers %q, generate %q", shown[0], answer.Response)
	}
}

// Ctrl-C ends the answer at hand and not the program; what there is of the answer stays.
func TestChatIsInterrupted(t *testing.T) {
	model := chatModel(t, nil)
	edit(t, filepath.Join(model, "config.json"), `"max_position_embeddings": 160`, `"max_position_embeddings": 40000`)
	saved := filepath.Join(t.TempDir(), "saved.jsonl")
	p, in := talk(t, "--model", model, "--max-tokens", "30000", "--ignore-eos")
	say(t, in, "Hi.\n")
	p.eventually(t, "the beginning of an answer", func() bool { return len(p.stdout.String()) > 20 })
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	say(t, in, "/save "+saved+"\n")
	p.eventually(t, "the conversation", func() bool { return strings.Contains(p.stderr.String(), "2 messages saved") })
	if err := p.Process.Signal(syscall.SIGINT); err != nil { // at the prompt
		t.Fatal(err)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.stderr.String())
	}
}

// A long conversation loses its oldest messages, and a message that is too long is refused; the chat goes on.
func TestChatBeyondTheContext(t *testing.T) {
	p, in := talk(t, "--model", chatModel(t, nil), "--max-tokens", "20", "--json", "--ignore-eos")
	say(t, in, strings.Repeat("Hi.\n", 8)+strings.Repeat("long ", 300)+"\nHi.\n")
	if c, ok := in.(io.Closer); ok && c.Close() != nil {
		t.Error("close the input")
	}
	if code := p.wait(t); code != 0 {
		t.Fatalf("exit code %d\n%s", code, p.stderr.String())
	}
	type answer struct {
		Tokens int `json:"tokens"`
		Prompt int `json:"prompt_tokens"`
	}
	got := lines[answer](t, output{stdout: p.stdout.String()})
	for _, a := range got {
		if a.Tokens != 20 || a.Prompt > 140 {
			t.Errorf("%+v", a)
		}
	}
	if text := p.stderr.String(); len(got) != 9 || !strings.Contains(text, "oldest messages no longer fit") || !strings.Contains(text, "there is room for 140") {
		t.Errorf("%d answers\n%s", len(got), text)
	}
}

func TestModelsInspect(t *testing.T) {
	model := chatModel(t, nil)
	ldalign(t, "models", "inspect", model).want(t, 0, "llama", "160 tokens", "<|im_start|>", "Be brief.", "at 32 slots", "refused         nothing")
	got := lines[inspection.Model](t, ldalign(t, "models", "inspect", "--json", "--rank", "4", model))[0]
	const embedding, layer = 380 * 32, 4*32*32 + 3*32*64 + 2*32
	if want := int64(embedding + 2*layer + 32); got.Parameters != want || got.Memory.AdamW != 16*want || got.WeightsBytes != 4*want {
		t.Errorf("%d parameters, want %d; memory %+v", got.Parameters, want, got.Memory)
	}
	if want := int64(2 * 4 * (4*64 + 3*96)); got.Memory.LoRASize != want {
		t.Errorf("%d numbers in the adapter, want %d", got.Memory.LoRASize, want)
	}
	if !strings.HasSuffix(got.Tokenizer.Example, "Hello<|im_end|>\n<|im_start|>assistant\n") || len(got.Refused) != 0 {
		t.Errorf("example %q, refused %v", got.Tokenizer.Example, got.Refused)
	}
	ldalign(t, "models", "inspect", rewardFolder).want(t, 0, "deberta-v2", "[CLS] text [SEP]", "outputs         1")
	edit(t, filepath.Join(model, "config.json"), `"num_hidden_layers": 2`, `"num_hidden_layers": 3`)
	write(t, filepath.Join(model, "chat_template.jinja"), "{{ raise_exception('no') }}")
	ldalign(t, "models", "inspect", model).want(t, exitFailed, "refused         weights: ", "missing: model.layers.2.",
		"refused         chat template", "2 parts of the model")
	remove(t, filepath.Join(model, "config.json"))
	ldalign(t, "models", "inspect", model).want(t, exitFailed, "refused         config.json")
}
