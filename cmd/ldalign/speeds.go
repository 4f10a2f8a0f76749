package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/ldalign/ldalign/ops/report"
)

// speeds formats the items per second of each stage while it was busy, and the share of the wall time spent on tensor work.
func speeds(in report.Input) string {
	var b strings.Builder
	for _, s := range in.Stages {
		rate := 0.0
		if s.BusySeconds > 0 {
			rate = float64(s.Items) / s.BusySeconds
		}
		fmt.Fprintf(&b, "%-10s %8d %-9s %7.1f s busy %9.1f /s\n", s.Name, s.Items, s.Unit, s.BusySeconds, rate)
	}
	if in.TensorShare != nil && len(in.Stages) > 0 { // else this process had nothing to do
		fmt.Fprintf(&b, "wall time %.1f s, tensor work %.0f %% of it\n", in.WallSeconds, 100**in.TensorShare)
	}
	return b.String()
}

// property is a name and value of a printed JSON object.
type property struct {
	name  string
	value any
}

// printJSON prints each item as a JSON object on a line of its own.
func printJSON[T any](w io.Writer, items []T) error {
	encode := json.NewEncoder(w)
	for _, item := range items {
		if err := encode.Encode(item); err != nil {
			return err
		}
	}
	return nil
}
