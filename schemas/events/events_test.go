package events_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ldalign/ldalign/schemas/events"
)

var update = flag.Bool("update", false, "rewrite testdata/v1.txt; only before a first release, logs hold these bytes")

func prompt() *events.Prompt {
	return &events.Prompt{
		Schema: 1, Run: "demo", Iteration: 2, PairId: "a0", PromptId: "p17", Sample: 1, Position: 9, Total: 1500,
		Prompt: "Say pear 2 times.", Response: "pear, pear", Rejected: "pear", SampleSeed: 1<<64 - 1, Checkpoint: "c0",
		Distance: proto.Float64(0), ChosenLogp: proto.Float64(-8.5), RejectedLogp: proto.Float64(-9),
	}
}

func pair() *events.Pair {
	return &events.Pair{
		Schema: 1, Prompt: prompt(), Rejected: "apple",
		PromptIds: []int64{1, 300}, ChosenIds: []int64{2, 128000}, RejectedIds: []int64{0, 3},
		ChosenLogp: -12.5, RejectedLogp: -3.25, PolicyDigest: "c0", FinishReason: "stop", Truncated: 4,
	}
}

// messages has one of each message with every field set.
func messages() []events.Message {
	return []events.Message{
		prompt(),
		pair(),
		&events.Encoded{
			Schema: 1, Pair: pair(), ChosenLatent: []float32{0.5, -1}, RejectedLatent: []float32{0, 2}, Guide: "g0",
		},
		&events.Scored{Schema: 1, Pair: pair(), Distance: 1.75, Metric: "l2", Guide: "g0"},
		&events.Checkpoint{
			Schema: 1, Run: "demo", Number: 7, Kind: "policy", Iteration: 2, Step: 188, Digest: "d0", Key: "runs/demo/7.json",
		},
		&events.DeadLetter{
			Schema: 1, Run: "demo", Iteration: 2, Stage: "generator", Reason: "too_long", Error: "prompt: 900 tokens",
			Stream: "prompts", Sequence: 41, Subject: "ldalign.prompts.demo.2", PairId: "a0", Deliveries: 5,
			Original: []byte{0, 255},
		},
		&events.Result{
			Schema: 1, Run: "demo", Iteration: 2, Checkpoint: "c0",
			Metrics: []*events.Metric{{Name: "exact", Value: 0.5}, {Name: "graded", Value: 0.75}}, Details: "b0", Seconds: 1.5,
		},
		&events.Control{
			Schema: 1, Run: "demo", Kind: events.ControlSpec, Spec: []byte("run: demo\n"), SpecDigest: "s0", Iteration: 2, Total: 1500,
			Message: "note",
		},
	}
}

func name(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

// TestOldMessagesAreRead: testdata/v1.txt has the bytes of messages as schema version 1 wrote them. They lie on logs,
// so every later build must read the same out of them.
func TestOldMessagesAreRead(t *testing.T) {
	const path = "testdata/v1.txt"
	if *update {
		var b strings.Builder
		for _, m := range messages() {
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %x\n", name(m), data)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(golden)), "\n")
	if len(lines) != len(messages()) {
		t.Fatalf("%d messages, want %d", len(lines), len(messages()))
	}
	for i, want := range messages() {
		kind, text, _ := strings.Cut(lines[i], " ")
		data, err := hex.DecodeString(text)
		if err != nil || kind != name(want) {
			t.Fatalf("line %d: %s, %v", i+1, kind, err)
		}
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(data, got); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(want, got.(events.Message), protocmp.Transform()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", kind, diff)
		}
	}
}

// TestMessagesAreComplete makes sure that the bytes above cover every field. A field that is added later is not on
// old logs: name it here.
func TestMessagesAreComplete(t *testing.T) {
	addedLater := []protoreflect.FullName{
		"ldalign.events.v1.DeadLetter.worker", "ldalign.events.v1.DeadLetter.tries", "ldalign.events.v1.DeadLetter.dropped_by",
		"ldalign.events.v1.Pair.reference", "ldalign.events.v1.Result.phase", "ldalign.events.v1.Result.step",
	}
	for _, m := range messages() {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if !m.ProtoReflect().Has(f) && !slices.Contains(addedLater, f.FullName()) {
				t.Errorf("%s is not set", f.FullName())
			}
		}
		if m.GetSchema() != events.Version {
			t.Errorf("%s: schema %d, want %d", name(m), m.GetSchema(), events.Version)
		}
	}
}

// TestUnknownFieldsSurvive: a stage of this build passes on what a newer one has added.
func TestUnknownFieldsSurvive(t *testing.T) {
	extra := protowire.AppendString(protowire.AppendTag(nil, 900, protowire.BytesType), "from a newer build")
	for _, m := range messages() {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := m.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(append(data, extra...), got); err != nil {
			t.Fatal(err)
		}
		again, err := proto.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(again, extra) {
			t.Errorf("%s lost the unknown field", name(m))
		}
	}
}

func TestMessageIDs(t *testing.T) {
	want := []string{"a0", "a0", "a0", "a0", "d0", "prompts-41", "c0", "spec-2"}
	for i, m := range messages() {
		if m.ID() != want[i] || m.GetRun() != "demo" || m.GetIteration() != 2 {
			t.Errorf("%s: id %q, run %q, iteration %d", name(m), m.ID(), m.GetRun(), m.GetIteration())
		}
		empty := m.ProtoReflect().New().Interface().(events.Message)
		if empty.GetRun() != "" || empty.GetIteration() != 0 {
			t.Errorf("empty %s: run %q, iteration %d", name(m), empty.GetRun(), empty.GetIteration())
		}
	}
}
