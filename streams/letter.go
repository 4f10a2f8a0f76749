package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// maxErrorText bounds the error text of a dead letter, in bytes.
const maxErrorText = 4 << 10

// letter is a message that becomes a dead letter, with the reason.
type letter struct {
	in  *input
	err error
	// tries is how often this process tried the message; 0 counts as once.
	tries int
}

// bury publishes dead letters and acknowledges their originals.
func (r *runner) bury(work context.Context, letters []letter) error {
	out := make([]sealed, len(letters))
	for i, l := range letters {
		msg, err := seal(schemas.DeadLetters, r.deadLetter(l))
		if err != nil {
			return fmt.Errorf("streams: stage %s: dead letter: %w", r.stage.Name, err)
		}
		out[i] = sealed{schemas.DeadLetters, msg}
	}
	if err := r.publish(work, out); err != nil {
		return err
	}
	for _, l := range letters {
		reason := reasonOf(l.err)
		r.log.Error().Err(l.err).Str("reason", reason).Uint64("seq", l.in.meta.Sequence.Stream).
			Str("pair", idOf(l.in.Headers())).Msg("dead letter")
		r.acknowledge(l.in, reason)
	}
	return nil
}

// deadLetter builds the dead letter of a message that the stage gives up.
func (r *runner) deadLetter(l letter) *events.DeadLetter {
	meta := l.in.meta
	d := LetterOf(r.stage.Name, Entry{
		Stream: meta.Stream, Subject: l.in.Subject(), Seq: meta.Sequence.Stream, Header: l.in.Headers(), Data: l.in.Data(),
	}, l.err)
	if d.GetRun() != "" && d.GetRun() != r.stage.Run { // redriving stores it on the run's own subject: sources stay unchanged
		d.Subject = schemas.Subject(r.stage.In, r.stage.Run, d.GetIteration())
		d.Original = r.stage.original(l.in)
	}
	d.Run, d.Worker, d.Tries, d.Deliveries = r.stage.Run, r.worker, uint32(max(l.tries, 1)), uint32(meta.NumDelivered)
	return d
}

// LetterOf returns the dead letter of an entry that a stage cannot use because of err; a reader may also name itself as the
// stage. The run and iteration come from the subject. The pair id comes from the header, so it is known even when the bytes
// cannot be decoded. A message of another program has no such header, and its letter has no pair id.
func LetterOf(stage string, e Entry, err error) *events.DeadLetter {
	d := &events.DeadLetter{
		Schema: events.Version, Stage: stage, Reason: reasonOf(err), Error: Text(causeOf(err)),
		Stream: e.Stream, Sequence: e.Seq, Subject: e.Subject, Original: e.Data, Tries: 1,
	}
	kind, run, iteration, parseErr := schemas.ParseSubject(e.Subject)
	if parseErr == nil {
		d.Run, d.Iteration = run, iteration
	}
	if kind.CarriesPair() {
		d.PairId = Text(e.ID())
	}
	return d
}

// Bury publishes the dead letter of a message that a reader cannot use. Publishing it again stores nothing new.
func (c *Conn) Bury(ctx context.Context, d *events.DeadLetter) error {
	d.Worker, d.Deliveries = c.worker, 1
	c.log.Error().Str("error", d.GetError()).Str("stage", d.GetStage()).Str("run", d.GetRun()).Str("reason", d.GetReason()).
		Uint64("seq", d.GetSequence()).Str("pair", d.GetPairId()).Msg("dead letter")
	return c.Publish(ctx, schemas.DeadLetters, d)
}

func reasonOf(err error) string {
	if reject := new(schemas.Reject); errors.As(err, &reject) {
		return reject.Reason
	}
	return schemas.ReasonPoison
}

// causeOf returns the error without the reason, which has a field of its own.
func causeOf(err error) error {
	if reject := new(schemas.Reject); errors.As(err, &reject) && reject.Err != nil {
		return reject.Err
	}
	return err
}

// Text returns v's text as a dead letter carries it: valid UTF-8 of bounded length.
func Text(v any) string { return text(v, maxErrorText) }

// text returns v's text as valid UTF-8, cut to limit bytes.
func text(v any, limit int) string {
	s := fmt.Sprint(v)
	return strings.ToValidUTF8(s[:min(len(s), limit)], "\uFFFD")
}

func poison(err error) error { return &schemas.Reject{Reason: schemas.ReasonPoison, Err: err} }
