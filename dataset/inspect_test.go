package dataset

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInspect(t *testing.T) {
	set := Set{Report: Report{Source: "here", Read: 4, Kept: 3}}
	for i, texts := range [][3]string{{"é", "abc", ""}, {"ab", "abcdefghi", "a"}, {"abcd", "x", ""}} {
		set.Records = append(set.Records, Record{ID: texts[0], Line: i + 1, Prompt: texts[0], Response: texts[1], Rejected: texts[2]})
	}
	measured := int64(0)
	in, err := Inspect(t.Context(), set, Characters(), 2, func(n int64) { measured += n })
	if err != nil {
		t.Fatal(err)
	}
	want := []Lengths{
		{
			Of: "prompt", Count: 3, Min: 1, Median: 2, P90: 4, P99: 4, Max: 4, Mean: 7.0 / 3,
			Histogram: []LengthBin{{1, 1}, {2, 1}, {4, 1}},
		},
		{
			Of: "response", Count: 3, Min: 1, Median: 3, P90: 9, P99: 9, Max: 9, Mean: 13.0 / 3,
			Histogram: []LengthBin{{1, 1}, {2, 0}, {4, 1}, {8, 0}, {16, 1}},
		},
		{Of: "rejected", Count: 1, Min: 1, Median: 1, P90: 1, P99: 1, Max: 1, Mean: 1, Histogram: []LengthBin{{1, 1}}},
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-12 && b-a < 1e-12 })
	if diff := cmp.Diff(want, in.Lengths, near); diff != "" {
		t.Errorf("lengths (-want +got):\n%s", diff)
	}
	if in.Unit != "characters" || in.Kept != 3 || in.Digest != set.Digest() || measured != 3 {
		t.Errorf("%+v, %d measured", in, measured)
	}
	if diff := cmp.Diff(set.Records[:2], in.Examples); diff != "" {
		t.Errorf("examples (-want +got):\n%s", diff)
	}
	in, err = Inspect(t.Context(), set, Characters(), 9, nil)
	if err != nil || len(in.Examples) != 3 {
		t.Errorf("%d examples, %v", len(in.Examples), err)
	}
	broken := errors.New("no such byte")
	_, err = Inspect(t.Context(), set, Measure{"tokens", func(text string) (int, error) {
		if text == "abcdefghi" {
			return 0, broken
		}
		return 1, nil
	}}, 0, nil)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), `record "ab", response`) {
		t.Errorf("the error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inspect(ctx, set, Characters(), 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}
