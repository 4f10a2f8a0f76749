package main

import (
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/trainer"
)

// meter shows the progress of one run and adds up what each stage did in this process.
type meter struct {
	display *progress.Display
	prefix  string

	mu sync.Mutex
	// tasks are shown or, once finished, nil.
	tasks  map[string]*progress.Task
	stages map[string]*report.Stage
	steps  map[string]stepMark
	// waiting is the trainer's work of waiting for pairs; empty without a trainer in this process.
	waiting string
	// sampled counts the responses of the generator's finished batches.
	sampled int
}

// stepMark is how many steps of a phase were done when.
type stepMark struct {
	done int
	at   time.Time
}

func newMeter(display *progress.Display, prefix string) *meter {
	return &meter{
		display: display, prefix: prefix, tasks: map[string]*progress.Task{}, stages: map[string]*report.Stage{},
		steps: map[string]stepMark{},
	}
}

// Progress shows the trainer's work, and counts its steps as the trainer's items.
func (m *meter) Progress(work string, done, total int, unit string, notes ...trainer.Note) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if unit == "steps" {
		now := time.Now()
		if last, ok := m.steps[work]; ok {
			m.add("trainer", unit, done-last.done, now.Sub(last.at))
		}
		m.steps[work] = stepMark{done, now}
	}
	if unit == "pairs" {
		m.waiting = work
	}
	task, known := m.tasks[work]
	if known && task == nil {
		return
	}
	if !known {
		task = m.display.Task(m.prefix+work, int64(total), unit)
		task.Resume(int64(done))
		m.tasks[work] = task
	}
	task.SetTotal(int64(total))
	task.Set(int64(done))
	for _, n := range notes {
		task.Note(n.Name, n.Value)
	}
	if total > 0 && done >= total {
		task.Done()
		m.tasks[work] = nil
	}
}

// Sampled shows how far the generator is, done of the responses in its batch: beside the trainer's line when a trainer
// waits in this process, else on a line of its own.
func (m *meter) Sampled(done, of int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting != "" {
		if task := m.tasks[m.waiting]; task != nil {
			task.Note("sampling", fmt.Sprintf("%d/%d", done, of))
		}
		return
	}
	const work = "sample"
	task := m.tasks[work]
	if task == nil {
		task = m.display.Task(m.prefix+work, 0, "responses")
		m.tasks[work] = task
	}
	task.Set(int64(m.sampled + done))
	if done == of {
		m.sampled += of
	}
}

// Batch counts what a stage did.
func (m *meter) Batch(stage string, n int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(stage, "messages", n, took)
}

// Settled is part of streams.Observer; the log tells of retries and dead letters.
func (m *meter) Settled(string, string) {}

// Silent is part of streams.Observer; the log tells of it.
func (m *meter) Silent(string) {}

// add is called with the lock held.
func (m *meter) add(stage, unit string, n int, took time.Duration) {
	s := m.stages[stage]
	if s == nil {
		s = &report.Stage{Name: stage, Unit: unit}
		m.stages[stage] = s
	}
	s.Items += int64(n)
	s.BusySeconds += took.Seconds()
}

// close ends the tasks that are still shown.
func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.tasks))
	for name := range m.tasks {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if task := m.tasks[name]; task != nil {
			task.Done()
		}
	}
	clear(m.tasks)
}
