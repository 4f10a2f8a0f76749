package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// pauseBucket holds a key for each run and stage that is paused.
const pauseBucket = "ldalign-pauses"

// everyStage in place of a stage pauses the whole run.
const everyStage = "all"

// Paused says that a run, or a stage of it, is to rest.
type Paused struct {
	// Stage is empty when the whole run is paused.
	Stage string    `json:"stage,omitempty"`
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// Pause makes the workers of a stage, or of all stages when it is empty, finish what they have in hand and then rest, the
// trainer between two steps, until Resume. It holds over restarts of workers and servers, and for workers that start
// later. To pause what is paused changes nothing.
func (c *Conn) Pause(ctx context.Context, run, stage, by string) error {
	kv, err := c.bucket(ctx, pauseBucket, "runs and stages that are paused", 0)
	if err != nil {
		return fmt.Errorf("streams: pause run %s: %w", run, err)
	}
	value, err := json.Marshal(Paused{Stage: stage, By: by, Since: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("streams: pause run %s: %w", run, err)
	}
	if _, err := kv.Create(ctx, pauseKey(run, stage), value); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("streams: pause run %s: %w", run, err)
	}
	return nil
}

// Resume ends a pause of a stage, or of the whole run when it is empty. ErrNotFound when that is not paused; a stage that
// rests because its run does is not.
func (c *Conn) Resume(ctx context.Context, run, stage string) error {
	kv, err := c.bucket(ctx, pauseBucket, "runs and stages that are paused", 0)
	if err != nil {
		return fmt.Errorf("streams: resume run %s: %w", run, err)
	}
	key := pauseKey(run, stage)
	if _, err := kv.Get(ctx, key); errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("%w: %s is not paused", ErrNotFound, describeStage(run, stage))
	} else if err != nil {
		return fmt.Errorf("streams: resume run %s: %w", run, err)
	}
	if err := kv.Purge(ctx, key); err != nil {
		return fmt.Errorf("streams: resume run %s: %w", run, err)
	}
	return nil
}

// Pauses lists what of a run is paused, the whole run first.
func (c *Conn) Pauses(ctx context.Context, run string) ([]Paused, error) {
	kv, err := c.js.KeyValue(ctx, pauseBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("streams: pauses of run %s: %w", run, err)
	}
	var pauses []Paused
	err = eachKey(ctx, kv, run+".*", func(e jetstream.KeyValueEntry) {
		var p Paused
		if json.Unmarshal(e.Value(), &p) == nil {
			pauses = append(pauses, p)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("streams: pauses of run %s: %w", run, err)
	}
	slices.SortFunc(pauses, func(a, b Paused) int { return strings.Compare(a.Stage, b.Stage) })
	return pauses, nil
}

// pausedBy is the pause that a stage is under; zero for none.
func pausedBy(ctx context.Context, kv jetstream.KeyValue, run, stage string) (Paused, error) {
	for _, key := range []string{pauseKey(run, ""), pauseKey(run, stage)} {
		entry, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return Paused{}, err
		}
		var p Paused
		if err := json.Unmarshal(entry.Value(), &p); err != nil {
			return Paused{}, fmt.Errorf("%s in %s: %w", key, pauseBucket, err)
		}
		return p, nil
	}
	return Paused{}, nil
}

func pauseKey(run, stage string) string {
	if stage == "" {
		stage = everyStage
	}
	return run + "." + stage
}

func describeStage(run, stage string) string {
	if stage == "" {
		return "run " + run
	}
	return stage + " of run " + run
}
