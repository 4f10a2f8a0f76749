package checkpoints_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVar is the environment variable that tells a child process of this test binary what to do instead of testing.
const childVar = "LDALIGN_CHECKPOINTS_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childVar); name != "" {
		child, ok := children[name]
		if !ok {
			fmt.Fprintln(os.Stderr, "no child named", name)
			os.Exit(2)
		}
		if err := child(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var children = map[string]func(args []string) error{
	"commit": commitForever,
	"fill":   fillDisk,
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func limit(r io.Reader, n int64) io.Reader { return io.LimitReader(r, n) }

// content is n bytes that depend on seed alone.
func content(seed uint64, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(data) // never fails
	return data
}
