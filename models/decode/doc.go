// Package decode samples responses from a model by continuous batching: rows decode together, each in a slot of one
// preallocated cache, and as soon as one has ended its slot goes to the next request.
//
// A [Scheduler] lives as long as what it serves. Requests come in two ways. [Scheduler.Submit] queues one that somebody waits
// for, and gives its tokens as they are sampled:
//
//	s, err := decode.New(decode.Options{Slots: 32, Length: 4096}, decode.Weights{
//		Model: model, Digest: digest, Release: model.Close,
//	})
//	…
//	reply, err := s.Submit(ctx, decode.Request{
//		IDs: prompt, MaxNew: 256, Seed: seed, Stop: tokenizer.EOS(),
//		Sampling: decode.Sampling{Temperature: 0.7, TopP: 0.9, FrequencyPenalty: 0.5},
//	})
//	switch {
//	case errors.Is(err, decode.ErrQueueFull): // too much is waiting: try again later
//	case errors.Is(err, decode.ErrRequest):   // it can never be decoded, and err says why
//	}
//	for token := range reply.Tokens() {
//		write(stream.Push(token.ID))
//	}
//	result := reply.Result() // why it ended, all tokens, and the digest of the weights
//
// [Scheduler.Feed] takes requests from a source whenever a slot is free that no submitted request waits for; [Generate] feeds
// a slice. A response ends at a text, rather than at a token, by Request.OnToken.
//
// # Errors
//
// What goes wrong with a request ends that request and no other: a prompt that does not fit, scores that are not finite, a
// context that ended. When a step of the model itself fails, the rows that it was computing and their sources end with its error.
//
// # Weights
//
// [Scheduler.Swap] changes the weights between two steps. A request is decoded to its end by the weights that were current
// when it came, and its result names their digest. Each weights in memory have keys and values of their own; the old ones are
// released when their last request has ended. Until then both are in memory: where two do not fit, wait for the requests to
// end, close the scheduler, and make another.
//
// # Exactness
//
// The text of a request is a function of the model and the request: never of the other requests, of their number, order or
// settings, of the slots, or of the machine's other work. Two things see to it. What the model computes for a token depends
// on the token's own row alone (models.Cache). And the random number behind a token is a function of the request's seed and
// the token's number (models.Uniform). With a model that is not packed this holds between schedulers of the same Options.
package decode
