// Export prints built-in data as JSONL. The script that trains the demo's tokenizer reads it.
package main

import (
	"fmt"
	"os"

	"github.com/ldalign/ldalign/dataset"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "export:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument such as builtin:demo/base, got %d", len(args))
	}
	set, err := dataset.Load(args[0], dataset.Options{})
	if err != nil {
		return err
	}
	return set.WriteJSONL(os.Stdout)
}
