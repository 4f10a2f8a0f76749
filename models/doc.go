// Package models holds the language models of the project: Llama and the families that descend from it (Mistral, Qwen,
// Gemma), and GPT-2, read from and written to Hugging Face folders or made from random weights, and what the program asks
// of them: hidden states, logits, the log-probabilities of responses, and decoding steps over a key-value cache. Decoding
// itself is in models/decode, the guiding auto-encoder in models/guide.
//
// # Shapes and exactness
//
// Shapes are written [B, T, H]: B rows, T positions, H the hidden width; V is the vocabulary, D the width of a head.
//
// Networks compute by token: a list of tokens of any sequences, each with its place in its own. A Cache does so for what
// generates, scores (models/score) and encodes (models/guide), where a sequence's numbers must not depend on its neighbours:
// they would flip a sampled token now and then, and a redelivered message would give another text. With packed weights they do
// not, to the last bit. A Layout does so for what trains, where last bits may depend on what is computed together, which is a
// function of spec and data.
//
// LogProbs and what stands beside it (whole.go) compute whole sequences: the plain form, which tests hold the others against.
//
// Dropout is never applied: the policy and the reference must be the same function.
package models
