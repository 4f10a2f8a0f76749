package models

import "slices"

// Join is a prompt with its response.
func Join(prompt, response []int64) Sequence {
	return Sequence{IDs: slices.Concat(prompt, response), PromptLen: len(prompt)}
}

// Batch is a few of many sequences, with the shape that they are computed in.
type Batch struct {
	Rows []Sequence
	// Index says which of the many each row is.
	Index []int
	Pad   PadRule
}

// Batches sorts sequences into batches of a fixed shape: at most size rows whose lengths round up to the same multiple
// of step (but not above most). The shape that a sequence is computed in is then a function of its own length, so its
// numbers do not depend on what else there is. Batches come in order of length, rows in the order given.
func Batches(rows []Sequence, size, step, most int) []Batch {
	byLength := map[int][]int{}
	var lengths []int
	for i, row := range rows {
		n := Bucket(len(row.IDs), step, most)
		if byLength[n] == nil {
			lengths = append(lengths, n)
		}
		byLength[n] = append(byLength[n], i)
	}
	slices.Sort(lengths)
	var out []Batch
	for _, n := range lengths {
		for part := range slices.Chunk(byLength[n], size) {
			b := Batch{Index: part, Pad: PadRule{Rows: size, Length: n}}
			for _, i := range part {
				b.Rows = append(b.Rows, rows[i])
			}
			out = append(out, b)
		}
	}
	return out
}
