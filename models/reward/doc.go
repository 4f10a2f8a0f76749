// Package reward computes the rewards of responses by a reward model: a DeBERTa-v2 or -v3 encoder for sequence
// classification, such as OpenAssistant/reward-model-deberta-v3-large-v2. A sequence is [CLS] prompt [SEP] response [SEP],
// as tokenizer.Pairs makes it. The model's outputs are the logits of its head, without a sigmoid.
//
// A row's outputs depend only on the row and the shape of its batch (PadRule). The package computes in Float32, without
// gradients.
package reward
