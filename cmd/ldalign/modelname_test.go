//go:build cgo

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/inspection"
)

// adapterOf makes an adapter that changes what the model of a folder says, in a folder that PEFT would write, and the
// folder of the model with that adapter in its weights.
func adapterOf(t *testing.T, base string) (adapter, merged string) {
	t.Helper()
	ctx := t.Context()
	adapter, merged = filepath.Join(t.TempDir(), "adapter"), filepath.Join(t.TempDir(), "merged")
	engine, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	m, err := models.Load(ctx, engine, base, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lora := architecture.LoRA{Rank: 2, Alpha: 8, Targets: architecture.Modules{Names: []string{"q_proj", "v_proj", "down_proj"}}}
	if err := m.AddAdapter(ctx, lora, 3); err != nil {
		t.Fatal(err)
	}
	err = engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, p := range m.Trainable() {
				p.Tensor.Copy_(s.Full(tensor.Float32, 0.1, 1))
			}
			return s.Err()
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	config, err := m.AdapterConfig()
	if err != nil {
		t.Fatal(err)
	}
	var matrices bytes.Buffer
	err = errors.Join(m.WriteAdapter(ctx, &matrices), os.Mkdir(adapter, 0o755),
		os.WriteFile(filepath.Join(adapter, architecture.AdapterConfigFile), config, 0o644))
	if err == nil {
		err = os.WriteFile(filepath.Join(adapter, architecture.AdapterWeightsFile), matrices.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(merged, os.DirFS(base)); err != nil {
		t.Fatal(err)
	}
	weights, err := os.Create(filepath.Join(merged, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{m.MergeAdapter(ctx), m.WriteWeights(ctx, weights), weights.Close(), m.Close(ctx)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return adapter, merged
}

// nameBase writes what an adapter is an adapter of.
func nameBase(t *testing.T, adapter, base string) {
	t.Helper()
	edit(t, filepath.Join(adapter, architecture.AdapterConfigFile), `"base_model_name_or_path": null`,
		fmt.Sprintf(`"base_model_name_or_path": %q`, base))
}

// An adapter's folder gives, in every verb, what the model with the adapter in its weights gives.
func TestAdapterAsModel(t *testing.T) {
	base := chatModel(t, nil)
	adapter, merged := adapterOf(t, base)
	in := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, in, `{"id":1,"prompt":"Name a colour.","response":"Red."}`)
	config := filepath.Join(adapter, architecture.AdapterConfigFile)
	run := func(verb, model string) output {
		args := []string{verb, "--model", model, "--input", in, "--threads", "1"}
		if verb == "generate" {
			args = append(args, "--max-tokens", "20", "--ignore-eos")
		}
		return ldalign(t, args...)
	}
	run("generate", adapter).want(t, exitFailed, "does not name the model", "base_model_name_or_path of "+config)
	nameBase(t, adapter, base)
	for _, verb := range []string{"generate", "score"} {
		got, want := run(verb, adapter), run(verb, merged)
		got.want(t, 0)
		if diff := cmp.Diff(want.stdout, got.stdout); diff != "" {
			t.Errorf("%s (-merged +adapter):\n%s", verb, diff)
		}
		if plain := run(verb, base); plain.stdout == want.stdout {
			t.Errorf("%s: the adapter changes nothing, so this test shows nothing", verb)
		}
	}
	talked := func(model string) string {
		p, input := talk(t, "--model", model, "--max-tokens", "12", "--ignore-eos")
		say(t, input, "Hi.\n/quit\n")
		if code := p.wait(t); code != 0 {
			t.Errorf("chat with %s: exit code %d\n%s", model, code, p.stderr.String())
		}
		return p.stdout.String()
	}
	if got, want := talked(adapter), talked(merged); got != want || want == "" {
		t.Errorf("chat: %q, merged %q", got, want)
	}
	// The tokenizer beside the adapter comes before the base's.
	write(t, filepath.Join(base, "chat_template.jinja"), "{{ raise_exception('the template of the base') }}")
	run("generate", adapter).want(t, exitFailed, "the template of the base")
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		copyFile(t, filepath.Join(merged, name), filepath.Join(adapter, name))
	}
	if got, want := run("generate", adapter), run("generate", merged); got.stdout != want.stdout {
		t.Errorf("with a tokenizer of its own: %s, merged %s", got.stdout+got.stderr, want.stdout)
	}
	ldalign(t, "models", "inspect", adapter).want(t, 0, adapter+" on "+base, "rank 2, alpha 8, 896 parameters", "refused         nothing")
	got := lines[inspection.Model](t, ldalign(t, "models", "inspect", "--json", adapter))[0]
	if got.Adapter == nil || got.Adapter.Folder != adapter || got.Adapter.Parameters != 896 || got.Folder != base {
		t.Errorf("%+v in %s", got.Adapter, got.Folder)
	}
	ldalign(t, "reward", "--model", adapter, "--input", in).want(t, exitFailed, "is an adapter", "merge")
	// An adapter of something else is told before anything is generated.
	edit(t, config, `"down_proj"`, `"up_proj"`)
	run("generate", adapter).want(t, exitFailed, adapter, "up_proj")
	ldalign(t, "models", "inspect", adapter).want(t, exitFailed, "refused         adapter: ", "up_proj")
	edit(t, config, base, "/nowhere/base")
	run("generate", adapter).want(t, exitFailed, config, `"/nowhere/base"`, "there is no folder")
}
