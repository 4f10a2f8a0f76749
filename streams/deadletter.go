package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// maxErrorText bounds the error that a dead letter carries.
const maxErrorText = 4 << 10

// Letter is a dead letter with its number, by which it is shown and redriven.
type Letter struct {
	*events.DeadLetter
	Seq  uint64
	Time time.Time
	// Copies are the numbers under which the letter was stored again, after the stream had forgotten its id.
	Copies []uint64
}

// DeadLetters lists the dead letters of a run, oldest first, one of a message. Redriven ones are no longer among them;
// dropped ones are.
func (c *Conn) DeadLetters(ctx context.Context, run string) ([]Letter, error) {
	return c.letters(ctx, run, AllIterations)
}

func (c *Conn) letters(ctx context.Context, run string, iteration int) ([]Letter, error) {
	type name struct {
		id      string
		dropped bool
	}
	var letters []Letter
	at := map[name]int{}
	err := c.Read(ctx, schemas.DeadLetters, run, iteration, 0, func(r Received) error {
		d := r.Message.(*events.DeadLetter)
		this := name{d.ID(), d.GetDroppedBy() != ""}
		if first, copied := at[this]; copied {
			letters[first].Copies = append(letters[first].Copies, r.Seq)
			return nil
		}
		at[this] = len(letters)
		letters = append(letters, Letter{DeadLetter: d, Seq: r.Seq, Time: r.Time})
		return nil
	})
	return letters, err
}

// DeadLetter is the dead letter of that number; ErrNotFound when there is none, or it was redriven. Of a copy it is the
// letter itself.
func (c *Conn) DeadLetter(ctx context.Context, seq uint64) (Letter, error) {
	letter, err := c.letterAt(ctx, seq)
	if err != nil {
		return letter, err
	}
	letters, err := c.letters(ctx, letter.GetRun(), int(letter.GetIteration()))
	if err != nil {
		return letter, fmt.Errorf("streams: dead letter %d: %w", seq, err)
	}
	for _, l := range letters {
		if l.Seq == seq || slices.Contains(l.Copies, seq) {
			return l, nil
		}
	}
	return letter, fmt.Errorf("%w: dead letter %d", ErrNotFound, seq) // removed meanwhile
}

// letterAt reads one letter, and not whether it has copies.
func (c *Conn) letterAt(ctx context.Context, seq uint64) (Letter, error) {
	stream, err := c.js.Stream(ctx, StreamName(schemas.DeadLetters))
	if err != nil {
		return Letter{}, fmt.Errorf("streams: dead letter %d: %w", seq, err)
	}
	raw, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Letter{}, fmt.Errorf("%w: dead letter %d", ErrNotFound, seq)
	}
	if err != nil {
		return Letter{}, fmt.Errorf("streams: dead letter %d: %w", seq, err)
	}
	m, err := open(raw.Subject, raw.Data)
	if err != nil {
		return Letter{}, fmt.Errorf("streams: dead letter %d: %w", seq, err)
	}
	return Letter{DeadLetter: m.(*events.DeadLetter), Seq: seq, Time: raw.Time}, nil
}

// Redrive puts the original of a dead letter back on its subject, where its stage finds it as a new message, and
// removes the letter with its copies: its pair is in flight again. Interrupted in between, it can be repeated; later than
// the stream remembers ids, the stage then does the work twice, and readers take the first result.
func (c *Conn) Redrive(ctx context.Context, seq uint64, copies ...uint64) error {
	letter, err := c.letterAt(ctx, seq)
	if err != nil {
		return err
	}
	if by := letter.GetDroppedBy(); by != "" {
		return fmt.Errorf("streams: redrive %d: it was dropped by %s, and its original with it", seq, by)
	}
	tokens := strings.Split(letter.GetSubject(), ".")
	if len(tokens) != 4 || newMessage(schemas.Kind(tokens[1])) == nil {
		return fmt.Errorf("streams: redrive %d: its subject %q is none of ours", seq, letter.GetSubject())
	}
	kind, number := schemas.Kind(tokens[1]), strconv.FormatUint(seq, 10)
	id := messageID(kind, letter.GetRun(), letter.GetPairId()+redriveMark+number)
	msg := envelope(letter.GetSubject(), id, letter.GetOriginal())
	msg.Header.Set(headerRedriven, number)
	if err := c.removeLetters(ctx, copies); err != nil { // first: what an interruption leaves is the letter of that number
		return fmt.Errorf("streams: redrive %d: a copy of it: %w", seq, err)
	}
	if err := c.send(ctx, kind, []*nats.Msg{msg}); err != nil {
		return fmt.Errorf("streams: redrive %d: %w", seq, err)
	}
	if err := c.removeLetters(ctx, []uint64{seq}); err != nil {
		return fmt.Errorf("streams: redrive %d: the message is back on %s, the letter not removed: %w",
			seq, letter.GetSubject(), err)
	}
	return nil
}

// Drop says that the pair of a dead letter is not wanted: the letter stays in the ledger with who said so, its original
// is removed, its copies too, and it cannot be redriven any more. Interrupted in between, it can be repeated. by names who
// drops it.
func (c *Conn) Drop(ctx context.Context, seq uint64, by string, copies ...uint64) error {
	letter, err := c.letterAt(ctx, seq)
	if err != nil {
		return err
	}
	if letter.GetDroppedBy() != "" {
		return nil
	}
	letter.DroppedBy, letter.Original = text(by, maxErrorText), nil
	msg, err := seal(schemas.DeadLetters, letter.DeadLetter)
	if err == nil {
		msg.Header.Set(headerID, msg.Header.Get(headerID)+redriveMark+"dropped")
		err = c.send(ctx, schemas.DeadLetters, []*nats.Msg{msg})
	}
	if err != nil {
		return fmt.Errorf("streams: drop %d: %w", seq, err)
	}
	if err := c.removeLetters(ctx, append(slices.Clone(copies), seq)); err != nil {
		return fmt.Errorf("streams: drop %d: the letter is marked, its first copy not removed: %w", seq, err)
	}
	return nil
}

// removeLetters removes those that are still there.
func (c *Conn) removeLetters(ctx context.Context, seqs []uint64) error {
	if len(seqs) == 0 {
		return nil
	}
	stream, err := c.js.Stream(ctx, StreamName(schemas.DeadLetters))
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		if err := stream.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
	}
	return nil
}

// Message decodes the message that a letter holds. The error says why it is none.
func (l Letter) Message() (events.Message, error) { return open(l.GetSubject(), l.GetOriginal()) }

// deadLetter writes the letter of a message that its stage gives up.
func (r *runner) deadLetter(l letter) *events.DeadLetter {
	meta := l.in.meta
	d := letterOf(r.stage.Name, entry{
		stream: meta.Stream, subject: l.in.Subject(), seq: meta.Sequence.Stream, header: l.in.Headers(), data: l.in.Data(),
	}, l.err)
	if d.GetRun() != "" && d.GetRun() != r.stage.Run { // a source is only read: redriven, it goes to the run's own subject
		d.Subject = schemas.Subject(r.stage.In, r.stage.Run, d.GetIteration())
		d.Original = r.stage.original(l.in)
	}
	d.Run, d.Worker, d.Tries, d.Deliveries = r.stage.Run, r.worker, uint32(max(l.tries, 1)), uint32(meta.NumDelivered)
	return d
}

// letterOf is the dead letter of a message on a log. Its run and iteration are those of the subject, its pair that of
// the header, which names it even when the bytes cannot be read; a message of another program, without it, stands for none.
func letterOf(stage string, e entry, err error) *events.DeadLetter {
	d := &events.DeadLetter{
		Schema: events.Version, Stage: stage, Reason: reasonOf(err), Error: text(causeOf(err), maxErrorText),
		Stream: e.stream, Sequence: e.seq, Subject: e.subject, Original: e.data, Tries: 1,
	}
	kind, run, iteration, parseErr := schemas.ParseSubject(e.subject)
	if parseErr == nil {
		d.Run, d.Iteration = run, iteration
	}
	if carriesPair(kind) {
		d.PairId = text(idOf(e.header), maxErrorText)
	}
	return d
}

// bury writes the dead letter of a message that a reader cannot use. Written again it is stored once.
func (c *Conn) bury(ctx context.Context, d *events.DeadLetter) error {
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

// causeOf is the error without the reason, which has its own field.
func causeOf(err error) error {
	if reject := new(schemas.Reject); errors.As(err, &reject) && reject.Err != nil {
		return reject.Err
	}
	return err
}

// text is an error's text as protobuf takes it: valid UTF-8, and no longer than limit.
func text(v any, limit int) string {
	s := fmt.Sprint(v)
	return strings.ToValidUTF8(s[:min(len(s), limit)], "\uFFFD")
}
