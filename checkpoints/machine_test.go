package checkpoints_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
)

// TestMachineIsNotedBeside: a manifest's digest does not depend on where it was made. A note that is missing or unreadable
// counts as no note.
func TestMachineIsNotedBeside(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		here := checkpoints.Machine{CPU: "Z80", Device: "cpu", Threads: 2, Libtorch: "2.1.0"}
		there := checkpoints.Machine{CPU: "6502", Device: "cpu", Threads: 1, Libtorch: "2.1.0"}
		var digests []string
		for _, machine := range []*checkpoints.Machine{&here, &there, nil} {
			m, err := f.Commit(t.Context(), "run", checkpoints.Draft{Kind: checkpoints.State, Machine: machine})
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, m.Digest)
			got, ok, err := f.Machine(t.Context(), m)
			if err != nil || ok != (machine != nil) || ok && got != *machine {
				t.Errorf("noted %+v, read %+v, %v, %v", machine, got, ok, err)
			}
			if machine != &there {
				continue
			}
			key := strings.Replace(m.Key, "/checkpoints/", "/machines/", 1)
			if err := f.store.Put(t.Context(), key, strings.NewReader("{"), 1); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := f.Machine(t.Context(), m); ok || err != nil {
				t.Errorf("an unreadable note: %v, %v", ok, err)
			}
		}
		if digests[0] != digests[1] || digests[0] != digests[2] {
			t.Errorf("the digests differ: %v", digests)
		}
		want := []string{`processor "6502", here "Z80"`, `threads "1", here "2"`}
		if diff := cmp.Diff(want, there.Differences(here)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := here.Differences(here); got != nil {
			t.Errorf("a machine differs from itself: %v", got)
		}
	})
}
