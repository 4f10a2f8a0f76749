package runs

import (
	"testing"

	"github.com/ldalign/ldalign/streams"
)

// Idle workers say back-pressure where a later stage has the work, and no input where there is none.
func TestBackPressure(t *testing.T) {
	waits := streams.Worker{State: streams.StateWaiting, Detail: "for policy 2"}
	rests := streams.Worker{State: streams.StateBackPressure, Detail: "the trainer has taken 8 of 24 prompts"}
	for name, test := range map[string]struct {
		prompter, trainer, distance streams.Worker
		lag                         int // before distance
		want                        map[string]string
		blocking                    string
	}{
		"the trainer trains": {
			waits,
			streams.Worker{State: streams.StateWorking, Detail: "train ldalign 1: 3 of 90 steps"},
			streams.Worker{State: streams.StateIdle},
			0,
			map[string]string{"prompter": "waiting", "generator": streams.StateBackPressure, "distance": streams.StateBackPressure, "evaluator": streams.StateIdle},
			"trainer",
		},
		"the trainer waits for pairs": {
			waits,
			streams.Worker{State: streams.StateWaiting, Detail: "collect: 0 of 64 pairs"},
			streams.Worker{State: streams.StateIdle},
			0,
			map[string]string{"generator": streams.StateIdle, "distance": streams.StateIdle},
			"prompter",
		},
		"distance is slow": {
			waits,
			streams.Worker{State: streams.StateWaiting, Detail: "collect: 9 of 64 pairs"},
			streams.Worker{State: streams.StateWorking},
			55,
			map[string]string{"generator": streams.StateBackPressure, "distance": streams.StateWorking},
			"distance",
		},
		"as many pairs are before the trainer as may be": {
			rests,
			streams.Worker{State: streams.StateWorking, Detail: "train ldalign 1: 3 of 90 steps"},
			streams.Worker{State: streams.StateIdle},
			0,
			map[string]string{"prompter": streams.StateBackPressure, "generator": streams.StateBackPressure},
			"trainer",
		},
		"the trainer has just asked for more": {
			rests,
			streams.Worker{State: streams.StateWaiting, Detail: "collect: 24 of 64 pairs"},
			streams.Worker{State: streams.StateIdle},
			0,
			map[string]string{"prompter": streams.StateBackPressure, "generator": streams.StateIdle},
			"trainer",
		},
		"a distance hangs": {
			waits,
			streams.Worker{State: streams.StateWaiting, Detail: "collect: 9 of 64 pairs"},
			streams.Worker{State: streams.StateStuck, Detail: "no progress for 15m"},
			55,
			map[string]string{"generator": streams.StateBackPressure},
			"distance",
		},
		"a distance hangs, and others have its work": {
			waits,
			streams.Worker{State: streams.StateWorking, Detail: "train ldalign 1: 3 of 90 steps"},
			streams.Worker{State: streams.StateStuck, Detail: "no progress for 15m"},
			0,
			map[string]string{"generator": streams.StateBackPressure},
			"trainer",
		},
	} {
		l := Liveness{Stages: []StageLiveness{
			{Stage: "prompter", feeds: true, Lag: 1, Workers: []streams.Worker{test.prompter}},
			{Stage: "generator", feeds: true, Workers: []streams.Worker{{State: streams.StateIdle}}},
			{Stage: "distance", feeds: true, Lag: test.lag, Workers: []streams.Worker{test.distance}},
			{Stage: "evaluator", Workers: []streams.Worker{{State: streams.StateIdle}}},
			{Stage: "trainer", feeds: true, Workers: []streams.Worker{test.trainer}},
		}}
		l.Blocking, l.Because = l.blocking()
		l.press()
		if l.Blocking != test.blocking {
			t.Errorf("%s: the run waits for %q, want %q", name, l.Blocking, test.blocking)
		}
		for _, s := range l.Stages {
			if want, ok := test.want[s.Stage]; ok && s.Workers[0].State != want {
				t.Errorf("%s: %s says %q, want %q (%s)", name, s.Stage, s.Workers[0].State, want, l.Because)
			}
		}
	}
}
