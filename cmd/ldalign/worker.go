package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
)

type workerCommand struct {
	Role string `arg:"" enum:"${stages}" help:"Stage to run: ${stage_list}."`
	Name string `name:"run" required:"" help:"Name of the run." placeholder:"RUN"`
	serverFlags
}

func (workerCommand) Help() string {
	return `Example:

    export LDALIGN_S3_ACCESS_KEY=... LDALIGN_S3_SECRET_KEY=...
    ldalign worker generator --run align-1 --nats nats://10.0.0.5:4222 --s3 http://10.0.0.6:9000

You can start any number of workers, on any machine, and stop them at any time: another worker processes the messages that a
stopped one held, and each result is stored once. A worker waits until a trainer has declared the run, and then reads the
run's spec from the server.`
}

func (c *workerCommand) Run(ctx context.Context, e *env) error {
	servers := c.servers()
	if err := onServers(servers); err != nil {
		return err
	}
	spec, err := e.declared(ctx, servers, c.Name)
	if err != nil {
		return err
	}
	row, err := e.pipeline.For(spec, c.Role)
	if err != nil {
		return err
	}
	o := runs.Options{Servers: servers, Limits: spec.Streams, Name: "ldalign-" + c.Role}
	join := func(ctx context.Context, o runs.Options) (*runs.Session, error) { return runs.Join(ctx, o, spec.Run) }
	return e.session(ctx, o, join, func(s *runs.Session) error {
		if !row.NeedsEngine {
			return e.work(ctx, s, nil, row, spec)
		}
		return withEngine(spec.Compute, func(engine *pipeline.Engine) error { return e.work(ctx, s, engine, row, spec) })
	})
}

// work runs one stage of a run.
func (e *env) work(ctx context.Context, s *runs.Session, engine *pipeline.Engine, row pipeline.Row, spec schemas.Spec) error {
	screen := telemetry.NewScreen(e.display)
	defer screen.End(spec.Run)
	e.notice("%s of run %s is ready; Ctrl-C finishes its messages and ends it", row.Name, spec.Run)
	err := pipeline.NewPlayer(s, engine, screen).Play(ctx, row, spec)
	for _, sum := range screen.Stages([]string{row.Name}) {
		e.notice("%s processed %d %s in %.1f s", sum.Name, sum.Items, sum.Unit, sum.BusySeconds)
	}
	return err
}

// onServers returns an error unless real servers are named.
func onServers(servers schemas.ServersSpec) error {
	if servers.NATS == "" || servers.S3 == "" {
		return fmt.Errorf("%w: this verb needs --nats and --s3 (or LDALIGN_NATS and LDALIGN_S3); "+
			"`ldalign up` runs everything in one process without servers", errUsage)
	}
	return nil
}

// declared waits until a run is declared and returns its spec. It uses a connection of its own, because the settings of the
// connection for work are part of the spec, and no store, because the run's trainer creates the bucket.
func (e *env) declared(ctx context.Context, servers schemas.ServersSpec, run string) (spec schemas.Spec, err error) {
	o := runs.Options{Servers: servers, Limits: schemas.Default().Streams, Name: "ldalign-waiting"}
	err = e.session(ctx, o, runs.OpenStreams, func(s *runs.Session) (err error) {
		spec, err = runs.AwaitSpec(ctx, s, run)
		return err
	})
	return spec, err
}
