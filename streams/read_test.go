package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

func TestReadInOrderFromAnywhere(t *testing.T) {
	c := openQuick(t)
	for i := range 40 { // two runs and two iterations, interleaved
		publish(t, c, schemas.Prompts, prompt("r", uint32(i%2), i), prompt("other", 0, i))
	}
	all := stored(t, c, schemas.Prompts, "r")
	if len(all) != 40 {
		t.Fatalf("%d prompts, want 40", len(all))
	}
	for i, r := range all {
		if p := r.Message.(*events.Prompt); p.GetPosition() != uint64(i) || r.Seq != uint64(i+1) {
			t.Fatalf("place %d holds prompt %d at %d", i, p.GetPosition(), r.Seq)
		}
	}
	var odd []uint64
	err := c.Read(testContext(t), schemas.Prompts, "r", 1, all[20].Seq, func(r Received) error {
		odd = append(odd, r.Message.(*events.Prompt).GetPosition())
		if len(odd) == 4 {
			return ErrStop
		}
		return nil
	})
	if want := []uint64{21, 23, 25, 27}; err != nil || !slices.Equal(odd, want) {
		t.Errorf("iteration 1 from %d: %v, %v, want %v", all[20].Seq, odd, err, want)
	}
	boom := errors.New("boom")
	err = c.Read(testContext(t), schemas.Prompts, "r", 0, 0, func(Received) error { return boom })
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want the function's own error", err)
	}
	if none := stored(t, c, schemas.Pairs, "r"); len(none) != 0 {
		t.Errorf("%d pairs in an empty stream", len(none))
	}
}

// A reader whose consumer is deleted continues where it was.
func TestFollowSurvivesItsConsumer(t *testing.T) {
	c := openQuick(t)
	const n = 3 * scanBatch
	publish(t, c, schemas.Prompts, promptList("r", 0, n/2)...)
	var got []uint64
	err := c.Follow(testContext(t), schemas.Prompts, "r", 0, 0, func(r Received) error {
		got = append(got, r.Message.(*events.Prompt).GetPosition())
		switch len(got) {
		case n / 4:
			stream, err := c.js.Stream(testContext(t), r.Stream)
			if err != nil {
				return err
			}
			for name := range stream.ConsumerNames(testContext(t)).Name() {
				if err := stream.DeleteConsumer(testContext(t), name); err != nil {
					return err
				}
			}
		case n / 2:
			return c.Publish(testContext(t), schemas.Prompts, promptList("r", 0, n)...)
		case n:
			return ErrStop
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, position := range got {
		if position != uint64(i) {
			t.Fatalf("place %d: prompt %d", i, position)
		}
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	ctx, cancel := context.WithCancel(testContext(t))
	err := c.Follow(ctx, schemas.Prompts, "r", 0, 0, func(Received) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestLastAndFind(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	if _, err := c.Last(ctx, schemas.Control, "r"); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty stream: got %v, want ErrNotFound", err)
	}
	spec := &events.Control{Schema: 1, Run: "r", Kind: events.ControlSpec, SpecDigest: "d"}
	publish(t, c, schemas.Control, spec, closedAt("r", 0, 3), closedAt("r", 1, 4), closedAt("other", 5, 5))
	last, err := c.Last(ctx, schemas.Control, "r")
	if err != nil || last.Message.ID() != "closed-1" || last.Seq != 3 {
		t.Errorf("last: %v at %d, %v", last.Message, last.Seq, err)
	}
	found, err := c.Find(ctx, schemas.Control, "r", "spec-0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, found.Message, protocmp()); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if _, err := c.Find(ctx, schemas.Control, "r", "finished-0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such id: got %v, want ErrNotFound", err)
	}
}

func TestTail(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0), prompt("r", 1, 1), prompt("s", 0, 2))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)))
	garbage := sealedAs("ldalign.prompts.r.0", "prompts:x", []byte("\xff"))
	if err := c.send(testContext(t), schemas.Prompts, garbage); err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string][]string{
		"prompts":             {"r_PROMPTS 1", "r_PROMPTS 2", "r_PROMPTS 3", "s_PROMPTS 1"},
		"ldalign.>":           {"r_PROMPTS 1", "r_PROMPTS 2", "r_PROMPTS 3", "r_SCORED 1", "s_PROMPTS 1"},
		"ldalign.*.r.0":       {"r_PROMPTS 1", "r_PROMPTS 3", "r_SCORED 1"},
		"ldalign.prompts.s.>": {"s_PROMPTS 1"},
	} {
		t.Run(subject, func(t *testing.T) {
			var got []string
			err := c.Tail(testContext(t), subject, time.Time{}, func(l Line) error {
				place := fmt.Sprintf("%s %d", strings.TrimPrefix(l.Stream, "LDALIGN_"), l.Seq)
				got = append(got, place)
				if !json.Valid(l.JSON) {
					t.Errorf("%s is not JSON: %s", place, l.JSON)
				}
				if (place == "r_PROMPTS 3") != strings.Contains(string(l.JSON), `"error":`) {
					t.Errorf("%s: %s", place, l.JSON)
				}
				if place == "r_PROMPTS 2" && !strings.Contains(string(l.JSON), `"promptId":"p001"`) {
					t.Errorf("%s: %s", place, l.JSON)
				}
				if len(got) == len(want) {
					return ErrStop
				}
				return nil
			})
			slices.Sort(got) // streams come in any order
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}
	for _, subject := range []string{"guesses", "foo.>", "ldalign.prompts", "ldalign..r.0", ""} {
		if err := c.Tail(testContext(t), subject, time.Time{}, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %v, want ErrNotFound", subject, err)
		}
	}
}

// Tail since now shows only messages that arrive later.
func TestTailSince(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	publish(t, c, schemas.Prompts, prompt("r", 0, 1))
	since := stored(t, c, schemas.Prompts, "r")[1].Time
	var got []uint64
	err := c.Tail(testContext(t), "prompts", since, func(l Line) error {
		if got = append(got, l.Seq); len(got) == 1 {
			return c.Publish(testContext(t), schemas.Prompts, prompt("r", 0, 2))
		}
		return ErrStop
	})
	if want := []uint64{2, 3}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
