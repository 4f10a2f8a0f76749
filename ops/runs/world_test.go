package runs

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/curves"
)

// pairsPerIteration is the size of every iteration that a world makes.
const pairsPerIteration = 4

// world is a session on a folder of its own, in which runs are made by hand: messages and checkpoints as stages and trainer
// leave them, and no tensors.
type world struct {
	*Session
	t *testing.T
}

func newWorld(t *testing.T) world {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: t.TempDir(), Name: "test", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	w := world{s, t}
	t.Cleanup(func() { w.must(s.Close()) })
	return w
}

func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// spec is a run that aligns in two iterations and uses another run's guide.
func (w world) spec(run string) schemas.Spec {
	w.t.Helper()
	specs, err := schemas.ParseSpecs("spec", []byte("run: "+run+`
iterations: 2
model: {from: base}
data: {train: train.jsonl, limit: 4}
objective: {kind: ldalign}
guide: {from: "run:measure"}
training: {batch: 2}
`))
	w.must(err)
	return schemas.Resolve(specs[0], 1)
}

// finished makes a run that has made all its policies.
func (w world) finished(run string) schemas.Spec {
	w.t.Helper()
	spec := w.spec(run)
	w.policy(spec, 0)
	w.declare(spec)
	for i := range uint32(spec.Iterations) {
		w.iteration(spec, i)
		w.policy(spec, i+1)
	}
	return spec
}

func (w world) publish(kind schemas.Kind, messages ...events.Message) {
	w.t.Helper()
	for _, m := range messages {
		w.must(w.Streams.Declare(w.t.Context(), m.GetRun(), streams.Limits{}))
	}
	w.must(w.Streams.Publish(w.t.Context(), kind, messages...))
}

func (w world) declare(spec schemas.Spec) {
	w.t.Helper()
	text, err := spec.YAML()
	w.must(err)
	w.publish(schemas.Control, &events.Control{
		Schema: events.Version, Run: spec.Run, Kind: events.ControlSpec, Spec: text, SpecDigest: spec.Digest(),
	})
}

func prompt(run string, iteration uint32, i int) *events.Prompt {
	name := fmt.Sprintf("p%d", i)
	return &events.Prompt{
		Schema: events.Version, Run: run, Iteration: iteration, PairId: schemas.PairID(run, iteration, name, 0), PromptId: name,
		Position: uint64(i), Total: pairsPerIteration, Prompt: "question " + name, Response: "answer " + name,
	}
}

// iteration publishes all that an iteration leaves on the logs.
func (w world) iteration(spec schemas.Spec, i uint32) {
	w.t.Helper()
	policy, err := w.Checkpoints.Policy(w.t.Context(), spec.Run, i)
	w.must(err)
	w.closes(spec.Run, i, pairsPerIteration)
	for k := range pairsPerIteration {
		p := prompt(spec.Run, i, k)
		p.Checkpoint = policy.Digest
		pair := &events.Pair{
			Schema: events.Version, Prompt: p, Rejected: "no answer", PromptIds: []int64{1}, ChosenIds: []int64{2}, RejectedIds: []int64{3},
			ChosenLogp: -1, RejectedLogp: -2, PolicyDigest: policy.Digest,
		}
		w.publish(schemas.Prompts, p)
		w.publish(schemas.Pairs, pair)
		w.publish(schemas.Encoded, &events.Encoded{Schema: events.Version, Pair: pair, Guide: "guide"})
		w.publish(schemas.Scored, &events.Scored{Schema: events.Version, Pair: pair, Guide: "guide", Distance: 0.5})
	}
}

// closes says that an iteration asks for so many pairs.
func (w world) closes(run string, i uint32, total uint64) {
	w.t.Helper()
	w.publish(schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: events.ControlClosed, Iteration: i, Total: total,
	})
}

// policy commits and announces a policy with the record of the iteration that made it.
func (w world) policy(spec schemas.Spec, i uint32, more ...checkpoints.Source) checkpoints.Manifest {
	w.t.Helper()
	files := append(more,
		checkpoints.FromBytes(checkpoints.WeightsFile, fmt.Appendf(nil, "weights of policy %d", i)),
		checkpoints.FromBytes(curves.File, fmt.Appendf(nil, "records of policy %d", i)))
	if i > 0 {
		of := spec.Run
		if spec.Replays() {
			of = spec.Source.Run // its pairs keep their ids
		}
		batches := checkpoints.Batches{Steps: []checkpoints.Batch{{Step: 1, Pairs: []int{0, 1}}, {Step: 2, Pairs: []int{2, 3}}}}
		for k := range pairsPerIteration {
			batches.Pairs = append(batches.Pairs, prompt(of, i-1, k).GetPairId())
		}
		var record bytes.Buffer
		w.must(batches.Write(&record))
		files = append(files, checkpoints.FromBytes(checkpoints.BatchesFile, record.Bytes()))
	}
	m, err := w.Checkpoints.Commit(w.t.Context(), spec.Run, checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: i, SpecDigest: spec.Digest(), Files: files,
	})
	w.must(err)
	w.publish(schemas.Checkpoints, &events.Checkpoint{
		Schema: events.Version, Run: spec.Run, Number: m.Number, Kind: string(m.Kind), Iteration: i, Digest: m.Digest, Key: m.Key,
	})
	return m
}

// count is the number of messages of a run by kind.
func (w world) count(run string) map[schemas.Kind]uint64 {
	w.t.Helper()
	counts := map[schemas.Kind]uint64{}
	sizes, err := ledger.SizeOf(w.t.Context(), w.Streams, run)
	w.must(err)
	for _, s := range sizes {
		counts[s.Kind] = s.Messages
	}
	return counts
}
