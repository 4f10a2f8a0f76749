package tokenizer

import (
	"fmt"
	"io/fs"
	"slices"
)

// Pairs joins two texts into one sequence, by the post-processor of tokenizer.json: for DeBERTa [CLS] first [SEP] second [SEP].
// Its methods may be called from several goroutines.
type Pairs struct {
	tokenizer *Tokenizer
	pieces    []pairPiece
	special   int // how many special tokens the pieces add
	fromLeft  bool
}

// pairPiece is one of the two texts, or the ids of a special token.
type pairPiece struct {
	text int // 1 or 2; 0 for ids
	ids  []int64
	// segment is 0 or 1.
	segment int
}

// PairTokens are the tokens of a pair.
type PairTokens struct {
	IDs []int64
	// First is how many of IDs belong to the first segment, including the separator behind the first text for DeBERTa.
	First int
	// Cut is how many tokens of the texts were removed.
	Cut int
}

// NewPairs reads from a tokenizer's files how it joins two texts: the post-processor of tokenizer.json, and truncation_side of
// tokenizer_config.json. t must be the tokenizer of the same files. The error wraps ErrFormat if there is no template for pairs.
func NewPairs(t *Tokenizer, files fs.FS) (*Pairs, error) {
	p := &Pairs{tokenizer: t}
	var config struct {
		Side *string `json:"truncation_side"`
	}
	if _, err := readJSON(files, configFile, &config); err != nil {
		return nil, err
	}
	switch side := config.Side; {
	case side == nil || *side == "right":
	case *side == "left":
		p.fromLeft = true
	default:
		return nil, fmt.Errorf("%w: %s: truncation_side is %q", ErrFormat, configFile, *side)
	}
	var file struct {
		Processor processor `json:"post_processor"`
	}
	found, err := readJSON(files, tokenizerFile, &file)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrNoTokenizer
	}
	if err := p.read(file.Processor); err != nil {
		return nil, fmt.Errorf("%w: %s: post_processor: %w", ErrFormat, tokenizerFile, err)
	}
	return p, nil
}

// processor is the post-processor of tokenizer.json.
type processor struct {
	Type string `json:"type"`
	Pair []struct {
		Special *pairPart `json:"SpecialToken"`
		Text    *pairPart `json:"Sequence"`
	} `json:"pair"`
	Special map[string]struct {
		IDs []int64 `json:"ids"`
	} `json:"special_tokens"`
}

type pairPart struct {
	ID      string `json:"id"`
	Segment int    `json:"type_id"`
}

func (p *Pairs) read(from processor) error {
	if from.Type != "TemplateProcessing" {
		return fmt.Errorf("it is %q; only TemplateProcessing joins two texts", from.Type)
	}
	texts := []int{}
	for i, piece := range from.Pair {
		part, out := piece.Text, pairPiece{}
		if part != nil {
			out.text = slices.Index([]string{"A", "B"}, part.ID) + 1
			texts = append(texts, out.text)
		} else if part = piece.Special; part != nil {
			out.ids = from.Special[part.ID].IDs
			for _, id := range out.ids {
				if id < 0 || id >= int64(p.tokenizer.Vocab()) {
					return fmt.Errorf("special token %q has id %d", part.ID, id)
				}
			}
			if len(out.ids) == 0 {
				return fmt.Errorf("special token %q has no ids", part.ID)
			}
			p.special += len(out.ids)
		} else {
			return fmt.Errorf("piece %d is neither a text nor a special token", i)
		}
		if out.segment = part.Segment; out.segment < 0 || out.segment > 1 ||
			(i > 0 && out.segment < p.pieces[i-1].segment) {
			return fmt.Errorf("piece %d is of segment %d; a pair has segment 0 and then 1", i, out.segment)
		}
		p.pieces = append(p.pieces, out)
	}
	if !slices.Equal(texts, []int{1, 2}) {
		return fmt.Errorf("pair has %d texts, want A and then B", len(texts))
	}
	return nil
}

// Special returns how many special tokens a pair has. Encode cannot be asked for fewer tokens.
func (p *Pairs) Special() int { return p.special }

// Encode returns the tokens of a pair, at most most of them; 0 cuts nothing. It cuts as the truncation "longest_first" of
// transformers does: the longer text first, and both to equal lengths if both are too long. A special token written out in a text
// becomes its id. An empty text has no tokens but keeps its separator, as in a batch of transformers (given single texts,
// transformers treats an empty second one as missing). The error wraps ErrTooLong if most is below Special, or is one of
// Tokenizer.Encode.
func (p *Pairs) Encode(first, second string, most int) (PairTokens, error) {
	if most != 0 && most < p.special {
		return PairTokens{}, fmt.Errorf("%w: at most %d tokens, but a pair has %d special ones", ErrTooLong, most, p.special)
	}
	var texts [2][]int64
	for i, text := range []string{first, second} {
		ids, err := p.tokenizer.Encode(text, false)
		if err != nil {
			return PairTokens{}, err
		}
		texts[i] = ids
	}
	var out PairTokens
	if most != 0 {
		a, b := longestFirst(len(texts[0]), len(texts[1]), most-p.special)
		out.Cut = len(texts[0]) + len(texts[1]) - a - b
		texts[0], texts[1] = p.keep(texts[0], a), p.keep(texts[1], b)
	}
	for _, piece := range p.pieces {
		ids := piece.ids
		if piece.text > 0 {
			ids = texts[piece.text-1]
		}
		out.IDs = append(out.IDs, ids...)
		if piece.segment == 0 {
			out.First += len(ids)
		}
	}
	return out, nil
}

// keep returns the n tokens of a text that remain after truncation.
func (p *Pairs) keep(ids []int64, n int) []int64 {
	if p.fromLeft {
		return ids[len(ids)-n:]
	}
	return ids[:n]
}

// longestFirst returns how many tokens of two texts of a and b tokens to keep, together at most room. It cuts only the longer
// text if that is enough. Otherwise each gets half, and the odd token goes to the longer text, or to the second of two equal
// ones.
func longestFirst(a, b, room int) (int, int) {
	switch half := room / 2; {
	case a+b <= room:
		return a, b
	case a > b:
		short := min(b, half)
		return room - short, short
	default:
		short := min(a, half)
		return short, room - short
	}
}
