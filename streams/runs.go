package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// Runs lists, in order, the runs of which the streams hold any message.
func (c *Conn) Runs(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	for _, kind := range schemas.Kinds() {
		stream, err := c.js.Stream(ctx, StreamName(kind))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("streams: runs: %w", err)
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(schemas.KindSubjects(kind)))
		if err != nil {
			return nil, fmt.Errorf("streams: runs: %w", err)
		}
		for subject := range info.State.Subjects {
			if _, run, _, err := schemas.ParseSubject(subject); err == nil {
				found[run] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// consumers are the stages of a run that read a kind, in the order of their names.
func (c *Conn) consumers(ctx context.Context, kind schemas.Kind, run string) ([]*jetstream.ConsumerInfo, error) {
	stream, err := c.js.Stream(ctx, StreamName(kind))
	if err != nil {
		return nil, err
	}
	list := stream.ListConsumers(ctx)
	var infos []*jetstream.ConsumerInfo
	for info := range list.Info() {
		// A stage's name has no underscore; an ephemeral reader's name is random.
		name, of, ok := strings.Cut(info.Name, "_")
		stage, _, _ := strings.Cut(name, "-") // that of a replay names its first iteration
		if ok && of == run && validStage.MatchString(stage) {
			infos = append(infos, info)
		}
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b *jetstream.ConsumerInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}
