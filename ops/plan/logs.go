package plan

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// envelope is the size in a log of what surrounds a message's fields: subject, headers and the record's frame.
const envelope = 260

// Sizes of the messages that carry no pair, with their envelope.
const (
	checkpointBytes = 512 + envelope
	resultBytes     = 1200 + envelope // the figures of a step or an evaluation
	controlBytes    = 160 + envelope
	specBytes       = 6000 // the resolved spec, which a control message carries
)

// controls is the number of control messages of a run besides one per iteration: spec, data, records, finished.
const controls = 4

// logs estimates the messages of each kind that the run publishes, in the order in which data flows.
func (in Input) logs(r Run) []Log {
	sizes := in.messages()
	out := make([]Log, 0, len(schemas.Kinds()))
	for _, kind := range schemas.Kinds() {
		l := Log{Kind: kind, Limit: in.Limits.MaxBytes}
		switch kind {
		case schemas.Prompts, schemas.Pairs, schemas.Encoded, schemas.Scored:
			if !in.reads().Before(kind) {
				l.Messages = r.Pairs * kept(r.Iterations, in.Spec.Retention.Messages)
				l.Bytes = int64(l.Messages) * sizes[kind]
			}
		case schemas.Checkpoints:
			l.Messages = r.Iterations + 1
			if in.Spec.TrainsGuide() {
				l.Messages++
			}
			l.Bytes = int64(l.Messages) * checkpointBytes
		case schemas.Results:
			l.Messages = r.Steps + max(r.Iterations-1, 0)*r.LaterSteps + r.GuideSteps
			if in.Spec.Data.Eval != "" {
				l.Messages += max(in.Spec.Iterations+1-in.Spec.Evaluation.First, 0)
			}
			l.Bytes = int64(l.Messages) * resultBytes
		case schemas.Control:
			l.Messages = controls + r.Iterations
			if in.Spec.Retention.Messages > 0 {
				l.Messages += r.Iterations
			}
			l.Bytes = int64(l.Messages)*controlBytes + specBytes
		case schemas.DeadLetters:
			l.Messages = int(in.Train.Refused * float64(r.AllPairs))
			l.Bytes = int64(l.Messages) * (sizes[schemas.Prompts] + 2*envelope)
		}
		out = append(out, l)
	}
	return out
}

// kept returns the greatest number of iterations, or policies, that exist at one time if retention keeps the newest keep of n:
// one more, until the next is complete. A keep of 0 keeps all.
func kept(n, keep int) int {
	if keep == 0 {
		return n
	}
	return min(n, keep+1)
}

// messages returns the size of a mean pair's message in each log.
func (in Input) messages() map[schemas.Kind]int64 {
	d, spec := in.Train, in.Spec
	hash := strings.Repeat("0", 64)
	text := func(bytes float64) string { return strings.Repeat("x", int(bytes+0.5)) }
	ids := func(tokens float64) []int64 {
		out := make([]int64, int(tokens+0.5))
		for i := range out {
			out[i] = max(int64(in.Policy.Vocab)-1, 0)
		}
		return out
	}
	latent := func() []float32 {
		if !spec.NeedsGuide() {
			return nil
		}
		return make([]float32, spec.Guide.LatentDim)
	}
	promptTokens, chosenTokens, rejectedTokens := in.tokens()
	number := -100.5
	prompt := &events.Prompt{
		Schema: events.Version, Run: spec.Run, Iteration: uint32(spec.Iterations), PairId: hash, PromptId: text(d.IDBytes), Sample: 1,
		Position: uint64(d.Records), Total: uint64(d.Records), Prompt: text(d.PromptBytes), Response: text(d.ChosenBytes),
		Rejected: text(d.RejectedBytes), SampleSeed: 1 << 63, Checkpoint: hash, Distance: &number, ChosenLogp: &number,
		RejectedLogp: &number,
	}
	rejected := d.RejectedBytes
	if spec.Samples() {
		perToken := 4.0
		if d.ChosenTokens > 0 {
			perToken = d.ChosenBytes / d.ChosenTokens
		}
		rejected = perToken * rejectedTokens
		prompt.Rejected = ""
	}
	pair := &events.Pair{
		Schema: events.Version, Prompt: prompt, Rejected: text(rejected), PromptIds: ids(promptTokens), ChosenIds: ids(chosenTokens),
		RejectedIds: ids(rejectedTokens), ChosenLogp: number, RejectedLogp: number, PolicyDigest: hash,
		FinishReason: "length", Truncated: 1,
	}
	if spec.Objective.Reference == "initial" {
		pair.Reference = hash
	}
	encoded := &events.Encoded{
		Schema: events.Version, Pair: pair, ChosenLatent: latent(), RejectedLatent: latent(), Guide: hash,
	}
	scored := &events.Scored{Schema: events.Version, Pair: pair, Distance: number, Metric: spec.Objective.Distance, Guide: hash}
	size := func(m proto.Message) int64 { return int64(proto.Size(m)) + envelope }
	return map[schemas.Kind]int64{
		schemas.Prompts: size(prompt), schemas.Pairs: size(pair), schemas.Encoded: size(encoded), schemas.Scored: size(scored),
	}
}
