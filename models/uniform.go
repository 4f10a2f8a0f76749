package models

// Uniform is the j-th random number (from 0) in [0, 1), a multiple of 2^-52, of a seed. It decides the j-th token of a
// sampled response, so a text can be sampled again from any of its tokens on, anywhere. The function is SplitMix64's
// finaliser, applied to the seed and then to its result plus (j+1) times 2^64/φ.
func Uniform(seed uint64, j int) float64 {
	const golden = 0x9e3779b97f4a7c15
	return float64(mix(mix(seed)+golden*uint64(j+1))>>12) * 0x1p-52
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
