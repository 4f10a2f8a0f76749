package decode_test

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/decode"
)

// resident returns the resident memory of the process after a collection, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(string(bytes.Fields(data)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Ten thousand sequences take no more memory than a thousand. A leak of one row of logits for each sequence would be 3.5 MB,
// and of a step's hidden states 40 MB.
func TestFlatMemory(t *testing.T) {
	const early, all, allowed = 1000, 10_000, 2 << 20
	eng := newEngine(t, 1)
	m := pack(t, small(t, eng, architecture.Llama))
	live := eng.Live()
	var before int64
	taken, ended, tokens := 0, 0, 0
	scheduler, err := decode.New(decode.Options{Slots: 16, Length: 32, Prefill: 16}, decode.Weights{Model: m})
	if err != nil {
		t.Fatal(err)
	}
	request := decode.Request{
		MaxNew: 8, Sampling: decode.Sampling{Temperature: 1.1, TopP: 0.9, RepetitionPenalty: 1.1, PresencePenalty: 0.1}, Stop: []int64{3, 5},
	}
	err = scheduler.Feed(t.Context(), func() (decode.Request, bool, error) {
		if taken == all {
			return decode.Request{}, false, nil
		}
		taken++
		request.IDs, request.Seed = make([]int64, 1+taken%7), uint64(taken)
		return request, true, nil
	}, func(_ int, r decode.Result) error {
		tokens += len(r.IDs)
		if ended++; ended == early {
			before = resident(t)
		}
		return r.Err
	})
	if err := errors.Join(err, scheduler.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if grown := resident(t) - before; ended != all || grown > allowed {
		t.Errorf("%d sequences; from %d to %d of them the process grew by %d bytes, allowed are %d", ended, early, all, grown, allowed)
	}
	if got := eng.Live(); got != live {
		t.Errorf("%d tensors live afterwards, %d before", got, live)
	}
	if tokens < 3*all {
		t.Errorf("%d tokens: the test says little", tokens)
	}
}
