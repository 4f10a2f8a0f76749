package tokenizer

import (
	"fmt"
	"slices"
)

// Fits returns an error if the tokenizer has ids outside a model's vocabulary of the given size.
func (t *Tokenizer) Fits(vocabulary int) error {
	if got := t.Vocab(); got > vocabulary {
		return fmt.Errorf("the tokenizer has ids up to %d, but the model's vocabulary has %d tokens: they do not belong together",
			got-1, vocabulary)
	}
	return nil
}

// Parts encodes a text with the special tokens that the tokenizer adds, in three parts: those before the text, the text's own
// tokens, and those behind it. If the text's tokens cannot be found among all tokens, own has all of them.
func (t *Tokenizer) Parts(text string) (before, own, behind []int64, err error) {
	whole, err := t.Encode(text, true)
	if err != nil {
		return nil, nil, nil, err
	}
	bare, err := t.Encode(text, false)
	if err != nil {
		return nil, nil, nil, err
	}
	for i := 0; i+len(bare) <= len(whole); i++ {
		if slices.Equal(whole[i:i+len(bare)], bare) {
			return whole[:i], bare, whole[i+len(bare):], nil
		}
	}
	return nil, whole, nil, nil
}
