package schemas

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const declaredSpec = `run: r
model: {from: base}
data: {train: train.jsonl}
`

// resolved returns a valid resolved spec with changes.
func resolved(t *testing.T, changes ...string) Spec {
	t.Helper()
	specs, err := ParseSpecs("spec", []byte(declaredSpec))
	if err != nil {
		t.Fatal(err)
	}
	spec := Resolve(specs[0], 1)
	for _, change := range changes {
		if err := Set(&spec, change); err != nil {
			t.Fatal(err)
		}
	}
	return spec
}

// What Declaration writes, ParseDeclared reads. A key at the value that it has when it is absent is not written.
func TestDeclaration(t *testing.T) {
	for _, spec := range []Spec{
		resolved(t), resolved(t, "objective.loss=hinge", "objective.mix=previous", "training.micro_tokens=256"),
		resolved(t, "training.lora.rank=4", "streams.replicas=3"),
	} {
		text, err := spec.Declaration()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseDeclared("r", text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, got); diff != "" || got.Digest() != spec.Digest() {
			t.Errorf("(-written +read)\n%s", diff)
		}
		if has := strings.Contains(string(text), "  loss:"); has != (spec.Objective.Loss != "sigmoid") {
			t.Errorf("loss %s: the key is written: %v", spec.Objective.Loss, has)
		}
	}
}

// An older program reads what a newer one has declared, as long as it knows every key that can change a result.
func TestDeclaredByANewerProgram(t *testing.T) {
	text, err := resolved(t).Declaration()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ section, key, refused string }{
		{"streams:", "  flow: fast", ""},
		{"retention:", "  results: 3", ""},
		{"servers:", "  relay: {host: a, port: 1}", ""},
		{"objective:", "  entropy: 0.1", "objective.entropy: unknown key"},
		{"objective:", "  loss: newest", `objective.loss: "newest" is unknown`},
		{"training:", "  loops: 3", "training.loops: unknown key"},
		{"", "online: {close_after: 3}", "online: unknown key"},
	} {
		newer := strings.Replace(string(text), test.section+"\n", test.section+"\n"+test.key+"\n", 1)
		if test.section == "" {
			newer = string(text) + test.key + "\n"
		}
		got, err := ParseDeclared("r", []byte(newer))
		switch {
		case test.refused == "" && (err != nil || got.Digest() != resolved(t).Digest()):
			t.Errorf("%s %s: %v", test.section, test.key, err)
		case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
			t.Errorf("%s %s: got %v, want %q", test.section, test.key, err, test.refused)
		}
		if _, err := ParseSpecs("run.yaml", []byte(newer)); err == nil {
			t.Errorf("%s %s: accepted in a user's file", test.section, test.key)
		}
	}
}

// A program whose Default differs from how programs behaved before the key existed reads a missing key as these did.
func TestDeclaredKeysTakeTheAbsentValue(t *testing.T) {
	spec, err := declaredDefault()
	if err != nil {
		t.Fatal(err)
	}
	walk(reflect.ValueOf(spec), func(key string, v reflect.Value, tag reflect.StructTag, _ bool) {
		if absent, ok := tag.Lookup("absent"); ok && scalarText(v) != absent {
			t.Errorf("%s is %s, want %s", key, scalarText(v), absent)
		}
	})
}
