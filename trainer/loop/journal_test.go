package loop

import (
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// lineCounter counts lines.
type lineCounter int

func (n *lineCounter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' {
			*n++
		}
	}
	return len(p), nil
}

// TestStatesDoNotGrow: after how many steps it may be, a state writes no more lines than its last segment and what is behind
// it, and no more of the steps are in memory; yet each state reads as all steps, and so does what is published.
func TestStatesDoNotGrow(t *testing.T) {
	const size, steps, every = 5, 63, 3
	store, err := checkpoints.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	repository := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	var all checkpoints.Batches
	for i := range 17 {
		all.Pairs = append(all.Pairs, fmt.Sprint("pair ", i))
	}
	all.Earlier, all.Skipped = 4, []checkpoints.Skipped{{ID: "none", Reason: schemas.ReasonEmpty}}
	p := &journal{batches: all, size: size}
	var records []curves.Step
	for step := range steps {
		batch := checkpoints.Batch{Step: step + 1, Epoch: step, Pairs: schedule.Sequence(0, 17)}
		records, all.Steps = append(records, curves.Step{Step: step + 1}), append(all.Steps, batch)
		p.records, p.batches.Steps = append(p.records, records[step]), append(p.batches.Steps, batch)
		if step%every != 0 {
			continue
		}
		p.settle()
		files := p.lines()
		m, err := repository.Commit(t.Context(), "grown", checkpoints.Draft{Kind: checkpoints.State, Files: files})
		if err != nil {
			t.Fatal(err)
		}
		p.committed = &m
		read, err := repository.ReadLines(t.Context(), m, curves.File)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := curves.Read(read); err != nil || !cmp.Equal(records, got) {
			t.Fatalf("records of the state of step %d: %v (-made +read):\n%s", step+1, err, cmp.Diff(records, got))
		}
		got, err := repository.Batches(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("batches of the state of step %d (-made +read):\n%s", step+1, diff)
		}
		var lines lineCounter
		for _, f := range files {
			if f.Write != nil {
				if err := f.Write(&lines); err != nil {
					t.Fatal(err)
				}
			}
		}
		// records and batches: at most a segment and as much again; pairs: the last two and the skipped one, and all of them once
		most := 2*2*size + 3
		if step == 0 {
			most = 2 + len(all.Pairs) + 1
		}
		if int(lines) > most {
			t.Errorf("the state of step %d writes %d lines anew, want %d at most", step+1, lines, most)
		}
		if len(p.records) > 2*size+every || len(p.batches.Steps) != len(p.records) {
			t.Errorf("after step %d, %d records and %d batches are in memory", step+1, len(p.records), len(p.batches.Steps))
		}
	}
	if p.made() != steps {
		t.Errorf("%d steps are made, want %d", p.made(), steps)
	}
	policy, err := repository.Commit(t.Context(), "grown", checkpoints.Draft{
		Kind: checkpoints.Policy, Files: p.complete(func(f checkpoints.File) ([]byte, error) {
			return repository.ReadFile(t.Context(), "grown", f)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	write := map[string]func(io.Writer) error{
		curves.File:             func(w io.Writer) error { return curves.Write(w, records) },
		checkpoints.BatchesFile: all.Write,
	}
	var want []checkpoints.Source
	for name, f := range write {
		want = append(want, checkpoints.Source{Name: name, Write: f})
	}
	plain, err := repository.Commit(t.Context(), "plain", checkpoints.Draft{Kind: checkpoints.Policy, Files: want})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain.Files, policy.Files); diff != "" {
		t.Errorf("what is published is not what was made (-made +published):\n%s", diff)
	}
}
