package dataset

import (
	"context"
	"fmt"
	"slices"
)

// Inspection describes the contents of a set.
type Inspection struct {
	Report
	Digest string `json:"digest"`
	// Unit is the unit of lengths: tokens or characters.
	Unit string `json:"unit"`
	// Lengths are the lengths of prompts, responses and rejected responses, as far as there are any.
	Lengths  []Lengths `json:"lengths"`
	Examples []Record  `json:"examples"`
}

// Lengths summarises the lengths of one text of the records.
type Lengths struct {
	Of     string  `json:"of"` // prompt, response or rejected
	Count  int     `json:"count"`
	Min    int     `json:"min"`
	Median int     `json:"p50"`
	P90    int     `json:"p90"`
	P99    int     `json:"p99"`
	Max    int     `json:"max"`
	Mean   float64 `json:"mean"`
	// Histogram counts lengths by powers of two: the first bin goes up to 1, each other bin up to twice the one before.
	Histogram []LengthBin `json:"histogram"`
}

// LengthBin counts the lengths up to a bound.
type LengthBin struct {
	UpTo  int `json:"up_to"`
	Count int `json:"count"`
}

// Measure counts the length of a text.
type Measure struct {
	Unit  string
	Count func(text string) (int, error)
}

// Characters counts Unicode code points.
func Characters() Measure {
	return Measure{"characters", func(text string) (int, error) { return len([]rune(text)), nil }}
}

// Inspect measures the texts of a set, without what a chat template adds. It returns the first records as examples. It calls
// done, if not nil, after each record.
func Inspect(ctx context.Context, set Set, by Measure, examples int, done func(int64)) (Inspection, error) {
	in := Inspection{
		Report: set.Report, Digest: set.Digest(), Unit: by.Unit,
		Examples: append([]Record{}, set.Records[:min(max(examples, 0), len(set.Records))]...),
	}
	names := []string{"prompt", "response", "rejected"}
	values := make([][]int, len(names))
	for _, r := range set.Records {
		if err := ctx.Err(); err != nil {
			return in, err
		}
		for i, text := range []string{r.Prompt, r.Response, r.Rejected} {
			if text == "" {
				continue
			}
			n, err := by.Count(text)
			if err != nil {
				return in, fmt.Errorf("record %q, %s: %w", r.ID, names[i], err)
			}
			values[i] = append(values[i], n)
		}
		if done != nil {
			done(1)
		}
	}
	for i, name := range names {
		if len(values[i]) > 0 {
			in.Lengths = append(in.Lengths, lengthsOf(name, values[i]))
		}
	}
	return in, nil
}

func lengthsOf(name string, values []int) Lengths {
	slices.Sort(values)
	n := len(values)
	at := func(share float64) int { return values[int(share*float64(n-1)+0.5)] }
	l := Lengths{Of: name, Count: n, Min: values[0], Median: at(0.5), P90: at(0.9), P99: at(0.99), Max: values[n-1]}
	limit, i := 1, 0
	for i < n {
		b := LengthBin{UpTo: limit}
		for ; i < n && values[i] <= limit; i++ {
			l.Mean += float64(values[i]) / float64(n)
			b.Count++
		}
		if b.Count > 0 || len(l.Histogram) > 0 {
			l.Histogram = append(l.Histogram, b)
		}
		limit *= 2
	}
	return l
}
