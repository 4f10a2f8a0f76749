package objective

import "testing"

// TestStatsLeaveEqualPairsOut: a sample that is the human response says nothing about accuracy.
func TestStatsLeaveEqualPairsOut(t *testing.T) {
	var sum Stats
	o := Preference{Kind: "sigmoid", Beta: 0.1}
	sum.Add(o, Values{Chosen: -1, Rejected: -1, RefChosen: -2, RefRejected: -2, Weight: 1, Same: true})
	if got := sum.Means(); got.Accuracy != 0 || got.Differing != 0 {
		t.Errorf("only equal pairs: accuracy %v of %d, want 0 of 0", got.Accuracy, got.Differing)
	}
	sum.Add(o, Values{Chosen: -1, Rejected: -3, RefChosen: -2, RefRejected: -2, Weight: 1})
	sum.Add(o, Values{Chosen: -3, Rejected: -1, RefChosen: -2, RefRejected: -2, Weight: 1})
	if got := sum.Means(); got.Accuracy != 0.5 || got.Differing != 2 {
		t.Errorf("accuracy %v of %d, want 0.5 of 2", got.Accuracy, got.Differing)
	}
	if got := (Stats{}).Means(); got != nil {
		t.Errorf("no pairs: %+v, want none", got)
	}
}
