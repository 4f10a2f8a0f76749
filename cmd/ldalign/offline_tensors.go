//go:build cgo

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/offline"
	"github.com/ldalign/ldalign/ops/play"
)

// load opens the model of the flags.
func (e *env) load(ctx context.Context, f modelFlags, t templateFlags) (*offline.Model, error) {
	folder, err := e.findModel(ctx, f.Model, f.serverFlags)
	if err != nil {
		return nil, err
	}
	return offline.Open(ctx, folder, offline.Template(t), f.engine)
}

func (f computeFlags) engine() (*tensor.Engine, error) {
	where, err := play.Device(f.Device)
	if err != nil {
		return nil, err
	}
	return tensor.NewEngine(tensor.Options{Device: where, Threads: f.Threads})
}

// convert does a verb's work on files, shows its progress, and prints its summary on stderr, since stdout may be the output.
func (e *env) convert(verb, input, output string, work func(offline.Files) (offline.Summary, error)) error {
	summary, err := work(offline.Files{Input: input, Output: output, Stdout: e.stdout, Display: e.display})
	if err != nil {
		return err
	}
	if e.json {
		line, err := jsonl.Marshal(append(offline.Summary{{Name: "verb", Value: verb}}, summary...))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(e.stderr, line)
		return err
	}
	text := verb + ":"
	for i, c := range summary {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(" %v %s", c.Value, c.Name)
	}
	_, err = fmt.Fprintln(e.stderr, text)
	return err
}

func (c *generateCommand) Run(ctx context.Context, e *env) (err error) {
	m, err := e.load(ctx, c.modelFlags, c.templateFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }()
	options := offline.GenerateOptions{
		Template: offline.Template(c.templateFlags), Sampling: offline.Sampling(c.samplingFlags), Overlong: c.Overlong,
		Slots: c.Slots, Memory: c.Memory, Prefill: c.Prefill, LogProbs: c.LogProbs,
	}
	return e.convert("generate", c.Input, c.Out, func(f offline.Files) (offline.Summary, error) {
		return offline.Generate(ctx, m, f, options)
	})
}

func (c *scoreCommand) Run(ctx context.Context, e *env) (err error) {
	m, err := e.load(ctx, c.modelFlags, c.templateFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }()
	options := offline.ScoreOptions{Template: offline.Template(c.templateFlags), Overlong: c.Overlong, Step: c.Step}
	return e.convert("score", c.Input, c.Out, func(f offline.Files) (offline.Summary, error) {
		return offline.Score(ctx, m, f, options)
	})
}

func (c *rewardCommand) Run(ctx context.Context, e *env) (err error) {
	folder, err := e.findModel(ctx, c.Model, c.serverFlags)
	if err != nil {
		return err
	}
	m, err := offline.OpenReward(ctx, folder, c.engine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }()
	options := offline.RewardOptions{MaxTokens: c.MaxTokens, Label: c.Label, Batch: c.Batch}
	return e.convert("reward", c.Input, c.Out, func(f offline.Files) (offline.Summary, error) {
		return offline.Reward(ctx, m, f, options)
	})
}
