package schemas

import (
	"fmt"
	"reflect"
	"strings"
)

// unknownKey returns a message about a key that a section does not have, and the path that was probably meant: the nearest
// key of the same section, or else the same key in another section. The path is empty if there is none.
func unknownKey(section reflect.Type, path, key string) (message, meant string) {
	if near := nearest(key, keysOf(section)); near != "" {
		return fmt.Sprintf("unknown key; did you mean %s?", near), join(path, near)
	}
	for _, f := range Fields() {
		if strings.HasSuffix(f.Key, "."+key) || f.Key == key {
			return fmt.Sprintf("unknown key; did you mean %s?", f.Key), f.Key
		}
	}
	return "unknown key; expected one of " + strings.Join(keysOf(section), ", "), ""
}

// sameName is the key with the same last part as an unknown key, such as objective.beta for trainer.beta; empty if there is
// none, or several.
func sameName(key string) string {
	dot := strings.LastIndexByte(key, '.')
	if dot < 0 {
		return ""
	}
	found := ""
	for _, f := range Fields() {
		if strings.HasSuffix(f.Key, key[dot:]) {
			if found != "" {
				return ""
			}
			found = f.Key
		}
	}
	return found
}

// nearest is the word with the smallest edit distance to s; empty if that is large for the length of s.
func nearest(s string, words []string) string {
	best, least := "", max(1, len(s)/3)+1
	if len(s) > 64 {
		return ""
	}
	for _, w := range words {
		if d := editDistance(s, w); d < least {
			best, least = w, d
		}
	}
	return best
}

// editDistance counts the bytes to insert, delete, replace or swap with their neighbour (Damerau's, each byte edited
// once).
func editDistance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
			case a[i-1] == b[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j-1], rows[i-1][j], rows[i][j-1])
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					rows[i][j] = min(rows[i][j], 1+rows[i-2][j-2])
				}
			}
		}
	}
	return rows[len(a)][len(b)]
}
