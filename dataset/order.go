package dataset

import (
	"iter"

	"github.com/ldalign/ldalign/schemas"
)

// Place says which sample of which record is at a position of an iteration.
type Place struct {
	// Position counts the pairs of the iteration, from 0.
	Position uint64
	// Record is the index in Set.Records.
	Record int
	// Sample is the number of the sample among those of its prompt, from 0.
	Sample uint32
}

// Order is the sequence of an iteration over n records: all records in an order shuffled by seed and iteration, each
// with its samples next to each other. It depends on nothing else, so every process that has the spec and the data can
// compute it.
func Order(n int, seed uint64, iteration uint32, samples int) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		order := newRandom(schemas.SubSeed(seed, "prompt order", uint64(iteration))).permutation(n)
		position := uint64(0)
		for _, record := range order {
			for sample := range samples {
				if !yield(Place{position, record, uint32(sample)}) {
					return
				}
				position++
			}
		}
	}
}
