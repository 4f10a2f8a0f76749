// Package ranks lets several processes compute the steps of one phase together. It divides a batch and the parameters among
// them, and sends values from one to the others. Package loop decides what is sent when.
//
// Every process computes the gradients of its share of the batch. Their sum is the gradient of the whole batch, because every
// part's loss is divided by the size of the whole batch. Each process updates the parameters that it owns, keeps optimizer
// state for these only (ZeRO, stage 1), and sends them to the others. Rank 0 is the trainer; the others use neither streams
// nor checkpoints.
package ranks

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/models/tensor"
)

// Patience is how long one operation may wait for the others. It is the limit for a rank that never finishes computing. A dead
// rank is noticed at once, and the process that started the ranks notices suspended ones.
const Patience = 10 * time.Minute

// Group is one process's member of the group. Its operations return tensor.ErrGroup if another process has died.
type Group struct {
	engine *tensor.Engine
	group  *tensor.Group
	// owner is, for each parameter of Divide, the rank that updates it.
	owner []int
}

// New returns the member of the process with this engine.
func New(engine *tensor.Engine, group *tensor.Group) *Group {
	return &Group{engine: engine, group: group}
}

// Size is the number of processes.
func (g *Group) Size() int { return g.group.Size }

// Divide gives each parameter an owner.
func (g *Group) Divide(ctx context.Context, params []tensor.Named) error {
	if len(params) < g.group.Size {
		return fmt.Errorf("training.ranks: %d processes for %d parameters: lower ranks", g.group.Size, len(params))
	}
	return g.engine.Do(ctx, func(s *tensor.Scope) error {
		load := make([]int64, g.group.Size)
		g.owner = make([]int, len(params))
		for i, named := range params { // to the rank with the fewest numbers so far, the first of equals
			least := 0
			for rank := range load {
				if load[rank] < load[least] {
					least = rank
				}
			}
			g.owner[i] = least
			load[least] += named.Tensor.Numel() + 1 // so that empty ones are spread too
		}
		return s.Err()
	})
}

// Owns reports whether this rank updates parameter i.
func (g *Group) Owns(i int) bool { return g.owner[i] == g.group.Rank }

// Owned returns the parameters that this rank updates.
func (g *Group) Owned(params []tensor.Named) []tensor.Named {
	var out []tensor.Named
	for i, p := range params {
		if g.Owns(i) {
			out = append(out, p)
		}
	}
	return out
}

// Share returns this rank's part of a batch.
func (g *Group) Share(batch []int) []int {
	n, rank, size := len(batch), g.group.Rank, g.group.Size
	return batch[n*rank/size : n*(rank+1)/size]
}

// Broadcast sends a value from rank 0 to the others, which call Receive.
func (g *Group) Broadcast(ctx context.Context, value any) error {
	var data bytes.Buffer
	if err := gob.NewEncoder(&data).Encode(value); err != nil {
		return fmt.Errorf("sending a %T to the other ranks: %w", value, err)
	}
	_, err := g.exchange(ctx, 0, data.Bytes())
	return err
}

// Receive stores the value that rank 0 broadcasts in the value that into points to.
func (g *Group) Receive(ctx context.Context, into any) error {
	data, err := g.exchange(ctx, 0, nil)
	if err != nil {
		return err
	}
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(into); err != nil {
		return fmt.Errorf("receiving a %T from rank 0: %w", into, err)
	}
	return nil
}

// Gather returns the values of all ranks, in the order of ranks, to every rank.
func Gather[T any](ctx context.Context, g *Group, own T) ([]T, error) {
	var mine bytes.Buffer
	if err := gob.NewEncoder(&mine).Encode(own); err != nil {
		return nil, fmt.Errorf("sending a %T to the other ranks: %w", own, err)
	}
	all := make([]T, g.group.Size)
	for rank := range all {
		data, err := g.exchange(ctx, rank, mine.Bytes())
		if err != nil {
			return nil, err
		}
		if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&all[rank]); err != nil {
			return nil, fmt.Errorf("receiving a %T from rank %d: %w", own, rank, err)
		}
	}
	return all, nil
}

// exchange sends the bytes of one rank to all.
func (g *Group) exchange(ctx context.Context, from int, data []byte) (out []byte, err error) {
	const word = 8
	err = g.engine.Do(ctx, func(s *tensor.Scope) error {
		size := s.FromInt64([]int64{int64(len(data))}, 1)
		if err := g.group.Broadcast(s, from, size); err != nil {
			return err
		}
		n := size.Int64s()
		if err := s.Err(); err != nil || n[0] == 0 {
			return err
		}
		words := (n[0] + word - 1) / word
		padded := make([]byte, words*word)
		copy(padded, data)
		body := s.FromBytes(tensor.Int64, padded, words)
		if err := g.group.Broadcast(s, from, body); err != nil {
			return err
		}
		out = body.Bytes()
		if err := s.Err(); err != nil {
			return err
		}
		out = out[:n[0]]
		return nil
	})
	return out, err
}

// Sum replaces tensors by their sums over all ranks.
func (g *Group) Sum(s *tensor.Scope, tensors ...*tensor.Tensor) error {
	return g.group.Sum(s, tensors...)
}

// Update sends each parameter from its owner to all.
func (g *Group) Update(s *tensor.Scope, params []*tensor.Tensor) error {
	for i, t := range params {
		if err := g.group.Broadcast(s, g.owner[i], t); err != nil {
			return err
		}
	}
	return nil
}

// Weights sends rank 0's tensors to all.
func (g *Group) Weights(ctx context.Context, lists ...[]tensor.Named) error {
	return g.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, list := range lists {
				for _, named := range list {
					if err := g.group.Broadcast(s, 0, named.Tensor); err != nil {
						return fmt.Errorf("%s: %w", named.Name, err)
					}
				}
			}
			return s.Err()
		})
	})
}

// state returns the optimizer's state of all parameters, in the order of a single process: names, owners and tensors. For
// state that other ranks own, the tensor is a zero tensor of the same shape. It must be called inside Do.
func (g *Group) state(
	s *tensor.Scope, params []tensor.Named, optimizer tensor.Optimizer,
) (names []string, owners []int, tensors []*tensor.Tensor) {
	own := map[string]*tensor.Tensor{}
	var kinds []string
	first := "." + g.Owned(params)[0].Name
	state := optimizer.State()
	for _, n := range state {
		own[n.Name] = n.Tensor
		if kind, ok := strings.CutSuffix(n.Name, first); ok {
			kinds = append(kinds, kind)
		}
	}
	names, owners, tensors = []string{state[0].Name}, []int{0}, []*tensor.Tensor{state[0].Tensor} // all ranks have the step
	for _, kind := range kinds {
		for i, param := range params {
			name := kind + "." + param.Name
			t := own[name]
			if t == nil {
				t = param.Tensor.ZerosLike()
			}
			names, owners, tensors = append(names, name), append(owners, g.owner[i]), append(tensors, t)
		}
	}
	return names, owners, tensors
}

// GatherState gathers the parts of the optimizer's state from all ranks and calls f with the whole. f is nil on all ranks but
// rank 0.
func (g *Group) GatherState(
	ctx context.Context, params []tensor.Named, optimizer tensor.Optimizer, f func(s *tensor.Scope, state []tensor.Named) error,
) error {
	return g.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			names, owners, tensors := g.state(s, params, optimizer)
			state := make([]tensor.Named, len(names))
			for i, t := range tensors {
				if err := g.group.Broadcast(s, owners[i], t); err != nil {
					return err
				}
				state[i] = tensor.Named{Name: names[i], Tensor: t}
			}
			if f == nil {
				return s.Err()
			}
			return f(s, state)
		})
	})
}

// ScatterState gives each rank its part of an optimizer's state. read returns the tensor of a name; it is nil on all ranks but
// rank 0.
func (g *Group) ScatterState(
	ctx context.Context, params []tensor.Named, optimizer tensor.Optimizer,
	read func(s *tensor.Scope, like tensor.Named) (*tensor.Tensor, error),
) error {
	return g.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			names, _, tensors := g.state(s, params, optimizer)
			byName := map[string]*tensor.Tensor{}
			for i, name := range names {
				value := tensors[i].ZerosLike()
				if read != nil {
					var err error
					if value, err = read(s, tensor.Named{Name: name, Tensor: tensors[i]}); err != nil {
						return err
					}
				}
				if err := g.group.Broadcast(s, 0, value); err != nil {
					return err
				}
				byName[name] = value
			}
			state := optimizer.State()
			for i := range state {
				state[i].Tensor = byName[state[i].Name]
			}
			if err := s.Err(); err != nil {
				return err
			}
			return optimizer.LoadState(s, state)
		})
	})
}
