package schemas

import (
	"fmt"
	"strconv"
	"strings"
)

// PolicyRef names a policy of a run. It is written RUN, for the newest policy, or RUN@ITERATION.
type PolicyRef struct {
	Run string
	// Iteration is negative for the newest policy.
	Iteration int
}

// ParsePolicyRef reads RUN or RUN@ITERATION.
func ParsePolicyRef(text string) (PolicyRef, error) {
	run, number, named := strings.Cut(text, "@")
	ref := PolicyRef{Run: run, Iteration: -1}
	ok := ValidRun(run)
	if named {
		n, err := strconv.ParseUint(number, 10, 31)
		ok, ref.Iteration = ok && err == nil, int(n)
	}
	if !ok {
		return PolicyRef{}, fmt.Errorf("%s is not a policy; expected RUN, or RUN@ITERATION with a whole number, such as demo@2",
			quoteShort(text))
	}
	return ref, nil
}

// ParseRunReference reads run:RUN or run:RUN@ITERATION, the form that keys of a spec use.
func ParseRunReference(text string) (PolicyRef, error) {
	rest, ok := strings.CutPrefix(text, runPrefix)
	ref, err := ParsePolicyRef(rest)
	if !ok || err != nil {
		return PolicyRef{}, fmt.Errorf("%s is not a run; expected run:NAME or run:NAME@ITERATION such as run:demo@2", quoteShort(text))
	}
	return ref, nil
}

// FromRun reads the value of a key that can name a run or something else. It reports whether the value names a run.
func FromRun(text string) (PolicyRef, bool) {
	ref, err := ParseRunReference(text)
	return ref, err == nil
}

const runPrefix = "run:"

// Newest reports whether r is the run's newest policy, because it names no iteration.
func (r PolicyRef) Newest() bool { return r.Iteration < 0 }

// String returns RUN or RUN@ITERATION.
func (r PolicyRef) String() string {
	if r.Newest() {
		return r.Run
	}
	return r.Run + "@" + strconv.Itoa(r.Iteration)
}

// Reference returns run:RUN or run:RUN@ITERATION, the form that keys of a spec use.
func (r PolicyRef) Reference() string { return runPrefix + r.String() }
