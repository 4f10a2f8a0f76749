package dataset

import (
	"math/bits"
	"math/rand/v2"
)

// random draws from a seeded PCG. It has methods of its own because the standard library guarantees the same draws in every
// Go version for the generator only.
type random struct{ pcg *rand.PCG }

func newRandom(seed uint64) random { return random{rand.NewPCG(seed, 0)} }

// below draws from 0 to n-1, n > 0.
func (r random) below(n int) int {
	high, _ := bits.Mul64(r.pcg.Uint64(), uint64(n))
	return int(high)
}

// between draws from a to b.
func (r random) between(a, b int) int { return a + r.below(b-a+1) }

// share draws from [0, 1).
func (r random) share() float64 { return float64(r.pcg.Uint64()>>11) / (1 << 53) }

// permutation of 0 to n-1.
func (r random) permutation(n int) []int {
	p := make([]int, n)
	for i := range p {
		j := r.below(i + 1)
		p[i] = p[j]
		p[j] = i
	}
	return p
}

func pick[T any](r random, from []T) T { return from[r.below(len(from))] }
