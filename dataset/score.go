package dataset

import (
	"strings"
	"unicode"
)

// Score compares an answer with its record. exact is true if the answer equals the human response, apart from outer white
// space. graded, in [0, 1], is half the share of Contains that the answer contains in that order, and half the token
// similarity to the human response: 1 minus the edit distance over the longer length. For a record without Contains, graded is
// the similarity only.
func Score(r Record, answer string) (exact bool, graded float64) {
	exact = strings.TrimSpace(answer) == strings.TrimSpace(r.Response)
	given, wanted := tokens(answer), tokens(r.Response)
	similarity := 1.0
	if longer := max(len(given), len(wanted)); longer > 0 {
		similarity = 1 - float64(editDistance(given, wanted))/float64(longer)
	}
	if len(r.Contains) == 0 {
		return exact, similarity
	}
	var content []string
	for _, phrase := range r.Contains {
		content = append(content, tokens(phrase)...)
	}
	if len(content) == 0 {
		return exact, similarity
	}
	return exact, (float64(inOrder(content, given))/float64(len(content)) + similarity) / 2
}

// tokens splits a text into words (letters and digits) and single signs.
func tokens(text string) []string {
	var out []string
	start := -1
	for i, c := range text {
		word := unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c)
		if word && start < 0 {
			start = i
		}
		if !word {
			if start >= 0 {
				out = append(out, text[start:i])
				start = -1
			}
			if !unicode.IsSpace(c) {
				out = append(out, string(c))
			}
		}
	}
	if start >= 0 {
		out = append(out, text[start:])
	}
	return out
}

// inOrder is the length of the longest common subsequence.
func inOrder(a, b []string) int {
	row := make([]int, len(b)+1)
	for _, word := range a {
		diagonal := 0
		for j := range b {
			up := row[j+1]
			if word == b[j] {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(up, row[j])
			}
			diagonal = up
		}
	}
	return row[len(b)]
}

// editDistance counts the tokens to insert, delete or replace.
func editDistance(a, b []string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i, token := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			up := row[j+1]
			row[j+1] = min(up, row[j]) + 1
			if token == b[j] {
				row[j+1] = min(row[j+1], diagonal)
			} else {
				row[j+1] = min(row[j+1], diagonal+1)
			}
			diagonal = up
		}
	}
	return row[len(b)]
}
