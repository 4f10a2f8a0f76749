package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Renaming turns the saved messages of one run into those of another, as that run's own stages would have written them: every id
// that is computed from the run's name changes.
type Renaming struct {
	From, To string
	// Digests maps the manifest digests of the run's checkpoints to those of the renamed checkpoints. Other digests stay.
	Digests map[string]string
	// Spec renames the run in the spec with which it was declared.
	Spec func(text []byte) ([]byte, error)

	pairs map[string]string // new pair ids by the old ones, from Learn
}

// Learn collects the ids of the pairs in a file that Save has written. Call it for the files of prompts, pairs, encoded, scored
// and dead letters before the first Rename.
func (n *Renaming) Learn(r io.Reader) error {
	if n.pairs == nil {
		n.pairs = map[string]string{}
	}
	return eachSaved(r, func(s savedMessage) error {
		subject, data := s.Subject, s.Data
		m, err := decode(subject, data)
		if letter, ok := m.(*events.DeadLetter); err == nil && ok {
			m, err = decode(letter.GetSubject(), letter.GetOriginal())
		}
		if err == nil {
			n.learn(events.PromptOf(m))
		}
		return nil // bytes that cannot be decoded keep the id in their header
	})
}

func (n *Renaming) learn(p *events.Prompt) {
	if p == nil || p.GetPairId() != schemas.PairID(n.From, p.GetIteration(), p.GetPromptId(), p.GetSample()) {
		return // not computed from the run's name
	}
	n.pairs[p.GetPairId()] = schemas.PairID(n.To, p.GetIteration(), p.GetPromptId(), p.GetSample())
}

// Pair returns the id of a pair under the new name, or the same id if Learn has not seen it.
func (n *Renaming) Pair(id string) string { return renamed(n.pairs, id) }

func renamed(names map[string]string, name string) string {
	if other, ok := names[name]; ok {
		return other
	}
	return name
}

// Rename reads saved messages from r and writes them to w under the new name, each with its old sequence. It returns ErrBackup
// when r does not hold messages of the run.
func (n *Renaming) Rename(r io.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	err := eachSaved(r, func(s savedMessage) error {
		kind, run, iteration, err := schemas.ParseSubject(s.Subject)
		if err != nil || run != n.From {
			return fmt.Errorf("%w: the message at %d has subject %q, which is not of run %s", ErrBackup, s.Seq, s.Subject, n.From)
		}
		if s.Data, err = n.data(s.Subject, s.Data); err != nil {
			return fmt.Errorf("streams: rename %s at %d: %w", kind, s.Seq, err)
		}
		e := s.entry()
		if id := e.ID(); id != "" {
			e = e.As(streams.NewEntry(kind, n.To, iteration, n.id(kind, id), e.Mark(), s.Data))
		}
		s.Subject, s.Header = schemas.Subject(kind, n.To, iteration), e.Header
		return encode.Encode(s)
	})
	if err == nil {
		err = out.Flush()
	}
	return err
}

func decode(subject string, data []byte) (events.Message, error) {
	return streams.Entry{Subject: subject, Data: data}.Open()
}

// id renames the id of a message.
func (n *Renaming) id(kind schemas.Kind, id string) string {
	if kind != schemas.DeadLetters {
		return n.Pair(renamed(n.Digests, id))
	}
	at := strings.LastIndex(id, "-") // a dead letter's id is <stream>-<sequence>
	return n.stream(id[:max(at, 0)]) + id[max(at, 0):]
}

// stream renames a stream of the run. Other names stay.
func (n *Renaming) stream(name string) string {
	for _, log := range streams.Logs() {
		if name == streams.StreamName(log, n.From) {
			return streams.StreamName(log, n.To)
		}
	}
	return name
}

// data renames an encoded message. Bytes that cannot be decoded stay as they are.
func (n *Renaming) data(subject string, data []byte) ([]byte, error) {
	m, err := decode(subject, data)
	if errors.Is(err, streams.ErrNewer) {
		return nil, err
	}
	if err != nil {
		return data, nil //nolint:nilerr // bytes that cannot be decoded stay as they are
	}
	if err := n.message(m); err != nil {
		return nil, err
	}
	return proto.Marshal(m)
}

func (n *Renaming) message(m events.Message) (err error) {
	if p := events.PromptOf(m); p != nil {
		p.Run, p.PairId, p.Checkpoint = n.To, n.Pair(p.GetPairId()), renamed(n.Digests, p.GetCheckpoint())
	}
	switch m := m.(type) {
	case *events.Pair:
		n.pair(m)
	case *events.Encoded:
		n.pair(m.GetPair())
		m.Guide = renamed(n.Digests, m.GetGuide())
	case *events.Scored:
		n.pair(m.GetPair())
		m.Guide = renamed(n.Digests, m.GetGuide())
	case *events.Checkpoint:
		m.Run, m.Digest = n.To, renamed(n.Digests, m.GetDigest())
		m.Key = strings.Replace(m.GetKey(), "runs/"+n.From+"/", "runs/"+n.To+"/", 1)
	case *events.Result:
		m.Run, m.Checkpoint = n.To, renamed(n.Digests, m.GetCheckpoint())
	case *events.Control:
		m.Run = n.To
		if len(m.GetSpec()) > 0 {
			m.Spec, err = n.Spec(m.GetSpec())
		}
	case *events.DeadLetter:
		err = n.letter(m)
	}
	return err
}

func (n *Renaming) pair(p *events.Pair) {
	p.PolicyDigest, p.Reference = renamed(n.Digests, p.GetPolicyDigest()), renamed(n.Digests, p.GetReference())
}

func (n *Renaming) letter(m *events.DeadLetter) (err error) {
	m.Run, m.PairId, m.Stream = n.To, n.Pair(m.GetPairId()), n.stream(m.GetStream())
	kind, run, iteration, err := schemas.ParseSubject(m.GetSubject())
	if err != nil || run != n.From {
		return nil //nolint:nilerr // not a letter of a message of the run
	}
	if m.Original, err = n.data(m.GetSubject(), m.GetOriginal()); err != nil {
		return err
	}
	m.Subject = schemas.Subject(kind, n.To, iteration)
	return nil
}
