package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/trainer/curves"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s, -want +got (go test -update rewrites it):\n%s", name, diff)
	}
}

// written is the report of in, by file name.
func written(t *testing.T, in Input) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	if err := Write(dir, in); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "report"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, "report", e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// demoFiles is the demo's report, made once: its figures are most of this suite's time.
var demoFiles = sync.OnceValue(func() map[string][]byte {
	files := map[string][]byte{}
	all, err := render(demoInput())
	if err != nil {
		panic(err)
	}
	for _, f := range all {
		files[f.name] = f.data
	}
	return files
})

func TestGolden(t *testing.T) {
	files := demoFiles()
	for _, name := range []string{"table.md", "table.json", "curve-alignment-logp.svg", "scores-exact.svg"} {
		golden(t, name, files[name])
	}
}

func TestSameInputSameBytes(t *testing.T) {
	if diff := cmp.Diff(demoFiles(), written(t, demoInput())); diff != "" {
		t.Errorf("what is written differs from what was made of the same input:\n%s", diff)
	}
}

func TestEveryFigureIsSVGAndPNG(t *testing.T) {
	figures := 0
	for name, data := range demoFiles() {
		switch filepath.Ext(name) {
		case ".svg":
			figures++
			d := xml.NewDecoder(bytes.NewReader(data))
			for {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		case ".png":
			figures--
			img, err := png.Decode(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := img.Bounds().Dx(); got != 720 {
				t.Errorf("%s: want 720 pixels wide, got %d", name, got)
			}
		}
	}
	if figures != 0 {
		t.Errorf("want a PNG for every SVG, got %d more SVG", figures)
	}
}

// visit calls f for every start tag of the page, after checking that its tags are balanced.
func visit(t *testing.T, page []byte, f func(html.Token)) {
	t.Helper()
	void := []string{"meta", "br", "hr", "img", "link", "input"}
	var open []string
	z := html.NewTokenizer(bytes.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(open) > 0 {
				t.Fatalf("page ends with %v and open tags %v", z.Err(), open)
			}
			return
		case html.StartTagToken:
			token := z.Token()
			f(token)
			if !slices.Contains(void, token.Data) {
				open = append(open, token.Data)
			}
		case html.SelfClosingTagToken:
			f(z.Token())
		case html.EndTagToken:
			token := z.Token()
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("</%s> closes %v", token.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func TestPageIsWellFormedSelfContainedAndAccessible(t *testing.T) {
	page := demoFiles()["index.html"]
	count := map[string]int{}
	ids := map[string]bool{}
	visit(t, page, func(n html.Token) {
		count[n.Data]++
		if slices.Contains([]string{"script", "link", "img", "iframe", "image", "use", "object"}, n.Data) {
			t.Errorf("<%s> may load something", n.Data)
		}
		attrs := map[string]string{}
		for _, a := range n.Attr {
			attrs[a.Key] = a.Val
			if strings.HasPrefix(a.Key, "on") {
				t.Errorf("<%s> has a handler %s", n.Data, a.Key)
			}
			if (a.Key == "href" || a.Key == "src") && !strings.HasPrefix(a.Val, "#") {
				t.Errorf("<%s %s=%q> leaves the page", n.Data, a.Key, a.Val)
			}
			if a.Key == "id" {
				if ids[a.Val] {
					t.Errorf("id %q twice", a.Val)
				}
				ids[a.Val] = true
			}
		}
		if n.Data == "svg" && (attrs["role"] != "img" || attrs["aria-labelledby"] == "") {
			t.Errorf("a figure without a label: %v", n)
		}
	})
	visit(t, page, func(n html.Token) {
		for _, a := range n.Attr {
			for _, id := range strings.Fields(a.Val) {
				if a.Key == "aria-labelledby" && !ids[id] {
					t.Errorf("no element with the id %q", id)
				}
			}
		}
	})
	if count["svg"] != count["figure"] || count["svg"] != count["desc"] || count["svg"] < 10 {
		t.Errorf("want a figure and a description for every one of 10 or more SVGs, got %v", count)
	}
	if strings.Contains(string(page), "url(") || strings.Contains(string(page), "@import") {
		t.Error("the style loads something")
	}
}

func TestPageEscapes(t *testing.T) {
	const evil = "<script>alert('$1')</script>\"&\x1b[2J"
	in := demoInput()
	in.Title, in.GeneratedBy, in.State, in.Subject, in.Against = evil, evil, evil, evil, []string{evil}
	in.Notes = []string{evil}
	in.Rows[0].Method, in.Stages[0].Name, in.Stages[0].Unit, in.Guides[0].Run = evil, evil, evil, evil
	in.Runs[0] = Run{evil, evil, evil, evil}
	for i := range in.Curves {
		in.Curves[i].Method = evil
	}
	for i := range in.Distances {
		in.Distances[i].Method, in.Agreement[i].Method = evil, evil
	}
	for i := range in.Examples {
		e := &in.Examples[i]
		e.Method, e.Prompt, e.Chosen, e.Rejected = evil, evil, evil, evil+fmt.Sprint(i)
	}
	files := written(t, in)
	visit(t, files["index.html"], func(n html.Token) {
		if n.Data == "script" {
			t.Error("markup from the input became an element")
		}
	})
	if n := strings.Count(string(files["index.html"]), "&lt;script&gt;alert("); n < 20 {
		t.Errorf("want the text itself shown in all its places, got %d", n)
	}
	if strings.Contains(string(files["table.md"]), "\x1b") {
		t.Error("a control character reached table.md")
	}
}

// TestInlineTitleIsText: in the page's tree, not in its tokens, for a browser reads markup in an SVG's title.
func TestInlineTitleIsText(t *testing.T) {
	const evil = "<b>$1</b> & <script>x</script>"
	f := figure{Name: "f", Title: evil, Caption: evil}
	root, err := html.Parse(strings.NewReader(string(f.inline([]byte(`<?xml?><svg width="1pt" viewBox="0 0 1 1"></svg>`)))))
	if err != nil {
		t.Fatal(err)
	}
	texts := 0
	for n := range root.Descendants() {
		switch {
		case n.Data == "script" || n.Data == "b":
			t.Errorf("markup became <%s>", n.Data)
		case n.Type == html.TextNode && n.Data == evil:
			texts++
		}
	}
	if texts != 2 {
		t.Errorf("want the text as title and description, found it %d times", texts)
	}
}

func TestEmptyInputSaysWhatIsMissing(t *testing.T) {
	files := written(t, Input{})
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"index.html", "table.json", "table.md"}, names); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, want := range []string{
		"Not judged: nothing was named to be compared.", "No held-out answers were scored",
		"No training step was recorded yet.", "No pair was scored yet.", "The guide was not checked",
		"No stage reported its work.", "No pair with two different answers", "No run spec was given.",
	} {
		if !strings.Contains(string(files["index.html"]), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	visit(t, files["index.html"], func(html.Token) {})
}

func TestTableMissingValuesAndSeeds(t *testing.T) {
	in := Input{Rows: []Row{
		{Method: "one seed", Seeds: []Scores{{GreedyExact: new(0.5), SampledExact: new(0.0)}}},
		{Method: "two | seeds", Seeds: []Scores{
			{GreedyExact: new(0.5), Distance: new(math.NaN()), AnswerTokens: new(12.0)},
			{GreedyExact: new(0.7), Distance: new(math.Inf(1))},
		}},
		{Method: "none"},
	}}
	want := `| method       | seeds |  greedy exact | greedy graded | sampled exact | sampled graded | mean distance | answer tokens |
|--------------|------:|--------------:|--------------:|--------------:|---------------:|--------------:|--------------:|
| one seed     |     1 |         0.500 |             – |         0.000 |              – |             – |             – |
| two \| seeds |     2 | 0.600 ± 0.141 |             – |             – |              – |             – | 12.0 (1 of 2) |
| none         |     0 |             – |             – |             – |              – |             – |             – |
`
	if diff := cmp.Diff(want, Table(in)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var got struct {
		Rows []struct {
			Measures map[string]struct{ Mean, SD *float64 }
		}
	}
	if err := json.Unmarshal(written(t, in)["table.json"], &got); err != nil {
		t.Fatal(err)
	}
	if m := got.Rows[0].Measures; m["greedy_graded"].Mean != nil || *m["sampled_exact"].Mean != 0 || m["greedy_exact"].SD != nil {
		t.Errorf("table.json: want a missing mean, a mean of 0 and no spread for one seed, got %+v", m)
	}
}

func TestInputSurvivesJSON(t *testing.T) {
	in := demoInput()
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back Input
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, back); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWriteRefusesAndLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	bad := Input{Curves: []Curve{{Method: "PPO", Objective: "ppo"}}}
	if err := Write(dir, bad); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), `"ppo"`) {
		t.Errorf("want ErrInput that names the objective, got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "report")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("want nothing written, got %v", err)
	}

	// table.md cannot be replaced: a folder stands there.
	if err := os.MkdirAll(filepath.Join(dir, "report", "table.md", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, Input{}); err == nil || !strings.Contains(err.Error(), "table.md") {
		t.Errorf("want an error that names table.md, got %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "report"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("want no temporary file left, got %v", entries)
	}
}

// TestWriteTakesAnyNumber draws reports of a row and a curve with any values at all.
func TestWriteTakesAnyNumber(t *testing.T) {
	value := rapid.OneOf(
		rapid.Just[*float64](nil), rapid.Ptr(rapid.Float64(), false), rapid.Ptr(rapid.Float64Range(-2, 2), false),
		rapid.SampledFrom([]*float64{new(math.NaN()), new(math.Inf(1)), new(math.Inf(-1)), new(1e15), new(0.0)}),
	)
	rapid.Check(t, func(rt *rapid.T) {
		in := Input{Subject: "a", Against: []string{"b"}, HeldOut: rapid.IntRange(0, 3).Draw(rt, "held-out")}
		for _, method := range in.Against {
			in.Rows = append(in.Rows, Row{Method: method, Seeds: []Scores{{SampledExact: value.Draw(rt, "score")}}})
		}
		seeds := rapid.IntRange(0, 2).Draw(rt, "seeds")
		subject := Row{Method: "a"}
		for range seeds {
			subject.Seeds = append(subject.Seeds, Scores{
				SampledExact: value.Draw(rt, "score"), Distance: value.Draw(rt, "distance"),
			})
		}
		in.Rows = append(in.Rows, subject)
		c := Curve{Objective: "ldalign"}
		for range rapid.IntRange(0, 4).Draw(rt, "steps") {
			step := curves.Step{Iteration: rapid.Uint32Range(0, 1).Draw(rt, "iteration")}
			if loss := value.Draw(rt, "loss"); loss != nil {
				step.Loss = *loss
			}
			c.Steps = append(c.Steps, step)
		}
		in.Curves = []Curve{c}
		d := Distances{}
		for range rapid.IntRange(0, 3).Draw(rt, "pairs") {
			d.Pairs = append(d.Pairs, PairDistance{rapid.Float64().Draw(rt, "s"), rapid.Float64().Draw(rt, "w"), false})
		}
		in.Distances = []Distances{d}
		if _, err := render(in); err != nil {
			rt.Fatal(err)
		}
	})
}

// A row of the two-sample test is named by its method, and by its policy where the method has several.
func TestAgreementRows(t *testing.T) {
	some := count{agree: 3, n: 4}
	figures, err := agreementFigure([]agreementGroup{
		{method: "Continual SFT 0", iteration: 1, all: some}, {method: "DPO", iteration: 1, all: some}, {method: "DPO", iteration: 2, all: some},
	})
	if err != nil {
		t.Fatal(err)
	}
	svg, err := figures[0].svg()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{">Continual SFT 0<", ">DPO, policy 1<", ">DPO, policy 2<"} {
		if !bytes.Contains(svg, []byte(name)) {
			t.Errorf("the figure has no row %s", name)
		}
	}
}

// Scores that are all 0 have an axis with numbers that a reader knows.
func TestAxisOfZeros(t *testing.T) {
	zero := 0.0
	files := written(t, Input{Rows: []Row{{Method: "SFT", Seeds: []Scores{{SampledExact: &zero}}}}})
	svg := files["scores-exact.svg"]
	if !bytes.Contains(svg, []byte("share of held-out prompts")) || bytes.Contains(svg, []byte(">1e")) || bytes.Contains(svg, []byte(">-1e")) {
		t.Errorf("the axis of zeros:\n%s", svg)
	}
}

// No two ticks have the same label, and a label is the place of its tick.
func TestTicksSayWhereTheyAre(t *testing.T) {
	var rows []Row
	for i, distance := range []float64{2.604, 2.641, 2.72} {
		rows = append(rows, Row{Method: fmt.Sprint("LD-Align ", i), Seeds: []Scores{{Distance: &distance}}})
	}
	svg := written(t, Input{Rows: rows})["scores-distance.svg"]
	for _, label := range []string{">2.60<", ">2.64<", ">2.68<", ">2.72<"} {
		if !bytes.Contains(svg, []byte(label)) {
			t.Errorf("no tick %s:\n%s", label, svg)
		}
	}
}

// A curve of one step is a point.
func TestCurveOfOneStep(t *testing.T) {
	curve := Curve{Method: "Guide", Objective: "guide", Steps: []curves.Step{{Loss: 12.5}}}
	if svg := written(t, Input{Curves: []Curve{curve}})["curve-guide-loss.svg"]; !bytes.Contains(svg, []byte("A2,2 ")) {
		t.Errorf("no point of radius 2:\n%s", svg)
	}
}
