package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/play"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
)

type trainerCommand struct {
	Spec string   `arg:"" optional:"" help:"Run spec (YAML, one run): declares the run." type:"existingfile"`
	Name string   `name:"run" help:"Name of a run that is declared already, instead of a spec." placeholder:"RUN"`
	Set  []string `help:"Override a key of the spec." placeholder:"KEY=VALUE" sep:"none"`

	BucketEvents string `help:"ARN of the S3 server's notification target that publishes below ldalign-bucket on this NATS server: a new manifest then makes the trainer look for checkpoints to announce." env:"LDALIGN_BUCKET_EVENTS" placeholder:"ARN"`
	serverFlags
}

func (trainerCommand) Help() string {
	return `Example:

    ldalign trainer run.yaml --nats nats://10.0.0.5:4222 --s3 http://10.0.0.6:9000
    ldalign trainer run.yaml ... --bucket-events arn:minio:sqs::LDALIGN:nats

One trainer works on a run at a time; a second one is refused. Stopped in any way, it goes on by the same command. Bucket
events are optional: a checkpoint's own message follows its manifest, and each start announces what was missed.`
}

func (c *trainerCommand) Run(ctx context.Context, e *env) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	servers := c.over(spec.Servers)
	if c.Spec == "" {
		if spec, err = e.declared(ctx, servers, c.Name); err != nil {
			return err
		}
	}
	o := runs.Options{Servers: servers, Limits: spec.Streams, Name: "ldalign-trainer"}
	return e.onServers(ctx, o, func(s *runs.Session) error {
		hints, err := bucketEvents(ctx, s, c.BucketEvents)
		if err != nil {
			return err
		}
		return play.WithEngine(spec.Compute, func(engine *tensor.Engine) error {
			return e.trainAlone(ctx, s, engine, spec, hints)
		})
	})
}

// trainAlone plays the trainer of a run, and no stage.
func (e *env) trainAlone(ctx context.Context, s *runs.Session, engine *tensor.Engine, spec schemas.Spec, hints string) error {
	screen := telemetry.NewScreen(e.display)
	defer screen.End(spec.Run)
	player := e.player(s, engine, screen)
	player.Hints = hints
	if err := player.Trainer(ctx, spec); play.Interrupted(err) {
		return goesOn(spec.Run)
	} else if err != nil {
		return err
	}
	e.notice("run %s is complete; `ldalign report %s` writes its report", spec.Run, spec.Run)
	return nil
}

// bucketEvents has the bucket announce new manifests to a target of its server and returns the subject that they come
// on; empty for no target.
func bucketEvents(ctx context.Context, s *runs.Session, arn string) (string, error) {
	if arn == "" {
		return "", nil
	}
	return "ldalign-bucket.>", checkpoints.EnableNotifications(ctx, s.Store, arn)
}

// spec reads and resolves the spec file, when there is one.
func (c *trainerCommand) spec() (schemas.Spec, error) {
	if (c.Spec == "") == (c.Name == "") {
		return schemas.Spec{}, fmt.Errorf("%w: give either a spec file or --run", errUsage)
	}
	if c.Spec == "" {
		return schemas.Spec{}, nil
	}
	specs, err := schemas.LoadRuns(c.Spec, c.Set)
	if err != nil {
		return schemas.Spec{}, err
	}
	if len(specs) != 1 {
		return schemas.Spec{}, fmt.Errorf("%w: %s holds %d runs, a trainer works on one", errUsage, c.Spec, len(specs))
	}
	if specs, err = schemas.ResolveAll(specs); err != nil {
		return schemas.Spec{}, err
	}
	return specs[0], nil
}
