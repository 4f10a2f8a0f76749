package derive

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/schemas"
)

// Sweep asks for a replay with each combination of values. An assignment in Set may have several values, separated by commas. As
// is the prefix of the new runs' names.
type Sweep struct{ Replay }

// Member is a run of a sweep.
type Member struct {
	// Set are the assignments by which it differs from the others.
	Set  []string
	Spec schemas.Spec
}

// Needs returns the facts that Plan needs, or an error if the request can be refused without facts.
func (s Sweep) Needs(parent schemas.Spec) (Needs, error) {
	replays, err := s.replays()
	if err != nil {
		return Needs{}, err
	}
	var all Needs
	for _, r := range replays {
		needs, err := r.Needs(parent)
		if err != nil {
			return Needs{}, fmt.Errorf("%s: %w", r.As, err)
		}
		all = all.and(needs)
	}
	return all, nil
}

// Plan returns the runs of the sweep. The values of the first key vary slowest.
func (s Sweep) Plan(parent schemas.Spec, facts Facts) ([]Member, error) {
	replays, err := s.replays()
	if err != nil {
		return nil, err
	}
	members := make([]Member, len(replays))
	for i, r := range replays {
		spec, err := r.Plan(parent, facts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.As, err)
		}
		if spec.Compute != parent.Compute {
			return nil, fmt.Errorf("%w: a sweep runs in one process with one tensor engine, so compute cannot differ among its runs",
				ErrRequest)
		}
		members[i] = Member{r.Set, spec}
	}
	return members, nil
}

// replays returns the request of each replay in the sweep.
func (s Sweep) replays() ([]Replay, error) {
	combinations, names, err := combine(s.Set)
	if err != nil {
		return nil, err
	}
	replays := make([]Replay, len(combinations))
	seen := map[string]bool{}
	for i, set := range combinations {
		r := s.Replay
		r.As, r.Set = s.As+names[i], set
		if seen[r.As] {
			return nil, fmt.Errorf("%w: two combinations would be named %s", ErrRequest, r.As)
		}
		seen[r.As], replays[i] = true, r
	}
	return replays, nil
}

// axis is a key with its values; short is its part of the runs' names.
type axis struct {
	key, short string
	values     []string
}

// combine returns the cartesian product of assignments with several values, where the first key varies slowest, and the suffix of
// each combination's name.
func combine(assignments []string) (combinations [][]string, names []string, err error) {
	axes, err := axesOf(assignments)
	if err != nil {
		return nil, nil, err
	}
	combinations, names = [][]string{nil}, []string{""}
	for _, x := range axes {
		var more [][]string
		var moreNames []string
		for k, c := range combinations {
			for _, v := range x.values {
				name := names[k]
				if len(x.values) > 1 {
					name += "-" + nameOf(x.short) + "-" + nameOf(v)
				}
				more, moreNames = append(more, append(slices.Clone(c), x.key+"="+v)), append(moreNames, name)
			}
		}
		combinations, names = more, moreNames
	}
	if len(combinations) == 1 {
		return nil, nil, fmt.Errorf("%w: no --set has several values; use `ldalign replay` for a single replay", ErrRequest)
	}
	return combinations, names, nil
}

// axesOf parses assignments whose values are separated by commas; a value that contains a comma is in double quotes.
func axesOf(assignments []string) ([]axis, error) {
	axes := make([]axis, 0, len(assignments))
	for _, a := range assignments {
		key, text, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("%w: --set %q is not key=value or key=value,value", ErrRequest, a)
		}
		values, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			values = []string{text} // an empty text, or a quote within one
		}
		key = strings.TrimSpace(key)
		if slices.ContainsFunc(axes, func(x axis) bool { return x.key == key }) {
			return nil, fmt.Errorf("%w: --set %s is given twice: give all its values in one --set, separated by commas", ErrRequest, key)
		}
		axes = append(axes, axis{key, key[strings.LastIndexByte(key, '.')+1:], values})
	}
	shorts := map[string]int{}
	for _, x := range axes {
		shorts[x.short]++
	}
	for i, x := range axes {
		if shorts[x.short] > 1 {
			axes[i].short = strings.ReplaceAll(x.key, ".", "-")
		}
	}
	return axes, nil
}

// nameOf turns a text into part of a run's name: 0.05 becomes 0_05.
func nameOf(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		case r == '.':
			return '_'
		}
		return '-'
	}, strings.ToLower(text))
}
