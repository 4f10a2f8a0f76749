package streams

import (
	"context"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
)

// openBench opens streams as `ldalign up` does: embedded, every message synced.
func openBench(b *testing.B) *Conn {
	c, err := Open(b.Context(), Options{Dir: b.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Declare(b.Context(), "r", c.limits); err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkPublish(b *testing.B) {
	c := openBench(b)
	messages := promptList("r", 0, b.N)
	b.ResetTimer()
	if err := c.Publish(b.Context(), schemas.Prompts, messages...); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkRead(b *testing.B) {
	c := openBench(b)
	if err := c.Publish(b.Context(), schemas.Prompts, promptList("r", 0, b.N)...); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	n := 0
	err := c.Read(b.Context(), schemas.Prompts, "r", 0, 0, func(Received) error {
		n++
		return nil
	})
	if err != nil || n != b.N {
		b.Fatalf("%d of %d, %v", n, b.N, err)
	}
}

// BenchmarkStage measures the whole cost of the runner and the log for one message: pull, publish, acknowledge.
func BenchmarkStage(b *testing.B) {
	for name, batch := range map[string]int{"batch=1": 1, "batch=32": 32} {
		b.Run(name, func(b *testing.B) {
			c := openBench(b)
			if err := c.Publish(b.Context(), schemas.Prompts, promptList("r", 0, b.N)...); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- c.RunStage(ctx, generator("r", batch), answer) }()
			n := 0
			err := c.Follow(b.Context(), schemas.Pairs, "r", 0, 0, func(Received) error {
				if n++; n == b.N {
					return ErrStop
				}
				return nil
			})
			b.StopTimer()
			cancel()
			if stageErr := <-done; err != nil || stageErr != nil {
				b.Fatal(err, stageErr)
			}
		})
	}
}
