package report

import (
	"math"
)

// summary of several values: N, mean, and the sample standard deviation (divisor n − 1), which is 0 for fewer than two.
type summary struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
	SD   float64 `json:"sd"`
}

func summarise(values []float64) summary {
	s := summary{N: len(values)}
	if s.N == 0 {
		return s
	}
	for _, v := range values {
		s.Mean += v / float64(s.N)
	}
	if s.N < 2 {
		return s
	}
	sum := 0.0
	for _, v := range values {
		sum += (v - s.Mean) * (v - s.Mean)
	}
	s.SD = math.Sqrt(sum / float64(s.N-1))
	return s
}

// finite says whether v can be shown; numbers beyond 1e15 are as broken as infinite ones.
func finite(v float64) bool { return math.Abs(v) < 1e15 }

// z95 is the 97.5 % quantile of the normal distribution.
const z95 = 1.959963984540054

// wilson is the 95 % score interval of a proportion, k of n; [0, 1] without a trial.
func wilson(k, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	p, m := float64(k)/float64(n), float64(n)
	centre := p + z95*z95/(2*m)
	half := z95 * math.Sqrt(p*(1-p)/m+z95*z95/(4*m*m))
	scale := 1 + z95*z95/m
	return max(0, (centre-half)/scale), min(1, (centre+half)/scale)
}

// effectiveSampleSize is (Σw)² / Σw²: how many equally weighted pairs would carry as much. 0 without weight.
func effectiveSampleSize(weights []float64) float64 {
	var sum, squares float64
	for _, w := range weights {
		sum += w
		squares += w * w
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / squares
}

// histogram counts the values in n equal bins over [0, top]; the last bin includes top. Values outside are not counted.
func histogram(values []float64, top float64, n int) []int {
	counts := make([]int, n)
	for _, v := range values {
		if !(v >= 0 && v <= top) || top <= 0 { // also when v is not a number
			continue
		}
		counts[min(int(v/top*float64(n)), n-1)]++
	}
	return counts
}
