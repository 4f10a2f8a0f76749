package streams

import "github.com/ldalign/ldalign/schemas/events"

// feed takes more messages for a Refilling while it works on a batch.
type feed struct {
	*runner
	batch *batch
	room  int
	// in are the messages that the stage got. suspect and letters are settled after them.
	in, suspect []*input
	letters     []letter
}

// more pulls at most n messages that are available now. When the pull fails it returns none; the next batch handles the failure.
func (f *feed) more(n int) []events.Message {
	n = min(n, f.room)
	select {
	case <-f.ending:
		return nil
	default:
	}
	if n <= 0 {
		return nil
	}
	had := len(f.batch.inputs)
	if err := f.takeThere(f.batch, n); err != nil {
		f.log.Debug().Err(err).Msg("cannot refill the batch")
	}
	healthy, suspect, letters := f.sort(f.batch.inputs[had:])
	f.room -= len(f.batch.inputs) - had
	f.in, f.suspect, f.letters = append(f.in, healthy...), append(f.suspect, suspect...), append(f.letters, letters...)
	return bodies(healthy)
}

func bodies(in []*input) []events.Message {
	messages := make([]events.Message, len(in))
	for i := range in {
		messages[i] = in[i].body
	}
	return messages
}
