package main

import (
	"testing"

	"github.com/ldalign/ldalign/streams"
)

// Idle workers say back-pressure where a later stage has the work, and no input where there is none.
func TestBackPressure(t *testing.T) {
	for name, test := range map[string]struct {
		trainer, distance streams.Worker
		lag               int // before distance
		want              map[string]string
	}{
		"the trainer trains": {
			streams.Worker{State: streams.StateWorking, Detail: "train ldalign 1: 3 of 90 steps"},
			streams.Worker{State: streams.StateIdle},
			0,
			map[string]string{"prompter": "waiting", "generator": backPressure, "distance": backPressure, "evaluator": streams.StateIdle},
		},
		"the trainer waits for pairs": {
			streams.Worker{State: streams.StateWaiting, Detail: "collect: 0 of 64 pairs"},
			streams.Worker{State: streams.StateIdle},
			0,
			map[string]string{"generator": streams.StateIdle, "distance": streams.StateIdle},
		},
		"distance is slow": {
			streams.Worker{State: streams.StateWaiting, Detail: "collect: 9 of 64 pairs"},
			streams.Worker{State: streams.StateWorking},
			55,
			map[string]string{"generator": backPressure, "distance": streams.StateWorking},
		},
	} {
		l := liveness{Stages: []stageStatus{
			{Stage: "prompter", Workers: []streams.Worker{{State: streams.StateWaiting, Detail: "for policy 2"}}},
			{Stage: "generator", Workers: []streams.Worker{{State: streams.StateIdle}}},
			{Stage: "distance", Lag: test.lag, Workers: []streams.Worker{test.distance}},
			{Stage: "evaluator", Workers: []streams.Worker{{State: streams.StateIdle}}},
			{Stage: "trainer", Workers: []streams.Worker{test.trainer}},
		}}
		l.Blocking, l.Because = l.blocking()
		l.press()
		for _, s := range l.Stages {
			if want, ok := test.want[s.Stage]; ok && s.Workers[0].State != want {
				t.Errorf("%s: %s says %q, want %q (%s)", name, s.Stage, s.Workers[0].State, want, l.Because)
			}
		}
	}
}
