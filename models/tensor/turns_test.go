package tensor

import (
	"testing"
	"time"
)

// After 32 functions of DoFirst those of Do have a quarter of their time, in as many functions as that takes, and one at least.
func TestTurns(t *testing.T) {
	var turn turns
	first := func(n int, took time.Duration) {
		for range n {
			turn.count(true, took)
		}
	}
	first(31, time.Millisecond)
	if turn.owed != 0 {
		t.Errorf("after 31 functions the turn of Do is %v", turn.owed)
	}
	first(1, time.Millisecond)
	if turn.owed != 8*time.Millisecond {
		t.Errorf("after 32 functions of 1 ms the turn of Do is %v, want 8 ms", turn.owed)
	}
	turn.count(false, 5*time.Millisecond)
	first(40, time.Millisecond) // while none of Do waits
	if turn.owed != 3*time.Millisecond {
		t.Errorf("%v of the turn are left, want 3 ms", turn.owed)
	}
	turn.count(false, time.Second)
	if turn != (turns{}) {
		t.Errorf("after a function that took longer: %+v, want a new round", turn)
	}
	turn.count(false, time.Second) // with nothing to be served
	first(32, 0)
	if turn.owed <= 0 {
		t.Error("functions too short for the clock leave Do without its turn")
	}
}
