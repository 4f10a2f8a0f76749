package jsonl

import "testing"

// A line keeps its fields, their order and their spelling; what is set goes behind them, or replaces what was there.
func TestObjectKeepsTheOrderOfItsFields(t *testing.T) {
	o, err := ParseObject([]byte(`{"z": 1.50, "a": {"y":1, "x":"<"}, "n": null}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		key   string
		value any
	}{{"b", "<é"}, {"z", 2}, {"a\n", []int{1}}} {
		if err := o.Set(f.key, f.value); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Marshal(o)
	if want := `{"z":2,"a":{"y":1,"x":"<"},"n":null,"b":"<é","a\n":[1]}`; got != want || err != nil {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	for _, text := range []string{"", "[1]", `{"a":}`, `"a"`} {
		if o, err := ParseObject([]byte(text)); err == nil {
			t.Errorf("%q gives %v", text, o)
		}
	}
}
