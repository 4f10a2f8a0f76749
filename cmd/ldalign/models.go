package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/inspection"
)

type modelsCommand struct {
	Inspect modelsInspectCommand `cmd:"" help:"Show a model's kind and size, the memory that it needs, and what ldalign would refuse." tensors:"for lengths"`
}

type modelsInspectCommand struct {
	Model  string `arg:"" help:"A model's or adapter's folder, RUN@ITERATION (RUN@ is the newest), or a Hugging Face id (ORG/NAME or ORG/NAME@REVISION)."`
	Length int    `help:"Length of a row, prompt and response together, for which memory is computed; 0 is 1024, or the model's context if that is shorter." default:"0" placeholder:"N"`
	Rank   int    `help:"Rank of the adapter for which the memory of training is computed." default:"16" placeholder:"R"`
	serverFlags
}

func (modelsInspectCommand) Help() string {
	return `Example:

    ldalign models inspect ./smollm2
    ldalign models inspect --json my-run@3

Reads the configuration, the tokenizer and the headers of the weights, but no weights. The memory shown covers everything of
fixed size: weights, keys and values, gradients and the optimizer's state in float32. Training also needs memory for
activations, which grows with the tokens of a micro-batch. The exit code is 1 if ldalign would refuse any part of the model.`
}

func (c *modelsInspectCommand) Run(ctx context.Context, e *env) error {
	if c.Length < 0 || c.Rank < 1 {
		return fmt.Errorf("%w: --length is %d and --rank is %d: want --length 0 or more, and --rank 1 or more",
			errUsage, c.Length, c.Rank)
	}
	place, err := e.findModel(ctx, c.Model, c.serverFlags)
	if err != nil {
		return err
	}
	if !withTensors {
		e.notice("the tokenizer is left out: this program was built without tensors and tokenizers")
	}
	in := inspection.Of(place, inspection.Options{Length: c.Length, Rank: c.Rank, Tokenizer: inspectedTokenizer})
	if e.json {
		line, err := jsonl.Marshal(in)
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, line)
	} else {
		fmt.Fprint(e.stdout, modelText(in))
	}
	if n := len(in.Refused); n > 0 {
		return fmt.Errorf("%s: %d parts of the model would be refused", place.Name, n)
	}
	return nil
}

// modelText formats an inspection for people.
func modelText(in inspection.Model) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s", name)
		fmt.Fprintf(&b, format, args...)
		b.WriteByte('\n')
	}
	line("model", "%s", in.Model)
	if in.Folder != in.Model {
		line("folder", "%s", in.Folder)
	}
	if a := in.Adapter; a != nil {
		line("adapter", "%s: rank %d, alpha %g, %s parameters, merged when it is loaded", a.Folder, a.Rank, a.Alpha,
			numbers(a.Parameters))
	}
	if in.Family != "" {
		line("family", "%s", in.Family)
	}
	if in.Tensors > 0 {
		line("parameters", "%s in %d tensors", numbers(in.Parameters), in.Tensors)
		types := make([]string, 0, len(in.DTypes))
		for name := range in.DTypes {
			types = append(types, name)
		}
		slices.Sort(types)
		line("weights", "%s, %s", strings.Join(types, " and "), size(in.WeightsBytes))
	}
	if s := in.Shape; s != nil {
		heads := fmt.Sprintf("%d heads of %d", s.Heads, s.HeadDim)
		if s.KVHeads > 0 && s.KVHeads != s.Heads {
			heads += fmt.Sprintf(" (%d of keys and values)", s.KVHeads)
		}
		line("shape", "%d layers, hidden %d, %s, feed-forward %d", s.Layers, s.Hidden, heads, s.Intermediate)
		head := ""
		if s.TiedHead {
			head = ", tied to the output head"
		}
		line("vocabulary", "%d%s", s.Vocabulary, head)
		line("context", "%d tokens", in.Context)
	}
	if in.Labels > 0 {
		line("outputs", "%d (a reward model: `ldalign reward`)", in.Labels)
	}
	if t := in.Tokenizer; t != nil {
		line("tokenizer", "%d tokens", t.Vocabulary)
		for _, s := range t.Special {
			line("  "+s.Role, "%d %s", s.ID, s.Text)
		}
		line("  plain text", "%s", added(t))
		switch {
		case t.Example != "":
			line("chat template", "writes:")
			for part := range strings.SplitSeq(strings.TrimSuffix(t.Example, "\n"), "\n") {
				fmt.Fprintf(&b, "    %s\n", part)
			}
		case !t.HasTemplate:
			line("chat template", "none: prompts go in as they are")
		}
	}
	if m := in.Memory; m != nil {
		var slots []string
		for _, s := range m.Generating {
			slots = append(slots, fmt.Sprintf("%s at %d", size(s.Bytes), s.Slots))
		}
		line("memory", "in addition to about 0.2 GB for the program and libtorch")
		line("  generating", "%s slots, rows of %d tokens", strings.Join(slots, ", "), m.Length)
		line("  scoring", "%s", size(m.Scoring))
		line("  training", "%s with AdamW, %s with RMSprop, plus activations", size(m.AdamW), size(m.RMSprop))
		line("  adapter", "%s with AdamW at rank %d (%s parameters), plus activations", size(m.LoRA), m.LoRARank,
			numbers(m.LoRASize))
	}
	if len(in.Refused) == 0 {
		line("refused", "nothing")
	}
	for _, r := range in.Refused {
		line("refused", "%s", r)
	}
	return b.String()
}

// added returns which tokens the tokenizer puts around a text.
func added(t *inspection.TokenizerInfo) string {
	if len(t.AddedBefore)+len(t.AddedBehind) == 0 {
		return "nothing is added"
	}
	return strings.Join(slices.Concat(t.AddedBefore, []string{"text"}, t.AddedBehind), " ")
}

// numbers formats a number of parameters for people.
func numbers(n int64) string {
	if n < 1e6 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f M", float64(n)/1e6)
}

// size formats a number of bytes for people.
func size(bytes int64) string {
	if bytes >= 1e9 {
		return fmt.Sprintf("%.2f GB", float64(bytes)/1e9)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}
