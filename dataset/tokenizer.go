package dataset

import (
	"embed"
	"io/fs"
)

//go:generate sh -c "go run ./internal/export builtin:demo/base | python3 train_tokenizer.py demo-tokenizer"

//go:embed demo-tokenizer
var demoTokenizer embed.FS

// DemoTokenizer is the folder of the demo's tokenizer (builtin:demo), in Hugging Face's layout: byte-level BPE with
// 512 entries, trained on builtin:demo/base, every digit on its own. Its chat template renders a prompt as
// "<bos><user> prompt<assistant>" and a response as " response<eos>".
func DemoTokenizer() fs.FS {
	folder, err := fs.Sub(demoTokenizer, "demo-tokenizer")
	if err != nil {
		panic(err) // only for a malformed name, and this one is a constant
	}
	return folder
}
