package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/lineage"
)

type workerCommand struct {
	Role string `arg:"" enum:"prompter,generator,encoder,distance,evaluator" help:"Stage to run: prompter, generator, encoder, distance or evaluator."`
	Name string `name:"run" required:"" help:"Name of the run." placeholder:"RUN"`
	serverFlags
}

func (workerCommand) Help() string {
	return `Example:

    export LDALIGN_S3_ACCESS_KEY=... LDALIGN_S3_SECRET_KEY=...
    ldalign worker generator --run align-1 --nats nats://10.0.0.5:4222 --s3 http://10.0.0.6:9000

Start as many as you like, on any machine, and stop any of them at any time: what a worker had in hand is worked on
again by another, and stored once. The worker waits until a trainer has declared the run and takes the spec from it.`
}

func (c *workerCommand) Run(ctx context.Context, e *env) error {
	servers := c.servers()
	spec, err := e.declared(ctx, servers, c.Name)
	if err != nil {
		return err
	}
	if err := plays(spec, role(c.Role)); err != nil {
		return err
	}
	o := runs.Options{Servers: servers, Limits: spec.Streams, Name: "ldalign-" + c.Role}
	return e.onServers(ctx, o, func(s *runs.Session) error {
		if r := role(c.Role); r == rolePrompter || r == roleDistance { // those compute no tensors
			return c.work(ctx, e, e.node(s), spec, nil)
		}
		return withEngine(spec.Compute, func(engine *tensor.Engine) error { return c.work(ctx, e, e.node(s), spec, engine) })
	})
}

func (c *workerCommand) work(ctx context.Context, e *env, n *node, spec schemas.Spec, engine *tensor.Engine) error {
	m := newMeter(e.display, c.Name+": ")
	defer m.close()
	e.notice("%s of run %s is ready; Ctrl-C drains and ends it", c.Role, c.Name)
	err := n.work(ctx, role(c.Role), spec, engine, m)
	for _, s := range addStages(nil, m) {
		e.notice("%s worked on %d %s in %.1f s", s.Name, s.Items, s.Unit, s.BusySeconds)
	}
	return err
}

// onServers is opened for verbs that make no sense without real servers.
func (e *env) onServers(ctx context.Context, o runs.Options, f func(*runs.Session) error) error {
	if o.Servers.NATS == "" || o.Servers.S3 == "" {
		return fmt.Errorf("%w: this verb needs --nats and --s3 (or LDALIGN_NATS and LDALIGN_S3); "+
			"`ldalign up` runs everything in one process without servers", errUsage)
	}
	return e.opened(ctx, o, func(s *runs.Session) error {
		if err := s.Streams.EnsureTopology(ctx); err != nil {
			return err
		}
		return f(s)
	})
}

// declared connects to wait until a run is declared, and disconnects: how to connect for work is part of the spec.
func (e *env) declared(ctx context.Context, servers schemas.ServersSpec, run string) (spec schemas.Spec, err error) {
	o := runs.Options{Servers: servers, Limits: schemas.Default().Streams, Name: "ldalign-waiting"}
	err = e.onServers(ctx, o, func(s *runs.Session) (err error) {
		spec, err = e.node(s).awaitSpec(ctx, run)
		return err
	})
	return spec, err
}

// awaitSpec waits until the run is declared.
func (n *node) awaitSpec(ctx context.Context, run string) (schemas.Spec, error) {
	if !schemas.ValidRun(run) {
		return schemas.Spec{}, fmt.Errorf("%w: run %q: want lower-case letters, digits, - and _", errUsage, run)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for told := false; ; {
		spec, err := n.spec(ctx, run)
		if err == nil || !errors.Is(err, streams.ErrNotFound) {
			return spec, err
		}
		if !told {
			n.Log.Warn().Str("run", run).Msg("waiting for a trainer to declare the run")
			told = true
		}
		select {
		case <-ctx.Done():
			return spec, ctx.Err()
		case <-tick.C:
		}
	}
}

// spec is the spec that a run was declared with.
func (n *node) spec(ctx context.Context, run string) (schemas.Spec, error) {
	return lineage.Spec(ctx, n.Streams, run)
}
