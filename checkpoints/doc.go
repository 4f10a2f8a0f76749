// Package checkpoints keeps the checkpoints of runs: content-addressed blobs and the manifests that name them, in a
// directory or in S3.
//
//	runs/<run>/blobs/<sha256>             weights, optimizer, tokenizer, config: whatever a manifest lists
//	runs/<run>/checkpoints/<number>.json  manifest: written last, created only if absent, never changed
//	runs/<run>/machines/<number>.json     the machine that made the checkpoint, for warnings
//	runs/<run>/details/<sha256>           data that events name and no manifest does (scored samples of an evaluation)
//
// A checkpoint exists when its manifest exists. Commit writes the blobs, checks that they are all there, and only then
// creates the manifest: a process that dies in between leaves blobs that nobody names, never half a checkpoint. Readers
// trust manifests alone and verify the sha256 of what they read.
//
// Manifest numbers protect a run from two writers. A number is created once, so of two trainers that both believe they own
// the run, one gets ErrConflict and stops. That is why only DeleteRun deletes manifests, with their whole run: if Prune
// deleted one, a writer that was suspended could create its number again.
//
// A manifest holds nothing that depends on when or how often it was written (no clock, no host, no number), so an
// undisturbed run and one that was killed and went on end with the same manifest digests.
package checkpoints
