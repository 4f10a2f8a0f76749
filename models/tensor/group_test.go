package tensor_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/models/tensor"
)

// members calls f for each member of a group, each with an engine of its own, and waits for all.
func members(t *testing.T, size int, f func(g *tensor.Group, s *tensor.Scope) error) error {
	t.Helper()
	const patience = 20 * time.Second
	host, err := tensor.HostMeeting("127.0.0.1", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	var group errgroup.Group
	for rank := range size {
		group.Go(func() error {
			engine, err := tensor.NewEngine(tensor.Options{Threads: 1})
			if err != nil {
				return err
			}
			defer engine.Close()
			meeting := host
			if rank > 0 {
				if meeting, err = tensor.AttendMeeting("127.0.0.1", host.Port, "127.0.0.1", patience); err != nil {
					return err
				}
				defer meeting.Close()
			}
			g, err := meeting.Join(rank, size, tensor.CPU)
			if err != nil {
				return err
			}
			defer g.Close()
			return engine.Do(t.Context(), func(s *tensor.Scope) error { return f(g, s) })
		})
	}
	return group.Wait()
}

// TestGroupCombines: sums over three members, of two types and in one call, and what one of them has.
func TestGroupCombines(t *testing.T) {
	err := members(t, 3, func(g *tensor.Group, s *tensor.Scope) error {
		r := float32(g.Rank)
		a, b := s.FromFloat32([]float32{1 + r, -r}, 2), s.FromInt64([]int64{int64(g.Rank)}, 1)
		if err := g.Sum(s, a, b); err != nil {
			return err
		}
		if x, y := a.Float32s(), b.Int64s(); x[0] != 6 || x[1] != -3 || y[0] != 3 {
			t.Errorf("rank %d has sums %v and %v, want [6 -3] and [3]", g.Rank, x, y)
		}
		c := s.FromFloat32([]float32{r, 10 * r}, 2)
		if err := g.Broadcast(s, 2, c); err != nil {
			return err
		}
		if x := c.Float32s(); x[0] != 2 || x[1] != 20 {
			t.Errorf("rank %d got %v, want rank 2's [2 20]", g.Rank, x)
		}
		return s.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGroupWithoutAMember: the operations of those that are left fail, and say which rank they are.
func TestGroupWithoutAMember(t *testing.T) {
	err := members(t, 2, func(g *tensor.Group, s *tensor.Scope) error {
		if g.Rank == 1 {
			g.Close()
			return nil
		}
		if err := g.Sum(s, s.FromFloat32([]float32{1}, 1)); !errors.Is(err, tensor.ErrGroup) {
			t.Errorf("got %v, want ErrGroup", err)
		}
		g.Close()
		if err := g.Sum(s, s.FromFloat32([]float32{1}, 1)); !errors.Is(err, tensor.ErrGroup) {
			t.Errorf("closed: got %v, want ErrGroup", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMeetingThatNobodyHosts(t *testing.T) {
	if _, err := tensor.AttendMeeting("127.0.0.1", 1, "127.0.0.1", time.Second); !errors.Is(err, tensor.ErrGroup) {
		t.Errorf("got %v, want ErrGroup", err)
	}
}

// TestNoGroupOfGPUsHere: the CPU build says what it lacks.
func TestNoGroupOfGPUsHere(t *testing.T) {
	meeting, err := tensor.HostMeeting("127.0.0.1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer meeting.Close()
	_, err = meeting.Join(0, 1, tensor.CUDA(0))
	if !errors.Is(err, tensor.ErrGroup) || !strings.Contains(err.Error(), "built without CUDA") {
		t.Errorf("got %v, want ErrGroup and why", err)
	}
}
