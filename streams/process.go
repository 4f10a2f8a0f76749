package streams

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Each returns the Process of a stage that turns each message into at most one other. f returns an output and an error for every
// input, in the same order. A nil output with a nil error publishes nothing.
func Each[In, Out events.Message](f func(context.Context, []In) ([]Out, []error)) Process {
	refilling := EachRefilling(func(ctx context.Context, in []In, _ func(int) []In) ([]Out, []error) { return f(ctx, in) })
	return func(ctx context.Context, in []events.Message) []Outcome { return refilling(ctx, in, nil) }
}

// EachRefilling is Each for a stage that takes more messages while it works.
func EachRefilling[In, Out events.Message](f func(context.Context, []In, func(n int) []In) ([]Out, []error)) Refilling {
	return process(func(ctx context.Context, in []In, more func(int) []In) []Outcome {
		outs, errs := f(ctx, in, more)
		outcomes := make([]Outcome, len(outs))
		for i, out := range outs {
			outcomes[i].Err = errs[i]
			if out.ProtoReflect().IsValid() {
				outcomes[i].Out = emit(out)
			}
		}
		return outcomes
	})
}

// Many returns the Process of a stage that turns each message into any number of others, which may be of several kinds.
func Many[In events.Message](f func(context.Context, []In) ([][]events.Message, []error)) Process {
	refilling := process(func(ctx context.Context, in []In, _ func(int) []In) []Outcome {
		outs, errs := f(ctx, in)
		outcomes := make([]Outcome, len(outs))
		for i := range outs {
			outcomes[i] = Outcome{Out: emit(outs[i]...), Err: errs[i]}
		}
		return outcomes
	})
	return func(ctx context.Context, in []events.Message) []Outcome { return refilling(ctx, in, nil) }
}

// process calls f with the messages of type In and rejects messages of other types.
func process[In events.Message](f func(context.Context, []In, func(int) []In) []Outcome) Refilling {
	return func(ctx context.Context, in []events.Message, more func(int) []events.Message) []Outcome {
		var outcomes []Outcome
		var at []int // the outcomes of the messages that f gets
		typed := func(in []events.Message) (out []In) {
			for _, m := range in {
				outcomes = append(outcomes, Outcome{})
				one, ok := m.(In)
				if !ok {
					err := fmt.Errorf("a %T is not an input of this stage", m)
					outcomes[len(outcomes)-1].Err = &schemas.Reject{Reason: schemas.ReasonDecode, Err: err}
					continue
				}
				out, at = append(out, one), append(at, len(outcomes)-1)
			}
			return out
		}
		settled := f(ctx, typed(in), func(n int) []In { return typed(more(n)) })
		if len(settled) != len(at) {
			return nil // the runner treats a wrong number of outcomes as a failure
		}
		for k, outcome := range settled {
			outcomes[at[k]] = outcome
		}
		return outcomes
	}
}

// emit pairs messages with their kinds.
func emit(messages ...events.Message) []Emit {
	out := make([]Emit, len(messages))
	for i, m := range messages {
		out[i] = Emit{Kind: kindOf(m), Msg: m}
	}
	return out
}

// kindOf returns the kind of a message's type. It is empty for a type that has no stream, and sealing it then fails.
func kindOf(m events.Message) schemas.Kind {
	for _, kind := range schemas.Kinds() {
		if newMessage(kind).ProtoReflect().Descriptor() == m.ProtoReflect().Descriptor() {
			return kind
		}
	}
	return ""
}
