package main

import (
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/trainer/activity"
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

// Observe shows the trainer's work, and counts its steps as the trainer's items.
func (m *meter) Observe(e activity.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	work, at := e.String(), e.Progress()
	var task *progress.Task
	switch e := e.(type) {
	case activity.Training:
		now := time.Now()
		if last, ok := m.steps[work]; ok {
			m.add("trainer", e.Unit(), at.Done-last.done, now.Sub(last.at))
		}
		m.steps[work] = stepMark{at.Done, now}
		if task = m.task(work, at.Done, at.Total, e.Unit()); task != nil {
			noteStep(task, e)
		}
	case activity.Waiting, activity.Reading:
		m.waiting = work
		task = m.task(work, at.Done, at.Total, e.Unit())
	default:
		task = m.task(work, at.Done, at.Total, e.Unit())
	}
	m.advance(task, work, at.Done, at.Total)
}

// noteStep shows readings of the newest step, and of the newest look at the guide.
func noteStep(task *progress.Task, e activity.Training) {
	if e.Last != nil {
		task.Note("loss", e.Last.Loss)
		if e.Last.Pairs != nil {
			task.Note("margin", e.Last.Pairs.Margin)
		}
	}
	if e.Probe != nil {
		task.Note("gap", e.Probe.Gap())
		task.Note("distance", e.Probe.Distance)
	}
}

// Evaluated shows how many of the policies are evaluated.
func (m *meter) Evaluated(done, total int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	const work = "evaluate"
	m.advance(m.task(work, done, total, "policies"), work, done, total)
}

// task is the line of a piece of work, a new one at first; nil once it has ended. It is called with the lock held.
func (m *meter) task(work string, done, total int, unit string) *progress.Task {
	task, known := m.tasks[work]
	if !known {
		task = m.display.Task(m.prefix+work, int64(total), unit)
		task.Resume(int64(done))
		m.tasks[work] = task
	}
	return task
}

// advance shows how far a piece of work is, and ends its line at the end. It is called with the lock held.
func (m *meter) advance(task *progress.Task, work string, done, total int) {
	if task == nil {
		return
	}
	task.SetTotal(int64(total))
	task.Set(int64(done))
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
