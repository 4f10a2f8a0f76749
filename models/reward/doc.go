// Package reward scores responses by a reward model: a DeBERTa-v2 or -v3 encoder for sequence classification, as
// OpenAssistant/reward-model-deberta-v3-large-v2 is one. A sequence is [CLS] prompt [SEP] response [SEP] (tokenizer.Pairs
// makes it); what the model says of it is the logits of its head, without a sigmoid.
//
// A row's numbers depend on the row and on the shape alone (PadRule). Everything is computed in Float32; there are no gradients.
package reward
