package trainer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/metrics"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// plotter writes each step's record to a folder (metrics.Log) and publishes it on the results stream. The checkpoints
// contain the same records, so training continues after an error, which is logged.
type plotter struct {
	spec schemas.Spec
	dir  string // empty for no files
	log  zerolog.Logger
	results

	// history are the records of the phases that were finished when the process started.
	history []curves.Step
	files   *metrics.Log
	broken  bool
	// of the current phase: the tokens so far, and when its last step ended
	tokens int
	last   time.Time
}

// begin is called when a phase begins or resumes. It opens the files, which then contain the records of the finished phases
// and the earlier records of this phase. It publishes the latter again, in case an earlier process ended before it could.
func (c *plotter) begin(records []curves.Step, total int) {
	c.tokens, c.last = 0, time.Now()
	var steps []metrics.Step
	if c.files == nil && c.dir != "" && !c.broken {
		for _, finished := range byPhase(c.history) {
			tokens := 0
			for _, r := range finished {
				tokens += r.Tokens
				steps = append(steps, c.step(r, len(finished), tokens))
			}
		}
	}
	for _, r := range records {
		c.tokens += r.Tokens
		step := c.step(r, total, c.tokens)
		steps = append(steps, step)
		c.publish(c.result(step))
	}
	if c.files == nil && c.dir != "" && !c.broken {
		var err error
		c.files, err = metrics.Open(c.dir, steps)
		c.check(err)
	}
}

// add writes and publishes a step that was just made.
func (c *plotter) add(r curves.Step, total int) {
	now := time.Now()
	c.tokens += r.Tokens
	step := c.step(r, total, c.tokens)
	step.Clock = &metrics.Clock{Time: now, TokensPerSecond: float64(r.Tokens) / max(now.Sub(c.last).Seconds(), 1e-9)}
	c.last = now
	if c.files != nil && !c.broken {
		c.check(c.files.Add(step))
	}
	result := c.result(step)
	result.Metrics = append(result.Metrics, &events.Metric{Name: "tokens/s", Value: step.Clock.TokensPerSecond})
	c.publish(result)
}

func (c *plotter) check(err error) {
	if err != nil {
		c.broken = true
		c.log.Warn().Err(err).Str("run", c.spec.Run).Msg(
			"metrics are no longer written; training continues, and the next start writes all of them")
	}
}

// close closes the files.
func (c *plotter) close() error {
	if c.files == nil {
		return nil
	}
	return c.files.Close()
}

// step converts a record of a phase of total steps. tokens is the number of tokens up to it.
func (c *plotter) step(r curves.Step, total, tokens int) metrics.Step {
	epochs := c.spec.Training.Epochs
	if r.Phase == schedule.Guide {
		epochs = c.spec.Guide.Epochs
	}
	s := metrics.Step{Phase: r.Phase, Iteration: r.Iteration, Step: r.Step}
	s.Values = append(s.Values, metrics.Value{Name: "epoch", Value: float64(r.Step) / float64(total) * float64(epochs)})
	for _, m := range r.Metrics(c.spec.Objective.Beta) {
		s.Values = append(s.Values, metrics.Value{Name: m.Name, Value: m.Value})
	}
	s.Values = append(s.Values, metrics.Value{Name: "num_tokens", Value: float64(tokens)})
	return s
}

func (c *plotter) result(s metrics.Step) *events.Result {
	out := &events.Result{
		Schema: events.Version, Run: c.spec.Run, Iteration: s.Iteration, Phase: s.Phase, Step: uint64(s.Step),
	}
	for _, v := range s.Values {
		out.Metrics = append(out.Metrics, &events.Metric{Name: v.Name, Value: v.Value})
	}
	return out
}

// byPhase splits records where phase or iteration changes.
func byPhase(records []curves.Step) [][]curves.Step {
	var out [][]curves.Step
	for i, r := range records {
		if i == 0 || r.Phase != records[i-1].Phase || r.Iteration != records[i-1].Iteration {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], r)
	}
	return out
}

// results publishes results in the background: publish never blocks, and run stores what was published since its last round.
type results struct {
	conn *streams.Conn
	wake chan struct{}

	mu      sync.Mutex
	pending []events.Message
	ended   bool // run has returned, and nothing is stored any more
}

// flushTime is how long the last results may take to be stored when a trainer ends.
const flushTime = 5 * time.Second

func (r *results) publish(m *events.Result) {
	r.mu.Lock()
	if !r.ended {
		r.pending = append(r.pending, m)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *results) take() []events.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.pending
	r.pending = nil
	return taken
}

// run stores results until ctx ends, and then has flushTime to store the last ones. It returns after the first error.
func (r *results) run(ctx context.Context) error {
	defer func() {
		r.mu.Lock()
		r.pending, r.ended = nil, true
		r.mu.Unlock()
	}()
	for {
		select {
		case <-r.wake:
			if err := r.store(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
			defer cancel()
			return r.store(last)
		}
	}
}

func (r *results) store(ctx context.Context) error {
	taken := r.take()
	if len(taken) == 0 {
		return nil
	}
	err := r.conn.Publish(ctx, schemas.Results, taken...)
	if err != nil {
		r.mu.Lock()
		r.pending = append(taken, r.pending...) // the last try has them again; ids make repeats harmless
		r.mu.Unlock()
	}
	return err
}

// startPlotter starts t.plotter, for a run whose base policy is known. end stops it.
func (t *Trainer) startPlotter(ctx context.Context) (end func() error, err error) {
	c := &plotter{
		spec: t.Spec, dir: t.Metrics, log: t.Log, results: results{conn: t.Streams, wake: make(chan struct{}, 1)},
	}
	if c.history, err = t.finishedRecords(ctx); err != nil {
		return nil, err
	}
	t.plotter = c
	publishing, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.results.run(publishing); err != nil {
			t.Log.Warn().Err(err).Str("run", t.Spec.Run).Msg("steps are no longer published on the results stream; training continues")
		}
	}()
	return func() error {
		stop()
		<-done
		return c.close()
	}, nil
}

// finishedRecords are the records of the guide and of the policies up to the base, in the order in which they were made.
func (t *Trainer) finishedRecords(ctx context.Context) ([]curves.Step, error) {
	var made []checkpoints.Manifest
	if t.Spec.TrainsGuide() {
		guide, err := t.Checkpoints.Latest(ctx, t.Spec.Run, checkpoints.Guide)
		switch {
		case err == nil:
			made = append(made, guide)
		case !errors.Is(err, checkpoints.ErrNoCheckpoint):
			return nil, err
		}
	}
	for i := uint32(1); i <= t.base.Iteration; i++ {
		policy, err := t.Checkpoints.Policy(ctx, t.Spec.Run, i)
		if err != nil {
			return nil, err
		}
		made = append(made, policy)
	}
	var records []curves.Step
	for _, m := range made {
		file, ok := m.File(curves.File)
		if !ok {
			continue
		}
		data, err := t.Checkpoints.ReadFile(ctx, t.Spec.Run, file)
		if err != nil {
			return nil, err
		}
		some, err := curves.Read(data)
		if err != nil {
			return nil, err
		}
		records = append(records, some...)
	}
	return records, nil
}

// stepObserver passes the steps of a phase to plotter and meter.
type stepObserver struct {
	trainer   *Trainer
	plan      schedule.Plan
	objective string
	probe     *curves.Probe // the newest
}

func (t *Trainer) observer(objective string, plan schedule.Plan) *stepObserver {
	return &stepObserver{trainer: t, plan: plan, objective: objective}
}

// Begins is part of loop.Observer.
func (o *stepObserver) Begins(records []curves.Step, done, total int) {
	o.trainer.plotter.begin(records, total)
	o.show(nil, done, total)
}

// Made is part of loop.Observer.
func (o *stepObserver) Made(last *curves.Step, done, total int) {
	o.trainer.plotter.add(*last, total)
	if last.Guide != nil {
		o.probe = last.Guide
	}
	o.show(last, done, total)
}

func (o *stepObserver) show(last *curves.Step, done, total int) {
	o.trainer.Meter.Observe(activity.Training{
		Work: activity.Work{
			Run: o.trainer.Spec.Run, Phase: o.plan.Phase, Iteration: o.plan.Iteration, Done: done, Total: total,
		},
		Objective: o.objective, Last: last, Probe: o.probe,
	})
}
