package streams

import (
	"errors"
	"fmt"

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
	// First and Last bound the sequences that are read, both included. What was stored later is not part of the source. A restore
	// keeps sequences.
	First, Last uint64
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
