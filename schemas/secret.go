package schemas

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Secret is a password, key or token: the value itself, or the path of a file that holds it.
type Secret struct{ Value, File string }

// SecretFromEnv returns the secret that the environment names: its value under name, or the path of its file under name_FILE.
func SecretFromEnv(name string) Secret {
	return Secret{Value: os.Getenv(name), File: os.Getenv(name + "_FILE")}
}

// Given reports whether there is a secret.
func (s Secret) Given() bool { return s != Secret{} }

// Read returns the value. It reads the file anew at each call, without the end of its last line.
func (s Secret) Read() (string, error) {
	if s.File == "" {
		return s.Value, nil
	}
	data, err := os.ReadFile(s.File)
	if err != nil {
		return "", fmt.Errorf("the file of a secret: %w", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

var userInfo = regexp.MustCompile(`(://)[^/\s"]*@`)

// Redact returns a text with the user and the password of each URL replaced by ***. A text that may hold a URL of the user's goes
// through it before it is shown or logged.
func Redact(text string) string { return userInfo.ReplaceAllString(text, "${1}***@") }
