package checkpoints_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/checkpoints"
)

// trained draws the record of some whole epochs.
func trained(t *rapid.T) checkpoints.Batches {
	var b checkpoints.Batches
	for i := range rapid.IntRange(2, 12).Draw(t, "pairs") {
		b.Pairs = append(b.Pairs, fmt.Sprint("pair-", i))
	}
	b.Earlier = rapid.IntRange(0, len(b.Pairs)).Draw(t, "earlier")
	for i := range rapid.IntRange(0, 2).Draw(t, "skipped") {
		b.Skipped = append(b.Skipped, checkpoints.Skipped{ID: fmt.Sprint("skipped-", i), Reason: "too_long"})
	}
	batch := rapid.IntRange(1, 5).Draw(t, "batch")
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for epoch := range rapid.IntRange(1, 3).Draw(t, "epochs") {
		order := random.Perm(len(b.Pairs))
		for at := 0; at < len(order); at += batch {
			b.Steps = append(b.Steps, checkpoints.Batch{
				Step: len(b.Steps) + 1, Epoch: epoch, Pairs: order[at:min(at+batch, len(order))],
			})
		}
	}
	return b
}

func written(t rapid.TB, b checkpoints.Batches) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := b.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBatchesAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := trained(t)
		got, err := checkpoints.ReadBatches(written(t, b))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
		if err := got.Verify(true); err != nil {
			t.Error(err)
		}
	})
}

// TestBatchesOfAnyOtherKind: Verify detects a pair that is removed, doubled or exchanged in any step.
func TestBatchesOfAnyOtherKind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := trained(t)
		s := &b.Steps[rapid.IntRange(0, len(b.Steps)-1).Draw(t, "step")]
		pairs := append([]int(nil), s.Pairs...)
		k := rapid.IntRange(0, len(pairs)-1).Draw(t, "place")
		switch rapid.SampledFrom([]string{"take away", "double", "exchange"}).Draw(t, "change") {
		case "take away":
			pairs = append(pairs[:k], pairs[k+1:]...)
		case "double":
			pairs = append(pairs, pairs[k])
		case "exchange":
			pairs[k] = (pairs[k] + 1) % len(b.Pairs)
		}
		s.Pairs = pairs
		if err := b.Verify(true); !errors.Is(err, checkpoints.ErrBatches) {
			t.Errorf("got %v, want ErrBatches", err)
		}
	})
}

func TestBatchesVerify(t *testing.T) {
	ab := []string{"a", "b"}
	step := func(n, epoch int, pairs ...int) checkpoints.Batch {
		return checkpoints.Batch{Step: n, Epoch: epoch, Pairs: pairs}
	}
	for _, test := range []struct {
		name string
		b    checkpoints.Batches
		says string // empty: nothing is wrong
		// part is what is wrong when the record may end within an epoch.
		part string
	}{
		{"whole", checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(1, 0, 1), step(2, 0, 0)}}, "", ""},
		{"part", checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(1, 0, 1)}}, "epoch 0 leaves out pair a", ""},
		{"no step", checkpoints.Batches{Pairs: ab}, "epoch 0 leaves out pair a", ""},
		{
			"skipped within",
			checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(1, 0, 0), step(2, 1, 0, 1)}},
			"epoch 0 leaves out pair b", "epoch 0 leaves out pair b",
		},
		{
			"twice",
			checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(1, 0, 1, 0), step(2, 0, 1)}},
			"epoch 0 trains pair b twice, at steps 1 and 2", "epoch 0 trains pair b twice",
		},
		{"gap", checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(2, 0, 1, 0)}}, "step 2 follows step 0", "step 2"},
		{"back", checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(1, 0, 1, 0), step(2, 2, 0)}}, "of epoch 2", "of epoch 2"},
		{"beyond", checkpoints.Batches{Pairs: ab, Steps: []checkpoints.Batch{step(1, 0, 2)}}, "number 2 of 2", "number 2 of 2"},
		{"same id", checkpoints.Batches{Pairs: []string{"a", "a"}}, "a is listed twice", "a is listed twice"},
		{
			"both",
			checkpoints.Batches{Pairs: ab, Skipped: []checkpoints.Skipped{{ID: "b", Reason: "empty"}}},
			"b is both", "b is both",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for complete, says := range map[bool]string{true: test.says, false: test.part} {
				err := test.b.Verify(complete)
				if says == "" && err != nil || says != "" && (!errors.Is(err, checkpoints.ErrBatches) || !strings.Contains(err.Error(), says)) {
					t.Errorf("complete %v: got %v, want %q", complete, err, says)
				}
			}
		})
	}
}

// TestBatchesOfACheckpoint: Batches reads and verifies a checkpoint's record. A state's may end within an epoch, a policy's
// may not.
func TestBatchesOfACheckpoint(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		part := checkpoints.Batches{Pairs: []string{"a", "b"}, Steps: []checkpoints.Batch{{Step: 1, Pairs: []int{1}}}}
		commit := func(kind checkpoints.Kind, files ...checkpoints.Source) checkpoints.Manifest {
			m, err := f.Commit(t.Context(), "run", checkpoints.Draft{Kind: kind, Files: files})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		file := checkpoints.FromBytes(checkpoints.BatchesFile, written(t, part))
		got, err := f.Batches(t.Context(), commit(checkpoints.State, file))
		if diff := cmp.Diff(part, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("of a state: %v (-want +got):\n%s", err, diff)
		}
		for _, m := range []checkpoints.Manifest{commit(checkpoints.Policy, file), commit(checkpoints.Policy)} {
			if _, err := f.Batches(t.Context(), m); !errors.Is(err, checkpoints.ErrBatches) || !strings.Contains(err.Error(), m.Key) {
				t.Errorf("got %v, want ErrBatches and the checkpoint's name", err)
			}
		}
	})
}

func FuzzReadBatches(f *testing.F) {
	f.Add([]byte(`{"pair":"a"}` + "\n" + `{"skipped":"b","reason":"empty"}` + "\n" + `{"step":1,"epoch":0,"pairs":[0]}` + "\n"))
	f.Add([]byte(`{"step":1,"epoch":-1,"pairs":[-1]}`))
	f.Add([]byte(`{"pair":"a","step":1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := checkpoints.ReadBatches(data)
		if err != nil {
			if !errors.Is(err, checkpoints.ErrBatches) {
				t.Errorf("%v does not wrap ErrBatches", err)
			}
			return
		}
		_ = b.Verify(true) // must not panic
		again, err := checkpoints.ReadBatches(written(t, b))
		if diff := cmp.Diff(b, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("read, written and read: %v\n%s", err, diff)
		}
	})
}
