package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// book is what an audit knows of the pairs of one iteration. It is designed for a million pairs: each takes 16 bytes for its id
// and 16 for its mark.
type book struct {
	source schemas.Kind
	first  map[schemas.Kind]uint64
	// removed reports that retention has removed the iteration's messages, wherever they were in the log.
	removed bool
	marks   map[pairKey]mark
	// odd holds the ids that are not 32 hexadecimal digits as schemas.PairID makes them, by their hashes.
	odd map[pairKey]string
	// reasons holds the reasons of dead letters and skipped pairs. Marks refer to them by number, from 1.
	reasons    []string
	duplicates int
	unnamed    int
	// computed counts messages by stream and version; Count is 0 in its keys.
	computed map[VersionCount]int
	// mixed counts trained pairs of the previous iteration.
	mixed int
}

// pairKey is a pair id in 16 bytes.
type pairKey [16]byte

// mark is what is known of a pair.
type mark struct {
	// seq is the position of its message on the furthest stream that has it.
	seq uint64
	// on has a bit for each stream that has the pair, in the order of schemas.PairKinds.
	on uint8
	// missing has a bit for each stream that has lost the pair: a later message names it as its parent.
	missing uint8
	// letter and skip are numbers of reasons; 0 for none.
	letter, skip uint8
	flags        flag
}

type flag uint8

const (
	trained      flag = 1 << iota
	twice             // trained twice by the trainer's record
	otherWeights      // made by other weights than the iteration's policy
	expired           // retention has removed the message it was made from
	dropped           // its dead letter was dropped
	unwanted          // dead-lettered by the reader of the source: it is on the source but not trainable
)

func newBook(source schemas.Kind, first map[schemas.Kind]uint64, size uint64) *book {
	return &book{
		source: source, first: first, marks: make(map[pairKey]mark, min(size/4, 1<<20)), odd: map[pairKey]string{},
		computed: map[VersionCount]int{},
	}
}

// key packs an id.
func (b *book) key(id string) pairKey {
	var k pairKey
	if len(id) == 2*len(k) && strings.Trim(id, "0123456789abcdef") == "" {
		if _, err := hex.Decode(k[:], []byte(id)); err == nil {
			return k
		}
	}
	sum := sha256.Sum256([]byte(id))
	copy(k[:], sum[:])
	b.odd[k] = id
	return k
}

// id is the inverse of key.
func (b *book) id(k pairKey) string {
	if id, odd := b.odd[k]; odd {
		return id
	}
	return hex.EncodeToString(k[:])
}

// reason returns the number of a reason, from 1. All reasons from the 255th on share a number.
func (b *book) reason(text string) uint8 {
	i := slices.Index(b.reasons, text)
	if i < 0 && len(b.reasons) == math.MaxUint8 {
		return math.MaxUint8
	}
	if i < 0 {
		b.reasons = append(b.reasons, text)
		i = len(b.reasons) - 1
	}
	return uint8(i + 1)
}

// bit returns a kind's bit in mark.on.
func bit(kind schemas.Kind) uint8 { return 1 << slices.Index(schemas.PairKinds(), kind) }

// furthest returns the last stream that has the pair, or the first stream when none has it.
func (m mark) furthest() schemas.Kind { return schemas.PairKinds()[max(bits.Len8(m.on)-1, 0)] }

// see records a message. Call it for the kinds in the order in which data flows. policy, unless empty, is the digest of the
// weights that the message must name.
func (b *book) see(kind schemas.Kind, e streams.Entry, policy string) {
	id := e.ID()
	if id == "" {
		return // not published by this program: its stage makes it a dead letter without a pair
	}
	k, this := b.key(id), bit(kind)
	m := b.marks[k]
	if m.on&this != 0 && e.Redriven() == "" {
		b.duplicates++
		return
	}
	if version := e.Libtorch(); version != "" && m.on&this == 0 {
		b.computed[VersionCount{Version: version, Stream: kind}]++
	}
	from, seq, said := e.Parent()
	if !said { // stored by an older or another program
		from = kindBefore(kind)
	}
	if from != kind && m.on&bit(from) == 0 {
		if first := b.first[from]; b.removed || first > 1 && seq < first {
			m.flags |= expired
		} else {
			m.missing |= bit(from)
		}
	}
	if m.on < this<<1 { // no later stream has it
		m.seq = e.Seq
	}
	m.on |= this
	if policy != "" && policyOf(kind, e.Data) != policy {
		m.flags |= otherWeights
	}
	b.marks[k] = m
}

// given records a message of a replay's source: the pair is in the log of that kind, and was in the logs before it.
func (b *book) given(kind schemas.Kind, e streams.Entry, policy string) {
	id := e.ID()
	if id == "" {
		return
	}
	k := b.key(id)
	m := b.marks[k]
	m.seq = e.Seq
	m.on |= bit(kind)<<1 - 1
	if policy != "" && policyOf(kind, e.Data) != policy {
		m.flags |= otherWeights
	}
	b.marks[k] = m
}

// letter records a dead letter.
func (b *book) letter(l *events.DeadLetter) {
	if l.GetPairId() == "" {
		b.unnamed++
		return
	}
	k := b.key(l.GetPairId())
	m := b.marks[k]
	if m.letter == 0 {
		m.letter = b.reason(l.GetReason())
	}
	if l.GetDroppedBy() != "" {
		m.flags |= dropped
	}
	if kind, _, _, err := schemas.ParseSubject(l.GetSubject()); err == nil && m.on == 0 && l.GetSequence() < b.first[kind] {
		m.flags |= expired
	}
	if kind, _, _, err := schemas.ParseSubject(l.GetSubject()); err == nil && kind == b.source {
		m.flags |= unwanted
	}
	b.marks[k] = m
}

// take adds the trainer's record. It leaves pairs of the previous iteration to that iteration's audit.
func (b *book) take(r Record, before *book) {
	for _, id := range r.Pairs {
		k := b.key(id)
		m, known := b.marks[k]
		if !known && before != nil {
			if _, mixed := before.marks[k]; mixed {
				b.mixed++
				continue
			}
		}
		if m.flags&trained != 0 {
			m.flags |= twice
		}
		if m.flags |= trained; m.on == 0 && (b.removed || b.first[b.source] > 1) {
			m.flags |= expired
		}
		b.marks[k] = m
	}
	for _, s := range r.Skipped {
		k := b.key(s.ID)
		m := b.marks[k]
		m.skip = b.reason(s.Reason)
		b.marks[k] = m
	}
}

// names counts pairs and keeps the first of them by id.
type names struct {
	most  int // negative for all
	count int
	ids   []string
}

func (n *names) add(id string) {
	n.count++
	if n.most < 0 {
		n.ids = append(n.ids, id)
		return
	}
	at, _ := slices.BinarySearch(n.ids, id)
	if len(n.ids) < n.most {
		n.ids = slices.Insert(n.ids, at, id)
	} else if at < len(n.ids) {
		copy(n.ids[at+1:], n.ids[at:])
		n.ids[at] = id
	}
}

// sorted returns the kept ids in order.
func (n *names) sorted() []string {
	slices.Sort(n.ids)
	return n.ids
}

// settle decides every pair's fate.
func (b *book) settle(out *Balance, r Record, below floors, most int) {
	kinds := schemas.PairKinds()
	found := func() *names { return &names{most: most} }
	lost, unfinished, untrained, twiceTrained, unknown, weights := found(), found(), found(), found(), found(), found()
	gaps := make([]*names, len(kinds))
	for i := range gaps {
		gaps[i] = found()
	}
	flights := found()
	newest := b.newest()
	dead, skipped := map[string]int{}, map[string]int{}
	source := bit(b.source)
	asksForAll := out.Closed && b.asked() == out.Total
	for k, m := range b.marks {
		if b.removed && (m.on&1 == 0 || m.on&source == 0) {
			m.flags |= expired
		}
		if m.letter != 0 && m.skip == 0 && m.flags&(trained|expired) == 0 && (m.on == 0 || m.on&1 == 0 && asksForAll) {
			out.Unnamed++ // no prompt asks for it: another program has put it on a stream
			continue
		}
		count(out, m)
		id := func() string { return b.id(k) }
		if m.flags&expired != 0 && m.on&1 == 0 {
			out.Expired++
		}
		for i := range kinds {
			if m.missing&^m.on&(1<<i) != 0 {
				gaps[i].add(id())
			}
		}
		isTrained := m.flags&trained != 0 || r.Done && !r.Known && m.on&source != 0 && m.flags&unwanted == 0
		if (isTrained || m.skip != 0) && m.on&source == 0 && m.flags&expired == 0 {
			unknown.add(id())
		}
		if m.flags&otherWeights != 0 && m.letter == 0 && m.skip == 0 {
			weights.add(id())
		}
		switch {
		case isTrained:
			out.Trained++
			if m.flags&twice != 0 {
				twiceTrained.add(id())
			}
		case m.letter != 0 && (m.flags&unwanted != 0 || m.on&source == 0):
			dead[b.reasons[m.letter-1]]++
			if m.flags&dropped != 0 {
				out.Dropped++
			}
		case m.skip != 0:
			skipped[b.reasons[m.skip-1]]++
		case m.on&source != 0 && r.Done && m.seq > newest:
			skipped[skippedLate]++
		case m.on&source != 0 && r.Done:
			untrained.add(id())
		case m.on&source != 0:
			out.Ready++
		case below.acknowledged(m.furthest(), m.seq):
			lost.add(id())
		default:
			out.InFlight++
			flights.add(id())
			if r.Done {
				unfinished.add(id())
			}
		}
	}
	for _, id := range flights.sorted() {
		out.Flights = append(out.Flights, Flight{PairID: id, At: b.marks[b.key(id)].furthest()})
	}
	if rest := out.Total - out.Prompts - out.Expired; b.removed && r.Known && out.Closed && rest > 0 {
		// in neither the record nor a dead letter: they were redriven too late to be trained, and have been removed since
		out.Expired += rest
		skipped[skippedLate] += rest
	}
	out.Dead, out.Skipped = reasonCounts(dead), reasonCounts(skipped)
	out.Lost = lost.count + untrained.count
	out.Unnamed += b.unnamed
	out.Duplicates = b.duplicates
	out.Libtorch = b.versions()
	report := func(code string, stream schemas.Kind, n *names, text string) {
		if n.count > 0 {
			out.Findings = append(out.Findings, Finding{code, stream, n.count, n.sorted(), text})
		}
	}
	if out.Closed && out.Prompts+out.Expired != out.Total {
		report(FoundMissing, schemas.Prompts, &names{count: max(out.Total-out.Prompts-out.Expired, out.Prompts+out.Expired-out.Total)},
			fmt.Sprintf("%d pairs were announced, but the log has prompts for %d", out.Total, out.Prompts+out.Expired))
	}
	for i, kind := range kinds {
		report(FoundGap, kind, gaps[i], "no message on "+string(kind)+", but on a later stream: the log has lost it")
	}
	report(FoundLost, "", lost, "acknowledged by a stage, but neither its output nor a dead letter is in the log")
	report(FoundUnfinished, "", unfinished, "in flight, although the iteration has been trained")
	report(FoundUntrained, b.source, untrained, "the trainer received it in time, but its record says neither trained nor skipped")
	report(FoundTwice, "", twiceTrained, "twice in the trainer's record")
	report(FoundUnknown, "", unknown, "in the trainer's record, but not in the log")
	report(FoundWeights, b.source, weights, fmt.Sprintf("made by other weights than the iteration's policy %.12s", r.Policy))
	if r.Problem != "" {
		report(FoundRecord, "", &names{count: 1}, r.Problem)
	}
}

// asked returns the number of pairs whose prompts are in the log.
func (b *book) asked() int {
	n := 0
	for _, m := range b.marks {
		n += int(m.on & 1)
	}
	return n
}

// newest returns the highest position on the source of a pair that the trainer has trained or skipped.
func (b *book) newest() uint64 {
	var newest uint64
	for _, m := range b.marks {
		if (m.flags&trained != 0 || m.skip != 0) && m.on&bit(b.source) != 0 {
			newest = max(newest, m.seq)
		}
	}
	return newest
}

// count counts a pair for each stream that has it.
func count(out *Balance, m mark) {
	for i, n := range []*int{&out.Prompts, &out.Pairs, &out.Encoded, &out.Scored} {
		if m.on&(1<<i) != 0 {
			*n++
		}
	}
}

// versions returns what computed the pairs, ordered by stream and version.
func (b *book) versions() []VersionCount {
	var out []VersionCount
	for v, n := range b.computed {
		v.Count = n
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b VersionCount) int {
		return cmp.Or(cmp.Compare(bit(a.Stream), bit(b.Stream)), cmp.Compare(a.Version, b.Version))
	})
	return out
}

func reasonCounts(counts map[string]int) []ReasonCount {
	var out []ReasonCount
	for reason, n := range counts {
		out = append(out, ReasonCount{reason, n})
	}
	slices.SortFunc(out, func(a, b ReasonCount) int { return strings.Compare(a.Reason, b.Reason) })
	return out
}

// policyOf returns the digest of the weights that made a pair. It reads the digest from the message's bytes without decoding the
// tokens. It is empty when the message names no weights.
func policyOf(kind schemas.Kind, data []byte) string {
	const pairField, policyField = 2, 9
	if kind == schemas.Encoded || kind == schemas.Scored {
		data = fieldOf(data, pairField)
	}
	return string(fieldOf(data, policyField))
}

// fieldOf returns the last value of a bytes field in a protobuf message; nil when it is missing or the message is malformed.
func fieldOf(data []byte, number protowire.Number) []byte {
	var value []byte
	for len(data) > 0 {
		n, kind, size := protowire.ConsumeTag(data)
		if size < 0 {
			return nil
		}
		data = data[size:]
		if n == number && kind == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(data)
			value = v
		}
		if size = protowire.ConsumeFieldValue(n, kind, data); size < 0 {
			return nil
		}
		data = data[size:]
	}
	return value
}
