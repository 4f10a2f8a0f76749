package schemas

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is a kind of message. There is one stream per kind.
type Kind string

// The eight kinds, in the order in which data flows.
const (
	Prompts     Kind = "prompts"
	Pairs       Kind = "pairs"
	Encoded     Kind = "encoded"
	Scored      Kind = "scored"
	Checkpoints Kind = "checkpoints"
	DeadLetters Kind = "deadletters"
	Results     Kind = "results"
	Control     Kind = "control"
)

// Kinds lists all kinds in the order in which data flows.
func Kinds() []Kind {
	return []Kind{Prompts, Pairs, Encoded, Scored, Checkpoints, DeadLetters, Results, Control}
}

// PairKinds lists the kinds whose messages carry one pair each, in the order in which data flows.
func PairKinds() []Kind { return []Kind{Prompts, Pairs, Encoded, Scored} }

// CarriesPair reports whether each message of the kind carries one pair.
func (k Kind) CarriesPair() bool { return slices.Contains(PairKinds(), k) }

// Subject returns ldalign.<kind>.<run>.<iteration>.
func Subject(kind Kind, run string, iteration uint32) string {
	return fmt.Sprintf("ldalign.%s.%s.%d", kind, run, iteration)
}

// RunSubjects returns the pattern of one kind of one run, in all iterations.
func RunSubjects(kind Kind, run string) string { return fmt.Sprintf("ldalign.%s.%s.*", kind, run) }

// KindSubjects returns the pattern of one kind in all runs.
func KindSubjects(kind Kind) string { return fmt.Sprintf("ldalign.%s.>", kind) }

// ParseSubject is the inverse of Subject.
func ParseSubject(subject string) (kind Kind, run string, iteration uint32, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 4 || parts[0] != "ldalign" || !ValidRun(parts[2]) {
		return "", "", 0, fmt.Errorf("schemas: subject %q is not ldalign.<kind>.<run>.<iteration>", subject)
	}
	n, err := strconv.ParseUint(parts[3], 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != parts[3] {
		return "", "", 0, fmt.Errorf("schemas: subject %q: iteration %q is not a number", subject, parts[3])
	}
	for _, k := range Kinds() {
		if string(k) == parts[1] {
			return k, parts[2], uint32(n), nil
		}
	}
	return "", "", 0, fmt.Errorf("schemas: subject %q: unknown kind %q", subject, parts[1])
}

// ValidRun reports whether a name can be a run's name: at most 63 lower-case letters, digits, - and _, beginning with a letter
// or a digit. It does not use a regular expression, because it is called for every message.
func ValidRun(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', i > 0 && (c == '-' || c == '_'):
		default:
			return false
		}
	}
	return name != "" && len(name) <= 63
}
