package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
)

// Resolve fills in the keys whose values follow from others: generation.max_new_tokens, training.micro_batch, the scratch
// model's kv_heads and intermediate, and generation.from with objective.distance: given. It sets compute.threads, if it is 0,
// to threads, the number for this machine. Resolving twice changes nothing.
func Resolve(spec Spec, threads int) Spec {
	s := spec.Clone()
	if s.Generation.MaxNewTokens == 0 {
		s.Generation.MaxNewTokens = s.Data.MaxResponseTokens
	}
	if s.Objective.Distance == "given" {
		s.Generation.From = "data"
	}
	if s.Training.MicroBatch == 0 {
		s.Training.MicroBatch = min(8, s.Training.Batch)
	}
	if s.Compute.Threads == 0 {
		s.Compute.Threads = threads
	}
	if m := s.Model.Scratch; m != nil {
		if m.KVHeads == 0 {
			m.KVHeads = m.Heads
		}
		if m.Intermediate == 0 {
			m.Intermediate = 4 * m.Hidden
			if m.Family == "llama" {
				m.Intermediate = (8*m.Hidden/3 + 15) / 16 * 16
			}
		}
	}
	return s
}

// Digest is the sha256, in hexadecimal, of everything in a resolved spec that can change a result. The run's name,
// retention, streams, servers, compute.threads, training.gradient_checkpointing, checkpoint_every and keep_states are left
// out. Models and data files count by their paths as written; the run's first manifest has the digests of the contents.
func (s Spec) Digest() string {
	var lines []string
	walk(reflect.ValueOf(s), func(key string, v reflect.Value, tag reflect.StructTag, digested bool) {
		// Zero values, and those of the tag `absent`, are left out, so that a new key whose value means "as before" does not
		// change the digests of older specs.
		if text := scalarText(v); digested && !v.IsZero() && text != tag.Get("absent") {
			lines = append(lines, fmt.Sprintf("%s=%q\n", key, text))
		}
	})
	slices.Sort(lines)
	sum := sha256.Sum256([]byte("ldalign run spec\n" + strings.Join(lines, "")))
	return hex.EncodeToString(sum[:])
}

// Clone returns a copy that shares nothing with s.
func (s Spec) Clone() Spec {
	if s.Model.Scratch != nil {
		scratch := *s.Model.Scratch
		s.Model.Scratch = &scratch
	}
	if s.Training.LoRA != nil {
		lora := *s.Training.LoRA
		s.Training.LoRA = &lora
	}
	if s.Source != nil {
		source := *s.Source
		s.Source = &source
	}
	return s
}

// ResolveAll resolves and checks specs for this machine. If compute.threads is 0 it becomes 2, or the number of cores if that
// is less.
func ResolveAll(specs []Spec) ([]Spec, error) {
	out := make([]Spec, len(specs))
	for i, s := range specs {
		out[i] = Resolve(s, min(2, runtime.NumCPU()))
		if err := out[i].Validate(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
