package dataset

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
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

// TokenizerFolder is the folder with the tokenizer of a model made from scratch (model.scratch.tokenizer): builtin:demo, or a
// folder with a tokenizer.json.
func TokenizerFolder(name string) (fs.FS, error) {
	if name == "builtin:demo" {
		return DemoTokenizer(), nil
	}
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("model.scratch.tokenizer: %q is not a folder with a tokenizer.json", name)
	}
	return os.DirFS(name), nil
}
