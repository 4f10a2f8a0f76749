package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/retention"
)

// A run that keeps little ends with the same weights, audits equal, and refuses with the reason what needs what is gone.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	ld := func(args string) output { return ldalign(t, append(strings.Fields(args), "--dir", dir)...) }
	ld("up "+tiny+" --set retention.messages=1 --set retention.policies=1").want(t, 0, "LD-Align 1")
	want, got := undisturbed(t), outcomeOf(t, dir, "tiny-sft", "tiny-ld")
	if got.Pairs["tiny-ld 0"] != 0 || got.Pairs["tiny-ld 1"] != 32 {
		t.Errorf("scored pairs on the log: %v", got.Pairs)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(outcome{}, "Pairs")); diff != "" {
		t.Errorf("not what a run that keeps all gives (-all +this):\n%s", diff)
	}
	audits := lines[ledger.Balance](t, ld("audit tiny-ld --json"))
	if len(audits) != 2 || audits[0].Expired != 32 || audits[0].Trained != 32 || audits[1].Expired != 0 || audits[1].Trained != 32 {
		t.Errorf("audit: %+v", audits)
	}
	ld("audit tiny-ld").want(t, 0, "0 prompts + 32 removed by retention = 32 trained", "32 prompts = 32 trained")
	ld("status tiny-ld").want(t, 0, "messages removed by retention")
	ld("report tiny-ld").want(t, 0, "LD-Align 1")
	ld("checkpoints export tiny-ld "+t.TempDir()+"/one --iteration 1").
		want(t, exitFailed, "removed by retention", "policy 1 of run tiny-ld", "retention.policies: 1")
	ld("checkpoints export tiny-ld "+t.TempDir()+"/two").want(t, 0)
	ld("fork tiny-ld@1 --as branch").want(t, exitFailed, "the weights of policy 1 of run tiny-ld")
	ld("replay tiny-ld --iteration 1 --as again").want(t, exitFailed, "the weights of policy 1 of run tiny-ld")
	ld("replay tiny-ld --from prompts --iteration 0 --set model.from=run:tiny-sft@1 --as again").
		want(t, exitFailed, "its retention has removed them (retention.messages: 1, retention.policies: 1)")
	// a copy of the folder goes on where it is
	ld("up "+tiny).want(t, 0, "LD-Align 1")
	ld("backup tiny-ld --to "+dir+"/copy").want(t, 0)
	elsewhere := t.TempDir()
	ldalign(t, "restore", dir+"/copy", "--dir", elsewhere).want(t, 0)
	again := lines[ledger.Balance](t, ldalign(t, "audit", "tiny-ld", "--json", "--dir", elsewhere))
	if len(again) != 2 || again[0].Expired != 32 || !again[0].Balances() {
		t.Errorf("restored: %+v", again)
	}
}

// By hand: what would go is told and nothing changed, what a replay has pinned stays.
func TestPrune(t *testing.T) {
	dir := finishedCopy(t)
	ld := func(args string) output { return ldalign(t, append(strings.Fields(args), "--dir", dir)...) }
	ld("replay tiny-ld --from scored --set objective.beta=0.2 --as pinned").want(t, 0)
	ld("runs prune tiny-ld").want(t, exitUsage, "--keep-iterations")
	before := outcomeOf(t, dir, "tiny-ld")
	prune := func(args string) retention.Removed {
		t.Helper()
		return lines[retention.Removed](t, ld("runs prune tiny-ld --keep-iterations 1 --keep-policies 1 --json "+args))[0]
	}
	dry := prune("")
	if dry.Done || dry.Messages != 3*32 || len(dry.Iterations) != 1 || len(dry.Policies) != 1 || dry.Files != 1 || dry.Bytes == 0 {
		t.Errorf("dry: %+v", dry)
	}
	if len(dry.Stays) != 2 || dry.Stays[0] != (retention.Stay{What: "scored", Iteration: 0, Why: "run pinned replays them"}) ||
		dry.Stays[1] != (retention.Stay{What: "policy", Iteration: 0, Why: "run pinned starts from it"}) {
		t.Errorf("stays: %+v", dry.Stays)
	}
	if diff := cmp.Diff(before, outcomeOf(t, dir, "tiny-ld")); diff != "" {
		t.Errorf("a dry run has changed something:\n%s", diff)
	}
	ld("runs prune tiny-ld --keep-iterations 1 --keep-policies 1").want(t, 0, "would remove 96 messages", "--yes does it")
	if done := prune("--yes"); !done.Done || done.Messages != dry.Messages || done.Bytes != dry.Bytes || done.Files != dry.Files {
		t.Errorf("done: %+v, told before: %+v", done, dry)
	}
	attached(t, dir, func(n *node) {
		have := n.messages(t, "tiny-ld")
		if have[schemas.Prompts] != 32 || have[schemas.Pairs] != 32 || have[schemas.Encoded] != 32 || have[schemas.Scored] != 64 {
			t.Errorf("left: %v", have)
		}
	})
	ld("audit tiny-ld").want(t, 0, "32 removed by retention = 32 trained")
	ld("audit pinned").want(t, 0)
	ld("replay tiny-ld --from scored --set objective.beta=0.2 --as pinned").want(t, 0)
	ld("replay tiny-ld --from scored --iteration 0 --set objective.beta=0.2 --as second").want(t, 0) // what one pins, others may read
	ld("replay tiny-ld --from pairs --iteration 0 --as third").want(t, exitFailed, "lacks 32 of 32 pairs: its retention has removed them")
	for _, run := range []string{"pinned", "second"} {
		ld("runs delete "+run+" --yes").want(t, 0)
	}
	if done := prune("--yes"); done.Messages != 32 || len(done.Policies) != 1 || done.Policies[0] != 0 || len(done.Stays) != 0 {
		t.Errorf("nobody needs it any more: %+v", done)
	}
	ld("audit tiny-ld").want(t, 0, "iteration 0: 0 prompts, 0 pairs, 0 encoded, 0 scored", "32 removed by retention = 32 trained")
}
