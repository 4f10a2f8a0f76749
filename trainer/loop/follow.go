package loop

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/ranks"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// Shared is the group of processes that compute a phase together, and the model.
type Shared struct {
	Group *ranks.Group
	Model *models.Model
	// LoRA is the adapter that is trained; nil when all weights are.
	LoRA *architecture.LoRA
}

// Command tells the other ranks what to do next. Rank 0 sends it. The zero Command ends the phase.
type Command struct {
	Begin *beginning
	Step  *stepCommand
	// Weights makes a rank receive the weights from rank 0, Load receive its part of the optimizer's state, and Gather send
	// its part to rank 0.
	Weights, Load, Gather bool
	// Idle says that rank 0 is alive and has nothing to do.
	Idle bool
}

// beginning is what a rank needs to compute the steps of a phase.
type beginning struct {
	Config []byte // config.json
	LoRA   *architecture.LoRA
	Plan   schedule.Plan
	Task   task.Shared
}

type stepCommand struct {
	Batch []int
	Step  int
	LR    float64
}

// lead makes the other ranks begin a phase.
func lead(ctx context.Context, c Config) error {
	group := c.Shared.Group
	config, err := c.Shared.Model.Config().JSON()
	if err != nil {
		return err
	}
	shared, err := task.Share(c.Task)
	if err != nil {
		return err
	}
	if n := min(c.Plan.Batch, c.Task.Len()); n < group.Size() {
		return fmt.Errorf("training.ranks: %d processes cannot share a batch of %d: lower ranks", group.Size(), n)
	}
	begin := &beginning{Config: config, LoRA: c.Shared.LoRA, Plan: c.Plan, Task: shared}
	if err := group.Broadcast(ctx, Command{Begin: begin}); err != nil {
		return err
	}
	return group.Divide(ctx, c.Params)
}

// command sends a command to the other ranks, if there are any.
func (p *Phase) command(ctx context.Context, c Command) error {
	if p.ranks == nil {
		return nil
	}
	return p.ranks.Broadcast(ctx, c)
}

// sendWeights sends the weights to the other ranks.
func (p *Phase) sendWeights(ctx context.Context) error {
	if err := p.command(ctx, Command{Weights: true}); err != nil {
		return err
	}
	return p.ranks.Weights(ctx, p.Shared.Model.Params(), p.Params)
}

// Follow executes rank 0's commands in a process with another rank, until the phase is over or ctx has ended. Its error is
// tensor.ErrGroup when rank 0, or another rank, has died.
func Follow(ctx context.Context, engine *tensor.Engine, group *tensor.Group) error {
	g := ranks.New(engine, group)
	var c Command
	if err := g.Receive(ctx, &c); err != nil || c.Begin == nil {
		return err
	}
	return follow(ctx, engine, g, *c.Begin)
}

// follow computes one phase.
func follow(ctx context.Context, engine *tensor.Engine, group *ranks.Group, b beginning) (err error) {
	config, err := architecture.ParseConfig(b.Config)
	if err != nil {
		return err
	}
	model, err := models.Scratch(ctx, engine, config, 0) // rank 0 sends its weights
	if err != nil {
		return err
	}
	last := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, model.Close(last)) }()
	if b.LoRA != nil {
		if err := model.AddAdapter(ctx, *b.LoRA, 0); err != nil {
			return err
		}
	}
	if err := model.SetTrainable(ctx, true); err != nil {
		return err
	}
	params := model.Trainable()
	if err := group.Divide(ctx, params); err != nil {
		return err
	}
	st, err := newStepper(ctx, engine, b.Plan, b.Task.On(model), params, group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close(last)) }()
	for {
		var c Command
		if err := group.Receive(ctx, &c); err != nil {
			return err
		}
		switch {
		case c.Step != nil:
			record := curves.Step{LR: c.Step.LR}
			err = st.step(ctx, c.Step.Batch, c.Step.Step, &record, nil)
		case c.Weights:
			err = group.Weights(ctx, model.Params(), params)
		case c.Load:
			err = group.ScatterState(ctx, params, st.optimizer, nil)
		case c.Gather:
			err = group.GatherState(ctx, params, st.optimizer, nil)
		case c.Idle:
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}
