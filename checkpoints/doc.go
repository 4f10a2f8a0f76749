// Package checkpoints keeps the checkpoints of runs: content-addressed blobs and the manifests that name them, in a
// directory or in S3.
//
//	runs/<run>/blobs/<sha256>             weights, optimizer, tokenizer, config: whatever a manifest lists
//	runs/<run>/checkpoints/<number>.json  manifest: written last, created only if absent, never changed
//	runs/<run>/machines/<number>.json     the machine it was made on; a note for warnings
//	runs/<run>/details/<sha256>           what events name and no manifest does (scored samples of an evaluation)
//
// A checkpoint exists when its manifest exists. Commit writes the blobs, looks at each of them again, and only then
// creates the manifest: a process that dies in between leaves blobs that nobody names, never half a checkpoint. Readers
// trust manifests alone and verify the sha256 of what they read.
//
// Manifest numbers are the fence between two writers of one run: a number is created once, so of two trainers that both
// believe they own the run one gets ErrConflict and stops. That is why manifests are never deleted, not even by Prune, but
// with their whole run by DeleteRun: a writer that was suspended could create a deleted number again.
//
// A manifest holds nothing that depends on when or how often it was written (no clock, no host, no number), so an
// undisturbed run and one that was killed and went on end with the same manifest digests.
package checkpoints
