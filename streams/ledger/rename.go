package ledger

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Renaming has the saved messages of one run be those of another: as that run's own stages would have written them, with its
// name in every id that is made of it.
type Renaming struct {
	From, To string
	// Digests are the manifest digests of the run's checkpoints, those of the renamed ones by the old ones. Others stay.
	Digests map[string]string
	// Spec renames the run in the spec that it was declared with.
	Spec func(text []byte) ([]byte, error)

	pairs map[string]string // ids that Learn has seen
}

// Learn notes the ids of the pairs in a file that Save has written. Files of prompts, pairs, encoded, scored and dead letters
// are learned before any is renamed.
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
		return nil // what is no message keeps the id that its header says
	})
}

func (n *Renaming) learn(p *events.Prompt) {
	if p == nil || p.GetPairId() != schemas.PairID(n.From, p.GetIteration(), p.GetPromptId(), p.GetSample()) {
		return // not made of the run's name
	}
	n.pairs[p.GetPairId()] = schemas.PairID(n.To, p.GetIteration(), p.GetPromptId(), p.GetSample())
}

// Pair is the id of a pair under the new name; the same for one that was not learned.
func (n *Renaming) Pair(id string) string { return renamed(n.pairs, id) }

func renamed(names map[string]string, name string) string {
	if other, ok := names[name]; ok {
		return other
	}
	return name
}

// Rename writes the saved messages that it reads under the new name, each at its old sequence. ErrBackup when they are none.
func (n *Renaming) Rename(r io.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	err := eachSaved(r, func(s savedMessage) error {
		kind, run, iteration, err := schemas.ParseSubject(s.Subject)
		if err != nil || run != n.From {
			return fmt.Errorf("%w: message at %d is on %q", ErrBackup, s.Seq, s.Subject)
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
	at := strings.LastIndex(id, "-") // a letter's is <stream>-<sequence>
	return n.stream(id[:max(at, 0)]) + id[max(at, 0):]
}

// stream renames a stream of the run; others stay.
func (n *Renaming) stream(name string) string {
	for _, log := range streams.Logs() {
		if name == streams.StreamName(log, n.From) {
			return streams.StreamName(log, n.To)
		}
	}
	return name
}

// data renames a message. Bytes that are none stay as they are.
func (n *Renaming) data(subject string, data []byte) ([]byte, error) {
	m, err := decode(subject, data)
	if err != nil {
		return data, nil //nolint:nilerr // it is no message, and stays none
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
		return nil //nolint:nilerr // of no message of the run
	}
	if m.Original, err = n.data(m.GetSubject(), m.GetOriginal()); err != nil {
		return err
	}
	m.Subject = schemas.Subject(kind, n.To, iteration)
	return nil
}
