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

// pauseBucket holds one key for each paused run or stage.
const pauseBucket = "ldalign-pauses"

// everyStage takes the place of the stage in the key of a whole run.
const everyStage = "all"

// Paused describes a pause of a run or of one stage.
type Paused struct {
	// Stage is empty when the whole run is paused.
	Stage string    `json:"stage,omitempty"`
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// Pause pauses a stage, or the whole run when stage is empty, until Resume. Workers finish the messages that they hold; the
// trainer pauses between two steps. A pause survives restarts of workers and servers, and applies to workers that start later.
// Pausing again changes nothing. by names who pauses.
func (c *Conn) Pause(ctx context.Context, run, stage, by string) error {
	kv, err := c.bucket(ctx, pauseBucket)
	if err != nil {
		return fmt.Errorf("streams: pause run %s: %w", run, err)
	}
	value, err := json.Marshal(Paused{Stage: stage, By: by, Since: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("streams: pause run %s: %w", run, err)
	}
	err = c.do(ctx, "pause run "+run, func(ctx context.Context) error {
		_, err := kv.Create(ctx, pauseKey(run, stage), value)
		return err
	})
	if err != nil && meaningOf(err) != conflict {
		return fmt.Errorf("streams: pause run %s: %w", run, err)
	}
	return nil
}

// Resume ends the pause of a stage, or of the whole run when stage is empty. It returns ErrNotFound when there is no such pause.
// A stage that rests only because the whole run is paused has no pause of its own.
func (c *Conn) Resume(ctx context.Context, run, stage string) error {
	kv, err := c.bucket(ctx, pauseBucket)
	if err != nil {
		return fmt.Errorf("streams: resume run %s: %w", run, err)
	}
	key := pauseKey(run, stage)
	err = c.do(ctx, "resume run "+run, func(ctx context.Context) error {
		entry, err := kv.Get(ctx, key)
		if err == nil {
			err = c.forget(ctx, pauseBucket, key, entry.Revision())
		}
		return err
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("%w: %s is not paused", ErrNotFound, describeStage(run, stage))
	}
	if err != nil {
		return fmt.Errorf("streams: resume run %s: %w", run, err)
	}
	return nil
}

// Pauses lists the pauses of a run; that of the whole run comes first.
func (c *Conn) Pauses(ctx context.Context, run string) ([]Paused, error) {
	found, err := c.entries(ctx, pauseBucket, run+".*")
	if err != nil {
		return nil, fmt.Errorf("streams: pauses of run %s: %w", run, err)
	}
	var pauses []Paused
	for _, e := range found {
		var p Paused
		if json.Unmarshal(e.Value(), &p) == nil {
			pauses = append(pauses, p)
		}
	}
	slices.SortFunc(pauses, func(a, b Paused) int { return strings.Compare(a.Stage, b.Stage) })
	return pauses, nil
}

// pausedBy returns the pause that applies to a stage; zero for none.
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
