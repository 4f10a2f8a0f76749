package events

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Check returns an error for a decoded message with numbers that no stage writes. A message that passes may still break a
// rule of the stage that processes it.
func Check(m Message) error {
	switch m := m.(type) {
	case *Pair:
		return m.check()
	case *Encoded:
		return m.GetPair().check()
	case *Scored:
		if d := m.GetDistance(); math.IsNaN(d) || math.IsInf(d, 0) || d < 0 {
			return fmt.Errorf("distance %v: want a number of at least 0", d)
		}
		return m.GetPair().check()
	}
	return nil
}

// check refuses tokens and log-probabilities that are not valid. Both log-probabilities can be 0 only if the responses are the
// same, because two different responses cannot both have probability 1.
func (x *Pair) check() error {
	for _, ids := range [][]int64{x.GetPromptIds(), x.GetChosenIds(), x.GetRejectedIds()} {
		if i := slices.IndexFunc(ids, func(id int64) bool { return id < 0 }); i >= 0 {
			return fmt.Errorf("token %d: want a number of at least 0", ids[i])
		}
	}
	for _, p := range []float64{x.GetChosenLogp(), x.GetRejectedLogp()} {
		if math.IsNaN(p) || math.IsInf(p, 0) {
			return fmt.Errorf("reference log-probabilities %v and %v: not finite", x.GetChosenLogp(), x.GetRejectedLogp())
		}
	}
	if x.GetChosenLogp() == 0 && x.GetRejectedLogp() == 0 && !slices.Equal(x.GetChosenIds(), x.GetRejectedIds()) {
		return errors.New("no reference log-probabilities")
	}
	return nil
}
