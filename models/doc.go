// Package models holds the language models of the project: Llama and the families that descend from it (Mistral, Qwen,
// Gemma), and GPT-2, read from and written to Hugging Face folders or made from random weights, and what the program asks
// of them: hidden states, logits, the log-probabilities of responses, and decoding steps over a key-value cache. Decoding
// itself is in models/decode, the guiding auto-encoder in models/guide.
//
// # Shapes and exactness
//
// Shapes are written [B, T, H]: B rows, T positions, H the hidden width; V is the vocabulary, D the width of a head.
// Sequences are padded on the right and attend causally, so what stands behind a row's end never reaches the row, and
// no mask is needed.
//
// A row's numbers must not depend on its neighbours (they would flip a sampled token now and then, and a redelivered
// message would give another text). With equal matrix shapes they do not, to the last bit; so every function here
// computes in shapes that its caller fixes: a number of rows and a length (PadRule), never the size of the batch at
// hand.
//
// Dropout is never applied: the policy and the reference must be the same function.
package models
