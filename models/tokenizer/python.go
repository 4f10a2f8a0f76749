package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
)

// templateDate is what strftime_now formats. Templates in use put today's date into the system message; here the
// clock stands still, so that the same spec gives the same prompt on every day that the run lasts.
func templateDate() time.Time { return time.Date(2024, time.July, 26, 0, 0, 0, 0, time.UTC) }

// pyRange is Python's range as a list. (Gonja's runs a goroutine that outlives a loop with a break.)
func pyRange(_ *exec.Evaluator, params *exec.VarArgs) (any, error) {
	bounds := make([]int, len(params.Args))
	for i, arg := range params.Args {
		if !arg.IsInteger() {
			return nil, errors.New("range takes integers")
		}
		bounds[i] = arg.Integer()
	}
	start, step := 0, 1
	var stop int
	switch len(bounds) {
	case 1:
		stop = bounds[0]
	case 2:
		start, stop = bounds[0], bounds[1]
	case 3:
		start, stop, step = bounds[0], bounds[1], bounds[2]
	default:
		return nil, errors.New("range takes one to three integers")
	}
	if step == 0 {
		return nil, errors.New("range with step 0")
	}
	numbers := list{}
	for i := start; (step > 0 && i < stop) || (step < 0 && i > stop); i += step {
		if len(numbers) == maxRange {
			return nil, fmt.Errorf("range of more than %d numbers", maxRange)
		}
		numbers = append(numbers, i)
	}
	return numbers, nil
}

// pyStringMethods are gonja's, but for those that fail without their optional arguments or give another result than
// Python's, and for splits, whose lists want list's negative index.
func pyStringMethods() map[string]exec.Method[string] {
	methods := map[string]exec.Method[string]{}
	for _, name := range []string{
		"capitalize", "casefold", "endswith", "find", "format", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
		"islower", "isnumeric", "isspace", "istitle", "isupper", "join", "ljust", "lower", "partition", "removeprefix",
		"removesuffix", "rfind", "rjust", "rpartition", "splitlines", "startswith", "swapcase", "title", "upper", "zfill",
	} {
		if method, ok := builtins.Methods.Str.Get(name); ok {
			methods[name] = method
		}
	}
	methods["strip"] = stripMethod(strings.TrimFunc)
	methods["lstrip"] = stripMethod(strings.TrimLeftFunc)
	methods["rstrip"] = stripMethod(strings.TrimRightFunc)
	methods["count"] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		if len(args.Args) != 1 {
			return nil, errors.New("count takes one argument")
		}
		return strings.Count(self, args.Args[0].String()), nil
	}
	methods["replace"] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		if len(args.Args) < 2 || len(args.Args) > 3 {
			return nil, errors.New("replace takes two or three arguments")
		}
		count := -1
		if len(args.Args) == 3 {
			count = args.Args[2].Integer()
		}
		return strings.Replace(self, args.Args[0].String(), args.Args[1].String(), count), nil
	}
	methods["split"] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		separator, limit, err := splitArguments(args)
		if err != nil {
			return nil, err
		}
		if separator == "" {
			if limit >= 0 {
				return nil, errors.New("split at white space with a limit is not supported")
			}
			return texts(strings.Fields(self)), nil
		}
		return texts(strings.SplitN(self, separator, pieces(limit))), nil
	}
	methods["rsplit"] = func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		separator, limit, err := splitArguments(args)
		if err != nil || separator == "" {
			return nil, errors.Join(err, errors.New("rsplit needs a separator"))
		}
		parts := strings.Split(self, separator)
		if limit >= 0 && len(parts) > limit+1 {
			head := len(parts) - limit
			parts = append([]string{strings.Join(parts[:head], separator)}, parts[head:]...)
		}
		return texts(parts), nil
	}
	return methods
}

// stripMethod strips white space, or the characters of its argument.
func stripMethod(trim func(string, func(rune) bool) string) exec.Method[string] {
	return func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		switch {
		case len(args.Args) > 1:
			return nil, errors.New("strip takes at most one argument")
		case len(args.Args) == 0 || args.Args[0].IsNil():
			return trim(self, unicode.IsSpace), nil
		}
		set := args.Args[0].String()
		return trim(self, func(r rune) bool { return strings.ContainsRune(set, r) }), nil
	}
}

// splitArguments are the separator ("" for white space) and the greatest number of splits (-1 for all).
func splitArguments(args *exec.VarArgs) (separator string, limit int, err error) {
	limit = -1
	if len(args.Args) > 2 {
		return "", 0, errors.New("split takes at most two arguments")
	}
	if len(args.Args) > 0 && !args.Args[0].IsNil() {
		separator = args.Args[0].String()
		if separator == "" {
			return "", 0, errors.New("empty separator")
		}
	}
	if len(args.Args) == 2 {
		limit = args.Args[1].Integer()
	}
	if value, ok := args.KwArgs["maxsplit"]; ok {
		limit = value.Integer()
	}
	return separator, limit, nil
}

// pieces is strings.SplitN's n for Python's maxsplit.
func pieces(limit int) int {
	if limit < 0 {
		return -1
	}
	return limit + 1
}

func texts(parts []string) list {
	l := make(list, len(parts))
	for i, part := range parts {
		l[i] = part
	}
	return l
}

// pyToJSON is transformers' tojson: json.dumps with ensure_ascii=False, keys in their order, and an optional indent.
func pyToJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := params.GetKeywordArgument("indent", nil)
	for _, key := range slices.Sorted(maps.Keys(params.KwArgs)) {
		if key != "indent" && key != "ensure_ascii" {
			return exec.AsValue(fmt.Errorf("tojson: argument %s is not supported", key))
		}
	}
	if len(params.Args) > 0 || !(indent.IsNil() || indent.IsInteger()) {
		return exec.AsValue(errors.New("tojson: the only argument is indent=N"))
	}
	var b bytes.Buffer
	if err := dump(&b, in.Interface(), 0); err != nil {
		return exec.AsValue(fmt.Errorf("tojson: %w", err))
	}
	if !indent.IsNil() {
		var wide bytes.Buffer
		if err := json.Indent(&wide, b.Bytes(), "", strings.Repeat(" ", max(0, min(indent.Integer(), 16)))); err != nil {
			return exec.AsValue(fmt.Errorf("tojson: %w", err))
		}
		b = wide
	}
	return exec.AsSafeValue(b.String())
}

// dump writes value as Python's json.dumps does, with ", " and ": " between.
func dump(b *bytes.Buffer, value any, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("more than %d levels", maxNesting)
	}
	comma := func(i int) {
		if i > 0 {
			b.WriteString(", ")
		}
	}
	switch v := value.(type) {
	case *exec.Value:
		return dump(b, v.Interface(), depth)
	case *exec.Dict:
		return dump(b, *v, depth)
	case exec.Dict:
		b.WriteByte('{')
		for i, pair := range v.Pairs {
			comma(i)
			if err := quote(b, pair.Key.String()); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := dump(b, pair.Value, depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	case nil:
		b.WriteString("null")
		return nil
	case string:
		return quote(b, v)
	case bool:
		b.WriteString(strconv.FormatBool(v))
		return nil
	case int:
		b.WriteString(strconv.Itoa(v))
		return nil
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if v == float64(int64(v)) && !strings.ContainsAny(text, "e.") {
			text += ".0"
		}
		b.WriteString(text)
		return nil
	case map[string]any:
		b.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			comma(i)
			if err := quote(b, key); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := dump(b, v[key], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	}
	if rv := reflect.ValueOf(value); rv.Kind() == reflect.Slice {
		b.WriteByte('[')
		for i := range rv.Len() {
			comma(i)
			if err := dump(b, rv.Index(i).Interface(), depth+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	}
	return fmt.Errorf("a %T is not JSON", value)
}

func quote(b *bytes.Buffer, text string) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // Encode ends the line
	return nil
}

// strftime formats with the C library's codes that chat templates use; an unknown code stays as it is.
func strftime(at time.Time, format string) string {
	layouts := map[byte]string{
		'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'B': "January", 'b': "Jan", 'h': "Jan",
		'A': "Monday", 'a': "Mon", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM",
		'j': "002", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		layout, known := layouts[format[i]]
		switch {
		case known:
			b.WriteString(at.Format(layout))
		case format[i] == '%':
			b.WriteByte('%')
		default:
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}
