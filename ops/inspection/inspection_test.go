package inspection

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/ops/modelname"
)

const rewardFolder = "../../models/reward/testdata/v3"

// words is a tokenizer whose chat template cannot be used for training.
type words struct{ closed *bool }

func (words) Vocab() int                        { return 9 }
func (words) Fits(vocabulary int) error         { return nil }
func (words) BOS() (int64, bool)                { return 1, true }
func (words) EOS() []int64                      { return []int64{2, 3} }
func (words) PAD() int64                        { return 0 }
func (words) HasTemplate() bool                 { return true }
func (words) Example() (string, error)          { return "<user>Hello", nil }
func (words) Trains() error                     { return errors.New("not a\nprefix") }
func (words) Decode(ids []int64, _ bool) string { return strings.Repeat("x", int(ids[0])) }

func (words) Parts(string) (before, own, behind []int64, err error) {
	return []int64{1}, []int64{7}, []int64{2, 3}, nil
}

func (w words) Close() error {
	*w.closed = true
	return nil
}

func TestInspectionOfARewardModel(t *testing.T) {
	folder := modelname.Folder{Dir: rewardFolder, Name: "reward"}
	in := Of(folder, Options{Rank: 8})
	if in.Model != "reward" || in.Family != "deberta-v2" || in.Labels != 1 || in.Tensors == 0 || in.Shape == nil ||
		in.Parameters == 0 || in.Tokenizer != nil || len(in.Refused) != 0 {
		t.Errorf("%+v", in)
	}
	closed := false
	in = Of(folder, Options{Rank: 8, Tokenizer: func(fs.FS) (Tokenizer, error) { return words{&closed}, nil }})
	want := &TokenizerInfo{
		Vocabulary: 9, Special: []Token{{"bos", 1, "x"}, {"eos", 2, "xx"}, {"eos", 3, "xxx"}, {"pad", 0, ""}},
		AddedBefore: []string{"x"}, AddedBehind: []string{"xx", "xxx"}, HasTemplate: true,
	}
	if diff := cmp.Diff(want, in.Tokenizer); diff != "" || !closed { // a reward model has no use for the template
		t.Errorf("closed: %v; tokenizer (-want +got):\n%s", closed, diff)
	}
	in.Tokenizer, in.Refused = nil, nil
	in.tokenizer(words{&closed}, 9, true)
	if in.Tokenizer.Example != "<user>Hello" || !slices.Equal(in.Refused, []string{"chat template, for training and scoring: not a prefix"}) {
		t.Errorf("%+v, refused %q", in.Tokenizer, in.Refused)
	}
}

func TestInspectionOfAnEmptyFolder(t *testing.T) {
	in := Of(modelname.Folder{Dir: t.TempDir()}, Options{Rank: 8})
	if len(in.Refused) != 1 || !strings.HasPrefix(in.Refused[0], "config.json: ") {
		t.Errorf("refused %q", in.Refused)
	}
	broken := errors.New("no tokenizer.json")
	in = Of(modelname.Folder{Dir: rewardFolder}, Options{Rank: 8, Tokenizer: func(fs.FS) (Tokenizer, error) { return nil, broken }})
	if !slices.Equal(in.Refused, []string{"tokenizer: no tokenizer.json"}) {
		t.Errorf("refused %q", in.Refused)
	}
}
