package schemas_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
)

// TestIDsAreStable: a run that was started by an older build must find its pairs and draw the same samples. The
// values were computed by a few lines of Python from the doc comments.
func TestIDsAreStable(t *testing.T) {
	if got, want := schemas.PairID("demo", 2, "p17", 1), "5d5e8758e58a221b7b3c019442c4c539"; got != want {
		t.Errorf("pair id: got %s, want %s", got, want)
	}
	if got, want := schemas.SampleSeed(1, 2, "p17", 1), uint64(13258958554105368453); got != want {
		t.Errorf("sample seed: got %d, want %d", got, want)
	}
	if got, want := schemas.SubSeed(1, "shuffle", 3), uint64(625566113526158821); got != want {
		t.Errorf("sub seed: got %d, want %d", got, want)
	}
}

func TestPairIDsDiffer(t *testing.T) {
	base := schemas.PairID("ab", 1, "c", 0)
	for name, other := range map[string]string{
		"run":                     schemas.PairID("a", 1, "c", 0),
		"iteration":               schemas.PairID("ab", 2, "c", 0),
		"prompt":                  schemas.PairID("ab", 1, "d", 0),
		"sample":                  schemas.PairID("ab", 1, "c", 1),
		"letters moved over":      schemas.PairID("a", 1, "bc", 0),
		"iteration for sample":    schemas.PairID("ab", 0, "c", 1),
		"prompt with its numbers": schemas.PairID("ab", 1, "c\x00", 0),
	} {
		if other == base {
			t.Errorf("another %s gives the same id", name)
		}
	}
	if len(base) != 32 || strings.Trim(base, "0123456789abcdef") != "" {
		t.Errorf("pair id %q is not 32 hexadecimal digits", base)
	}
}

func TestSubjectRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(schemas.Kinds()).Draw(t, "kind")
		run := rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,62}`).Draw(t, "run")
		iteration := rapid.Uint32().Draw(t, "iteration")
		k, r, i, err := schemas.ParseSubject(schemas.Subject(kind, run, iteration))
		if err != nil || k != kind || r != run || i != iteration {
			t.Fatalf("got %s, %s, %d, %v", k, r, i, err)
		}
	})
}

func TestValidRun(t *testing.T) {
	rule := regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(
			rapid.StringMatching(`[a-z0-9_-]{0,65}`), rapid.StringMatching(`[a-z0-9][a-z0-9_-]{61,63}`), rapid.String(),
		).Draw(t, "name")
		if got := schemas.ValidRun(name); got != rule.MatchString(name) {
			t.Errorf("%q: %v", name, got)
		}
	})
}

func TestParseSubjectErrors(t *testing.T) {
	for subject, want := range map[string]string{
		"":                         `schemas: subject "" is not ldalign.<kind>.<run>.<iteration>`,
		"other.pairs.demo.0":       `schemas: subject "other.pairs.demo.0" is not ldalign.<kind>.<run>.<iteration>`,
		"ldalign.pairs.Demo.0":     `schemas: subject "ldalign.pairs.Demo.0" is not ldalign.<kind>.<run>.<iteration>`,
		"ldalign.pairs.demo.0.1":   `schemas: subject "ldalign.pairs.demo.0.1" is not ldalign.<kind>.<run>.<iteration>`,
		"ldalign.words.demo.0":     `schemas: subject "ldalign.words.demo.0": unknown kind "words"`,
		"ldalign.pairs.demo.-1":    `schemas: subject "ldalign.pairs.demo.-1": iteration "-1" is not a number`,
		"ldalign.pairs.demo.01":    `schemas: subject "ldalign.pairs.demo.01": iteration "01" is not a number`,
		"ldalign.pairs.demo.5e9":   `schemas: subject "ldalign.pairs.demo.5e9": iteration "5e9" is not a number`,
		"ldalign.pairs.demo.*":     `schemas: subject "ldalign.pairs.demo.*": iteration "*" is not a number`,
		"ldalign.pairs.demo.1e400": `schemas: subject "ldalign.pairs.demo.1e400": iteration "1e400" is not a number`,
	} {
		if _, _, _, err := schemas.ParseSubject(subject); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", subject, err, want)
		}
	}
}

func TestWildcards(t *testing.T) {
	if got, want := schemas.RunSubjects(schemas.Pairs, "demo"), "ldalign.pairs.demo.*"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := schemas.KindSubjects(schemas.Pairs), "ldalign.pairs.>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzParseSubject(f *testing.F) {
	f.Add("ldalign.pairs.demo.0")
	f.Add("ldalign.control.a_b-c.4294967295")
	f.Fuzz(func(t *testing.T, subject string) {
		kind, run, iteration, err := schemas.ParseSubject(subject)
		if err == nil && schemas.Subject(kind, run, iteration) != subject {
			t.Errorf("%q reads as %s, %s, %d", subject, kind, run, iteration)
		}
	})
}
