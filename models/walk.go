package models

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// walkStep is how many tokens a Walk computes together by default.
const walkStep = 256

// Walk computes the final hidden state of every token of rows, by token (see Cache). Rows follow each other without padding
// in steps of a fixed number of tokens (0 is 256), so the step and the longest row bound the memory. Walk calls visit inside
// Engine.Do with the states of a step, h [len(at), H], and which tokens they belong to. The tokens of a row come in order;
// rows come in order of length. The end of ctx ends the walk after the step in progress.
//
// The error wraps ErrSequence and names a row that has no token, is too long for the model, or has an id outside of the
// vocabulary.
func Walk(
	ctx context.Context, m *Model, rows [][]int64, step int,
	visit func(s *tensor.Scope, c *Cache, h *tensor.Tensor, at []Position) error,
) error {
	step = cmp.Or(step, walkStep)
	order := make([]int, len(rows))
	for i, ids := range rows {
		order[i] = i
		if err := m.Takes(Sequence{IDs: ids, PromptLen: 1}); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	// Rows of similar length come together: they share a cache, and fill its slots.
	slices.SortStableFunc(order, func(a, b int) int { return len(rows[a]) - len(rows[b]) })
	for len(order) > 0 {
		shortest := len(rows[order[0]])
		n := slices.IndexFunc(order, func(i int) bool { return len(rows[i]) > max(32, 2*shortest) })
		if n < 0 {
			n = len(order)
		}
		if err := walk(ctx, m, rows, order[:n], step, visit); err != nil {
			return err
		}
		order = order[n:]
	}
	return nil
}

// walk is Walk for rows of similar length, one after the other in the given order.
func walk(
	ctx context.Context, m *Model, rows [][]int64, order []int, step int,
	visit func(s *tensor.Scope, c *Cache, h *tensor.Tensor, at []Position) error,
) (err error) {
	shortest, longest := len(rows[order[0]]), len(rows[order[len(order)-1]])
	// A step has tokens of the rows that begin in it, and of one that began before.
	size := architecture.CacheSize{Slots: min(len(order), step/shortest+2), Length: longest, Burst: min(step, longest)}
	var cache *Cache
	defer func() {
		err = errors.Join(err, m.eng.Do(context.WithoutCancel(ctx), func(*tensor.Scope) error {
			if cache != nil {
				cache.Free()
			}
			return nil
		}))
	}()
	for next, fed := 0, 0; next < len(order); {
		var tokens []Token
		var at []Position
		for next < len(order) && len(tokens) < step {
			ids := rows[order[next]]
			tokens = append(tokens, Token{ID: ids[fed], Slot: next % size.Slots, Position: fed})
			at = append(at, Position{Row: order[next], At: fed})
			if fed++; fed == len(ids) {
				next, fed = next+1, 0
			}
		}
		err := m.eng.Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				if cache == nil {
					cache = m.NewCache(s, size)
				}
				return visit(s, cache, cache.Step(s, tokens, step), at)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
