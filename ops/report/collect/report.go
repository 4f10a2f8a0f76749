// Package collect reads the streams and checkpoints of runs, and makes the plain data that package report shows. It needs no
// tensors.
package collect

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/evaluator/result"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Report collects the data of a report on some runs.
func Report(ctx context.Context, s *runs.Session, specs []schemas.Spec, title string) (report.Input, error) {
	in := report.Input{Title: title}
	c := collector{Session: s, in: &in, rows: map[string]int{}}
	for _, spec := range specs {
		if err := c.run(ctx, spec); err != nil {
			return in, fmt.Errorf("report of run %s: %w", spec.Run, err)
		}
	}
	in.Subject, in.Against = comparison(in.Rows, specs)
	if len(in.Rows) > 0 && len(in.Rows[0].Seeds) == 1 {
		in.Notes = append(in.Notes, "One seed: differences of a few points are noise.")
	}
	return in, nil
}

// collector fills a report's input run by run; rows of several seeds with one label become one row.
type collector struct {
	*runs.Session
	in   *report.Input
	rows map[string]int
}

func (c *collector) run(ctx context.Context, spec schemas.Spec) error {
	text, err := spec.YAML()
	if err != nil {
		return err
	}
	c.in.Runs = append(c.in.Runs, report.Run{
		Name: spec.Run, Method: method(spec), Lineage: lineage.Describe(spec), Spec: string(text),
	})
	manifests, err := c.Checkpoints.List(ctx, spec.Run)
	if err != nil {
		return err
	}
	if err := c.curves(ctx, spec, manifests); err != nil {
		return err
	}
	if spec.Objective.Kind == "ldalign" {
		if err := c.distances(ctx, spec); err != nil {
			return err
		}
	}
	return c.results(ctx, spec)
}

// method is the name of a spec's method in tables.
func method(spec schemas.Spec) string {
	name := objective.Name(spec)
	if spec.Source != nil { // a report may hold the source too
		name += " (" + spec.Run + ")"
	}
	return name
}

// label names the row of a policy: the run's start, or the method with the iteration that made it, from 0 as in the paper.
func label(spec schemas.Spec, iteration uint32) string {
	switch {
	case iteration == 0 && strings.HasPrefix(spec.Model.From, "run:"):
		return "SFT"
	case iteration == 0:
		return "Start"
	case spec.Iterations == 1:
		return method(spec)
	}
	return fmt.Sprintf("%s %d", method(spec), iteration-1)
}

// curves reads the step records in the run's policies and guide.
func (c *collector) curves(ctx context.Context, spec schemas.Spec, manifests []checkpoints.Manifest) error {
	policy := report.Curve{Method: method(spec), Run: spec.Run, Seed: spec.Seed, Objective: spec.Objective.Kind}
	guide := report.Curve{Method: "Guide", Run: spec.Run, Seed: spec.Seed, Objective: "guide"}
	for _, m := range manifests {
		file, ok := m.File(curves.File)
		if !ok || m.Kind == checkpoints.State {
			continue
		}
		data, err := c.Checkpoints.ReadFile(ctx, spec.Run, file)
		if err != nil {
			return err
		}
		steps, err := curves.Read(data)
		if err != nil {
			return fmt.Errorf("checkpoint %s: %w", m.Key, err)
		}
		curve := &policy
		if m.Kind == checkpoints.Guide {
			curve = &guide
			g := report.Guide{Run: spec.Run, Seed: spec.Seed}
			g.True, _ = m.Metric("reconstruction")
			g.Shuffled, _ = m.Metric("reconstruction_shuffled")
			c.in.Guides = append(c.in.Guides, g)
		}
		curve.Steps = append(curve.Steps, steps...)
	}
	for _, curve := range []report.Curve{policy, guide} {
		if len(curve.Steps) > 0 {
			c.in.Curves = append(c.in.Curves, curve)
		}
	}
	return nil
}

// distances reads the scored pairs of each iteration, with the weights that the trainer computed for them.
func (c *collector) distances(ctx context.Context, spec schemas.Spec) error {
	byIteration := make([][]*events.Scored, spec.Iterations)
	seen := map[string]bool{}
	feed, replayed := lineage.Feed(spec, schemas.Scored)
	err := c.Streams.Read(ctx, feed.Kind, feed.Run, streams.AllIterations, feed.First, func(r streams.Received) error {
		if replayed && r.Seq > feed.Last {
			return streams.ErrStop
		}
		s, ok := r.Message.(*events.Scored)
		if i := int(r.Message.GetIteration()); ok && i >= spec.FirstIteration() && i < spec.Iterations && !seen[s.ID()] {
			seen[s.ID()] = true
			byIteration[s.GetIteration()] = append(byIteration[s.GetIteration()], s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	first, err := c.firstNormaliser(ctx, spec)
	if err != nil {
		return err
	}
	for i, scored := range byIteration {
		if len(scored) == 0 {
			continue
		}
		sortByPosition(scored)
		values := distancesOf(scored)
		if spec.Objective.Mix == "previous" && i > spec.FirstIteration() {
			values = append(values, distancesOf(byIteration[i-1])...) // trained once more, and weighed together
		}
		w, normaliser, err := objective.Weights(values, spec, uint32(i), first)
		if err != nil {
			return err
		}
		if i == 0 {
			first = normaliser
		}
		d := report.Distances{Method: method(spec), Run: spec.Run, Seed: spec.Seed, Iteration: i}
		for k, s := range scored {
			prompt := s.GetPair().GetPrompt()
			d.Pairs = append(d.Pairs, report.PairDistance{
				Distance: values[k], Weight: w[k], Identical: s.GetPair().GetRejected() == prompt.GetResponse(),
			})
			c.in.Examples = append(c.in.Examples, report.Example{
				Method: d.Method, Run: spec.Run, Iteration: i, Prompt: prompt.GetPrompt(), Chosen: prompt.GetResponse(),
				Rejected: s.GetPair().GetRejected(), Distance: values[k], Weight: w[k],
			})
		}
		c.in.Distances = append(c.in.Distances, d)
	}
	return nil
}

// distancesOf are the distances of pairs, in their order.
func distancesOf(scored []*events.Scored) []float64 {
	values := make([]float64, len(scored))
	for k, s := range scored {
		values[k] = s.GetDistance()
	}
	return values
}

// firstNormaliser is that of iteration 0 where a replay begins later, and so has it from its source; else 0.
func (c *collector) firstNormaliser(ctx context.Context, spec schemas.Spec) (float64, error) {
	if spec.FirstIteration() == 0 || spec.Objective.Normaliser != "fixed_first" {
		return 0, nil
	}
	m, err := c.Checkpoints.Policy(ctx, spec.Source.Run, 1)
	normaliser, _ := m.Metric(objective.NormaliserMetric)
	return normaliser, err
}

// results are the rows of the held-out table and the samples of the agreement test.
func (c *collector) results(ctx context.Context, spec schemas.Spec) error {
	results, err := c.Results(ctx, spec.Run)
	if err != nil {
		return err
	}
	for i := range uint32(spec.Iterations + 1) {
		r := results[i]
		if r == nil {
			continue
		}
		name := label(spec, i)
		at, ok := c.rows[name]
		if !ok {
			at = len(c.in.Rows)
			c.rows[name] = at
			c.in.Rows = append(c.in.Rows, report.Row{Method: name, Run: spec.Run, Iteration: int(i)})
		}
		c.in.Rows[at].Seeds = append(c.in.Rows[at].Seeds, scores(spec.Seed, r))
		if err := c.agreement(ctx, spec, r, name); err != nil {
			return err
		}
	}
	return nil
}

func scores(seed uint64, r *events.Result) report.Scores {
	value := func(name string) *float64 {
		for _, m := range r.GetMetrics() {
			if m.GetName() == name {
				v := m.GetValue()
				return &v
			}
		}
		return nil
	}
	return report.Scores{
		Seed: seed, GreedyExact: value(result.GreedyExact), GreedyGraded: value(result.GreedyGraded),
		SampledExact: value(result.SampledExact), SampledGraded: value(result.SampledGraded),
		Distance: value(result.DistanceMean), AnswerTokens: value(result.SampledLength),
	}
}

// agreement reads a result's details for the two-sample test.
func (c *collector) agreement(ctx context.Context, spec schemas.Spec, r *events.Result, name string) error {
	data, err := c.Checkpoints.ReadBlob(ctx, spec.Run, r.GetDetails())
	if err != nil {
		return err
	}
	details, err := result.Read(data)
	if err != nil {
		return fmt.Errorf("details %s: %w", r.GetDetails(), err)
	}
	a := report.Agreement{Method: name, Run: spec.Run, Seed: spec.Seed, Iteration: int(r.GetIteration())}
	for _, d := range details {
		c.in.HeldOut = max(c.in.HeldOut, len(a.Pairs)+1)
		if len(d.Samples) < 2 || d.Samples[0].Distance == nil || d.Samples[1].Distance == nil {
			continue
		}
		x, y := d.Samples[0], d.Samples[1]
		a.Pairs = append(a.Pairs, report.SamplePair{
			DistanceA: *x.Distance, DistanceB: *y.Distance, ScoreA: x.Graded, ScoreB: y.Graded, ExactA: x.Exact, ExactB: y.Exact,
		})
	}
	if len(a.Pairs) > 0 {
		c.in.Agreement = append(c.in.Agreement, a)
	}
	return nil
}

// comparison picks the row that the verdict judges, the last of the subject's method, and those that it is compared with:
// where it started, then the last row of each other method.
func comparison(rows []report.Row, specs []schemas.Spec) (string, []string) {
	last := map[string]string{}
	var order []string
	subject := ""
	for _, spec := range specs {
		for _, row := range rows {
			m := method(spec)
			if row.Method != label(spec, uint32(row.Iteration)) || row.Iteration == 0 {
				continue
			}
			if last[m] == "" {
				order = append(order, m)
			}
			last[m] = row.Method
			if subject == "" && spec.Objective.Kind != "sft" {
				subject = m
			}
		}
	}
	if subject == "" && len(order) > 0 {
		subject = order[0]
	}
	var against []string
	for _, row := range rows {
		if row.Iteration == 0 {
			against = append(against, row.Method)
			break
		}
	}
	for _, m := range order {
		if m != subject {
			against = append(against, last[m])
		}
	}
	return last[subject], against
}

// sortByPosition puts pairs into the prompter's order, in which the trainer weighs them.
func sortByPosition(scored []*events.Scored) {
	slices.SortFunc(scored, func(a, b *events.Scored) int {
		return cmp.Compare(a.GetPair().GetPrompt().GetPosition(), b.GetPair().GetPrompt().GetPosition())
	})
}
