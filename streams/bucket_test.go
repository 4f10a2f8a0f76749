package streams

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// smallBucket leaves a bucket with room for a few keys.
func smallBucket(t *testing.T, c *Conn, name string) jetstream.Stream {
	t.Helper()
	ctx := testContext(t)
	stream, err := c.js.Stream(ctx, streamOf(name))
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 4 << 10
	if _, err := c.js.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	return stream
}

// isEmpty checks that a bucket holds neither values nor markers of deleted ones.
func isEmpty(t *testing.T, bucket jetstream.Stream) {
	t.Helper()
	info, err := bucket.Info(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 0 {
		t.Errorf("%s holds %d messages, want none", info.Config.Name, info.State.Msgs)
	}
}

// cycles is how often the tests store and remove a key: more often than a small bucket has room for.
const cycles = 200

// Pauses that have ended, leases that were released and what a deleted run has left take no room.
func TestBucketsDoNotGrow(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	pauses, leases := smallBucket(t, c, pauseBucket), smallBucket(t, c, leaseBucket)
	for i := range cycles {
		stage, run := fmt.Sprint("stage", i), fmt.Sprint("run", i)
		if err := c.Pause(ctx, "r", stage, "test"); err != nil {
			t.Fatal(err)
		}
		if err := c.Resume(ctx, "r", stage); err != nil {
			t.Fatal(err)
		}
		if err := c.Pause(ctx, run, "", "test"); err != nil {
			t.Fatal(err)
		}
		if err := c.DeleteRun(ctx, run); err != nil {
			t.Fatal(err)
		}
		lease, err := c.AcquireLease(ctx, run, "test", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := lease.Release(); err != nil {
			t.Fatal(err)
		}
	}
	isEmpty(t, pauses)
	isEmpty(t, leases)
}

// Any number of suspects is processed: what counts their trials does not grow.
func TestManySuspects(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	trials := smallBucket(t, c, trialBucket)
	publish(t, c, schemas.Prompts, promptList("r", 0, cycles)...)
	s := generator("r", 50)
	consumer, err := c.js.CreateConsumer(ctx, StreamName(s.In, s.Run), s.consumer(c.limits))
	if err != nil {
		t.Fatal(err)
	}
	for range quick.MaxDeliver { // workers that die leave every message unanswered
		for got := 0; got < cycles; {
			batch, err := consumer.Fetch(cycles-got, jetstream.FetchMaxWait(testTimeout))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				if err := m.Nak(); err != nil {
					t.Fatal(err)
				}
				got++
			}
		}
	}
	alone := 0
	start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
		if len(in) == 1 {
			alone++
		}
		return answer(ctx, in)
	})
	await(t, c, schemas.Pairs, "r", cycles)
	settled(t, c, s)
	if alone < cycles/2 {
		t.Errorf("%d of %d messages were processed as suspects: the test shows nothing", alone, cycles)
	}
	isEmpty(t, trials)
}
