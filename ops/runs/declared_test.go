package runs

import (
	"errors"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// A program reads what a newer one has declared, unless it would compute something else. Then the error names both versions.
func TestDeclaredByAnotherVersion(t *testing.T) {
	s, err := Open(t.Context(), Options{Dir: t.TempDir(), Name: "test", Version: "v1.0.0", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	w := world{s, t}
	t.Cleanup(func() { w.must(s.Close()) })
	for run, test := range map[string]struct{ section, key, refused string }{
		"flow":    {"streams:", "  flow: fast", ""},
		"entropy": {"objective:", "  entropy: 0.1", "objective.entropy: unknown key"},
		"beta":    {"objective:", "", "digest"},
	} {
		spec := w.spec(run)
		text, err := spec.Declaration()
		w.must(err)
		digest := spec.Digest()
		if test.key == "" {
			digest = strings.Repeat("0", len(digest))
		}
		w.publish(schemas.Control, &events.Control{
			Schema: events.Version, Run: run, Kind: events.ControlSpec, SpecDigest: digest, Message: "v2.0.0",
			Spec: []byte(strings.Replace(string(text), test.section+"\n", test.section+"\n"+test.key+"\n", 1)),
		})
		got, err := Spec(t.Context(), s, run)
		if test.refused == "" {
			if err != nil || got.Digest() != spec.Digest() {
				t.Errorf("run %s: %v", run, err)
			}
			continue
		}
		for _, part := range []string{test.refused, "v1.0.0", "v2.0.0"} {
			if !errors.Is(err, lineage.ErrOtherVersion) || !strings.Contains(err.Error(), part) {
				t.Errorf("run %s: got %v, want %q", run, err, part)
			}
		}
	}
}

// Status shows the version of each worker.
func TestStatusShowsVersions(t *testing.T) {
	s, err := Open(t.Context(), Options{Dir: t.TempDir(), Name: "test", Version: "v1.0.0", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	w := world{s, t}
	t.Cleanup(func() { w.must(s.Close()) })
	w.declare(w.spec("r"))
	heartbeat := s.Streams.Announce(t.Context(), "r", "generator")
	t.Cleanup(heartbeat.Close)
	status, err := s.LiveStatus(t.Context(), "r", Pipeline{{Name: "generator", In: schemas.Prompts, Out: schemas.Pairs}})
	w.must(err)
	if workers := status.Live.Stages[0].Workers; len(workers) != 1 || workers[0].Version != "v1.0.0" {
		t.Errorf("workers %+v", workers)
	}
}
