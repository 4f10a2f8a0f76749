package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/clustertest"
	"github.com/ldalign/ldalign/streams/ledger"
)

// verbs are all commands that do something.
var verbs = []string{
	"demo", "up", "worker", "trainer", "status", "pause", "resume", "runs list", "runs delete", "backup", "restore", "tail",
	"checkpoints gc", "audit", "report", "deadletters list", "replay", "sweep", "compare", "fork",
	"deadletters show", "deadletters redrive", "deadletters drop", "checkpoints list", "checkpoints export", "generate", "score",
	"reward", "chat", "models inspect", "version",
	"plan", "train", "guide train", "guide inspect", "data inspect",
}

func TestHelp(t *testing.T) {
	all := ldalign(t, "--help")
	all.want(t, 0, "Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 interrupted", "4 in use by")
	for _, verb := range verbs {
		if !strings.Contains(all.stdout, "\n  "+verb+" ") {
			t.Errorf("--help does not list %s", verb)
		}
		words := strings.Fields(verb)
		ldalign(t, append(words, "--help")...).want(t, 0, "Example", "ldalign "+verb)
	}
}

func TestVersion(t *testing.T) {
	want := libtorch(t)
	ldalign(t, "version").want(t, 0, "libtorch "+want)
	got := lines[struct{ Version, LibTorch string }](t, ldalign(t, "version", "--json"))
	if len(got) != 1 || got[0].Version == "" || got[0].LibTorch != want {
		t.Errorf("%+v", got)
	}
}

// libtorch returns the version of libtorch.
func libtorch(t *testing.T) string {
	t.Helper()
	version, _, err := torch()
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func TestWrongUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		says string
	}{
		{"", "ldalign --help"},
		{"upp", `did you mean "up"?`},
		{"up", "<spec>"},
		{"up", "See `ldalign up --help`"},
		{"guide train", "See `ldalign guide train --help`"},
		{"data inspect testdata/tiny.yaml --columns promt=a", `there is no "promt", want id, prompt, response,`},
		{"up no-such.yaml", "no-such.yaml"},
		{"up testdata/tiny.yaml --set objectve.beta=1", "objective"},
		{"worker generatr --run a", "generator"},
		{"worker generator --run a", "--nats and --s3"},
		{"trainer testdata/tiny.yaml", "2 runs"},
		{"trainer", "spec file or --run"},
		{"demo --seeds 0", "at least 1"},
		{"up testdata/tiny.yaml --listen 4222", "want HOST:PORT"},
		{"up testdata/tiny.yaml --listen 0.0.0.0:4222", "0.0.0.0:4222: other machines can reach this address"},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := append(strings.Fields(c.args), "--dir", filepath.Join(t.TempDir(), "data"))
			ldalign(t, args...).want(t, exitUsage, c.says)
			ldalign(t, append(args, "--json")...).want(t, exitUsage, `{"error":"`)
		})
	}
}

// own is a folder with a model, a data file and the spec of a run on them, as a user would have it.
type own struct {
	dir, model, data, spec string
}

const ownSpec = `run: own
iterations: 1
model: {from: model}
data: {train: train.jsonl, max_prompt_tokens: 64, max_response_tokens: 16}
objective: {kind: ldalign, beta: 0.5}
guide: {encoder: policy, decoder: "scratch:1", latent_dim: 8, epochs: 1, batch: 16}
generation: {slots: 4}
optimizer: {kind: rmsprop, lr: 1.0e-4}
training: {batch: 4}
compute: {threads: 1}
`

func newOwn(t *testing.T) own {
	t.Helper()
	shared, _ := finished(t)
	dir := t.TempDir()
	o := own{dir, filepath.Join(dir, "model"), filepath.Join(dir, "train.jsonl"), filepath.Join(dir, "run.yaml")}
	ldalign(t, "checkpoints", "export", "tiny-sft", o.model, "--dir", shared).want(t, 0, "policy of run tiny-sft after iteration 1")
	write(t, o.spec, ownSpec)
	write(t, o.data, `{"prompt": "Name a colour.", "response": "Red."}
{"prompt": "Say hi to Bob now.", "response": "Hello Bob."}
{"prompt": "Repeat the word tree.", "response": "tree"}
`)
	return o
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// edit replaces text in a file, once.
func edit(t *testing.T, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), from) {
		t.Fatalf("%s does not hold %q", path, from)
	}
	write(t, path, strings.Replace(string(data), from, to, 1))
}

// up runs the user's spec in the user's data folder.
func (o own) up(t *testing.T) output {
	t.Helper()
	return ldalign(t, "up", o.spec, "--dir", o.folder())
}

func (o own) folder() string { return filepath.Join(o.dir, "data") }

// A wrong model, data file or spec gives an error that names it. Nothing of the run exists then: once the cause is fixed, the same
// command under the same run name completes.
func TestBadInput(t *testing.T) {
	good := newOwn(t)
	for _, c := range []struct {
		name string
		// spoil breaks a copy of the user's folder
		spoil func(t *testing.T, o own)
		code  int
		says  []string
	}{
		{
			"unknown key", func(t *testing.T, o own) { edit(t, o.spec, "iterations", "iteratons") }, exitUsage,
			[]string{"run.yaml:2:1", "iteratons", "did you mean iterations?"},
		},
		{
			"wrong type", func(t *testing.T, o own) { edit(t, o.spec, "iterations: 1", "iterations: many") }, exitUsage,
			[]string{"run.yaml:2:13", "iterations", `"many"`, "whole number"},
		},
		{
			"no model", func(t *testing.T, o own) { remove(t, o.model) }, exitFailed,
			[]string{"model.from", "model", "config.json", "models inspect ORG/NAME"},
		},
		{
			"an adapter", func(t *testing.T, o own) {
				remove(t, filepath.Join(o.model, "config.json"))
				write(t, filepath.Join(o.model, "adapter_config.json"), "{}")
			}, exitFailed, []string{"model.from", "an adapter alone", "merge_and_unload"},
		},
		{
			"no tokenizer", func(t *testing.T, o own) { remove(t, filepath.Join(o.model, "tokenizer.json")) }, exitFailed,
			[]string{"model.from", "no tokenizer.json", "save_pretrained"},
		},
		{
			"no weights", func(t *testing.T, o own) { remove(t, filepath.Join(o.model, "model.safetensors")) }, exitFailed,
			[]string{"neither model.safetensors nor"},
		},
		{
			"truncated weights", func(t *testing.T, o own) {
				if err := os.Truncate(filepath.Join(o.model, "model.safetensors"), 100_000); err != nil {
					t.Fatal(err)
				}
			}, exitFailed, []string{"model.safetensors", "truncated", `tensor "model.`},
		},
		{
			"wrong shape", func(t *testing.T, o own) {
				edit(t, filepath.Join(o.model, "config.json"), `"intermediate_size": 64`, `"intermediate_size": 128`)
			}, exitFailed, []string{"model.layers.0.mlp.gate_proj.weight is [64 32], want [128 32]"},
		},
		{
			"wrong architecture", func(t *testing.T, o own) {
				edit(t, filepath.Join(o.model, "config.json"), `"model_type": "llama"`, `"model_type": "bert"`)
			}, exitFailed, []string{"bert", "supported are llama, mistral"},
		},
		{
			"too long for the model", func(t *testing.T, o own) {
				edit(t, o.spec, "max_prompt_tokens: 64", "max_prompt_tokens: 400")
			}, exitFailed, []string{"max_prompt_tokens", "128 positions", "lower them"},
		},
		{
			"no guide", func(t *testing.T, o own) { edit(t, o.spec, "encoder: policy", "encoder: no-such-guide") }, exitFailed,
			[]string{"guide.encoder", "no-such-guide"},
		},
		{
			"no data", func(t *testing.T, o own) { remove(t, o.data) }, exitFailed, []string{"data.train", "train.jsonl"},
		},
		{
			"empty data", func(t *testing.T, o own) { write(t, o.data, "") }, exitFailed,
			[]string{"no usable record", "train.jsonl", "0 records of 0 rows"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good.clone(t)
			c.spoil(t, o)
			o.up(t).want(t, c.code, c.says...)
			if n := manifests(o.folder()); n > 0 {
				t.Errorf("%d checkpoints are there", n)
			}
			o.restore(t, good)
			o.up(t).want(t, 0, "report")
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// clone is a copy in a folder of its own.
func (o own) clone(t *testing.T) own {
	t.Helper()
	dir := t.TempDir()
	c := own{dir, filepath.Join(dir, "model"), filepath.Join(dir, "train.jsonl"), filepath.Join(dir, "run.yaml")}
	c.restore(t, o)
	return c
}

// restore makes the model, the data and the spec what they are in another folder.
func (o own) restore(t *testing.T, from own) {
	t.Helper()
	remove(t, o.model)
	if err := os.CopyFS(o.model, os.DirFS(from.model)); err != nil {
		t.Fatal(err)
	}
	for to, path := range map[string]string{o.data: from.data, o.spec: from.spec} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, string(data))
	}
}

func TestDataIsCounted(t *testing.T) {
	o := newOwn(t)
	long := strings.Repeat("word ", 100)
	write(t, o.data, fmt.Sprintf(`{"prompt": "Name a colour.", "response": "Red."}
{"prompt": "Name a colour.", "response": "Blue."}
{"prompt": "", "response": "x"}
not json
{"prompt": "Say hi to Bob now.", "response": "Hello Bob."}
{"id": "long", "prompt": "%s", "response": "x"}
`, long))
	// by default what is too long is cut
	o.up(t).want(t, 0, "3 records of 6 rows; dropped: 1 malformed, 1 empty prompt, 1 duplicate", "train.jsonl:2: same prompt as line 1",
		"1 of 3 pairs were cut")
	// and refused when the spec says so; the run goes on without it
	edit(t, o.spec, "run: own", "run: strict")
	edit(t, o.spec, "max_response_tokens: 16", "max_response_tokens: 16, overlong: reject")
	o.up(t).want(t, 0, "too_long")
	data := o.folder()
	ldalign(t, "audit", "strict", "--dir", data).want(t, 0,
		"3 prompts, 2 pairs, 2 encoded, 2 scored, 1 dead, 0 in flight", "dead: 1 too_long")
	ldalign(t, "deadletters", "list", "strict", "--dir", data).want(t, 0, "generator", "too_long", "at most 64 and 16")
	letters := lines[letterStatus](t, ldalign(t, "deadletters", "list", "strict", "--json", "--dir", data))
	if len(letters) != 1 || letters[0].Reason != "too_long" || letters[0].PairID == "" || letters[0].Tries != 1 ||
		letters[0].Worker == "" || letters[0].Number != 1 {
		t.Errorf("dead letters: %+v", letters)
	}
	shown := lines[letterStatus](t, ldalign(t, "deadletters", "show", "strict", "1", "--dir", data))
	if len(shown) != 1 || !strings.Contains(string(shown[0].Original), letters[0].PairID) {
		t.Errorf("shown: %+v", shown)
	}
	ldalign(t, "deadletters", "show", "strict", "99", "--dir", data).want(t, exitFailed, "dead letter 99")
	ldalign(t, "deadletters", "list", "own", "--dir", data).want(t, 0, "no dead letters")
	audits := lines[ledger.Balance](t, ldalign(t, "audit", "strict", "--json", "--dir", data))
	if len(audits) != 1 || audits[0].Trained != 2 || audits[0].DeadTotal() != 1 || !audits[0].Recorded || !audits[0].Balances() {
		t.Errorf("audit: %+v", audits)
	}
	ld := func(args string) output { return ldalign(t, append(strings.Fields(args), "--dir", data)...) }
	ld("audit strict --iteration 7").want(t, exitFailed, "no iteration 7")
	ld("deadletters redrive").want(t, exitUsage, "give --run")
	ld("deadletters redrive --run strict 1 --reason poison").want(t, exitUsage, "give --run, and either numbers of letters or")
	ld("deadletters redrive --run strict --reason poison").want(t, 0)
	ld("deadletters redrive --run strict --stage generator --dry-run").want(t, 0, letters[0].PairID)
	// what is redriven when its iteration has been trained comes too late, and is named until it is there
	ld("deadletters redrive --run strict --reason too_long").want(t, 0, "back on its subject")
	ld("audit strict").want(t, exitFailed, "in flight: pair "+letters[0].PairID, "found unfinished, 1", "1 of 1 iterations")
}

// A dropped letter stays in the ledger.
func TestDroppedLetters(t *testing.T) {
	o := newOwn(t)
	edit(t, o.spec, "max_prompt_tokens: 64", "max_prompt_tokens: 9, overlong: reject")
	o.up(t).want(t, 0)
	ld := func(args string) output { return ldalign(t, append(strings.Fields(args), "--dir", o.folder())...) }
	letters := lines[letterStatus](t, ld("deadletters list own --json"))
	if len(letters) == 0 || len(letters) == 3 {
		t.Fatalf("%d dead letters, want some of 3", len(letters))
	}
	dead := fmt.Sprintf("%d dead", len(letters))
	ld("deadletters drop --run own --reason too_long").want(t, 0, "--yes does it", letters[0].PairID)
	ld("deadletters drop --run own --reason too_long --yes").want(t, 0, "is dropped")
	ld("deadletters list own").want(t, 0, "too_long (dropped)")
	ld("deadletters drop --run own --yes").want(t, 0)
	ld("audit own").want(t, 0, dead, "balances")
	if a := lines[ledger.Balance](t, ld("audit own --json")); a[0].Dropped != len(letters) {
		t.Errorf("audit: %+v", a)
	}
	dropped := lines[letterStatus](t, ld("deadletters list own --json"))[0]
	if dropped.DroppedBy == "" || dropped.Reason != "too_long" {
		t.Errorf("%+v", dropped)
	}
	ld(fmt.Sprint("deadletters redrive --run own ", dropped.Number)).want(t, exitFailed, "was dropped by")
}

func TestChangedSpecIsRefused(t *testing.T) {
	o := newOwn(t)
	o.up(t).want(t, 0)
	edit(t, o.spec, "beta: 0.5", "beta: 0.7")
	o.up(t).want(t, exitFailed, "run own exists with another spec", `objective.beta: "0.7", was "0.5"`, "under `run:`",
		"status own --spec")
	// what status prints is a spec to go on with
	was := ldalign(t, "status", "own", "--spec", "--dir", o.folder())
	was.want(t, 0)
	write(t, o.spec, was.stdout)
	o.up(t).want(t, 0)
}

// While one process works in a folder, other processes can read it.
func TestWhileARunIsOn(t *testing.T) {
	dir := t.TempDir()
	p := start(t, command("up", tiny, "--dir", dir, "--set", "training.epochs=100000"))
	if !p.eventually(t, "a checkpoint", func() bool { return manifests(dir) >= 2 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	ldalign(t, "up", tiny, "--dir", dir).want(t, exitInUse, "in use", fmt.Sprint(p.Process.Pid))
	ldalign(t, "status", "tiny-sft", "--dir", dir).want(t, 0, "in progress", "policy 0 of 1")
	ldalign(t, "runs", "--dir", dir).want(t, 0, "tiny-sft")
	ldalign(t, "audit", "tiny-sft", "--dir", dir).want(t, 0, "64 prompts", "0 in flight")
	ldalign(t, "tail", "prompts", "-n", "3", "--dir", dir).want(t, 0, "ldalign.prompts.tiny-sft.0")
	ldalign(t, "checkpoints", "list", "tiny-sft", "--dir", dir).want(t, 0, "policy", "state")
	follower := start(t, command("tail", "prompts", "--dir", dir))
	if !follower.eventually(t, "prompts", func() bool { return strings.Count(follower.stdout.String(), "\n") == 64 }) {
		t.Errorf("tail ended by itself:\n%s", follower.stderr.String())
	}
	for _, ended := range []struct {
		*process
		code int
	}{{follower, 0}, {p, exitInterrupted}} { // a follower has nothing to save, and says nothing
		if err := ended.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if code := ended.wait(t); code != ended.code {
			t.Errorf("%v: interrupted, it ended with %d, want %d:\n%s", ended.Args[1:], code, ended.code, ended.stderr.String())
		}
		if saves := strings.Contains(ended.stderr.String(), "saving"); saves != (ended.code == exitInterrupted) {
			t.Errorf("%v: interrupted, it said:\n%s", ended.Args[1:], ended.stderr.String())
		}
	}
}

// status says if a run's checkpoints are not in the store that it reads.
func TestStatusWithAnotherStore(t *testing.T) {
	dir := finishedCopy(t)
	if err := os.RemoveAll(filepath.Join(dir, "runs", "tiny-ld", "checkpoints")); err != nil {
		t.Fatal(err)
	}
	ldalign(t, "status", "tiny-ld", "--dir", dir).want(t, 0, "0 checkpoints", "log names 4 checkpoints", "--s3", dir)
	if other := ldalign(t, "status", "tiny-sft", "--dir", dir); strings.Contains(other.stdout, "warning") {
		t.Errorf("a run that has its checkpoints: %s", other.stdout)
	}
	if s := lines[runs.Status](t, ldalign(t, "status", "tiny-ld", "--dir", dir, "--json")); s[0].Missing == "" {
		t.Errorf("status --json: %+v", s)
	}
}

// A dry run reports the same errors as a start of the run.
func TestDryRunLooksAtTheModel(t *testing.T) {
	o := newOwn(t)
	ldalign(t, "up", o.spec, "--dry-run").want(t, 0, "1 iteration of 3 pairs and 1 optimizer step each", "llama, 2 layers of width 32")
	edit(t, o.spec, "max_prompt_tokens: 64", "max_prompt_tokens: 640")
	ldalign(t, "up", o.spec, "--dry-run").want(t, exitFailed, "run own: data.max_prompt_tokens", "the model has 128 positions")
}

// TestJSONOnly: what a verb prints with --json is JSON whatever it is asked to do (ldalign checks each line).
func TestJSONOnly(t *testing.T) {
	dir, _ := finished(t)
	for _, args := range []string{
		"up testdata/tiny.yaml --dry-run",
		"up testdata/tiny.yaml",
		"train testdata/tiny.yaml --dry-run --set objective.kind=sft --set iterations=1",
		"guide train testdata/tiny.yaml",
		"demo --print-spec",
		"plan testdata/tiny.yaml",
		"data inspect builtin:demo/heldout",
		"status tiny-ld --spec",
		"fork tiny-ld@1 --dry-run",
		"replay tiny-ld --as low --set objective.beta=0.25 --dry-run",
		"replay tiny-ld --as low --set objective.bta=0.25 --dry-run",
		"sweep tiny-ld --set objective.beta=0.25,0.5 --dry-run",
		"sweep tiny-ld --set objective.beta=0.25",
		"compare tiny-ld tiny-sft",
		"compare tiny-ld nope",
		"guide inspect tiny-ld",
		"guide inspect tiny-sft",
		"pause nope",
		"runs prune tiny-ld --keep-iterations 1",
		"runs delete tiny-ld",
		"checkpoints gc",
		"deadletters show tiny-ld 1",
		"deadletters redrive",
		"deadletters redrive --run tiny-ld",
		"deadletters drop --run tiny-ld",
		"tail scored -n 2",
		"tail nope",
		"backup nope --to " + filepath.Join(t.TempDir(), "backup"),
		"restore " + dir,
		"generate --model nowhere --input nothing.jsonl",
		"score --model tiny-ld@ --input nothing.jsonl",
		"chat --model nowhere",
	} {
		t.Run(args, func(t *testing.T) {
			out := ldalign(t, append(strings.Fields(args), "--json", "--dir", dir)...)
			if out.stdout+out.stderr == "" {
				t.Error("it prints nothing")
			}
		})
	}
	type planned struct {
		Digest  string
		Stages  []string
		Changed map[string][2]string
		Spec    struct{ Objective struct{ Beta float64 } }
	}
	got := lines[planned](t, ldalign(t, "replay", "tiny-ld", "--as", "low", "--set", "objective.beta=0.25", "--dry-run", "--json",
		"--dir", dir))[0]
	if len(got.Digest) != 64 || strings.Join(got.Stages, " ") != "evaluator trainer" || got.Spec.Objective.Beta != 0.25 ||
		got.Changed["objective.beta"] != [2]string{"0.5", "0.25"} {
		t.Errorf("%+v", got)
	}
}

func TestFinishedRun(t *testing.T) {
	dir, _ := finished(t)
	ld := func(args ...string) output { return ldalign(t, append(args, "--dir", dir)...) }

	ld("status", "tiny-ld").want(t, 0, "complete, policy 2 of 2, 3 evaluated, 7 checkpoints")
	status := lines[runs.Status](t, ld("status", "tiny-ld", "--json"))
	if len(status) != 1 || status[0].Policy != 2 || len(status[0].Iterations) != 2 || status[0].Iterations[1].Scored != 32 {
		t.Errorf("status --json: %+v", status)
	}
	ld("runs").want(t, 0, "tiny-ld", "tiny-sft", "2 of 2")
	if all := lines[runs.Status](t, ld("runs", "--json")); len(all) != 2 || all[0].Run != "tiny-ld" || all[0].State != "complete" {
		t.Errorf("runs --json: %+v", all)
	}
	audit := ld("audit", "tiny-ld", "--json")
	audit.want(t, 0, `"dead":0,"skipped":0,"balanced":true`)
	audits := lines[ledger.Balance](t, audit)
	if len(audits) != 2 || !audits[0].Balances() || audits[0].Scored != 32 || audits[1].Duplicates != 0 {
		t.Errorf("audit --json: %+v", audits)
	}
	version := libtorch(t)
	ld("audit", "tiny-ld").want(t, 0, "  libtorch "+version+" computed 32 pairs\n  libtorch "+version+" computed 32 encoded\n")
	list := lines[listedCheckpoint](t, ld("checkpoints", "list", "tiny-ld", "--json"))
	if len(list) != 7 || list[0].Number != 1 || list[0].Digest == "" || list[6].Kind != checkpoints.Policy || len(list[6].Files) == 0 {
		t.Errorf("checkpoints list --json: %+v", list)
	}
	ld("checkpoints", "list", "tiny-ld").want(t, 0, "guide", list[6].Digest[:12]+"  "+version+"\n")
	for _, m := range list[1:] { // the first is a copy of another run's policy
		if m.Machine == nil || m.Machine.Libtorch != version {
			t.Errorf("checkpoint %d was made on %+v, want libtorch %s", m.Number, m.Machine, version)
		}
	}
	results := lines[streams.Line](t, ld("tail", "ldalign.results.tiny-ld.2", "-n", "1"))
	if len(results) != 1 || results[0].Libtorch != version {
		t.Errorf("the evaluation of policy 2: %+v, want libtorch %s", results, version)
	}
	tail := lines[struct {
		Subject string
		Message struct{ Distance float64 }
	}](t, ld("tail", "ldalign.scored.tiny-ld.1", "-n", "32"))
	if len(tail) != 32 || tail[0].Subject != "ldalign.scored.tiny-ld.1" || tail[0].Message.Distance <= 0 {
		t.Errorf("tail: %d lines, %+v", len(tail), tail[0])
	}
	ld("report", "tiny-sft", "tiny-ld").want(t, 0, "LD-Align 1", "index.html")
	lines[json.RawMessage](t, ld("report", "tiny-ld", "--json"))
	page, err := os.ReadFile(filepath.Join(dir, "runs", "tiny-ld", "report", "index.html"))
	if err != nil || !strings.Contains(string(page), "LD-Align 1") {
		t.Errorf("the report's page: %v", err)
	}

	figures, err := os.ReadFile(filepath.Join(dir, "runs", "tiny-ld", "metrics.jsonl"))
	if err != nil || !strings.Contains(string(figures), `"rewards/margins":`) {
		t.Errorf("the figures of the steps: %v", err)
	}

	ld("checkpoints", "export", "tiny-ld", dir).want(t, exitUsage, "exists")
	ld("checkpoints", "export", "tiny-ld", filepath.Join(t.TempDir(), "x"), "--iteration", "7").want(t, exitFailed, "iteration 7")
	first := filepath.Join(t.TempDir(), "first")
	out := lines[exported](t, ld("checkpoints", "export", "tiny-ld", first, "--iteration", "0", "--json"))
	if len(out) != 1 || out[0].Folder != first || out[0].Kind != checkpoints.Policy || out[0].Iteration != 0 || len(out[0].Digest) != 64 {
		t.Errorf("export --json: %+v", out)
	}
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json"} {
		if info, err := os.Stat(filepath.Join(first, name)); err != nil || info.Size() == 0 {
			t.Errorf("exported %s: %v", name, err)
		}
	}
	for _, args := range [][]string{
		{"status", "nope"},
		{"audit", "nope"},
		{"report", "nope"},
		{"deadletters", "list", "nope"},
		{"checkpoints", "list", "nope"},
		{"checkpoints", "export", "nope", filepath.Join(t.TempDir(), "x")},
	} {
		ld(args...).want(t, exitFailed, "no such", "nope")
	}
	ld("tail", "nope").want(t, exitFailed, "matches no stream", "scored")
	var failed struct {
		Error string `json:"error"`
	}
	if out := ld("status", "nope", "--json"); json.Unmarshal([]byte(out.stderr), &failed) != nil || !strings.Contains(failed.Error, "nope") {
		t.Errorf("an error with --json: %s", out.stderr)
	}
}

func TestPlacesThatRefuse(t *testing.T) {
	o := newOwn(t)
	ldalign(t, "up", o.spec, "--dir", filepath.Join(o.spec, "below-a-file")).want(t, exitFailed, "not a directory", "--dir")
	for _, verb := range []string{"runs", "status own", "audit own", "checkpoints list own"} {
		missing := filepath.Join(t.TempDir(), "missing")
		ldalign(t, append(strings.Fields(verb), "--dir", missing)...).want(t, exitFailed, missing+" holds no runs", "--dir")
		if _, err := os.Stat(missing); err == nil {
			t.Errorf("%s made the folder that it was to look into", verb)
		}
	}
	// a port that somebody else has taken, and one that nobody listens on
	taken, err := net.Listen("tcp", clustertest.FreePorts(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	url := "nats://" + taken.Addr().String()
	go func() {
		for {
			c, err := taken.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	ldalign(t, "up", o.spec, "--nats", url, "--dir", o.folder()).want(t, exitFailed, "connect to NATS server "+url)
	taken.Close()
	ldalign(t, "up", o.spec, "--nats", url, "--dir", o.folder()).want(t, exitFailed, "connect to NATS server "+url)
	ldalign(t, "up", o.spec, "--s3", "http://"+taken.Addr().String(), "--dir", o.folder()).want(t, exitFailed, "nothing listens there")
	o.up(t).want(t, 0)
}

// With a limit on the size of files, as on a full disk, the command ends with an error that says so. Once there is room, the same
// command continues.
func TestNoRoom(t *testing.T) {
	o := newOwn(t)
	c := command("up", o.spec, "--dir", o.folder())
	c.Env = append(c.Env, fileLimitVar+"=200000") // the policy's weights fit, the guide's do not
	p := start(t, c)
	code := p.wait(t)
	output{code, p.stdout.String(), p.stderr.String()}.want(t, exitFailed, "guide.safetensors", "no room", o.folder(), "start again")
	if n := manifests(o.folder()); n != 1 {
		t.Errorf("%d checkpoints, want policy 0 alone", n)
	}
	o.up(t).want(t, 0, "report")
	ldalign(t, "audit", "own", "--dir", o.folder()).want(t, 0, "3 scored, 0 dead, 0 in flight, 0 duplicates")
}

// All iterations of a run have the same prompts: if the records were edited after the run began, up returns an error.
func TestEditedDataIsRefused(t *testing.T) {
	o := newOwn(t)
	args := []string{"up", o.spec, "--dir", o.folder(), "--set", "training.epochs=100000"}
	p := start(t, command(args...))
	if !p.eventually(t, "a guide", func() bool { return manifests(o.folder()) >= 2 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	edit(t, o.data, "Hello Bob.", "Hello Ben.")
	ldalign(t, args...).want(t, exitFailed, "train.jsonl has changed since run own began", "restore it")
}

func TestPortInUse(t *testing.T) {
	o := newOwn(t)
	taken, err := net.Listen("tcp", clustertest.FreePorts(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"up", o.spec, "--dir", o.folder(), "--listen", taken.Addr().String()}
	ldalign(t, args...).want(t, exitFailed, taken.Addr().String(), "in use", "--listen")
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	ldalign(t, args...).want(t, 0)
}

// status shows what each worker of a running run does. A paused run stays paused over a restart, and after resuming it ends with
// the weights of a run that was never paused.
func TestPausedAndWatched(t *testing.T) {
	dir, quiet := t.TempDir(), t.TempDir()
	up := func(in string) []string { // epochs enough to be paused in
		return []string{"up", tiny, "--set", "training.epochs=12", "--dir", in}
	}
	ldalign(t, up(quiet)...).want(t, 0)
	want := outcomeOf(t, quiet, "tiny-sft", "tiny-ld")
	ld := func(args string) output { return ldalign(t, append(strings.Fields(args), "--dir", dir)...) }
	p := start(t, command(up(dir)...))
	if !p.eventually(t, "a state", func() bool { return manifests(dir) >= 2 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	ld("pause tiny-sft").want(t, 0, "run tiny-sft is paused")
	ld("pause nope").want(t, exitFailed, "no such", "nope")
	rests := func() bool {
		s := lines[runs.Status](t, ld("status tiny-sft --json"))[0]
		for _, stage := range s.Live.Stages {
			for _, w := range stage.Workers {
				if stage.Stage == "trainer" && w.State == streams.StatePaused {
					return true
				}
			}
		}
		return false
	}
	if !p.eventually(t, "the trainer to rest", rests) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	ld("runs delete tiny-sft --yes").want(t, exitInUse, "works on run tiny-sft")
	ld("status tiny-sft").want(t, 0, "in progress, paused", "prompter", "the run is paused by", "the run waits for: trainer is paused")
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	p = start(t, command(up(dir)...))
	// whoever looks before the run has its server would start one
	serves := func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "nats", "server.json"))
		return err == nil && strings.Contains(string(data), fmt.Sprintf(`"pid":%d,`, p.Process.Pid))
	}
	if !p.eventually(t, "the server", serves) || !p.eventually(t, "the trainer to rest again", rests) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	watcher := start(t, command("status", "tiny-sft", "--watch", "--every", "100ms", "--dir", dir))
	seen := func() bool { return strings.Contains(watcher.stdout.String(), "run tiny-sft: in progress, paused") }
	if !watcher.eventually(t, "what watch prints", seen) {
		t.Errorf("watch ended:\n%s%s", watcher.stdout.String(), watcher.stderr.String())
	}
	ld("resume tiny-sft --json").want(t, 0, "resumed")
	if code := p.wait(t); code != 0 {
		t.Fatalf("it ended with %d:\n%s", code, p.stderr.String())
	}
	<-watcher.done // the run is complete, or its server has gone
	sameAs(t, want, dir)
	ld("status tiny-sft --watch").want(t, 0, "complete")
	ld("resume tiny-sft").want(t, exitFailed, "not paused")
}

// A trainer that receives no pairs ends with an error that says what it was waiting for. The run continues once it has stages that
// make pairs.
func TestStalledRun(t *testing.T) {
	o := newOwn(t)
	edit(t, o.spec, "compute: {threads: 1}", "compute: {threads: 1}\nstreams: {stall_after: 2s}")
	specs, err := schemas.LoadSpecs(o.spec)
	if err != nil {
		t.Fatal(err)
	}
	specs[0].RelativeTo(o.dir)
	if specs, err = schemas.ResolveAll(specs); err != nil {
		t.Fatal(err)
	}
	e := testEnv(t, o.folder(), t.Output())
	err = e.opened(t.Context(), runs.Options{Limits: specs[0].Streams, Name: "test"}, func(s *runs.Session) error {
		if err := s.Declare(t.Context(), specs[0]); err != nil {
			return err
		}
		return withEngine(specs[0].Compute, func(engine *pipeline.Engine) error {
			return e.player(s, engine, telemetry.NewScreen(e.display)).Trainer(t.Context(), specs[0], "")
		})
	})
	if !errors.Is(err, runs.ErrStalled) || !strings.Contains(err.Error(), "of run own for 2s (streams.stall_after): ") ||
		!strings.Contains(err.Error(), "no stage has input; trainer: waiting, wait for pairs 0: 0 of 0 pairs") {
		t.Errorf("got %v", err)
	}
	o.up(t).want(t, 0)
}

// No password that was given in a URL is shown, or used: a URL is no place for it.
func TestURLsWithCredentialsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"status", "r", "--nats", "nats://me:hunter2@127.0.0.1:1"},
		{"up", "testdata/tiny.yaml", "--dry-run", "--nats", "nats://me:hunter2@127.0.0.1:1"},
		{"checkpoints", "list", "r", "--s3", "http://key:hunter2@127.0.0.1:1", "--json"},
	} {
		out := ldalign(t, append(args, "--dir", t.TempDir())...)
		out.want(t, exitUsage)
		if said := out.stdout + out.stderr; strings.Contains(said, "hunter2") || !strings.Contains(said, "contains credentials") {
			t.Errorf("%v: said\n%s", args, said)
		}
	}
	t.Setenv("LDALIGN_NATS", "nats://me:hunter2@127.0.0.1:1")
	out := ldalign(t, "status", "r", "--dir", t.TempDir())
	out.want(t, exitUsage)
	if strings.Contains(out.stdout+out.stderr, "hunter2") || !strings.Contains(out.stderr, "LDALIGN_NATS_PASSWORD_FILE") {
		t.Errorf("said\n%s", out.stderr)
	}
}
