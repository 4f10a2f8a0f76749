package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// planned is what plan --json gives for a spec.
func planned(t *testing.T, code int, args ...string) []plan.Run {
	t.Helper()
	got := ldalign(t, append([]string{"plan", "--json"}, args...)...)
	got.want(t, code)
	var out []plan.Run
	decode := json.NewDecoder(strings.NewReader(got.stdout))
	for decode.More() {
		var r plan.Run
		if err := decode.Decode(&r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func (o own) planned(t *testing.T, code int, set ...string) plan.Run {
	t.Helper()
	args := []string{o.spec, "--dir", o.folder()}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	runs := planned(t, code, args...)
	if len(runs) != 1 {
		t.Fatalf("%d runs planned", len(runs))
	}
	return runs[0]
}

func logOf(t *testing.T, r plan.Run, kind schemas.Kind) plan.Log {
	t.Helper()
	i := slices.IndexFunc(r.Logs, func(l plan.Log) bool { return l.Kind == kind })
	if i < 0 {
		t.Fatalf("the plan of %s has no log %s", r.Run, kind)
	}
	return r.Logs[i]
}

func roleOf(t *testing.T, r plan.Run, name string) plan.Role {
	t.Helper()
	i := slices.IndexFunc(r.Memory.Roles, func(role plan.Role) bool { return role.Name == name })
	if i < 0 {
		t.Fatalf("the plan of %s has no %s", r.Run, name)
	}
	return r.Memory.Roles[i]
}

func partOf(r plan.Role, name string) int64 {
	for _, p := range r.Parts {
		if p.Name == name {
			return p.Bytes
		}
	}
	return 0
}

// What a finished run has made is what the plan said: as many messages and checkpoints, and no more bytes.
func TestPlanIsWhatARunMakes(t *testing.T) {
	dir, _ := finished(t)
	runs := planned(t, 0, tiny, "--dir", filepath.Join(t.TempDir(), "none"))
	if len(runs) != 2 || runs[0].Run != "tiny-sft" || runs[1].Run != "tiny-ld" {
		t.Fatalf("planned: %+v", runs)
	}
	if r := runs[1]; r.Pairs != 32 || r.AllPairs != 64 || r.Steps != 2 || r.GuideSteps != 2 || runs[0].Steps != 8 {
		t.Errorf("work: %+v", r)
	}
	if l := logOf(t, runs[1], schemas.Prompts); l.Filled != l.Bytes {
		t.Errorf("a run has its log of prompts for itself: %+v", l)
	}
	facts := logOf(t, runs[1], schemas.Checkpoints).Bytes + logOf(t, runs[1], schemas.Results).Bytes + logOf(t, runs[1], schemas.Control).Bytes
	if l := logOf(t, runs[1], schemas.Results); l.Filled != facts || l.Bytes == facts {
		t.Errorf("checkpoints, results and control messages share a log, of %d bytes: %+v", facts, l)
	}
	if runs[0].Time.TrainSeconds != nil {
		t.Error("a time is told though nothing ran in that folder")
	}
	attached(t, dir, func(n *node) {
		uses, err := ledger.Uses(t.Context(), n.Streams, runs[1].Run)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range uses {
			l := logOf(t, runs[1], u.Log)
			// y' is planned at its full length, and records have other lengths than their mean
			if got := int64(u.Bytes); got > l.Filled || got < l.Filled/4 {
				t.Errorf("%s: %d bytes are stored, planned %d", u.Log, got, l.Filled)
			}
			if l.Limit != 2e9 {
				t.Errorf("%s: limit %d", u.Log, l.Limit)
			}
		}
		for _, r := range runs {
			for _, kind := range schemas.Kinds() {
				have := 0
				err := n.Streams.Read(t.Context(), kind, r.Run, streams.AllIterations, 0, func(streams.Received) error {
					have++
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if l := logOf(t, r, kind); have > l.Messages || have < l.Messages/2 {
					t.Errorf("%s of %s: %d messages, planned %d", kind, r.Run, have, l.Messages)
				}
			}
			weights := map[checkpoints.Kind]int64{}
			list, err := n.Checkpoints.List(t.Context(), r.Run)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range list {
				for _, f := range m.Files {
					if strings.HasSuffix(f.Name, ".safetensors") {
						weights[m.Kind] += f.Bytes
					}
				}
			}
			for kind, planned := range map[checkpoints.Kind]int64{
				checkpoints.Policy: r.Checkpoints.Policies, checkpoints.Guide: r.Checkpoints.Guide,
			} {
				if got := weights[kind]; got < planned || got > planned+planned/10 { // a file has a header too
					t.Errorf("%s of %s: %d bytes of weights, planned %d", kind, r.Run, got, planned)
				}
			}
		}
	})
}

func TestPlanForPeople(t *testing.T) {
	o := newOwn(t)
	ldalign(t, "plan", o.spec, "--dir", o.folder()).want(t, 0, "an estimate", "3 records of 3 rows", "1, each of 3 pairs; 3 pairs in all",
		"1 in each iteration, 1 of the guide", "limit of each log 2.00 GB", "all roles in one process", "gradients",
		"unknown before the first iteration", "all met")
	if _, err := os.Stat(o.folder()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a plan made the data folder: %v", err)
	}
}

// A plan for a GPU says what is on it, also on a machine that has none. A run that computes there says what is missing.
func TestPlanOfAGPU(t *testing.T) {
	o := newOwn(t)
	gpu := []string{o.spec, "--dir", o.folder(), "--set", "compute.device=cuda:100"}
	ldalign(t, append([]string{"plan"}, gpu...)...).want(t, 0, "device memory", "an unknown amount free on cuda:100, for all roles",
		"driver and kernels", "all met")
	ldalign(t, append([]string{"up", "--dry-run"}, gpu...)...).want(t, 0, "# memory:", "free on cuda:100")
	ldalign(t, append([]string{"up"}, gpu...)...).want(t, exitFailed, "cuda:100")
	two := filepath.Join(t.TempDir(), "two.yaml")
	write(t, two, `run: one
model:
  from: scratch
  scratch: {hidden: 16, layers: 1, heads: 2, max_positions: 128, tokenizer: "builtin:demo"}
data: {train: "builtin:demo/align", limit: 8, max_prompt_tokens: 64, max_response_tokens: 16}
---
run: two
model:
  from: scratch
  scratch: {hidden: 16, layers: 1, heads: 2, max_positions: 128, tokenizer: "builtin:demo"}
data: {train: "builtin:demo/align", limit: 8, max_prompt_tokens: 64, max_response_tokens: 16}
compute: {device: "cuda:0"}
`)
	ldalign(t, "up", two, "--dir", t.TempDir()).want(t, exitUsage, "run one computes on cpu, and run two on cuda:0")
}

// With servers the logs and the store lie elsewhere, and each role may have a machine; nobody is connected to.
func TestPlanWithServers(t *testing.T) {
	o := newOwn(t)
	all := o.planned(t, 0)
	apart := o.planned(t, 0, "servers.nats=nats://127.0.0.1:1", "servers.s3=http://127.0.0.1:1", "servers.bucket=runs")
	if apart.Memory.Of != "the trainer alone" || apart.Memory.Need >= all.Memory.Need {
		t.Errorf("memory with servers: %+v", apart.Memory)
	}
	if apart.Disk.Logs != 0 || all.Disk.Logs == 0 || all.Disk.Need != all.Disk.Logs+all.Checkpoints.TotalBytes {
		t.Errorf("disk with servers: %+v, without: %+v", apart.Disk, all.Disk)
	}
}

// A requirement that is not met is a failure that names the key.
func TestPlanWhoseRequirementsAreNotMet(t *testing.T) {
	tell := func(problems []plan.Problem) (keys []string) {
		for _, p := range problems {
			keys = append(keys, p.Key)
		}
		return keys
	}
	o := newOwn(t)
	set := []string{"generation.samples_per_prompt=2000", "streams.max_bytes=2MiB"}
	ldalign(t, "plan", o.spec, "--set", set[0], "--set", set[1], "--dir", o.folder()).want(t, 1,
		"not met", "the log scored would take", "its limit is 2.1 MB: set streams.max_bytes to ")
	small := o.planned(t, 1, set...)
	for _, p := range small.Problems {
		if p.Key != "streams.max_bytes" {
			t.Errorf("a problem besides the limit: %+v", p)
		}
	}
	// what it says to set is enough
	want := logOf(t, small, schemas.Encoded).Filled * 5 / 4
	o.planned(t, 0, set[0], fmt.Sprintf("streams.max_bytes=%dMB", want/1e6+1))
	ldalign(t, "plan", o.spec, "--set", "data.max_response_tokens=100", "--dir", o.folder()).want(t, 1,
		"allow 164 tokens, but the model has 128 positions: lower them")
	spec := filepath.Join(t.TempDir(), "huge.yaml")
	write(t, spec, `run: huge
model:
  from: scratch
  scratch: {hidden: 32768, layers: 400, heads: 64, max_positions: 4096, tokenizer: "builtin:demo"}
data: {train: "builtin:demo/align", limit: 64}
objective: {kind: spin}
`)
	huge := planned(t, 1, spec, "--dir", t.TempDir())
	keys := tell(huge[0].Problems)
	if !slices.Contains(keys, "training.lora") || !slices.Contains(keys, "iterations") && !slices.Contains(keys, "training.keep_states") {
		t.Errorf("problems: %+v", huge[0].Problems)
	}
}

// An adapter takes less than all weights, in memory and in states, and the whole policy is stored either way.
func TestPlanOfAnAdapter(t *testing.T) {
	o := newOwn(t)
	set := []string{"objective.kind=spin", "iterations=3", "training.checkpoint_every=1"}
	full := o.planned(t, 0, set...)
	edit(t, o.spec, "training: {batch: 4}", "training: {batch: 4, lora: {rank: 2}}")
	adapter := o.planned(t, 0, set...)
	for _, part := range []string{"gradients", "optimizer", "state being written"} {
		less, more := partOf(roleOf(t, adapter, "trainer"), part), partOf(roleOf(t, full, "trainer"), part)
		if less <= 0 || less >= more {
			t.Errorf("%s: %d of an adapter, %d of all weights", part, less, more)
		}
	}
	a, f := adapter.Checkpoints, full.Checkpoints
	if f.Adapters != 0 || a.Adapters == 0 || a.States >= f.States || a.Policies != f.Policies || f.NPolicies != 4 {
		t.Errorf("checkpoints: %+v, with all weights %+v", a, f)
	}
	if adapter.Memory.Need >= full.Memory.Need {
		t.Errorf("memory: %d of an adapter, %d of all weights", adapter.Memory.Need, full.Memory.Need)
	}
}

// In a folder where a run of that size has trained, its speed tells the time.
func TestPlanKnowsTheTimeFromAnEarlierRun(t *testing.T) {
	dir, _ := finished(t)
	runs := planned(t, 0, tiny, "--dir", dir)
	for _, r := range runs {
		if r.Time.TrainSeconds == nil || *r.Time.TrainSeconds <= 0 || r.Time.From != r.Run {
			t.Errorf("time of %s: %+v", r.Run, r.Time)
		}
	}
	other := planned(t, 0, tiny, "--dir", dir, "--set", "compute.threads=2")
	if other[0].Time.TrainSeconds != nil {
		t.Errorf("a time is told from a run on another number of threads: %+v", other[0].Time)
	}
}
