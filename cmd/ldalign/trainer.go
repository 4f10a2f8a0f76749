package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/activity"
)

type trainerCommand struct {
	Spec string   `arg:"" optional:"" help:"Run spec (YAML, one run); the trainer declares the run with it." type:"existingfile"`
	Name string   `name:"run" help:"Name of a run that is already declared, instead of a spec." placeholder:"RUN"`
	Set  []string `help:"Override a key of the spec." placeholder:"KEY=VALUE" sep:"none"`

	BucketEvents string `help:"ARN of the S3 server's notification target. It must publish below the subject ldalign-bucket on this NATS server. At each new manifest the trainer then looks for checkpoints to announce." env:"LDALIGN_BUCKET_EVENTS" placeholder:"ARN"`
	serverFlags
}

func (trainerCommand) Help() string {
	return `Example:

    ldalign trainer run.yaml --nats nats://10.0.0.5:4222 --s3 http://10.0.0.6:9000
    ldalign trainer run.yaml ... --bucket-events arn:minio:sqs::LDALIGN:nats

Only one trainer works on a run at a time; a second one ends with an error. However a trainer was stopped, the same command
continues. Bucket events are optional: the trainer announces each checkpoint after writing its manifest, and at each start it
announces those that were missed.`
}

func (c *trainerCommand) Run(ctx context.Context, e *env) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	servers := c.over(spec.Servers)
	if err := onServers(servers); err != nil {
		return err
	}
	if c.Spec == "" {
		if spec, err = e.declared(ctx, servers, c.Name); err != nil {
			return err
		}
	}
	o := runs.Options{Servers: servers, Limits: spec.Streams, Name: "ldalign-trainer"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		hints, err := bucketEvents(ctx, s, c.BucketEvents)
		if err != nil {
			return err
		}
		return withEngine(spec.Compute, func(engine *pipeline.Engine) error {
			return e.trainAlone(ctx, s, engine, spec, hints)
		})
	})
}

// trainAlone runs only the trainer of a run, without stages.
func (e *env) trainAlone(ctx context.Context, s *runs.Session, engine *pipeline.Engine, spec schemas.Spec, hints string) error {
	screen := telemetry.NewScreen(e.display)
	defer screen.End(spec.Run)
	if err := e.player(s, engine, screen).Trainer(ctx, spec, hints); activity.Interrupted(err) {
		return goesOn(spec.Run)
	} else if err != nil {
		return err
	}
	e.notice("run %s is complete; `ldalign report %s` writes its report", spec.Run, spec.Run)
	return nil
}

// bucketEvents makes the bucket announce new manifests to a notification target of its server. It returns the subject on which
// they arrive, or "" if arn is empty.
func bucketEvents(ctx context.Context, s *runs.Session, arn string) (string, error) {
	if arn == "" {
		return "", nil
	}
	return "ldalign-bucket.>", checkpoints.EnableNotifications(ctx, s.Store, arn)
}

// spec reads and resolves the spec file, if there is one.
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
