package tokenizer

import (
	"fmt"
	"strings"
)

// Gonja reads Jinja's "a if c else b" only as a whole {{ }} or {% set %}, not within an expression. Its "and" and "or"
// are Python's, which stop early and give an operand, so that
//
//	((c) and [a] or [b])[0]
//
// is the same: a list of one element is true whatever the element.

// rewriteConditionals does it for one tag, {{ }} or {% %}.
func rewriteConditionals(tag string) (string, error) {
	switch n := strings.Count(tag, "else"); {
	case !strings.Contains(tag, "if"):
		return tag, nil
	case n > maxNesting:
		return "", fmt.Errorf("%d conditionals in one expression, more than %d", n, maxNesting)
	}
	begin, end := 2, len(tag)-2
	if c := tag[begin]; c == '-' || c == '+' {
		begin++
	}
	if c := tag[end-1]; end > begin && (c == '-' || c == '+') {
		end--
	}
	body := tag[begin:end]
	if tag[1] == '{' {
		return tag[:begin] + rewriteItems(body) + tag[end:], nil
	}
	// Of the statements only these take a conditional without brackets: in {% for %} an "if" is a filter.
	name := strings.TrimLeft(body, " \t\r\n")
	for _, statement := range []string{"set", "do", "with"} {
		if rest, ok := strings.CutPrefix(name, statement); ok && (rest == "" || !isNameByte(rest[0])) {
			at := len(body) - len(rest)
			return tag[:begin] + body[:at] + rewriteItems(rest) + tag[end:], nil
		}
	}
	return tag[:begin] + rewriteBrackets(body) + tag[end:], nil
}

// rewriteItems rewrites expressions that commas, colons or assignments part.
func rewriteItems(text string) string {
	var out strings.Builder
	from := 0
	for _, w := range words(text) {
		switch w.text {
		case ",", ":", "=":
			out.WriteString(rewriteExpression(text[from:w.at]) + w.text)
			from = w.at + 1
		}
	}
	return out.String() + rewriteExpression(text[from:])
}

// rewriteExpression rewrites one expression, "a if c else b" or another. As in Jinja, b may be a conditional again.
// What is no whole conditional stays, for gonja to complain of.
func rewriteExpression(text string) string {
	then, otherwise := -1, -1
	for _, w := range words(text) {
		if w.text == "if" && then < 0 {
			then = w.at
		} else if w.text == "else" && then >= 0 && otherwise < 0 {
			otherwise = w.at
		}
	}
	if then < 0 {
		return rewriteBrackets(text)
	}
	value, condition, alternative := text[:then], text[then+len("if"):], "''" // nothing, where there is no else
	if otherwise >= 0 {
		condition, alternative = text[then+len("if"):otherwise], text[otherwise+len("else"):]
	}
	for _, part := range []string{value, condition, alternative} {
		if strings.TrimSpace(part) == "" {
			return text
		}
	}
	return " ((" + rewriteBrackets(condition) + ") and [" + rewriteBrackets(value) + "] or [" +
		rewriteExpression(alternative) + "])[0] "
}

// rewriteBrackets rewrites what the outermost brackets of text hold.
func rewriteBrackets(text string) string {
	var out strings.Builder
	from := 0
	for _, w := range words(text) {
		if n := len(w.text); n > 1 && strings.ContainsRune("([{", rune(w.text[0])) {
			out.WriteString(text[from:w.at+1] + rewriteItems(w.text[1:n-1]) + w.text[n-1:])
			from = w.at + n
		}
	}
	return out.String() + text[from:]
}

// word is a part of an expression: a name, a pair of brackets with all that it holds, or a single character such as a
// comma. String literals and operators of several characters are left out.
type word struct {
	at   int
	text string
}

func words(text string) []word {
	var list []word
	for i := 0; i < len(text); i++ {
		c := text[i]
		end := i + 1
		switch {
		case c == '"' || c == '\'':
			i = stringEnd(text, i)
			continue
		case strings.IndexByte("([{", c) >= 0:
			end = bracketEnd(text, i)
		case strings.IndexByte("=!<>", c) >= 0 && end < len(text) && text[end] == '=':
			i++ // a comparison, no assignment
			continue
		case isNameByte(c):
			for end < len(text) && isNameByte(text[end]) {
				end++
			}
		}
		list = append(list, word{i, text[i:end]})
		i = end - 1
	}
	return list
}

func isNameByte(c byte) bool {
	return c == '_' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// stringEnd is where the string literal that begins at i has its closing mark, or the last byte.
func stringEnd(text string, i int) int {
	quote := text[i]
	for i++; i < len(text) && text[i] != quote; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return min(i, len(text)-1)
}

// bracketEnd is the position after the bracket that closes the one at i, or the end of the text.
func bracketEnd(text string, i int) int {
	depth := 0
	for ; i < len(text); i++ {
		switch text[i] {
		case '"', '\'':
			i = stringEnd(text, i)
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(text)
}
