package metrics

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// File is the name of the file of lines.
const File = "metrics.jsonl"

// Value is one named metric.
type Value struct {
	Name  string
	Value float64
}

// Step is one optimizer step.
type Step struct {
	// Phase is policy or guide.
	Phase     string
	Iteration uint32
	// Step counts from 1 within phase and iteration.
	Step   int
	Values []Value
	// Clock contains the measurements that another execution does not repeat; nil if they were lost.
	Clock *Clock
}

// Clock is when a step ended and how fast it was.
type Clock struct {
	Time time.Time
	// TokensPerSecond is the number of tokens that went through the model, without padding, over the time since the step before.
	TokensPerSecond float64
}

// key identifies a step of a run.
type key struct {
	phase     string
	iteration uint32
	step      int
}

func (s Step) key() key { return key{s.Phase, s.Iteration, s.Step} }

// Log is an open folder of metrics. It is not safe for concurrent use.
type Log struct {
	dir    string
	file   *os.File
	events map[string]*events
	// global counts the steps of each phase over all iterations.
	global map[string]int
}

// Open makes the folder contain exactly the steps of history, in their order, and opens it for more. It keeps the clock
// readings of steps that the folder already has.
func Open(dir string, history []Step) (_ *Log, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	path := filepath.Join(dir, File)
	clocks, err := readClocks(path)
	if err != nil {
		return nil, fmt.Errorf("metrics: %s: %w", path, err)
	}
	l := &Log{dir: dir, events: map[string]*events{}, global: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	// written to a new file that then replaces the old one, so that the file is never incomplete
	if l.file, err = os.Create(path + ".new"); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err := clearEvents(filepath.Join(dir, eventsFolder)); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	for _, s := range history {
		if clock, ok := clocks[s.key()]; ok && s.Clock == nil {
			s.Clock = &clock
		}
		if err := l.Add(s); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(l.file.Sync(), os.Rename(path+".new", path)); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

// Add appends a step.
func (l *Log) Add(s Step) error {
	l.global[s.Phase]++
	line := s.line(l.global[s.Phase])
	if _, err := l.file.Write(line); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	e := l.events[s.Phase]
	if e == nil {
		var err error
		if e, err = createEvents(filepath.Join(l.dir, eventsFolder, s.Phase)); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		l.events[s.Phase] = e
	}
	if err := e.add(s, l.global[s.Phase]); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Close closes the files.
func (l *Log) Close() error {
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	for _, e := range l.events { // in any order: nothing is written
		err = errors.Join(err, e.file.Close())
	}
	return err
}

// line is the step as a JSON object, with its keys in a fixed order. It leaves out numbers that are not finite.
func (s Step) line(global int) []byte {
	b := []byte(`{"phase":`)
	b = strconv.AppendQuote(b, s.Phase)
	b = append(b, `,"iteration":`...)
	b = strconv.AppendUint(b, uint64(s.Iteration), 10)
	b = append(b, `,"step":`...)
	b = strconv.AppendInt(b, int64(s.Step), 10)
	b = append(b, `,"global_step":`...)
	b = strconv.AppendInt(b, int64(global), 10)
	number := func(name string, v float64) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return
		}
		b = append(b, ',')
		b = strconv.AppendQuote(b, name)
		b = append(b, ':')
		b = strconv.AppendFloat(b, v, 'g', -1, 64)
	}
	for _, v := range s.Values {
		number(v.Name, v.Value)
	}
	if s.Clock != nil {
		number(speedName, s.Clock.TokensPerSecond)
		b = append(b, `,"time":"`...)
		b = s.Clock.Time.UTC().AppendFormat(b, timeForm)
		b = append(b, '"')
	}
	return append(b, "}\n"...)
}

const (
	speedName = "tokens/s"
	timeForm  = "2006-01-02T15:04:05.000Z"
)

// readClocks reads the clock readings in a file, which need not exist. It skips lines that it cannot read, such as a last
// line that was cut off.
func readClocks(path string) (map[key]Clock, error) {
	clocks := map[key]Clock{}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return clocks, nil
	}
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var line struct {
			Phase     string
			Iteration uint32
			Step      int
			Time      time.Time
			Speed     float64 `json:"tokens/s"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && !line.Time.IsZero() {
			clocks[key{line.Phase, line.Iteration, line.Step}] = Clock{line.Time, line.Speed}
		}
	}
	err = lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = nil // this program did not write it; the lines after it count as lost
	}
	return clocks, errors.Join(err, file.Close())
}

// Speed returns the median of a phase's tokens per second in a folder's file; 0 if it has none.
func Speed(dir, phase string) (float64, error) {
	clocks, err := readClocks(filepath.Join(dir, File))
	if err != nil {
		return 0, fmt.Errorf("metrics: %w", err)
	}
	var speeds []float64
	for k, c := range clocks { // in any order: they are sorted
		if k.phase == phase && c.TokensPerSecond > 0 {
			speeds = append(speeds, c.TokensPerSecond)
		}
	}
	if len(speeds) == 0 {
		return 0, nil
	}
	slices.Sort(speeds)
	return speeds[len(speeds)/2], nil
}
