package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// Runs lists the runs that have streams, in alphabetical order.
func (c *Conn) Runs(ctx context.Context) ([]string, error) {
	names, err := c.names(ctx, "list the runs", func(ctx context.Context) (<-chan string, func() error) {
		list := c.js.StreamNames(ctx, jetstream.WithStreamListSubject("ldalign.control.>"))
		return list.Name(), list.Err
	})
	if err != nil {
		return nil, fmt.Errorf("streams: runs: %w", err)
	}
	var runs []string
	for _, name := range names {
		run, ours := strings.CutPrefix(name, streamPrefix)
		run, facts := strings.CutSuffix(run, "_FACTS")
		if ours && facts && schemas.ValidRun(run) {
			runs = append(runs, run)
		}
	}
	slices.Sort(runs)
	return slices.Compact(runs), nil
}

// names collects a list of names from the server.
func (c *Conn) names(
	ctx context.Context, what string, list func(context.Context) (<-chan string, func() error),
) ([]string, error) {
	return ask(ctx, c, what, func(ctx context.Context) ([]string, error) {
		each, failure := list(ctx)
		var names []string
		for name := range each {
			names = append(names, name)
		}
		if err := failure(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			return nil, err
		}
		return names, nil
	})
}

// consumers returns the consumers of the stages that read a kind from the run's own log, ordered by name.
func (c *Conn) consumers(ctx context.Context, kind schemas.Kind, run string) ([]*jetstream.ConsumerInfo, error) {
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return nil, err
	}
	// The server's list with all information leaves out the consumers whose server is away.
	what := "list the consumers of " + StreamName(kind, run)
	names, err := c.names(ctx, what, func(ctx context.Context) (<-chan string, func() error) {
		list := stream.ConsumerNames(ctx)
		return list.Name(), list.Err
	})
	if err != nil {
		return nil, fmt.Errorf("streams: consumers of %s: %w", StreamName(kind, run), err)
	}
	var infos []*jetstream.ConsumerInfo
	for _, name := range names {
		// A consumer of another run's replay has an underscore in its name; a stage's name has none. Readers are not durable.
		stage, _, _ := strings.Cut(name, "-") // a replay's consumer is named <stage>-<first iteration>
		if !validStage.MatchString(stage) || strings.Contains(name, "_") {
			continue
		}
		info, err := c.consumerInfo(ctx, StreamName(kind, run), name)
		if err != nil {
			return nil, fmt.Errorf("streams: consumers of %s: %w", StreamName(kind, run), err)
		}
		if info != nil && info.Config.Durable != "" && reads(info.Config, kind) {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b *jetstream.ConsumerInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// reads reports whether a consumer reads a kind; several kinds may share a log.
func reads(config jetstream.ConsumerConfig, kind schemas.Kind) bool {
	return slices.ContainsFunc(append(config.FilterSubjects, config.FilterSubject), func(subject string) bool {
		return strings.HasPrefix(subject, "ldalign."+string(kind)+".")
	})
}

// sourceOf returns the run whose log a replay's stage reads, from its consumer's metadata. It is empty for other stages.
func sourceOf(info *jetstream.ConsumerInfo) string { return info.Config.Metadata[sourceKey] }

// sourceKey is the key of a consumer's metadata that names the run whose log the stage reads.
const sourceKey = "ldalign-source"

// inSource returns the consumer of a replay's stage in the log of its source; nil when there is none.
func (c *Conn) inSource(
	ctx context.Context, kind schemas.Kind, run string, own *jetstream.ConsumerInfo,
) (*jetstream.ConsumerInfo, error) {
	source := sourceOf(own)
	if source == "" {
		return nil, nil
	}
	info, err := c.consumerInfo(ctx, StreamName(kind, source), own.Name+"_"+run)
	if err != nil {
		return nil, fmt.Errorf("streams: consumer of run %s in %s: %w", run, StreamName(kind, source), err)
	}
	return info, nil
}

// consumerInfo describes a consumer; nil when there is none.
func (c *Conn) consumerInfo(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	consumer, err := ask(ctx, c, "read the state of consumer "+name, func(ctx context.Context) (jetstream.Consumer, error) {
		return c.js.Consumer(ctx, stream, name)
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}
