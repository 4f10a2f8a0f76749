package schedule

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Micro-batches are the batch in its order, each within both bounds unless it is a single example, and none could take the
// next one's first example too.
func TestParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 20).Draw(t, "sizes")
		batch := rapid.Permutation(rapid.Just(Sequence(0, len(sizes))).Draw(t, "batch")).Draw(t, "order")
		p := Plan{Micro: rapid.IntRange(1, 6).Draw(t, "micro"), MicroTokens: rapid.IntRange(1, 90).Draw(t, "tokens")}
		parts := p.Parts(batch, func(i int) int { return sizes[i] })
		if !slices.Equal(slices.Concat(parts...), batch) {
			t.Fatalf("%v is not %v in parts", parts, batch)
		}
		fits := func(part []int) bool {
			sum := 0
			for _, i := range part {
				sum += sizes[i]
			}
			return len(part) <= p.Micro && sum <= p.MicroTokens
		}
		for k, part := range parts {
			if len(part) > 1 && !fits(part) {
				t.Fatalf("%v does not fit", part)
			}
			if k+1 < len(parts) && fits(append(slices.Clone(part), parts[k+1][0])) {
				t.Fatalf("%v could take %d", part, parts[k+1][0])
			}
		}
	})
}
