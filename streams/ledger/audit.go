package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// AuditOptions say what of a run is audited.
type AuditOptions struct {
	// Iteration is one iteration, or AllIterations.
	Iteration int
	// Source is the stream that the trainer takes pairs from: prompts, pairs or scored.
	Source schemas.Kind
	// Given, not nil for a replay, is the part of another run's log that the run reads in place of its own messages. Its
	// pairs count as if they stood on the run's own log of that kind and on those before it.
	Given *streams.Source
	// First is the run's first iteration: 0, or that at which a replay begins.
	First uint32
	// Trained is how many iterations have made a policy. They are audited even when the log holds nothing of them.
	Trained uint32
	// Record gives the trainer's side of an iteration; nil audits the log alone.
	Record func(ctx context.Context, iteration uint32) (Record, error)
	// Names is how many pairs a finding names at most; 0 takes 20, a negative number all.
	Names int
	// Progress is told how many of total messages have been read; nil for none.
	Progress func(done, total uint64)
}

// Record is what the trainer has noted of an iteration.
type Record struct {
	// Done tells that the iteration has made its policy: nothing more of it will be trained.
	Done bool
	// Policy is the digest of the weights that the iteration's pairs must come from; empty when it is not known.
	Policy string
	// Known tells that Pairs and Skipped are what was trained and what was not. A policy of an older program has no such
	// record; what its trainer found on the source counts as trained then.
	Known   bool
	Pairs   []string
	Skipped []Skip
	// Problem is what is wrong with the record itself, such as a pair that an epoch has twice; empty for nothing.
	Problem string
}

// Skip is a pair that the trainer read and did not train on.
type Skip struct {
	ID string
	// Reason is one of the Reason constants of schemas.
	Reason string
}

// Balance is the ledger of one iteration. Every pair has one fate:
//
//	Prompts + Expired = Trained + Dead + Skipped + Ready + InFlight + Lost
//
// each counted by unique pair ids. What contradicts that, or should not be, is a Finding.
type Balance struct {
	Iteration uint32 `json:"iteration"`
	// Closed tells that the iteration asks for no more pairs than Total.
	Closed bool `json:"closed"`
	Total  int  `json:"total"`
	// Prompts, Pairs, Encoded and Scored count the pairs seen on each stream.
	Prompts int `json:"prompts"`
	Pairs   int `json:"pairs"`
	Encoded int `json:"encoded"`
	Scored  int `json:"scored"`
	// Expired counts the pairs whose prompts retention has removed from the log: by age, from its beginning, or the whole
	// iteration's (Expire).
	Expired int `json:"expired"`
	// Recorded tells that Trained is by the trainer's own record, not by what the log held.
	Recorded bool `json:"recorded"`
	Trained  int  `json:"trained"`
	// Dead counts the pairs that ended as dead letters, in the reasons' order. A pair that came through all the same is not
	// among them, nor is one that was redriven.
	Dead []ReasonCount `json:"dead_by,omitempty"`
	// Dropped is how many of the dead ones somebody has said to be unwanted.
	Dropped int `json:"dropped"`
	// Skipped counts the other pairs that the trainer had and did not train on, in the reasons' order.
	Skipped []ReasonCount `json:"skipped_by,omitempty"`
	// Ready counts the pairs that wait to be trained.
	Ready int `json:"ready"`
	// InFlight is the number of pairs on their way to the trainer; Flights names the first of them by id.
	InFlight int      `json:"in_flight"`
	Flights  []Flight `json:"flights,omitempty"`
	// Lost counts the pairs that are nowhere although they should be; Findings name them.
	Lost int `json:"lost"`
	// Unnamed counts dead letters that belong to no pair (a checkpoint event, bytes without an id), and pairs that have one and
	// that no prompt asks for: what another program has put on the streams.
	Unnamed int `json:"unnamed"`
	// Duplicates counts messages stored again after the streams had forgotten their ids. Readers drop them.
	Duplicates int `json:"duplicates"`
	// Findings are what is wrong, in a fixed order; none when the iteration balances.
	Findings []Finding `json:"findings,omitempty"`
}

// ReasonCount is a number of pairs that have one reason.
type ReasonCount struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// Flight is a pair in flight and the last stream that has it.
type Flight struct {
	PairID string       `json:"pair"`
	At     schemas.Kind `json:"at"`
}

// Finding is something that an audit found wrong.
type Finding struct {
	// Code is one of the Found constants.
	Code string `json:"code"`
	// Stream is the kind of the stream that it is about; empty for none.
	Stream schemas.Kind `json:"stream,omitempty"`
	Count  int          `json:"count"`
	// Pairs names the first of them by id.
	Pairs []string `json:"pairs,omitempty"`
	// Text is a sentence about it without the ids.
	Text string `json:"text"`
}

// What an audit finds. The codes are short and stable.
const (
	// FoundLost: a stage acknowledged the pair, and neither its output nor a dead letter is in the log.
	FoundLost = "lost"
	// FoundGap: a later stream has the pair, and the message that it came from is missing within the log.
	FoundGap = "gap"
	// FoundMissing: the iteration announced more pairs, or fewer, than it asked for.
	FoundMissing = "missing"
	// FoundUnfinished: the iteration was trained and the pair is still in flight.
	FoundUnfinished = "unfinished"
	// FoundUntrained: the trainer had the pair, and its record says neither that it was trained nor why not.
	FoundUntrained = "untrained"
	// FoundTwice: the trainer's record has the pair twice.
	FoundTwice = "trained_twice"
	// FoundUnknown: the trainer's record has a pair, trained or skipped, that the log does not.
	FoundUnknown = "trained_unknown"
	// FoundWeights: the pair was made by other weights than the iteration's policy.
	FoundWeights = "weights"
	// FoundRecord: the trainer's record contradicts itself.
	FoundRecord = "record"
)

// skippedLate is the reason of a pair that reached the source when its iteration had been trained.
const skippedLate = "late"

// DeadTotal is the number of dead pairs.
func (b Balance) DeadTotal() int { return sum(b.Dead) }

// SkippedTotal is the number of skipped pairs.
func (b Balance) SkippedTotal() int { return sum(b.Skipped) }

// Balances tells that every pair is accounted for, the sum holds and nothing is wrong.
func (b Balance) Balances() bool {
	fates := b.Trained + b.DeadTotal() + b.SkippedTotal() + b.Ready + b.InFlight + b.Lost
	return len(b.Findings) == 0 && fates == b.Prompts+b.Expired
}

// MarshalJSON adds what follows from the fields: the totals, and whether the iteration balances.
func (b Balance) MarshalJSON() ([]byte, error) {
	type fields Balance // without this method
	return json.Marshal(struct {
		fields
		Dead     int  `json:"dead"`
		Skipped  int  `json:"skipped"`
		Balanced bool `json:"balanced"`
	}{fields(b), b.DeadTotal(), b.SkippedTotal(), b.Balances()})
}

func sum(counts []ReasonCount) int {
	n := 0
	for _, c := range counts {
		n += c.Count
	}
	return n
}

// Audit balances the iterations of a run, in order, from what the log holds and what the trainer has recorded. It may be
// taken while stages work: a pair that has just moved on may be counted where it was. It reads one iteration after the
// other and keeps some 40 bytes a pair, of two iterations at most.
func Audit(ctx context.Context, conn *streams.Conn, run string, o AuditOptions) ([]Balance, error) {
	if !o.Source.CarriesPair() {
		return nil, fmt.Errorf("streams: audit %s: %q is no stream that a trainer reads", run, o.Source)
	}
	if o.Names == 0 {
		o.Names = 20
	}
	a := auditor{
		Conn: conn, run: run, o: o, announced: map[uint32]int{}, expired: map[uint32]bool{}, first: map[schemas.Kind]uint64{},
	}
	balances, err := a.all(ctx)
	if err != nil {
		return nil, fmt.Errorf("streams: audit %s: %w", run, err)
	}
	return balances, nil
}

// auditor is the state of one Audit.
type auditor struct {
	*streams.Conn
	run       string
	o         AuditOptions
	announced map[uint32]int          // totals of closed iterations
	expired   map[uint32]bool         // iterations of which retention has removed messages
	first     map[schemas.Kind]uint64 // lowest position that retention has left
	// done of total messages are read.
	done, total uint64
	// before is the book of the iteration before: a trainer may mix its pairs in.
	before *book
}

func (a *auditor) all(ctx context.Context) ([]Balance, error) {
	err := a.Read(ctx, schemas.Control, a.run, streams.AllIterations, 0, func(r streams.Received) error {
		switch m := r.Message.(*events.Control); m.GetKind() {
		case events.ControlClosed:
			a.announced[m.GetIteration()] = int(m.GetTotal())
		case events.ControlExpired:
			a.expired[m.GetIteration()] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	iterations, err := a.survey(ctx)
	if err != nil {
		return nil, err
	}
	balances := make([]Balance, 0, len(iterations))
	for _, iteration := range iterations {
		b, err := a.audit(ctx, iteration)
		if err != nil {
			return nil, err
		}
		balances = append(balances, b)
	}
	return balances, nil
}

// survey lists the iterations to audit, counts their messages, and notes where each stream begins.
func (a *auditor) survey(ctx context.Context) ([]uint32, error) {
	found := map[uint32]bool{}
	wanted := func(iteration uint32) bool {
		return iteration >= a.o.First && (a.o.Iteration < 0 || a.o.Iteration == int(iteration))
	}
	for iteration := range a.o.Trained {
		found[iteration] = wanted(iteration)
	}
	for iteration, total := range a.announced { // although the log may have lost all of it
		found[iteration] = found[iteration] || total > 0 && wanted(iteration)
	}
	for _, kind := range append(schemas.PairKinds(), schemas.DeadLetters) {
		state, err := a.State(ctx, kind, a.run)
		if err != nil {
			return nil, err
		}
		a.first[kind] = state.First
		for iteration, n := range state.Messages {
			if !wanted(iteration) {
				continue
			}
			found[iteration] = true
			a.total += n
		}
	}
	if from := a.o.Given; from != nil {
		state, err := a.State(ctx, from.Kind, from.Run)
		if err != nil && !errors.Is(err, streams.ErrNotFound) { // what a deleted source gave is missing
			return nil, err
		}
		a.first[from.Kind] = state.First
	}
	iterations := slices.Sorted(maps.Keys(found))
	return slices.DeleteFunc(iterations, func(i uint32) bool { return !found[i] }), nil
}

// audit balances one iteration. The order of reading is what makes it right beside working stages: the trainer's record
// and the stages' acknowledgements before the log, the log upstream first, the dead letters, and at last, downstream
// first, what came meanwhile. So what is said to be trained or acknowledged was stored before it was looked for.
func (a *auditor) audit(ctx context.Context, iteration uint32) (Balance, error) {
	var record Record
	var err error
	if a.o.Record != nil {
		if record, err = a.o.Record(ctx, iteration); err != nil {
			return Balance{}, err
		}
	}
	floors, err := a.floors(ctx)
	if err != nil {
		return Balance{}, err
	}
	b := newBook(a.o.Source, a.first, a.total)
	b.removed = a.expired[iteration]
	last := map[schemas.Kind]uint64{}
	read := func(kind schemas.Kind, from uint64, bodies bool) error {
		p := streams.Part{Kind: kind, Run: a.run, Iteration: int(iteration), First: from, Headers: !bodies}
		return a.Scan(ctx, p, func(e streams.Entry) error {
			last[kind] = e.Seq
			policy := ""
			if bodies {
				policy = record.Policy
			}
			if a.o.Given != nil && kind == a.o.Given.Kind {
				e.Seq += a.o.Given.Last // the run's own log of that kind goes on behind its source
			}
			b.see(kind, e, policy)
			a.tick()
			return nil
		})
	}
	if a.o.Given != nil {
		if err := a.given(ctx, iteration, b, record); err != nil {
			return Balance{}, err
		}
	}
	for _, kind := range schemas.PairKinds() {
		if err := read(kind, 0, kind == a.o.Source && kind != schemas.Prompts); err != nil {
			return Balance{}, err
		}
	}
	err = a.Read(ctx, schemas.DeadLetters, a.run, int(iteration), 0, func(r streams.Received) error {
		b.letter(r.Message.(*events.DeadLetter))
		a.tick()
		return nil
	})
	if err != nil {
		return Balance{}, err
	}
	for _, kind := range slices.Backward(schemas.PairKinds()[:len(schemas.PairKinds())-1]) {
		if err := read(kind, last[kind]+1, false); err != nil {
			return Balance{}, err
		}
	}
	out := Balance{Iteration: iteration, Recorded: record.Known}
	out.Total, out.Closed = a.announced[iteration]
	b.take(record, a.before)
	b.settle(&out, record, floors, a.o.Names)
	a.before = b
	return out, nil
}

// given enters what a replay reads of an iteration in its source's log.
func (a *auditor) given(ctx context.Context, iteration uint32, b *book, record Record) error {
	from := a.o.Given
	p := streams.Part{
		Kind: from.Kind, Run: from.Run, Iteration: int(iteration), First: from.First, Last: from.Last,
		Headers: from.Kind != a.o.Source || from.Kind == schemas.Prompts,
	}
	err := a.Scan(ctx, p, func(e streams.Entry) error {
		policy := ""
		if !p.Headers {
			policy = record.Policy
		}
		b.given(from.Kind, e, policy)
		a.tick()
		return nil
	})
	if errors.Is(err, streams.ErrNotFound) {
		return nil
	}
	return err
}

// tick tells of one message more.
func (a *auditor) tick() {
	a.done++
	if a.o.Progress != nil {
		a.o.Progress(a.done, max(a.done, a.total))
	}
}

// floors are the run's.
func (a *auditor) floors(ctx context.Context) (floors, error) {
	f := floors{own: map[schemas.Kind]uint64{}, given: a.o.Given}
	for _, kind := range schemas.PairKinds() {
		readers, err := a.Readers(ctx, kind, a.run)
		if err != nil {
			return f, err
		}
		if own := slices.DeleteFunc(slices.Clone(readers), func(r streams.Reader) bool { return r.Source != "" }); len(own) > 0 {
			f.own[kind] = lowest(own)
		}
		if source := slices.DeleteFunc(readers, func(r streams.Reader) bool { return r.Source == "" }); len(source) > 0 {
			f.source = lowest(source)
		}
	}
	return f, nil
}

// lowest is the lowest of the readers' floors.
func lowest(readers []streams.Reader) uint64 {
	return slices.MinFunc(readers, func(a, b streams.Reader) int { return cmp.Compare(a.Floor, b.Floor) }).Floor
}

// floors are the positions up to which a run's stages have acknowledged everything: in the run's own logs and, of a replay, in
// that of its source.
type floors struct {
	own    map[schemas.Kind]uint64
	source uint64
	given  *streams.Source
}

// acknowledged tells whether what stands at a place of the book is below the floor.
func (f floors) acknowledged(kind schemas.Kind, at uint64) bool {
	if f.given == nil || f.given.Kind != kind {
		return at <= f.own[kind]
	}
	if at <= f.given.Last {
		return at <= f.source
	}
	return at-f.given.Last <= f.own[kind]
}

// kindBefore is the kind that a pair has before it has this one.
func kindBefore(kind schemas.Kind) schemas.Kind {
	kinds := schemas.PairKinds()
	return kinds[max(slices.Index(kinds, kind)-1, 0)]
}
