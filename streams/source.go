package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// ErrIncomplete: a part of a log does not hold, or does not hold yet, every pair that it should.
var ErrIncomplete = errors.New("streams: the log is not complete")

// Source is a part of a run's log that another run reads in place of messages of its own. Reading leaves no trace in it,
// so any number of runs may read it at the same time.
type Source struct {
	Run  string
	Kind schemas.Kind
	// First and Last bound the sequences that are read, both included. What was stored later is not part of the source.
	First, Last uint64
	// Begin and End are its iterations, from Begin up to and without End: with them the part is found again in a log that was
	// restored since and numbers its messages anew, see Locate. Without an End the sequences are taken as they are.
	Begin, End uint32
}

// Locate gives a source with the sequences that its messages have now. They are others than those that were noted when the
// source was chosen if the run was restored from a backup since; each restored message knows its former places. The part is
// found by its ends: a first message of the iterations at First and a last one at Last, by the places of now or of one log
// before. ErrIncomplete when it is in none of them, or different messages are in two.
func (c *Conn) Locate(ctx context.Context, s Source) (Source, error) {
	if s.End == 0 || s.First == 0 {
		return s, nil
	}
	untouched := true // as in every log that was not restored
	for _, seq := range []uint64{s.First, s.Last} {
		here, restored, err := c.isOf(ctx, s, seq)
		if err != nil {
			return s, fmt.Errorf("streams: locate %s of run %s: %w", s.Kind, s.Run, err)
		}
		untouched = untouched && here && !restored
	}
	if untouched {
		return s, nil
	}
	found, restored, err := c.search(ctx, s)
	if err != nil {
		return s, fmt.Errorf("streams: locate %s of run %s: %w", s.Kind, s.Run, err)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return s, fmt.Errorf("%w: sequences %d to %d of stream %s are different %s of run %s in its log and in that from which it was "+
			"restored: replay it again under another name", ErrIncomplete, s.First, s.Last, StreamName(s.Kind), s.Kind, s.Run)
	case restored:
		return s, fmt.Errorf("%w: %s of run %s were restored from a backup, and none stood at sequences %d to %d before: replay it "+
			"again under another name", ErrIncomplete, s.Kind, s.Run, s.First, s.Last)
	}
	return s, nil // who reads it says what is missing
}

// isOf tells whether a message of a source stands at a sequence, and whether it was restored.
func (c *Conn) isOf(ctx context.Context, s Source, seq uint64) (here, restored bool, err error) {
	stream, err := c.js.Stream(ctx, StreamName(s.Kind))
	if err != nil {
		return false, false, err
	}
	raw, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	kind, run, iteration, err := schemas.ParseSubject(raw.Subject)
	here = err == nil && kind == s.Kind && run == s.Run && iteration >= s.Begin && iteration < s.End
	return here, raw.Header.Get(headerWas) != "", nil
}

// search finds the parts of a log whose ends stand, or stood in a log before, at those of a source. restored tells that any of
// its messages was restored.
func (c *Conn) search(ctx context.Context, s Source) (found []Source, restored bool, err error) {
	// by generation: 0 is the log as it is, 1 the one from which it was restored
	var parts []part
	for i := s.Begin; i < s.End; i++ {
		selected := scan{stream: StreamName(s.Kind), subject: schemas.Subject(s.Kind, s.Run, i), ids: true}
		err := c.scan(ctx, selected, func(e entry) error {
			places := append([]uint64{e.seq}, placesOf(e.header)...)
			restored = restored || len(places) > 1
			for generation, at := range places {
				if generation == len(parts) {
					parts = append(parts, part{})
				}
				if at >= s.First && at <= s.Last {
					parts[generation].add(e.seq, at)
				}
			}
			return nil
		})
		if err != nil {
			return nil, restored, err
		}
	}
	for _, p := range parts {
		located := s
		located.First, located.Last = p.first, p.last
		if p.lowest == s.First && p.highest == s.Last && !slices.Contains(found, located) {
			found = append(found, located)
		}
	}
	return found, restored, nil
}

// part is a part of a log: where its ends stand, and where they stood in one log.
type part struct{ first, last, lowest, highest uint64 }

func (p *part) add(seq, at uint64) {
	if p.first == 0 {
		*p = part{seq, seq, at, at}
	}
	p.first, p.last = min(p.first, seq), max(p.last, seq)
	p.lowest, p.highest = min(p.lowest, at), max(p.highest, at)
}

// placesOf are the sequences that a restored message had in former logs, the newest first.
func placesOf(header nats.Header) []uint64 {
	var places []uint64
	for text := range strings.SplitSeq(header.Get(headerWas), ",") {
		seq, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return places
		}
		places = append(places, seq)
	}
	return places
}

// Survey finds the part of a run's log that holds its iterations from first up to, and without, end. It reads the ids
// alone. ErrIncomplete, with what is missing, when an iteration is open, has pairs in flight in front of this log, or has
// lost some from it.
func (c *Conn) Survey(ctx context.Context, kind schemas.Kind, run string, first, end uint32) (Source, error) {
	out := Source{Run: run, Kind: kind, Begin: first, End: end}
	if !carriesPair(kind) {
		return out, fmt.Errorf("streams: survey: %s has no pairs", kind)
	}
	for i := first; i < end; i++ {
		seen, span, err := c.idsIn(ctx, Source{Run: run, Kind: kind}, i)
		if err != nil {
			return out, err
		}
		if err := c.surveyed(ctx, kind, run, i, seen); err != nil {
			return out, err
		}
		if len(seen) == 0 {
			return out, fmt.Errorf("%w: iteration %d of run %s has no %s: all its pairs are dead-lettered", ErrIncomplete, i, run, kind)
		}
		if out.First == 0 || span.First < out.First {
			out.First = span.First
		}
		out.Last = max(out.Last, span.Last)
	}
	return out, nil
}

// surveyed holds an iteration's ids in a log against the ledger.
func (c *Conn) surveyed(ctx context.Context, kind schemas.Kind, run string, iteration uint32, seen map[string]bool) error {
	total, closed := 0, false
	err := c.Read(ctx, schemas.Control, run, int(iteration), 0, func(r Received) error {
		if m, ok := r.Message.(*events.Control); ok && m.GetKind() == ControlClosed {
			total, closed = int(m.GetTotal()), true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !closed {
		return fmt.Errorf("%w: iteration %d of run %s is not closed: its prompts are not all in the log, or it has not begun",
			ErrIncomplete, iteration, run)
	}
	letters, err := c.letters(ctx, run, int(iteration))
	if err != nil {
		return err
	}
	dead := map[string]bool{}
	for _, l := range letters {
		if id := l.GetPairId(); id != "" && !seen[id] {
			dead[id] = true
		}
	}
	missing := total - len(seen) - len(dead)
	if missing <= 0 {
		return nil
	}
	reason, expired, err := c.expired(ctx, run, iteration)
	if err != nil {
		return err
	}
	if expired {
		return fmt.Errorf("%w: iteration %d of run %s lacks %d of %d %s: its retention has removed them (%s)", ErrIncomplete,
			iteration, run, missing, total, kind, reason)
	}
	begins, err := c.begins(ctx, kind)
	if err != nil {
		return err
	}
	if begins > 1 {
		return fmt.Errorf("%w: iteration %d of run %s lacks %d of %d %s: sequences 1 to %d of stream %s are gone "+
			"(streams.max_age, or a retention rule)", ErrIncomplete, iteration, run, missing, total, kind, begins-1, StreamName(kind))
	}
	return fmt.Errorf("%w: iteration %d of run %s has %d of %d %s: the others are in flight, or were deleted "+
		"(`ldalign audit %s` tells which)", ErrIncomplete, iteration, run, len(seen), total, kind, run)
}

// begins is the lowest sequence that a kind's stream still holds.
func (c *Conn) begins(ctx context.Context, kind schemas.Kind) (uint64, error) {
	stream, err := c.js.Stream(ctx, StreamName(kind))
	if err != nil {
		return 0, fmt.Errorf("streams: %s: %w", kind, err)
	}
	return stream.CachedInfo().State.FirstSeq, nil
}

// Count is the number of pairs of an iteration in a source.
func (c *Conn) Count(ctx context.Context, s Source, iteration uint32) (int, error) {
	s, err := c.Locate(ctx, s)
	if err != nil {
		return 0, err
	}
	seen, _, err := c.idsIn(ctx, s, iteration)
	return len(seen), err
}

// idsIn are the ids of an iteration in a source, and where the first and the last of them stand. A Last of 0 reads to the
// end.
func (c *Conn) idsIn(ctx context.Context, s Source, iteration uint32) (map[string]bool, Source, error) {
	seen, span := map[string]bool{}, Source{Run: s.Run, Kind: s.Kind}
	selected := scan{
		stream: StreamName(s.Kind), subject: schemas.Subject(s.Kind, s.Run, iteration), from: s.First, ids: true,
	}
	err := c.scan(ctx, selected, func(e entry) error {
		if s.Last > 0 && e.seq > s.Last {
			return ErrStop
		}
		id := idOf(e.header)
		if id == "" {
			return nil
		}
		if span.First == 0 {
			span.First = e.seq
		}
		if !seen[id] {
			span.Last = e.seq
		}
		seen[id] = true
		return nil
	})
	if err != nil {
		return nil, span, fmt.Errorf("streams: %s of run %s, iteration %d: %w", s.Kind, s.Run, iteration, err)
	}
	return seen, span, nil
}

// Recall returns an iteration of a source, for the run that reads it, as Collect returns one of a run's own: unique by id and
// in the order of the prompts' positions, and bytes that are no message become dead letters, of that run. It waits for
// nothing. want is how many pairs there were when the source was chosen, negative when that is not known; ErrIncomplete when
// the log has lost some since then. onProgress, nil for none, gets the number of pairs so far.
func (c *Conn) Recall(
	ctx context.Context, s Source, run string, iteration uint32, want int, onProgress func(have int),
) (Collected, error) {
	s, err := c.Locate(ctx, s)
	if err != nil {
		return Collected{}, err
	}
	begins, err := c.begins(ctx, s.Kind)
	if err != nil {
		return Collected{}, err
	}
	t := tally{messages: map[string]Received{}, dead: map[string]bool{}}
	selected := scan{stream: StreamName(s.Kind), subject: schemas.Subject(s.Kind, s.Run, iteration), from: s.First}
	err = c.scan(ctx, selected, func(e entry) error {
		if e.seq > s.Last {
			return ErrStop
		}
		m, err := open(e.subject, e.data)
		if err != nil {
			d := letterOf("trainer", e, err)
			d.Run, d.Subject = run, schemas.Subject(s.Kind, run, iteration) // a source is only read
			t.addLetter(d)
			return c.bury(ctx, d)
		}
		t.add(Received{Message: m, Stream: e.stream, Subject: e.subject, Seq: e.seq, Time: e.time})
		if onProgress != nil {
			onProgress(t.have())
		}
		return nil
	})
	if err != nil {
		return Collected{}, fmt.Errorf("streams: recall %s of run %s, iteration %d: %w", s.Kind, s.Run, iteration, err)
	}
	have := t.have()
	if have == want || want < 0 && begins <= s.First {
		return t.collected(), nil
	}
	reason, expired, err := c.expired(ctx, s.Run, iteration)
	switch {
	case err != nil:
		return Collected{}, err
	case expired:
		return Collected{}, fmt.Errorf("%w: %s of run %s, iteration %d: %d of %d are left, its retention has removed the others (%s)",
			ErrIncomplete, s.Kind, s.Run, iteration, have, want, reason)
	case begins > s.First:
		return Collected{}, fmt.Errorf("%w: %s of run %s: sequences %d to %d of stream %s are gone "+
			"(streams.max_age, or a retention rule)", ErrIncomplete, s.Kind, s.Run, s.First, min(begins-1, s.Last), StreamName(s.Kind))
	}
	return Collected{}, fmt.Errorf("%w: %s of run %s, iteration %d: %d of %d are left between sequences %d and %d: "+
		"restore the stream", ErrIncomplete, s.Kind, s.Run, iteration, have, want, s.First, s.Last)
}

// subjects are what a stage with a source listens to: the iterations of its source, and those of its own run, where a
// redriven dead letter comes.
func (s Stage) subjects() []string {
	var out []string
	for _, i := range s.Iterations {
		out = append(out, schemas.Subject(s.In, s.Source.Run, i), schemas.Subject(s.In, s.Run, i))
	}
	return out
}

// adopted makes a message of the stage's source one of its run, so that everything that comes of it belongs to the run;
// it keeps its id. false for a message that was stored after the source's end.
func (s Stage) adopted(in *input) bool {
	if s.Source == nil || in.body == nil || in.body.GetRun() == s.Run {
		return true
	}
	if in.meta.Sequence.Stream > s.Source.Last {
		return false
	}
	if p := promptOf(in.body); p != nil {
		p.Run = s.Run
	}
	if s.Adopt != nil {
		s.Adopt(in.body)
	}
	return true
}

// original is an adopted message as a dead letter keeps it, or the bytes as they came where they are none.
func (s Stage) original(in *input) []byte {
	if in.body != nil {
		if data, err := proto.Marshal(in.body); err == nil {
			return data
		}
	}
	return in.Data()
}

func (s Stage) checkSource() error {
	switch {
	case s.Source == nil:
		return nil
	case s.Source.Kind != s.In || !carriesPair(s.In):
		return fmt.Errorf("streams: stage %s takes %s, its source has %s", s.Name, s.In, s.Source.Kind)
	case !schemas.ValidRun(s.Source.Run) || s.Source.Run == s.Run:
		return fmt.Errorf("streams: stage %s of run %s: run %q cannot be its source", s.Name, s.Run, s.Source.Run)
	case s.Source.First == 0 || s.Source.First > s.Source.Last || len(s.Iterations) == 0:
		return fmt.Errorf("streams: stage %s: a source needs sequences and iterations", s.Name)
	}
	return nil
}
