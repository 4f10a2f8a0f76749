package decode_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/decode"
)

// With weights in bfloat16 a text depends on its request alone: packed, as on the CPU, in any number of slots; in bfloat16
// altogether, as on a GPU, in the same number.
func TestTextOfRoundedWeights(t *testing.T) {
	var requests []decode.Request
	for i := range 7 {
		requests = append(requests, decode.Request{
			IDs: []int64{1, 5, 9, int64(10 + i)}, MaxNew: 12, Seed: uint64(i), Sampling: decode.Sampling{Temperature: 1, TopP: 0.95},
		})
	}
	for _, packed := range []bool{true, false} {
		m, err := models.Load(context.Background(), newEngine(t, 2), "../testdata/llama", models.Options{Packed: packed, Rounded: true})
		if err != nil {
			t.Fatal(err)
		}
		slots := 4
		if packed {
			slots = 7
		}
		all := generate(t, m, requests, decode.Options{Slots: slots})
		for i, r := range requests {
			if diff := cmp.Diff(all[i], generate(t, m, []decode.Request{r}, decode.Options{Slots: 4})[0]); diff != "" {
				t.Errorf("packed %t, request %d (-with the others +alone):\n%s", packed, i, diff)
			}
		}
	}
}
