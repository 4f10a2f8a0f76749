// Package models computes the language models that models/architecture describes: Llama and the families that descend from
// it (Mistral, Qwen, Gemma), and GPT-2. It reads them from and writes them to Hugging Face folders, or makes them from
// random weights, and gives hidden states, logits, the log-probabilities of responses, and decoding steps over a cache of
// keys and values. Decoding itself is in models/decode, the guiding auto-encoder in models/guide.
//
// # Shapes and exactness
//
// Shapes are written [B, T, H]: B rows, T positions, H the hidden width; V is the vocabulary, D the width of a head.
//
// Networks compute by token: a list of tokens of any sequences, each with its position in its own sequence. There are two ways.
// A Cache is for decoding, log-probabilities (models/logprob) and encoding (models/guide). There a sequence's numbers must not
// depend on its neighbours: if they did, a sampled token would sometimes change, and a redelivered message would give another
// text. With packed weights they do not depend on them, to the last bit. A PackedBatch is for training, where the last bits may
// depend on which sequences are computed together, because spec and data determine that.
//
// LogProbs and the rest of plain.go compute whole sequences. The tests compare the other two ways with this plain form.
//
// Dropout is never applied: the policy and the reference must be the same function.
package models
