package trainer_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/curves"
)

// world is a machine with everything that runs need: embedded streams, a directory store, an engine of one thread. Runs
// in it differ by name.
type world struct {
	t           *testing.T
	streams     *streams.Conn
	store       *refusingStore
	root        string // of the store
	checkpoints *checkpoints.Repository
	engine      *tensor.Engine
	log         zerolog.Logger
	// metrics is the folder of the runs' metrics.
	metrics string
	// generators is how many work on a run.
	generators int
	// segmentLines is that of the trainers; 0 for what it is elsewhere.
	segmentLines int
	// leaseTTL is that of the trainers; 0 for what it is elsewhere.
	leaseTTL time.Duration
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, engine: newEngine(t), generators: 1, log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)}
	w.root, w.metrics = filepath.Join(t.TempDir(), "store"), t.TempDir()
	w.reopen()
	w.openStreams(t.TempDir())
	return w
}

// reopen opens the checkpoints as a new process does, which has verified none of them.
func (w *world) reopen() {
	w.t.Helper()
	store, err := checkpoints.OpenDir(w.root)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = &refusingStore{Store: store}
	w.checkpoints = checkpoints.New(w.store, w.t.TempDir(), w.log)
}

// openStreams starts embedded streams on a folder.
func (w *world) openStreams(dir string) {
	w.t.Helper()
	conn, err := streams.Open(w.t.Context(), streams.Options{
		Dir: dir, Log: w.log, Name: "test", Limits: streams.Limits{Sync: time.Minute},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.streams = conn
}

// declare creates the streams of a run.
func (w *world) declare(run string) {
	w.t.Helper()
	if err := w.streams.Declare(w.t.Context(), run, streams.Limits{}); err != nil {
		w.t.Fatal(err)
	}
}

// refusingStore is a store that can be told to write no more: a trainer that ends with it leaves what a killed one does. It can
// also be away, and keep what is to be deleted.
type refusingStore struct {
	checkpoints.Store
	refuse, away, keep atomic.Bool
	// put, if not nil, is called before a file is written.
	put func(key string)
}

func (s *refusingStore) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if s.away.Load() {
		return checkpoints.ErrUnavailable
	}
	if s.put != nil {
		s.put(key)
	}
	return s.Store.Put(ctx, key, r, size)
}

func (s *refusingStore) Delete(ctx context.Context, key string) error {
	if s.keep.Load() {
		return errRefused
	}
	return s.Store.Delete(ctx, key)
}

var errRefused = errors.New("the store refuses")

func (s *refusingStore) Create(ctx context.Context, key string, data []byte) error {
	if s.refuse.Load() {
		return errRefused
	}
	return s.Store.Create(ctx, key, data)
}

// testSpec is a run of a tiny Llama from random weights: 2 iterations over 12 prompts, in batches of 4 and parts of 2.
func testSpec(run string, change ...func(*schemas.Spec)) schemas.Spec {
	s := schemas.Default()
	s.Run, s.Iterations = run, 2
	s.Model.From = "scratch"
	s.Model.Scratch = &schemas.ScratchSpec{
		Family: "llama", Hidden: 16, Layers: 1, Heads: 2, Intermediate: 32, MaxPositions: 80, Tokenizer: "builtin:demo",
	}
	s.Data.Train, s.Data.Limit, s.Data.MaxPromptTokens, s.Data.MaxResponseTokens = "builtin:demo/align", 12, 64, 8
	s.Objective.Beta = 0.5
	s.Guide.Decoder, s.Guide.LatentDim, s.Guide.Epochs, s.Guide.Batch = "scratch:1", 4, 1, 4
	s.Guide.Optimizer.LR = 1e-3
	s.Generation.Slots = 8
	s.Optimizer.LR = 1e-3
	s.Training.Batch, s.Training.MicroBatch = 4, 2
	for _, c := range change {
		c(&s)
	}
	return schemas.Resolve(s, 1)
}

// meterFunc is called with the progress of steps and waits.
type meterFunc func(work string, done, total int)

func (f meterFunc) Observe(e activity.Event) {
	work := e.Progress()
	f(e.String(), work.Done, work.Total)
}

func silent(string, int, int) {}

// stopAt gives a context that ends when the named work has come to done, and the meter that ends it.
func stopAt(parent context.Context, work string, done int) (context.Context, meterFunc) {
	ctx, cancel := context.WithCancel(parent)
	return ctx, func(w string, d, _ int) {
		if w == work && d >= done {
			cancel()
		}
	}
}

// trainer makes the trainer of a run.
func (w *world) trainer(spec schemas.Spec, meter meterFunc) *trainer.Trainer {
	t := trainer.New(trainer.Config{
		Spec: spec, Streams: w.streams, Checkpoints: w.checkpoints, Engine: w.engine,
		Tokenizers: func(string) (fs.FS, error) { return dataset.DemoTokenizer(), nil },
		Holder:     "test", Meter: meter, Metrics: filepath.Join(w.metrics, spec.Run), Log: w.log,
	})
	t.SetSegmentLines(w.segmentLines)
	if w.leaseTTL > 0 {
		t.SetLeaseTTL(w.leaseTTL)
	}
	return t
}

// work plays all stages and the trainer of a run, as `ldalign up` does, until the trainer ends, and returns its error. A
// stage that fails fails the test.
func (w *world) work(ctx context.Context, spec schemas.Spec, meter meterFunc) error {
	w.t.Helper()
	if err := spec.Validate(); err != nil {
		w.t.Fatal(err)
	}
	stageCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, stageCtx := errgroup.WithContext(stageCtx)
	w.startStages(stageCtx, group, spec)
	trainCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(stageCtx, cancel)() // a failed stage ends the trainer
	err := w.trainer(spec, meter).Run(trainCtx)
	stop()
	if staged := group.Wait(); staged != nil {
		w.t.Fatal(staged)
	}
	return err
}

// startStages plays the stages of a run as `ldalign up` does.
func (w *world) startStages(ctx context.Context, group *errgroup.Group, spec schemas.Spec) {
	w.t.Helper()
	w.declare(spec.Run)
	player := &pipeline.Player{
		Streams: w.streams, Checkpoints: w.checkpoints, Engine: w.engine, Grace: 10 * time.Millisecond, Log: w.log,
	}
	for _, row := range pipeline.Default().Of(spec) {
		n := 1
		if row.Name == "generator" {
			n = w.generators
		}
		for range n {
			group.Go(func() error { return player.Play(ctx, row, spec) })
		}
	}
}

// finish takes a run to its end.
func (w *world) finish(spec schemas.Spec) {
	w.t.Helper()
	if err := w.work(w.t.Context(), spec, silent); err != nil {
		w.t.Fatal(err)
	}
}

// policy is the newest manifest of an iteration's policy.
func (w *world) policy(run string, iteration uint32) checkpoints.Manifest {
	w.t.Helper()
	m, err := w.checkpoints.Policy(w.t.Context(), run, iteration)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// latest is the newest manifest of a kind.
func (w *world) latest(run string, kind checkpoints.Kind) checkpoints.Manifest {
	w.t.Helper()
	m, err := w.checkpoints.Latest(w.t.Context(), run, kind)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// records are those of a checkpoint.
func (w *world) records(m checkpoints.Manifest) []curves.Step {
	w.t.Helper()
	data, err := w.checkpoints.ReadLines(w.t.Context(), m, curves.File)
	if err != nil {
		w.t.Fatal(err)
	}
	records, err := curves.Read(data)
	if err != nil {
		w.t.Fatal(err)
	}
	return records
}

// batches are those of a policy or guide; policy 0 has none.
func (w *world) batches(m checkpoints.Manifest) checkpoints.Batches {
	w.t.Helper()
	if m.Kind == checkpoints.Policy && m.Iteration == 0 {
		return checkpoints.Batches{}
	}
	b, err := w.checkpoints.Batches(w.t.Context(), m)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) file(m checkpoints.Manifest, name string) checkpoints.File {
	w.t.Helper()
	f, ok := m.File(name)
	if !ok {
		w.t.Fatalf("checkpoint %s has no %s", m.Key, name)
	}
	return f
}

// collect is a complete iteration of one kind.
func (w *world) collect(kind schemas.Kind, run string, iteration uint32) []events.Message {
	w.t.Helper()
	got, err := ledger.Collect(w.t.Context(), w.streams, kind, run, iteration, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return got.Messages
}

func metric(m checkpoints.Manifest, name string) (float64, bool) {
	for _, x := range m.Metrics {
		if x.Name == name {
			return x.Value, true
		}
	}
	return 0, false
}

// writeFile writes a file of a test's own.
func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ids are those of messages.
func ids(messages []events.Message) []string {
	out := make([]string, len(messages))
	for i, m := range messages {
		out[i] = m.ID()
	}
	return out
}
