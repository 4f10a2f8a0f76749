package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/offline"
	"github.com/ldalign/ldalign/ops/play"
)

// The offline verbs (generate, score, reward, chat) run the code of the stages on files.

// computeFlags choose the device and the number of threads.
type computeFlags struct {
	Threads int    `help:"Threads of the tensor library; 0 is all cores. It does not change the results." default:"0"`
	Device  string `help:"cpu or cuda:N (not run on a GPU by the project)." default:"cpu"`
}

// modelFlags choose a model.
type modelFlags struct {
	Model string `help:"A model's or adapter's folder, RUN@ITERATION (RUN@ is the newest), or a Hugging Face id (ORG/NAME or ORG/NAME@REVISION)." required:"" placeholder:"MODEL"`
	computeFlags
	serverFlags
}

// templateFlags say how a prompt becomes the model's input. They convert to offline.Template.
type templateFlags struct {
	Raw    bool   `help:"Use prompts as they are; only the tokenizer's own special tokens are added." xor:"template"`
	Chat   bool   `help:"Put prompts into the model's chat template (the default if the model has one)." xor:"template"`
	System string `help:"System message before every prompt." placeholder:"TEXT"`
}

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
