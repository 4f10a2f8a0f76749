package streams

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// ErrIncomplete: a log does not hold all the pairs that are needed, or not yet.
var ErrIncomplete = errors.New("streams: the log is not complete")

// Source is a part of a run's log that another run reads in place of its own messages. Reading does not change the messages, so
// any number of runs may read it at the same time.
type Source struct {
	Run  string
	Kind schemas.Kind
	// First and Last are the first and the last sequence that is read. Messages stored later do not belong to the source. A
	// restore keeps the sequences.
	First, Last uint64
}

// adopted turns a message of the stage's source into one of the stage's run, so that its outputs belong to that run. The message
// keeps its id. It returns false for a message that was stored after the source's end.
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

// original returns the bytes that a dead letter keeps of an adopted message: encoded again, or as received if undecodable.
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
		return fmt.Errorf("streams: stage %s takes %s, but its source has %s", s.Name, s.In, s.Source.Kind)
	case !schemas.ValidRun(s.Source.Run) || s.Source.Run == s.Run:
		return fmt.Errorf("streams: stage %s of run %s: run %q cannot be its source", s.Name, s.Run, s.Source.Run)
	case s.Source.First == 0 || s.Source.First > s.Source.Last || len(s.Iterations) == 0:
		return fmt.Errorf("streams: stage %s: the source must have sequences and iterations", s.Name)
	}
	return nil
}
