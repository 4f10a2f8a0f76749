package streams

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// Limits bounds the logs and the work in flight. A zero field takes the default.
type Limits struct {
	// MaxAge is how long a message is kept, at least a minute. Default 90 days.
	MaxAge time.Duration
	// MaxBytes is the maximum size of one stream. Publishing to a full stream fails with ErrFull. Default 8 GiB.
	MaxBytes int64
	// AckWait is how long the server waits for a silent worker before it delivers the message to another. Default 10 s.
	AckWait time.Duration
	// MaxDeliver is the number of tries before a failing message becomes a dead letter. Default 5.
	MaxDeliver int
	// Replicas of each stream, 1, 3 or 5. Default 1.
	Replicas int
	// Sync is the time between two fsyncs of the embedded server. 0 syncs every message before it is acknowledged.
	Sync time.Duration
	// StallAfter is how long a run may make no progress; 0 means no bound. This package only carries the value.
	StallAfter time.Duration
	// StuckAfter is how long a worker may hold messages and make no progress before the server delivers them to another. It must be
	// longer than a single step of any stage. Default 15 minutes.
	StuckAfter time.Duration
	// Retry is the pause before a failed message is tried again. It doubles with each try, up to 30 s. Default 1 s.
	Retry time.Duration
	// DedupWindow is how long a stream remembers the ids of its messages, at least 100 ms. A message that is published again in
	// this time is stored once. Default one minute for streams with a message for every pair, one day for the others.
	DedupWindow time.Duration
}

// maxRetry bounds the doubled pause between two tries.
const maxRetry = 30 * time.Second

// The server's memory grows with the ids that it remembers. So streams with a message for every pair remember ids only for the
// time in which most repetitions come: several times ackTimeout and the default AckWait. Readers drop the copies that a longer
// interruption causes. See docs/adr/0022-ids-are-remembered-for-a-minute.md.
const (
	pairWindow  = time.Minute
	otherWindow = 24 * time.Hour
)

// dedupWindow returns how long the stream of a kind remembers ids. maxAge is how long it keeps messages; 0 means no bound.
func (l Limits) dedupWindow(kind schemas.Kind, maxAge time.Duration) time.Duration {
	window := l.DedupWindow
	switch {
	case window > 0:
	case kind.CarriesPair():
		window = pairWindow
	default:
		window = otherWindow
	}
	if maxAge > 0 {
		window = min(window, maxAge/2)
	}
	return window
}

func (l Limits) withDefaults() Limits {
	if l.MaxAge == 0 {
		l.MaxAge = 90 * 24 * time.Hour
	}
	if l.MaxBytes == 0 {
		l.MaxBytes = 8 << 30
	}
	if l.AckWait == 0 {
		l.AckWait = 10 * time.Second
	}
	if l.MaxDeliver == 0 {
		l.MaxDeliver = 5
	}
	if l.Replicas == 0 {
		l.Replicas = 1
	}
	if l.StuckAfter == 0 {
		l.StuckAfter = 15 * time.Minute
	}
	if l.Retry == 0 {
		l.Retry = time.Second
	}
	return l
}

func (l Limits) validate() error {
	switch {
	case l.MaxAge < time.Minute:
		return fmt.Errorf("streams: max_age %v is less than a minute", l.MaxAge)
	case l.MaxBytes < 4*MaxMessage:
		return fmt.Errorf("streams: max_bytes %d is less than %d, the minimum for a stream", l.MaxBytes, 4*MaxMessage)
	case l.AckWait < 100*time.Millisecond:
		return fmt.Errorf("streams: ack_wait %v is less than 100ms", l.AckWait)
	case l.MaxDeliver < 1:
		return fmt.Errorf("streams: max_deliver %d is less than 1", l.MaxDeliver)
	case l.Replicas != 1 && l.Replicas != 3 && l.Replicas != 5:
		return fmt.Errorf("streams: replicas %d is not 1, 3 or 5", l.Replicas)
	case l.Sync < 0 || l.Retry < 0 || l.StuckAfter < 0:
		return fmt.Errorf("streams: sync %v, retry %v and stuck_after %v must not be negative", l.Sync, l.Retry, l.StuckAfter)
	case l.DedupWindow != 0 && l.DedupWindow < 100*time.Millisecond:
		return fmt.Errorf("streams: dedup window %v is less than 100ms", l.DedupWindow)
	}
	return nil
}

// backoff returns the pause before the next try of something that has failed tries times.
func (l Limits) backoff(tries int) time.Duration {
	return min(l.Retry<<min(max(tries, 1)-1, 16), maxRetry)
}

// ParseLimits parses the limits in a run spec. Durations are in Go's form or in days ("90d"), sizes in that of
// schemas.ParseSize; sync is "always" or a duration. An empty string takes the default. The error names the key.
func ParseLimits(spec schemas.StreamsSpec) (Limits, error) {
	l := Limits{MaxDeliver: spec.MaxDeliver, Replicas: spec.Replicas}
	var err error
	if l.MaxAge, err = parseDuration("streams.max_age", spec.MaxAge); err != nil {
		return Limits{}, err
	}
	if l.AckWait, err = parseDuration("streams.ack_wait", spec.AckWait); err != nil {
		return Limits{}, err
	}
	if l.MaxBytes, err = parseBytes("streams.max_bytes", spec.MaxBytes); err != nil {
		return Limits{}, err
	}
	if spec.Sync != "always" {
		if l.Sync, err = parseDuration("streams.sync", spec.Sync); err != nil {
			return Limits{}, err
		}
	}
	if spec.StallAfter != "0" {
		if l.StallAfter, err = parseDuration("streams.stall_after", spec.StallAfter); err != nil {
			return Limits{}, err
		}
	}
	if l.StuckAfter, err = parseDuration("streams.stuck_after", spec.StuckAfter); err != nil {
		return Limits{}, err
	}
	l = l.withDefaults()
	return l, l.validate()
}

func parseDuration(key, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s: %q is not a duration such as 30s, 12h or 90d", key, s)
	}
	return d, nil
}

func parseBytes(key, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := schemas.ParseSize(s)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	return n, nil
}
