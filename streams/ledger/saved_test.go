package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// FuzzSaved checks that any file is either read as a backup's messages or refused with ErrBackup. What is read can be restored,
// and renamed any number of times into messages that can be read.
func FuzzSaved(f *testing.F) {
	messages := map[schemas.Kind]events.Message{
		schemas.Control:     closedAt("r", 0, 1),
		schemas.Checkpoints: &events.Checkpoint{Schema: 1, Run: "r", Number: 1, Kind: "policy", Digest: "d", Key: "runs/r/checkpoints/1.json"},
		schemas.Results:     &events.Result{Schema: 1, Run: "r", Checkpoint: "d"},
		schemas.DeadLetters: letterFor(prompt("r", 0, 1), 1, schemas.ReasonTooLong),
	}
	for _, kind := range schemas.PairKinds() {
		messages[kind] = at(kind, prompt("r", 0, 1))
	}
	kinds := schemas.Kinds()
	for i, kind := range kinds {
		msg, err := streams.EntryOf(kind, messages[kind], "")
		if err != nil {
			f.Fatal(err)
		}
		msg.Header.Set("Ldalign-Parent", "prompts:3")
		line := func(seq uint64, header map[string][]string, data []byte) []byte {
			text, err := json.Marshal(savedMessage{seq, msg.Subject, time.Unix(1, 0).UTC(), header, data})
			if err != nil {
				f.Fatal(err)
			}
			return append(text, '\n')
		}
		good := line(1, msg.Header, msg.Data)
		f.Add(uint8(i), append(good, line(5, msg.Header, msg.Data[:len(msg.Data)/2])...))
		f.Add(uint8(i), append(line(2, nil, nil), good...))
		f.Add(uint8(i+1), good[:len(good)-2])
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		kind := kinds[int(which)%len(kinds)]
		read := func(data []byte, run string) (n int, err error) {
			var before uint64
			err = eachSaved(bytes.NewReader(data), func(s savedMessage) error {
				if err := s.check(streams.LogOf(kind), run, before); err != nil {
					return err
				}
				before = s.Seq
				n++
				return nil
			})
			return n, err
		}
		n, err := read(data, "r")
		if err != nil && !errors.Is(err, ErrBackup) {
			t.Fatalf("not said to be a bad backup: %v", err)
		}
		names := []string{"r", "copy", "r"}
		for i := range 2 {
			r := Renaming{From: names[i], To: names[i+1], Digests: map[string]string{"d": "e", "e": "d"}, Spec: func(text []byte) ([]byte, error) {
				return text, nil
			}}
			if failed := r.Learn(bytes.NewReader(data)); failed != nil && err == nil {
				t.Fatalf("what can be restored is not learned: %v", failed)
			}
			var out bytes.Buffer
			failed := r.Rename(bytes.NewReader(data), &out)
			if err != nil {
				return
			}
			if failed != nil {
				t.Fatalf("what can be restored is not renamed: %v", failed)
			}
			data = out.Bytes()
			if got, err := read(data, r.To); err != nil || got != n {
				t.Fatalf("renamed, %d of %d messages are read: %v\n%s", got, n, err, data)
			}
		}
	})
}
