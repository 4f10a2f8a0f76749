package derive

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/schemas"
)

// Sweep asks for a replay by each combination of values: an assignment of its Set may have several, with commas between them.
// As is the beginning of the new runs' names.
type Sweep struct{ Replay }

// Member is a run of a sweep.
type Member struct {
	// Set are the assignments by which it differs from the others.
	Set  []string
	Spec schemas.Spec
}

// Needs says which facts Plan needs. It returns the refusals that need none.
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

// Plan gives the runs of the sweep, the values of the first key varying slowest.
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
			return nil, fmt.Errorf("%w: a sweep runs in one process with one tensor engine: compute cannot differ among its runs",
				ErrRequest)
		}
		members[i] = Member{r.Set, spec}
	}
	return members, nil
}

// replays are the requests that the sweep is made of.
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

// combine makes the cartesian product of assignments with several values, the first key varying slowest, and the end of
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
		return nil, nil, fmt.Errorf("%w: no --set has several values; for one replay there is `ldalign replay`", ErrRequest)
	}
	return combinations, names, nil
}

// axesOf reads assignments whose values are separated by commas; a value with a comma stands in double quotes.
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
			return nil, fmt.Errorf("%w: --set %s is given twice: write its values with commas", ErrRequest, key)
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

// nameOf is a text as a run's name can hold it: 0.05 is 0_05.
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
