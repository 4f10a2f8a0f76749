package schemas_test

import (
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

// TestWherePairsComeFrom: what a spec says about y' and distances decides which stages have work.
func TestWherePairsComeFrom(t *testing.T) {
	for _, c := range []struct {
		kind, from, distance   string
		given, samples, guided bool
	}{
		{"ldalign", "", "l2", false, true, true},
		{"ldalign", "data", "cosine", true, false, true},
		{"ldalign", "", "given", true, false, false},
		{"spin", "", "l2", false, true, false},
		{"spin", "data", "l2", true, false, false},
		{"dpo", "", "l2", true, false, false},
		{"sft", "data", "l2", false, false, false},
	} {
		s := schemas.Default()
		s.Run, s.Model.From, s.Data.Train = "r", "m", "f.jsonl"
		s.Objective.Kind, s.Generation.From, s.Objective.Distance = c.kind, c.from, c.distance
		s = schemas.Resolve(s, 1)
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if s.GivenPairs() != c.given || s.Samples() != c.samples || s.NeedsGuide() != c.guided {
			t.Errorf("%+v: given %v, samples %v, needs a guide %v", c, s.GivenPairs(), s.Samples(), s.NeedsGuide())
		}
		if c.distance == "given" && s.Generation.From != "data" {
			t.Errorf("%+v: generation.from is %q", c, s.Generation.From)
		}
	}
	for change, want := range map[string]string{
		"data.subset=5":            "cannot be combined with data.limit",
		"objective.distance=given": "only allowed with objective.kind: ldalign",
		"generation.from=policy":   "generation.from",
		"guide.injection=drip":     "guide.injection",
		"data.train=builtin:demo":  "generation.from: data need",
	} {
		s := schemas.Default()
		s.Run, s.Model.From, s.Data.Train, s.Data.Limit, s.Objective.Kind = "r", "m", "f.jsonl", 3, "spin"
		if strings.HasPrefix(change, "data.train") {
			s.Generation.From = "data"
		}
		if err := schemas.Set(&s, change); err != nil {
			t.Fatal(err)
		}
		if err := schemas.Resolve(s, 1).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", change, err, want)
		}
	}
}

// TestNewKeysLeaveOldDigestsAlone: a new key does not change the digest of a spec that does not set it.
func TestNewKeysLeaveOldDigestsAlone(t *testing.T) {
	s := schemas.Resolve(schemas.Default(), 1)
	digest := s.Digest()
	s.Guide.Injection = ""
	if s.Digest() != digest {
		t.Error("guide.injection: prefix is in the digest")
	}
	s.Guide.Injection = "memory"
	if s.Digest() == digest {
		t.Error("guide.injection: memory is not in the digest")
	}
	s = schemas.Resolve(schemas.Default(), 1)
	s.Data.Columns.Prompt = "question"
	if s.Digest() == digest {
		t.Error("data.columns is not in the digest")
	}
}
