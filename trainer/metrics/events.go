package metrics

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// eventsFolder contains a folder for each phase, which TensorBoard shows as a run.
const eventsFolder = "tensorboard"

// Field numbers of TensorBoard's messages Event, Summary, Summary.Value and SessionLog, and SessionLog's status START.
const (
	eventWallTime, eventStep, eventVersion, eventSummary, eventSession = 1, 2, 3, 5, 7

	summaryValue          = 1
	valueTag, valueSimple = 1, 2

	sessionStatus, sessionStart = 1, 1
)

// events is an event file: records of protobuf messages, each with its length and checksums, as TensorFlow's record
// writer makes them.
type events struct{ file *os.File }

// clearEvents removes the event files of an earlier process, because the next ones contain all steps.
func clearEvents(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, "*", "events.out.tfevents.*"))
	for _, path := range old {
		if gone := os.Remove(path); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// createEvents makes the event file of a phase. A TensorBoard that is watching the folder switches to the newer file, because
// of its name, and forgets what it has read, because a session starts at step 0.
func createEvents(dir string) (*events, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	now := time.Now()
	file, err := os.Create(filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%d.ldalign", now.UnixNano())))
	if err != nil {
		return nil, err
	}
	e := &events{file}
	if err := errors.Join(e.write(versionEvent(now)), e.write(startEvent(now))); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return e, nil
}

// add appends the figures of a step.
func (e *events) add(s Step, global int) error {
	at, values := time.Now(), s.Values
	if s.Clock != nil {
		at = s.Clock.Time
		values = append(values[:len(values):len(values)], Value{speedName, s.Clock.TokensPerSecond})
	}
	return e.write(scalarsEvent(at, int64(global), values))
}

// write appends a record in one piece: length, its checksum, the message, its checksum.
func (e *events) write(message []byte) error {
	_, err := e.file.Write(record(message))
	return err
}

func record(message []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(message)))
	b = binary.LittleEndian.AppendUint32(b, masked(b))
	b = append(b, message...)
	return binary.LittleEndian.AppendUint32(b, masked(message))
}

// masked is the CRC-32C of data, masked as in TFRecord files, so that data that contains checksums has a good checksum.
func masked(data []byte) uint32 {
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return (sum>>15 | sum<<17) + 0xa282ead8
}

// newEvent is an event with its time, in seconds.
func newEvent(at time.Time) []byte {
	b := protowire.AppendTag(nil, eventWallTime, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, math.Float64bits(float64(at.UnixMicro())/1e6))
}

// versionEvent is the first of a file.
func versionEvent(at time.Time) []byte {
	b := protowire.AppendTag(newEvent(at), eventVersion, protowire.BytesType)
	return protowire.AppendString(b, "brain.Event:2")
}

// startEvent makes a reader forget what it has read of step 0 and later.
func startEvent(at time.Time) []byte {
	session := protowire.AppendTag(nil, sessionStatus, protowire.VarintType)
	session = protowire.AppendVarint(session, sessionStart)
	b := protowire.AppendTag(newEvent(at), eventSession, protowire.BytesType)
	return protowire.AppendBytes(b, session)
}

// scalarsEvent holds a float32 for each value.
func scalarsEvent(at time.Time, step int64, values []Value) []byte {
	var summary []byte
	for _, v := range values {
		value := protowire.AppendTag(nil, valueTag, protowire.BytesType)
		value = protowire.AppendString(value, v.Name)
		value = protowire.AppendTag(value, valueSimple, protowire.Fixed32Type)
		value = protowire.AppendFixed32(value, math.Float32bits(float32(v.Value)))
		summary = protowire.AppendTag(summary, summaryValue, protowire.BytesType)
		summary = protowire.AppendBytes(summary, value)
	}
	b := protowire.AppendTag(newEvent(at), eventStep, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(step))
	b = protowire.AppendTag(b, eventSummary, protowire.BytesType)
	return protowire.AppendBytes(b, summary)
}
