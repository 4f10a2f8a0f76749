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

// AuditOptions select what an audit covers.
type AuditOptions struct {
	// Iteration is the iteration to audit, or AllIterations.
	Iteration int
	// Source is the kind that the trainer reads: prompts, pairs or scored.
	Source schemas.Kind
	// Given is set for a replay. It is the part of another run's log that the run reads in place of its own messages. Its pairs
	// count as if they were in the run's own log of that kind and in the logs before it.
	Given *streams.Source
	// First is the run's first iteration: 0, or the one at which a replay begins.
	First uint32
	// Trained is how many iterations have produced a policy. They are audited even when the log holds nothing of them.
	Trained uint32
	// Record returns the trainer's record of an iteration. When it is nil, the audit uses only the log.
	Record func(ctx context.Context, iteration uint32) (Record, error)
	// Names is how many pairs a finding names at most. 0 means 20, a negative number all.
	Names int
	// Progress is called with the number of messages read and their total; nil for none.
	Progress func(done, total uint64)
}

// Record is what the trainer has recorded of an iteration.
type Record struct {
	// Done reports that the iteration has produced its policy, so nothing more of it will be trained.
	Done bool
	// Policy is the digest of the weights that the iteration's pairs must come from; empty when unknown.
	Policy string
	// Known reports that Pairs and Skipped hold what was trained and what was not. A policy of an older program has no such
	// record; then every pair that the trainer found on the source counts as trained.
	Known   bool
	Pairs   []string
	Skipped []Skip
	// Problem says what is wrong with the record itself, such as a pair that an epoch has twice. It is empty when nothing is.
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
// Each term counts unique pair ids. A Finding reports what contradicts the equation or is otherwise wrong.
type Balance struct {
	Iteration uint32 `json:"iteration"`
	// Closed reports that all prompts of the iteration are published. Total is then their number.
	Closed bool `json:"closed"`
	Total  int  `json:"total"`
	// Prompts, Pairs, Encoded and Scored count the pairs seen on each stream.
	Prompts int `json:"prompts"`
	Pairs   int `json:"pairs"`
	Encoded int `json:"encoded"`
	Scored  int `json:"scored"`
	// Expired counts the pairs whose prompts retention has removed from the log: the oldest by age, or those of the whole
	// iteration (Expire).
	Expired int `json:"expired"`
	// Recorded reports that Trained comes from the trainer's own record. Otherwise it comes from the log.
	Recorded bool `json:"recorded"`
	Trained  int  `json:"trained"`
	// Dead counts the pairs that ended as dead letters, ordered by reason. It excludes pairs that reached the trainer despite a
	// dead letter, and pairs that were redriven.
	Dead []ReasonCount `json:"dead_by,omitempty"`
	// Dropped is how many of the dead pairs were dropped (Drop).
	Dropped int `json:"dropped"`
	// Skipped counts the other pairs that the trainer read and did not train on, ordered by reason.
	Skipped []ReasonCount `json:"skipped_by,omitempty"`
	// Ready counts the pairs that wait for the trainer.
	Ready int `json:"ready"`
	// InFlight is the number of pairs on their way to the trainer; Flights names the first of them by id.
	InFlight int      `json:"in_flight"`
	Flights  []Flight `json:"flights,omitempty"`
	// Lost counts the pairs that should be somewhere and are nowhere. Findings name them.
	Lost int `json:"lost"`
	// Unnamed counts dead letters without a pair (a checkpoint event, bytes without an id), and dead-lettered pairs that have no
	// prompt, because another program has put them on the streams.
	Unnamed int `json:"unnamed"`
	// Duplicates counts messages that were stored again after the server had forgotten their ids. Readers drop them.
	Duplicates int `json:"duplicates"`
	// Libtorch counts the pairs on a stream by the version of libtorch that computed their first messages there.
	Libtorch []VersionCount `json:"libtorch,omitempty"`
	// Findings list what is wrong, in a fixed order. There are none when the iteration balances.
	Findings []Finding `json:"findings,omitempty"`
}

// ReasonCount is the number of pairs with one reason.
type ReasonCount struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// VersionCount is the number of pairs on a stream that one version of libtorch computed.
type VersionCount struct {
	Version string       `json:"version"`
	Stream  schemas.Kind `json:"stream"`
	Count   int          `json:"count"`
}

// Flight is a pair in flight, with the last stream that has it.
type Flight struct {
	PairID string       `json:"pair"`
	At     schemas.Kind `json:"at"`
}

// Finding is something that an audit found wrong.
type Finding struct {
	// Code is one of the Found constants.
	Code string `json:"code"`
	// Stream is the kind whose stream the finding is about; empty for none.
	Stream schemas.Kind `json:"stream,omitempty"`
	Count  int          `json:"count"`
	// Pairs names the first pairs, ordered by id.
	Pairs []string `json:"pairs,omitempty"`
	// Text describes the finding in a sentence, without the ids.
	Text string `json:"text"`
}

// Codes of findings. They are short and stable.
const (
	// FoundLost: a stage acknowledged the pair, and neither its output nor a dead letter is in the log.
	FoundLost = "lost"
	// FoundGap: a later stream has the pair, but the message that it was made from is missing in the middle of the log.
	FoundGap = "gap"
	// FoundMissing: the iteration announced more or fewer pairs than it has prompts.
	FoundMissing = "missing"
	// FoundUnfinished: the iteration was trained and the pair is still in flight.
	FoundUnfinished = "unfinished"
	// FoundUntrained: the trainer read the pair, and its record says neither that it was trained nor why it was skipped.
	FoundUntrained = "untrained"
	// FoundTwice: the trainer's record has the pair twice.
	FoundTwice = "trained_twice"
	// FoundUnknown: the trainer's record has a pair, trained or skipped, that the log does not have.
	FoundUnknown = "trained_unknown"
	// FoundWeights: the pair was made by other weights than the iteration's policy.
	FoundWeights = "weights"
	// FoundRecord: the trainer's record contradicts itself.
	FoundRecord = "record"
)

// skippedLate is the reason of a pair that reached the source after its iteration was trained.
const skippedLate = "late"

// DeadTotal returns the number of dead pairs.
func (b Balance) DeadTotal() int { return sum(b.Dead) }

// SkippedTotal returns the number of skipped pairs.
func (b Balance) SkippedTotal() int { return sum(b.Skipped) }

// Balances reports whether the equation of Balance holds and there are no findings.
func (b Balance) Balances() bool {
	fates := b.Trained + b.DeadTotal() + b.SkippedTotal() + b.Ready + b.InFlight + b.Lost
	return len(b.Findings) == 0 && fates == b.Prompts+b.Expired
}

// MarshalJSON adds the totals of dead and skipped pairs, and whether the iteration balances.
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

// Audit returns the balances of a run's iterations in order, computed from the log and the trainer's record. It may run while
// stages work; a pair that moves on meanwhile may be counted at its old place. Audit reads one iteration after the other and
// needs about 40 bytes per pair for at most two iterations.
func Audit(ctx context.Context, conn *streams.Conn, run string, o AuditOptions) ([]Balance, error) {
	if !o.Source.CarriesPair() {
		return nil, fmt.Errorf("streams: audit %s: trainers do not read %q", run, o.Source)
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
	// done is how many of total messages are read.
	done, total uint64
	// before is the book of the previous iteration: the trainer may mix in pairs of that iteration.
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

// survey lists the iterations to audit, counts their messages, and records where each stream begins.
func (a *auditor) survey(ctx context.Context) ([]uint32, error) {
	found := map[uint32]bool{}
	wanted := func(iteration uint32) bool {
		return iteration >= a.o.First && (a.o.Iteration < 0 || a.o.Iteration == int(iteration))
	}
	for iteration := range a.o.Trained {
		found[iteration] = wanted(iteration)
	}
	for iteration, total := range a.announced { // the log may have lost all messages of the iteration
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
		if err != nil && !errors.Is(err, streams.ErrNotFound) { // without a deleted source, its pairs are missing
			return nil, err
		}
		a.first[from.Kind] = state.First
	}
	iterations := slices.Sorted(maps.Keys(found))
	return slices.DeleteFunc(iterations, func(i uint32) bool { return !found[i] }), nil
}

// audit balances one iteration. It reads in an order that gives the right result while stages work: first the trainer's record
// and the stages' acknowledgements, then the logs in the order in which data flows, then the dead letters, and last, in the
// reverse order, what the logs have received meanwhile. So everything that is recorded as trained or acknowledged was stored
// before audit looks for it.
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
				e.Seq += a.o.Given.Last // the run's own positions of that kind follow the source's
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

// given adds what a replay reads of an iteration in its source's log.
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

// tick counts a message and reports the progress.
func (a *auditor) tick() {
	a.done++
	if a.o.Progress != nil {
		a.o.Progress(a.done, max(a.done, a.total))
	}
}

// floors reads the floors of the run's stages.
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

// lowest returns the lowest of the readers' floors.
func lowest(readers []streams.Reader) uint64 {
	return slices.MinFunc(readers, func(a, b streams.Reader) int { return cmp.Compare(a.Floor, b.Floor) }).Floor
}

// floors are the positions up to which a run's stages have acknowledged everything, in the run's own logs and, for a replay, in
// its source's log.
type floors struct {
	own    map[schemas.Kind]uint64
	source uint64
	given  *streams.Source
}

// acknowledged reports whether the stages have acknowledged everything up to position at of the book.
func (f floors) acknowledged(kind schemas.Kind, at uint64) bool {
	if f.given == nil || f.given.Kind != kind {
		return at <= f.own[kind]
	}
	if at <= f.given.Last {
		return at <= f.source
	}
	return at-f.given.Last <= f.own[kind]
}

// kindBefore returns the kind of the message from which a message of this kind is made.
func kindBefore(kind schemas.Kind) schemas.Kind {
	kinds := schemas.PairKinds()
	return kinds[max(slices.Index(kinds, kind)-1, 0)]
}
