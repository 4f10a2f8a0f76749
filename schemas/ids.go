package schemas

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// PairID returns the id of a pair: 32 hexadecimal digits of a hash over run, iteration, prompt id and sample number. A stage
// that processes a prompt twice therefore gives its output the same id, and the log stores it once.
func PairID(run string, iteration uint32, promptID string, sample uint32) string {
	sum := digest("pair", run, number(uint64(iteration)), promptID, number(uint64(sample)))
	return hex.EncodeToString(sum[:16])
}

// SampleSeed returns the seed of the text sampled for one pair. It does not depend on the run's name, so two runs with the
// same seed, prompts and checkpoint sample the same text, and methods can be compared on equal samples.
func SampleSeed(seed uint64, iteration uint32, promptID string, sample uint32) uint64 {
	sum := digest("sample", number(seed), number(uint64(iteration)), promptID, number(uint64(sample)))
	return binary.LittleEndian.Uint64(sum[:8])
}

// SubSeed derives an independent seed for a named purpose (shuffle, word dropout, initial weights).
func SubSeed(seed uint64, purpose string, index uint64) uint64 {
	sum := digest("purpose", number(seed), purpose, number(index))
	return binary.LittleEndian.Uint64(sum[:8])
}

// digest hashes length-prefixed parts, so that no two lists of parts collide by concatenation.
func digest(parts ...string) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(p))))
		h.Write([]byte(p))
	}
	return [32]byte(h.Sum(nil))
}

func number(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
