package tensor

// DType is the type of a tensor's elements.
type DType uint8

// The element types that the models use.
const (
	Float32 DType = iota
	BFloat16
	Float16
	Float64
	Int64
	Bool
	dtypes int = iota
)

// dtypeTable gives, in the constants' order, the name, the size in bytes and at::ScalarType's number.
var dtypeTable = [dtypes]struct {
	name   string
	size   int
	native int32
}{
	{"float32", 4, 6},
	{"bfloat16", 2, 15},
	{"float16", 2, 5},
	{"float64", 8, 7},
	{"int64", 8, 4},
	{"bool", 1, 11},
}

// String returns PyTorch's name of the type, "bfloat16" for example.
func (d DType) String() string {
	if int(d) >= dtypes {
		return "unknown dtype"
	}
	return dtypeTable[d].name
}

// Size is the number of bytes of one element; 0 for an unknown type.
func (d DType) Size() int {
	if int(d) >= dtypes {
		return 0
	}
	return dtypeTable[d].size
}

// Floating reports whether the type has fractions, and so can have gradients.
func (d DType) Floating() bool { return d <= Float64 }

// native is at::ScalarType's number.
func (d DType) native() int32 { return dtypeTable[d].native }

func dtypeOf(native int32) (DType, bool) {
	for d, row := range dtypeTable {
		if row.native == native {
			return DType(d), true
		}
	}
	return 0, false
}
