package schemas_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"nats://me:secret@10.0.0.5:4222 refused":       "nats://***@10.0.0.5:4222 refused",
		"tls://token@a:1,tls://me:se%40cret@b:2":       "tls://***@a:1,tls://***@b:2",
		`parse "http://key:p@ss@host:9000/bucket": no`: `parse "http://***@host:9000/bucket": no`,
		"nats://10.0.0.5:4222/a@b":                     "nats://10.0.0.5:4222/a@b",
		"someone@example.org":                          "someone@example.org",
	} {
		if got := schemas.Redact(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	t.Setenv("TEST_SECRET_FILE", path)
	s := schemas.SecretFromEnv("TEST_SECRET")
	if _, err := s.Read(); err == nil || !s.Given() {
		t.Errorf("a file that is missing: %v", err)
	}
	for _, text := range []string{"one\n", "two\r\n"} { // it is replaced
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Read(); err != nil || got != text[:3] {
			t.Errorf("read %q, %v", got, err)
		}
	}
	t.Setenv("TEST_SECRET_FILE", "")
	if schemas.SecretFromEnv("TEST_SECRET").Given() {
		t.Error("nothing is a secret")
	}
}
