package architecture

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
)

// ErrWeights means weights that are not those of the configuration: a tensor is missing, unknown, of another shape or of a
// type that is not supported.
var ErrWeights = errors.New("models: weights do not fit the configuration")

// Weight describes one parameter of a model.
type Weight struct {
	Name  string
	Shape []int64
	// Std is the standard deviation of a fresh weight around 0. A weight without one starts at Fill.
	Std, Fill float64
	// Linear says that this is the matrix of a linear layer, the output head's among them.
	Linear bool
	// Head says that this is the output head's matrix. A tied head's is the matrix of the token embeddings, which is not
	// Linear.
	Head bool
	// InFirst says that a matrix is [In, Out], as GPT-2 stores it.
	InFirst bool
}

// Multiplied tells whether hidden states are multiplied by the weight: a packed model packs these. Other embeddings are
// looked up.
func (w Weight) Multiplied() bool { return w.Linear || w.Head }

// Readable tells whether weights may have an element type in a file.
func Readable(dtype safetensors.DType) bool {
	switch dtype {
	case safetensors.F32, safetensors.BF16, safetensors.F16, safetensors.F64, safetensors.I64:
		return true
	default:
		return false
	}
}

// misfits tells which of the wanted weights are missing, or of another shape or type, in what was found by name, and what
// else is there; "" when all fits.
func misfits(want []Weight, found map[string]safetensors.Info, extra []string) string {
	var missing, wrong []string
	for _, w := range want {
		info, ok := found[w.Name]
		switch {
		case !ok:
			missing = append(missing, w.Name)
		case !slices.Equal(info.Shape, w.Shape):
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", info.Name, info.Shape, w.Shape))
		case !Readable(info.DType):
			wrong = append(wrong, fmt.Sprintf("%s is of type %s", info.Name, info.DType))
		}
	}
	var problems []string
	for _, p := range []struct {
		what string
		list []string
	}{{"missing: ", missing}, {"unknown: ", extra}, {"", wrong}} {
		if len(p.list) > 0 {
			problems = append(problems, p.what+few(p.list))
		}
	}
	return strings.Join(problems, "; ")
}

func few(list []string) string {
	const most = 5
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// headName is the output head's matrix, unless it is tied.
const headName = "lm_head.weight"

// withHead adds the output head, unless it is tied.
func (c Config) withHead(list []Weight) []Weight {
	if c.TieEmbeddings {
		return list
	}
	return append(list, Weight{
		Name: headName, Shape: []int64{int64(c.Vocab), int64(c.Hidden)}, Std: c.InitializerRange, Linear: true, Head: true,
	})
}

// elements is how many numbers weights are.
func elements(weights []Weight) int64 {
	var total int64
	for _, w := range weights {
		total += w.Elements()
	}
	return total
}

// Elements is how many numbers the weight has.
func (w Weight) Elements() int64 {
	n := int64(1)
	for _, size := range w.Shape {
		n *= size
	}
	return n
}
