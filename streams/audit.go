package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Balance is the ledger of one iteration. A pair is asked for by a prompt and ends scored or dead; in between it is in
// flight: Prompts + len(Strays) = Scored + dead + len(InFlight), each counted by unique pair ids.
type Balance struct {
	Iteration uint32
	// Closed tells that the iteration asks for no more pairs than Total.
	Closed bool
	Total  int
	// Prompts, Pairs, Encoded and Scored count the pairs seen on each stream.
	Prompts, Pairs, Encoded, Scored int
	// Dead counts the pairs that ended as dead letters, by reason, in the reasons' order. A pair that is scored all the
	// same is not among them, nor is one that was redriven.
	Dead []ReasonCount
	// InFlight names the pairs that are neither scored nor dead, in the order of their ids.
	InFlight []Flight
	// Strays are pairs seen on a later stream of which no prompt is in the log.
	Strays []string
	// Unnamed counts dead letters that belong to no pair (a checkpoint event, bytes without an id).
	Unnamed int
	// Duplicates counts messages stored again after the streams had forgotten their ids. Readers drop them.
	Duplicates int
}

// ReasonCount is a number of pairs dead for one reason.
type ReasonCount struct {
	Reason string
	Count  int
}

// Flight is a pair in flight and the last stream that has it.
type Flight struct {
	PairID string
	At     schemas.Kind
}

// DeadTotal is the number of dead pairs.
func (b Balance) DeadTotal() int {
	n := 0
	for _, d := range b.Dead {
		n += d.Count
	}
	return n
}

// Complete reports that the iteration is closed and each of its pairs is scored or dead.
func (b Balance) Complete() bool {
	return b.Closed && len(b.InFlight) == 0 && b.Scored+b.DeadTotal() == b.Total
}

// Audit balances every iteration of a run, in order, from what the log holds now. Taken while stages work, a pair may
// be counted in flight that has just been scored.
func (c *Conn) Audit(ctx context.Context, run string) ([]Balance, error) {
	books := map[uint32]*book{}
	page := func(iteration uint32) *book {
		if books[iteration] == nil {
			books[iteration] = &book{at: map[string]schemas.Kind{}, seen: map[schemas.Kind]map[string]bool{}}
		}
		return books[iteration]
	}
	// Upstream first: a pair that moves on meanwhile is then found further down, never missed.
	for _, kind := range pairKinds() {
		s := scan{stream: StreamName(kind), subject: schemas.RunSubjects(kind, run), ids: true}
		err := c.scan(ctx, s, func(e entry) error {
			if _, _, iteration, err := schemas.ParseSubject(e.subject); err == nil {
				page(iteration).see(kind, idOf(e.header), e.header.Get(headerRedriven) != "")
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("streams: audit %s: %w", run, err)
		}
	}
	err := c.Read(ctx, schemas.Control, run, AllIterations, 0, func(r Received) error {
		if m := r.Message.(*events.Control); m.GetKind() == ControlClosed {
			b := page(m.GetIteration())
			b.closed, b.total = true, int(m.GetTotal())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("streams: audit %s: %w", run, err)
	}
	letters, err := c.DeadLetters(ctx, run)
	if err != nil {
		return nil, fmt.Errorf("streams: audit %s: %w", run, err)
	}
	for _, l := range letters {
		b := page(l.GetIteration())
		b.letters = append(b.letters, l.DeadLetter)
	}
	balances := make([]Balance, 0, len(books))
	for _, iteration := range slices.Sorted(maps.Keys(books)) {
		balances = append(balances, books[iteration].balance(iteration))
	}
	return balances, nil
}

// book is what the log says of one iteration.
type book struct {
	seen       map[schemas.Kind]map[string]bool // ids by stream
	at         map[string]schemas.Kind          // the furthest stream that has an id
	letters    []*events.DeadLetter
	duplicates int
	closed     bool
	total      int
}

// see notes a message; kinds are seen in the order in which data flows.
func (b *book) see(kind schemas.Kind, id string, redriven bool) {
	if id == "" {
		return // not published by this program; its stage makes it an unnamed dead letter
	}
	if b.seen[kind] == nil {
		b.seen[kind] = map[string]bool{}
	}
	if b.seen[kind][id] && !redriven {
		b.duplicates++
	}
	b.seen[kind][id] = true
	b.at[id] = kind
}

func (b *book) balance(iteration uint32) Balance {
	out := Balance{
		Iteration: iteration, Closed: b.closed, Total: b.total, Duplicates: b.duplicates,
		Prompts: len(b.seen[schemas.Prompts]), Pairs: len(b.seen[schemas.Pairs]),
		Encoded: len(b.seen[schemas.Encoded]), Scored: len(b.seen[schemas.Scored]),
	}
	reasons := map[string]int{}
	dead := map[string]bool{}
	for _, l := range b.letters {
		id := l.GetPairId()
		switch {
		case id == "":
			out.Unnamed++
		case !dead[id] && !b.seen[schemas.Scored][id]:
			dead[id] = true
			reasons[l.GetReason()]++
			if _, seen := b.at[id]; !seen {
				b.at[id] = schemas.DeadLetters
			}
		}
	}
	for reason, n := range reasons {
		out.Dead = append(out.Dead, ReasonCount{reason, n})
	}
	slices.SortFunc(out.Dead, func(a, b ReasonCount) int { return cmp.Compare(a.Reason, b.Reason) })
	for _, id := range slices.Sorted(maps.Keys(b.at)) {
		if !b.seen[schemas.Prompts][id] {
			out.Strays = append(out.Strays, id)
		}
		if !b.seen[schemas.Scored][id] && !dead[id] {
			out.InFlight = append(out.InFlight, Flight{PairID: id, At: b.at[id]})
		}
	}
	return out
}

// Runs lists, in order, the runs of which the streams hold any message.
func (c *Conn) Runs(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	for _, kind := range schemas.Kinds() {
		stream, err := c.js.Stream(ctx, StreamName(kind))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("streams: runs: %w", err)
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(schemas.KindSubjects(kind)))
		if err != nil {
			return nil, fmt.Errorf("streams: runs: %w", err)
		}
		for subject := range info.State.Subjects {
			if _, run, _, err := schemas.ParseSubject(subject); err == nil {
				found[run] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
