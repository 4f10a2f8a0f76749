package pipeline

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/distance"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/streams"
)

func buildPrompter(_ context.Context, j Job) (Work, error) {
	set, err := prompter.Load(j.Spec)
	if err != nil {
		return Work{}, err
	}
	level := zerolog.InfoLevel
	if len(set.Report.Dropped) > 0 {
		level = zerolog.WarnLevel
	}
	j.Log.WithLevel(level).Msg(j.Spec.Data.Train + ": " + set.Report.String())
	for _, p := range set.Report.Problems {
		j.Log.Warn().Msg("dropped " + p.String())
	}
	return Work{
		Process:     streams.Many(prompter.New(j.Spec, set.Records).Process),
		Ready:       func(ctx context.Context) error { return sameData(ctx, j.Streams, j.Spec, set) },
		WaitsFor:    "for the run to be declared",
		MaxInFlight: j.Spec.MaxInFlight,
	}, nil
}

func buildDistance(_ context.Context, j Job) (Work, error) {
	return Work{Process: streams.Each(distance.Stage{Metric: j.Spec.Objective.Distance}.Process)}, nil
}

// sameData publishes the digest of the run's records, and how many rows were kept and dropped. It returns an error if an earlier
// start published another digest, since all iterations of a run must have the same prompts.
func sameData(ctx context.Context, conn *streams.Conn, spec schemas.Spec, set dataset.Set) error {
	// wait for the run's declaration: until then the run may fail to start, and start again with other data
	err := conn.Follow(ctx, schemas.Control, spec.Run, 0, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Control); ok && c.GetKind() == events.ControlSpec {
			return streams.ErrStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	note := &events.Control{Schema: events.Version, Run: spec.Run, Kind: events.ControlData, Message: set.Digest()}
	records := &events.Control{
		Schema: events.Version, Run: spec.Run, Kind: events.ControlRecords, Total: uint64(set.Report.Kept),
		Message: set.Report.String(),
	}
	if _, err := conn.PublishFirst(ctx, schemas.Control, records); err != nil {
		return err
	}
	found, err := conn.PublishFirst(ctx, schemas.Control, note)
	if err != nil {
		return err
	}
	first := found.Message.(*events.Control).GetMessage()
	if first == note.GetMessage() {
		return nil
	}
	return fmt.Errorf("%s has changed since run %s began (records %.12s, now %.12s): restore it, or start a run of another name",
		spec.Data.Train, spec.Run, first, note.GetMessage())
}
