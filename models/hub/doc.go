// Package hub finds a model by its name: a local folder, or a repository of the Hugging Face Hub. It fetches the files of a
// repository that this project reads into the cache that it shares with Python's huggingface_hub.
//
// # Names
//
//	./policy, /models/x, a/b      an existing folder
//	org/name[@revision]           a repository of the Hub; revision is a branch, a tag or a commit, by default "main"
//
// Any other name is ErrNotHub, and the caller may know it (name@3, for example, is the third checkpoint of a run).
//
// # The cache
//
//	<cache>/models--org--name/refs/<revision>            the commit of a branch or tag when it was last requested
//	<cache>/models--org--name/blobs/<digest>             a file's bytes; <digest>.incomplete during the download
//	<cache>/models--org--name/snapshots/<commit>/<file>  links to blobs
//	<cache>/.locks/models--org--name/<digest>.lock       held by the process that fetches the blob
//
// A revision is resolved to a commit once, and all files are fetched from that commit. A downloaded file is compared with its
// digest (sha256 for large files, git's blob sha1 for small ones) before it gets its final name. An interrupted download keeps
// what it has received and continues by a Range request. A snapshot's links are created when all of its files are complete.
// Later calls only check that a blob has the right size.
package hub

import "errors"

var (
	// ErrNotHub means that a name is neither a folder that exists nor of the form org/name[@revision].
	ErrNotHub = errors.New("hub: not the name of a model on the Hub")
	// ErrNotFound means that there is no such repository or revision, or that it is private and the token is missing.
	ErrNotFound = errors.New("hub: not found")
	// ErrGated means that the repository needs a token, or its terms must be accepted first.
	ErrGated = errors.New("hub: access refused")
	// ErrOffline means that the options forbid the network, and the cache lacks the model.
	ErrOffline = errors.New("hub: offline")
	// ErrNoWeights means that the repository has no *.safetensors.
	ErrNoWeights = errors.New("hub: no safetensors")
	// ErrDigest means that a downloaded file did not match the digest that the Hub announced. The file has been removed.
	ErrDigest = errors.New("hub: wrong digest")
	// ErrProtocol means that the endpoint failed, or does not follow the Hub's protocol.
	ErrProtocol = errors.New("hub: unexpected answer")
)
