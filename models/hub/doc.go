// Package hub finds a model by its name: a local folder, or a repository of the Hugging Face Hub, of which it fetches
// what this project reads into the cache that it shares with Python's huggingface_hub.
//
// # Names
//
//	./policy, /models/x, a/b      a folder that exists, as it is
//	org/name[@revision]           a repository of the Hub; revision is a branch, a tag or a commit, "main" if none
//
// Anything else is ErrNotHub, and the caller's to read (name@3, say, the third checkpoint of a run).
//
// # The cache
//
//	<cache>/models--org--name/refs/<revision>            the commit that a branch or tag was, when last asked
//	<cache>/models--org--name/blobs/<digest>             a file's bytes; <digest>.incomplete while they come
//	<cache>/models--org--name/snapshots/<commit>/<file>  links to blobs
//	<cache>/.locks/models--org--name/<digest>.lock       held by who fetches
//
// A revision is resolved to a commit once, and all files are fetched of that commit. A file comes under its digest and
// is compared with it (sha256 of large files, git's blob sha1 of small ones) before it is renamed. Of an interrupted
// one, what has come stays, and the rest is asked for by Range. A snapshot's links are made when all of its files are
// there. Later calls check that a blob has the right size, and trust the rest.
package hub

import "errors"

var (
	// ErrNotHub means that a name is neither a folder that exists nor of the form org/name[@revision].
	ErrNotHub = errors.New("hub: not the name of a model on the Hub")
	// ErrNotFound means that there is no such repository or revision, or that it is private and the token is missing.
	ErrNotFound = errors.New("hub: not found")
	// ErrGated means that the repository asks for a token, or for terms to be accepted first.
	ErrGated = errors.New("hub: access refused")
	// ErrOffline means that the network is not to be used, and the cache lacks the model.
	ErrOffline = errors.New("hub: offline")
	// ErrNoWeights means that the repository has no *.safetensors.
	ErrNoWeights = errors.New("hub: no safetensors")
	// ErrDigest means that a file's bytes are not those that the Hub announced. The file has been removed.
	ErrDigest = errors.New("hub: wrong digest")
	// ErrProtocol means that the endpoint does not speak the Hub's protocol, or failed.
	ErrProtocol = errors.New("hub: unexpected answer")
)
