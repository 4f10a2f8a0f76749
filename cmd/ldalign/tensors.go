//go:build cgo

package main

import (
	"errors"
	"io/fs"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/inspection"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/ops/play"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
)

// withTensors says that this program can compute with tensors. What a program without them has instead is in notensors.go.
const withTensors = true

// torch returns the version of libtorch, and whether it can use a GPU.
func torch() (version string, cuda bool, err error) {
	version, err = tensor.Version()
	return version, tensor.CUDAAvailable() == nil, err
}

// freeMemory returns the free memory of the GPUs that specs compute on; of those that this machine has.
func freeMemory(specs []schemas.Spec) (map[string]int64, error) { return play.FreeMemory(specs) }

// withEngine opens the tensor engine that a spec asks for, calls f with it, and closes it.
func withEngine(spec schemas.ComputeSpec, f func(*pipeline.Engine) error) error {
	return play.WithEngine(spec, f)
}

// player returns a player of runs in a session, which shows their progress on a screen.
func (e *env) player(s *runs.Session, engine *pipeline.Engine, screen *telemetry.Screen) player {
	return &play.Player{Session: s, Pipeline: e.pipeline, Engine: engine, Observer: screen}
}

// openTokenizer opens the tokenizer of a model.
func openTokenizer(files fs.FS) (encoder, error) { return tokenizer.FromFS(files) }

// planTokenizer opens the tokenizer of a run's model, with its template and length rule.
func planTokenizer(files fs.FS, s schemas.Spec) (plan.Tokenizer, error) {
	tok, err := tokenizer.FromFS(files)
	if err != nil {
		return nil, err
	}
	format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: s.Model.Template, System: s.Model.System})
	if err != nil {
		return nil, errors.Join(err, tok.Close())
	}
	return plannedTokenizer{tok, format, tokenizer.Limits{
		Prompt: s.Data.MaxPromptTokens, Response: s.Data.MaxResponseTokens, Reject: s.Data.Overlong == "reject",
	}}, nil
}

type plannedTokenizer struct {
	*tokenizer.Tokenizer
	format *tokenizer.Format
	limits tokenizer.Limits
}

// Lengths returns the numbers of tokens that the model reads of a prompt and its response.
func (t plannedTokenizer) Lengths(prompt, response string) (promptTokens, responseTokens int, err error) {
	tokens, err := t.format.Fit(prompt, response, t.limits)
	return len(tokens.Prompt), len(tokens.Response), err
}

// inspectedTokenizer opens the tokenizer of a model that is inspected.
func inspectedTokenizer(files fs.FS) (inspection.Tokenizer, error) {
	t, err := tokenizer.FromFS(files)
	if err != nil {
		return nil, err
	}
	return templateTokenizer{t}, nil
}

// templateTokenizer is a tokenizer with methods that try its chat template.
type templateTokenizer struct{ *tokenizer.Tokenizer }

// Example returns a conversation as the chat template writes it, up to where the answer begins.
func (t templateTokenizer) Example() (string, error) {
	return t.Render([]tokenizer.Message{{Role: "user", Content: "Hello"}}, true)
}

// Trains returns an error if the template cannot be used for training and scoring.
func (t templateTokenizer) Trains() error {
	format, err := tokenizer.NewFormat(t.Tokenizer, tokenizer.FormatOptions{Template: "chat"})
	if err == nil {
		_, _, err = format.Pair("Hello", "Hi")
	}
	return err
}
