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
		selected := Part{Kind: s.Kind, Run: s.Run, Iteration: int(i), Headers: true}
		err := c.Scan(ctx, selected, func(e Entry) error {
			places := append([]uint64{e.Seq}, placesOf(e.Header)...)
			restored = restored || len(places) > 1
			for generation, at := range places {
				if generation == len(parts) {
					parts = append(parts, part{})
				}
				if at >= s.First && at <= s.Last {
					parts[generation].add(e.Seq, at)
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
	if p := events.PromptOf(in.body); p != nil {
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
	case s.Source.Kind != s.In || !s.In.CarriesPair():
		return fmt.Errorf("streams: stage %s takes %s, its source has %s", s.Name, s.In, s.Source.Kind)
	case !schemas.ValidRun(s.Source.Run) || s.Source.Run == s.Run:
		return fmt.Errorf("streams: stage %s of run %s: run %q cannot be its source", s.Name, s.Run, s.Source.Run)
	case s.Source.First == 0 || s.Source.First > s.Source.Last || len(s.Iterations) == 0:
		return fmt.Errorf("streams: stage %s: a source needs sequences and iterations", s.Name)
	}
	return nil
}
