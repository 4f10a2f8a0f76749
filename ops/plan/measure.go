package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
)

// Tokenizer counts tokens as the model of a run does.
type Tokenizer interface {
	// Vocab returns the size of the vocabulary.
	Vocab() int
	// Lengths returns the numbers of tokens of a prompt and a response after the run's length rule. An error means that the
	// rule or the template refuses the record.
	Lengths(prompt, response string) (promptTokens, responseTokens int, err error)
	Close() error
}

// measured is the number of records whose lengths are measured.
const measured = 500

// bytesPerToken is the assumed number of bytes per token if there is no tokenizer.
const bytesPerToken = 4

// measure counts records and measures their lengths.
func (p *Planner) measure(ctx context.Context, s schemas.Spec, m model, set dataset.Set) (d Data, err error) {
	d = Data{Report: set.Report.String(), Records: len(set.Records), Bytes: textBytes(set)}
	for _, r := range set.Records {
		d.IDBytes += float64(len(r.ID))
		d.PromptBytes += float64(len(r.Prompt))
		d.ChosenBytes += float64(len(r.Response))
		d.RejectedBytes += float64(len(r.Rejected))
	}
	for _, sum := range []*float64{&d.IDBytes, &d.PromptBytes, &d.ChosenBytes, &d.RejectedBytes} {
		*sum /= float64(len(set.Records))
	}
	lengths := estimator(s)
	if d.Estimated = p.Tokenizer == nil; !d.Estimated {
		var tok Tokenizer
		if tok, err = p.Tokenizer(m.files, s); err != nil {
			return d, err
		}
		defer func() { err = errors.Join(err, tok.Close()) }()
		lengths = tok.Lengths
	}
	n, refused := 0, 0
	every := (len(set.Records) + measured - 1) / measured
	for i := 0; i < len(set.Records); i += every {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		r := set.Records[i]
		prompt, chosen, err := lengths(r.Prompt, r.Response)
		rejected := chosen
		if err == nil && s.GivenPairs() {
			_, rejected, err = lengths(r.Prompt, r.Rejected)
		}
		if err != nil {
			refused++
			continue
		}
		n++
		d.PromptTokens += float64(prompt)
		d.ChosenTokens += float64(chosen)
		d.RejectedTokens += float64(rejected)
	}
	d.Refused = float64(refused) / float64(n+refused)
	for _, sum := range []*float64{&d.PromptTokens, &d.ChosenTokens, &d.RejectedTokens} {
		*sum /= float64(max(n, 1))
	}
	return d, nil
}

var errOverlong = errors.New("longer than the length rule allows")

// estimator returns a function that estimates tokens from bytes, and cuts or refuses texts as the run's length rule does.
func estimator(s schemas.Spec) func(prompt, response string) (int, int, error) {
	return func(prompt, response string) (int, int, error) {
		tokens := func(text string) int { return len(text)/bytesPerToken + 1 }
		x, y := tokens(prompt), tokens(response)
		if s.Data.Overlong == "reject" && (x > s.Data.MaxPromptTokens || y > s.Data.MaxResponseTokens) {
			return 0, 0, errOverlong
		}
		return min(x, s.Data.MaxPromptTokens), min(y, s.Data.MaxResponseTokens), nil
	}
}

// textBytes returns the size of all texts of a set.
func textBytes(set dataset.Set) (n int64) {
	for _, r := range set.Records {
		n += int64(len(r.ID) + len(r.Prompt) + len(r.Response) + len(r.Rejected))
	}
	return n
}

// vocabulary returns the size of a tokenizer's vocabulary: from the tokenizer or, without one, from tokenizer.json.
func (p *Planner) vocabulary(files fs.FS, s schemas.Spec) (n int, err error) {
	if p.Tokenizer != nil {
		tok, err := p.Tokenizer(files, s)
		if err != nil {
			return 0, err
		}
		return tok.Vocab(), tok.Close()
	}
	const file = "tokenizer.json"
	data, err := fs.ReadFile(files, file)
	if err != nil {
		return 0, err
	}
	var content struct {
		Added []struct{ ID int } `json:"added_tokens"`
		Model struct{ Vocab json.RawMessage }
	}
	if err := json.Unmarshal(data, &content); err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	var byText map[string]int // the form of most tokenizers
	var byID []json.RawMessage
	if err := json.Unmarshal(content.Model.Vocab, &byText); err != nil {
		if err := json.Unmarshal(content.Model.Vocab, &byID); err != nil {
			return 0, fmt.Errorf("%s: model.vocab: %w", file, err)
		}
	}
	n = len(byID)
	for _, id := range byText {
		n = max(n, id+1)
	}
	for _, a := range content.Added {
		n = max(n, a.ID+1)
	}
	return n, nil
}
