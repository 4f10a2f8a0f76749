package curves

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordsRoundTrip(t *testing.T) {
	records := []Step{
		{Phase: "guide", Step: 1, Loss: 3.25, LR: 1e-3, GradNorm: 0.5},
		{
			Phase: "policy", Iteration: 2, Step: 7, Epoch: 1, Loss: 0.1 + 0.2, LR: 5e-7, GradNorm: 1e-300,
			Pairs: &Pairs{Margin: -0.25, Accuracy: 1. / 3, Differing: 3, ChosenChange: 1e-9, RejectedChange: -2},
		},
	}
	var out bytes.Buffer
	if err := Write(&out, records); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 2 {
		t.Errorf("%d lines, want one for each record", lines)
	}
	got, err := Read(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(records, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	for _, bad := range []string{"{", `{"step":"one"}`, out.String() + "garbage"} {
		if _, err := Read([]byte(bad)); err == nil {
			t.Errorf("Read(%q) finds nothing wrong", bad)
		}
	}
	if got, err := Read(nil); err != nil || got != nil {
		t.Errorf("no bytes: %v, %v", got, err)
	}
}
