package tokenizer

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	"github.com/nikolalohinski/gonja/v2/builtins"
	controlstructures "github.com/nikolalohinski/gonja/v2/builtins/control_structures"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
)

// Bounds on what a template may do. Those in use are far below them.
const (
	maxTemplate   = 128 << 10 // bytes of source
	maxRendered   = 16 << 20  // bytes of output
	maxNesting    = 100       // brackets within brackets, macros within macros
	maxRange      = 100_000   // numbers of one range()
	maxErrorBytes = 400       // gonja's errors quote what they failed on
)

// Message is one turn of a conversation.
type Message struct {
	// Role is system, user or assistant.
	Role    string
	Content string
}

// chatTemplate is a compiled Jinja chat template with transformers' settings (trim_blocks, lstrip_blocks) and
// functions. A template comes with the model's weights and is trusted as they are: it cannot reach files or other
// templates, and what it makes is bounded, but it may be slow.
type chatTemplate struct {
	compiled *exec.Template
	tokens   map[string]string // bos_token, eos_token, ...

	mu     sync.Mutex // one render at a time: the fields below belong to it
	depth  int        // macros being called
	raised string     // what raise_exception said
}

// compileTemplate compiles source; tokens are the special tokens' names and texts. Errors wrap ErrTemplate.
func compileTemplate(source string, tokens map[string]string) (_ *chatTemplate, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v", ErrTemplate, p)
		}
	}()
	prepared, err := prepare(source)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	const id = "/chat_template"
	loader, err := loaders.NewMemoryLoader(map[string]string{id: prepared})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	cfg := config.New()
	cfg.TrimBlocks = true
	cfg.LeftStripBlocks = true
	t := &chatTemplate{tokens: tokens}
	t.compiled, err = exec.NewTemplate(id, cfg, loader, t.environment())
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "failed to parse template '"+prepared+"': ")
		return nil, fmt.Errorf("%w: %s", ErrTemplate, short(text))
	}
	return t, nil
}

// render gives the conversation as text. Errors wrap ErrTemplate.
func (t *chatTemplate) render(messages []Message, addGenerationPrompt bool) (text string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.depth, t.raised = 0, ""
	defer func() {
		if p := recover(); p != nil {
			text, err = "", fmt.Errorf("%w: panic: %v", ErrTemplate, p)
		}
	}()
	turns := make(list, len(messages))
	for i, m := range messages {
		turn := exec.NewDict()
		for _, pair := range [][2]string{{"role", m.Role}, {"content", m.Content}} {
			turn.Pairs = append(turn.Pairs, &exec.Pair{Key: exec.AsValue(pair[0]), Value: exec.AsValue(pair[1])})
		}
		turns[i] = turn
	}
	data := map[string]any{
		"messages": turns, "add_generation_prompt": addGenerationPrompt, "tools": nil, "documents": nil,
	}
	for name, token := range t.tokens {
		data[name] = token
	}
	var out limited
	err = t.compiled.Execute(&out, exec.NewContext(data))
	switch {
	case t.raised != "":
		return "", fmt.Errorf("%w: the template refuses the conversation: %s", ErrTemplate, short(t.raised))
	case err != nil:
		return "", fmt.Errorf("%w: %s", ErrTemplate, tail(err.Error(), maxErrorBytes)) // the cause stands last
	}
	return out.String(), nil
}

// short and tail are the beginning and the end of what may be too long for an error.
func short(text string) string {
	if len(text) > maxErrorBytes {
		return strings.ToValidUTF8(text[:maxErrorBytes], "") + "…"
	}
	return text
}

func tail(text string, n int) string {
	if len(text) > n {
		return "…" + strings.ToValidUTF8(text[len(text)-n:], "")
	}
	return text
}

// limited is a strings.Builder that refuses more than maxRendered bytes.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxRendered {
		return 0, fmt.Errorf("more than %d bytes of output", maxRendered)
	}
	return l.Builder.Write(p)
}

func (l *limited) WriteString(s string) (int, error) { return io.WriteString(writerOnly{l}, s) }

// writerOnly hides WriteString, which the embedded Builder would answer without the bound.
type writerOnly struct{ io.Writer }

const blanks = " \t"

var (
	rawTag        = regexp.MustCompile(`^\{%[-+]?\s*raw\s*[-+]?%\}$`)
	endRawTag     = regexp.MustCompile(`\{%[-+]?\s*endraw\s*[-+]?%\}`)
	generationTag = regexp.MustCompile(`^(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})$`)
)

// prepare rewrites a template so that gonja renders it as Jinja does:
//   - gonja strips the blanks before a block even where something else stands before them on the line: {%+ forbids it
//     there;
//   - transformers' {% generation %} block, which marks the assistant's text, becomes a plain {% if true %};
//   - conditional expressions are written with "and" and "or".
//
// It also refuses what would exhaust the parser's stack.
func prepare(source string) (string, error) {
	if len(source) > maxTemplate {
		return "", fmt.Errorf("%d bytes are over the limit of %d", len(source), maxTemplate)
	}
	var out strings.Builder
	for at := 0; ; {
		begin := nextTag(source, at)
		if begin < 0 {
			out.WriteString(source[at:])
			return out.String(), nil
		}
		out.WriteString(source[at:begin])
		end, err := tagEnd(source, begin)
		if err != nil {
			return "", fmt.Errorf("line %d: %w", 1+strings.Count(source[:begin], "\n"), err)
		}
		tag := source[begin:end]
		at = end
		line := source[strings.LastIndexAny(source[:begin], "\r\n")+1 : begin]
		marked := tag[2] == '-' || tag[2] == '+'
		if m := generationTag.FindStringSubmatch(tag); m != nil {
			word := "if true"
			if m[2] != "" {
				word = "endif"
			}
			tag = m[1] + word + m[3]
		}
		if tag[1] != '{' && !marked && strings.Trim(line, blanks) != "" {
			tag = tag[:2] + "+" + tag[2:]
		}
		if tag[1] != '#' {
			if tag, err = rewriteConditionals(tag); err != nil {
				return "", fmt.Errorf("line %d: %w", 1+strings.Count(source[:begin], "\n"), err)
			}
		}
		out.WriteString(tag)
		if rawTag.MatchString(source[begin:end]) {
			loc := endRawTag.FindStringIndex(source[at:])
			if loc == nil {
				return "", errors.New("raw block without its end")
			}
			out.WriteString(source[at : at+loc[1]])
			at += loc[1]
		}
	}
}

// nextTag is where the next {{, {% or {# begins, -1 for none.
func nextTag(source string, from int) int {
	for i := from; i+1 < len(source); i++ {
		if source[i] == '{' && (source[i+1] == '{' || source[i+1] == '%' || source[i+1] == '#') {
			return i
		}
	}
	return -1
}

// tagEnd is the position after the tag that begins at begin; closing marks inside string literals do not count.
func tagEnd(source string, begin int) (int, error) {
	if source[begin+1] == '#' {
		i := strings.Index(source[begin+2:], "#}")
		if i < 0 {
			return 0, errors.New("comment without its end")
		}
		return begin + 2 + i + 2, nil
	}
	closing := "}}"
	if source[begin+1] == '%' {
		closing = "%}"
	}
	depth := 0
	for i := begin + 2; i < len(source); i++ {
		if depth == 0 && strings.HasPrefix(source[i:], closing) {
			return i + 2, nil
		}
		switch c := source[i]; c {
		case '(', '[', '{':
			depth++
			if depth > maxNesting {
				return 0, fmt.Errorf("more than %d nested brackets", maxNesting)
			}
		case ')', ']', '}':
			depth = max(0, depth-1)
		case '"', '\'':
			for i++; i < len(source) && source[i] != c; i++ {
				if source[i] == '\\' {
					i++
				}
			}
		}
	}
	return 0, errors.New("tag without its end")
}

// list is a Python list: gonja's own slices answer no negative index that reaches the first element.
type list []any

// GetItem implements gonja's item access.
func (l list) GetItem(key any) (*exec.Value, bool) {
	i, ok := key.(int)
	if ok && i < 0 {
		i += len(l)
	}
	if !ok || i < 0 || i >= len(l) {
		return exec.AsValue(nil), false
	}
	return exec.AsValue(l[i]), true
}

// listFilter gives a filter's result as a list.
func listFilter(filter exec.FilterFunction) exec.FilterFunction {
	return func(e *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
		out := filter(e, in, params)
		if out.IsError() || !out.IsList() {
			return out
		}
		elements := make(list, out.Len())
		for i := range elements {
			elements[i] = out.Index(i).Interface()
		}
		return exec.AsValue(elements)
	}
}

// environment is gonja's builtins without what reaches other templates, with transformers' functions, and with those
// replaced that differ from Python's.
func (t *chatTemplate) environment() *exec.Environment {
	globals := exec.EmptyContext()
	for _, name := range []string{"namespace", "dict"} {
		if function, ok := builtins.GlobalFunctions.Get(name); ok {
			globals.Set(name, function)
		}
	}
	globals.Set("range", pyRange)
	globals.Set("strftime_now", func(format string) string { return strftime(templateDate(), format) })
	globals.Set("raise_exception", func(message string) (string, error) {
		t.raised = "raise_exception: " + message
		return "", errors.New(message)
	})
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	_ = filters.Replace("tojson", pyToJSON) // it is there, as are the others: gonja has them
	for _, name := range []string{"list", "sort"} {
		if filter, ok := builtins.Filters.Get(name); ok {
			_ = filters.Replace(name, listFilter(filter))
		}
	}

	structures := exec.NewControlStructureSet(map[string]parser.ControlStructureParser{"macro": t.parseMacro})
	for _, name := range []string{"for", "if", "set", "filter", "raw", "with", "do", "break", "continue", "call"} {
		if structure, ok := builtins.ControlStructures.Get(name); ok {
			_ = structures.Register(name, structure) // the names differ
		}
	}
	methods := builtins.Methods
	methods.Str = exec.NewMethodSet(pyStringMethods())
	return &exec.Environment{
		Context: globals, Filters: filters, Tests: builtins.Tests, ControlStructures: structures, Methods: methods,
	}
}

// parseMacro is gonja's macro with a bound on recursion, which would otherwise end the process.
func (t *chatTemplate) parseMacro(p, args *parser.Parser) (nodes.ControlStructure, error) {
	parse, ok := builtins.ControlStructures.Get("macro")
	if !ok {
		return nil, errors.New("gonja has no macro")
	}
	node, err := parse(p, args)
	if err != nil {
		return nil, err
	}
	macro, ok := node.(*controlstructures.MacroControlStructure)
	if !ok {
		return nil, fmt.Errorf("gonja's macro is a %T", node)
	}
	return &boundedMacro{macro, t}, nil
}

type boundedMacro struct {
	*controlstructures.MacroControlStructure
	template *chatTemplate
}

// Execute defines the macro.
func (m *boundedMacro) Execute(r *exec.Renderer, tag *nodes.ControlStructureBlock) error {
	if err := m.MacroControlStructure.Execute(r, tag); err != nil {
		return err
	}
	value, _ := r.Environment.Context.Get(m.Name)
	macro, ok := value.(exec.Macro)
	if !ok {
		return fmt.Errorf("macro %s is a %T", m.Name, value)
	}
	r.Environment.Context.Set(m.Name, exec.Macro(func(params *exec.VarArgs) *exec.Value {
		if m.template.depth >= maxNesting {
			return exec.AsValue(fmt.Errorf("macro %s: more than %d nested calls", m.Name, maxNesting))
		}
		m.template.depth++
		defer func() { m.template.depth-- }()
		return macro(params)
	}))
	return nil
}
