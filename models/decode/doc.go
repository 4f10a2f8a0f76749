// Package decode samples responses from a model by continuous batching. Rows decode together, each in a slot of one
// preallocated cache. As soon as a response ends, its slot goes to the next request.
//
// A [Scheduler] decodes requests until it is closed. Requests come in two ways. [Scheduler.Submit] queues a request of a caller
// who waits for the response, and returns a [Reply] that yields tokens as they are sampled:
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
//	case errors.Is(err, decode.ErrQueueFull): // too many requests are waiting: try again later
//	case errors.Is(err, decode.ErrRequest):   // the request is invalid, and err says why
//	}
//	for token := range reply.Tokens() {
//		write(stream.Push(token.ID))
//	}
//	result := reply.Result() // why it ended, all tokens, and the digest of the weights
//
// [Scheduler.Feed] asks a source for its next request whenever a slot is free and no submitted request is waiting for it.
// [Generate] decodes a slice of requests. To end a response at a text rather than at a token, use Request.OnToken.
//
// # Errors
//
// An error of a request ends that request only: a prompt that does not fit, scores that are not finite, a context that ended.
// When a step of the model itself fails, the rows of that step and their sources end with its error.
//
// # Weights
//
// [Scheduler.Swap] changes the weights between two steps. A request keeps the weights that were current when it was made until
// its response ends, and its result has their digest. Each set of weights has its own cache. The old weights are released when
// their last request has ended; until then both sets are in memory. Where two sets do not fit, wait for the requests to end,
// close the scheduler, and create another.
//
// # Exactness
//
// The text of a response depends on the model and the request alone. Other requests, their number and order, their settings, the
// slots and the machine's other work do not change it. There are two reasons. What the model computes for a token depends on the
// token's own row alone (models.Cache). And the random number behind a token is a function of the request's seed and the token's
// number (models.Uniform). With a model that is not packed, this holds between schedulers of the same Options.
package decode
