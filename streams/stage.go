package streams

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Stage declares one stage of one run. Any number of processes may run the same stage; they share its messages.
type Stage struct {
	// Name of the stage, lower-case letters and digits: "generator".
	Name string
	// In is the kind of message that it takes, of all iterations of Run.
	In  schemas.Kind
	Run string
	// Batch is the most messages that Process gets at once. Default 1.
	Batch int
	// Refill is how many messages more a Refilling may take while it works on a batch. Default 0.
	Refill int
	// Linger is how long a part-filled batch waits for more. Default 0: it takes what is there.
	Linger time.Duration
	// Grace is how long work under way may go on when the stage is told to end; then Process's context ends. Default 20
	// s.
	Grace time.Duration
	// Observer is told what happens; nil for none.
	Observer Observer
	// Heartbeat is told what the stage does, and tells it when to pause; nil has RunStage announce it by itself.
	Heartbeat *Heartbeat
	// End is the run's number of iterations: a message of a later one is a dead letter. 0 takes any.
	End uint32

	// MaxInFlight, not nil, bounds what lies before the trainer. Of the pairs that come of a message of an iteration, no more than
	// that many are on the log beyond those that the trainer has taken (TrainerProgress), and the message stays in hand until
	// all are; 0 is no bound. Batch must be 1. That workers died with such a message, which may be in hand for days, tells
	// nothing of it: it becomes no dead letter for that.
	MaxInFlight func(iteration uint32) int

	// Source, not nil in a replay, is where the stage finds most of its messages: in the log of another run. They are
	// adopted, which is to say processed as messages of Run under the ids that they have, and what was written of them
	// stays as it is. Those of Iterations are read; Adopt, if not nil, changes each beside its run.
	Source     *Source
	Iterations []uint32
	Adopt      func(events.Message)
}

// Process is the work of a stage: one outcome for each message, in the same order. It is called by one goroutine. ctx
// ends only when the stage was told to end and its grace is over; whatever then fails is given back unprocessed.
type Process func(ctx context.Context, in []events.Message) []Outcome

// Refilling is a Process that takes more messages while it works, as the places of finished ones get free. more gives
// those that are there now, n at most, and nothing when there are none, when Stage.Refill is used up, or when the stage was
// told to end. Their outcomes follow those of in, in the order in which they were given. So a stage holds no more than it
// works on, and what it has not taken is there for others.
type Refilling func(ctx context.Context, in []events.Message, more func(n int) []events.Message) []Outcome

// Outcome of one message.
type Outcome struct {
	// Out is published, in order and before the message is acknowledged, when Err is nil.
	Out []Emit
	// Err: a *schemas.Reject makes the message a dead letter at once; a *schemas.Unavailable has it given back as if it had not
	// been tried; any other error has it tried again, after a growing pause, until it failed Limits.MaxDeliver times, the
	// last time alone, and is a dead letter for poison.
	Err error
}

// Emit is one message for the stream of a kind.
type Emit struct {
	Kind schemas.Kind
	Msg  events.Message
}

// What becomes of a message, apart from the reasons of dead letters.
const (
	Done    = "done"
	Retried = "retried"
)

// StageID names a stage of a run.
type StageID struct{ Run, Stage string }

// BatchDone says that Process worked on messages together.
type BatchDone struct {
	StageID
	Messages int
	Took     time.Duration
}

// MessageSettled says that one message is Done, Retried, or a dead letter for a reason (schemas.Reason…).
type MessageSettled struct {
	StageID
	Iteration uint32
	Outcome   string
}

// Observer is told what a stage does. Its methods are called by the stage's goroutine and must not block.
type Observer interface {
	Batch(BatchDone)
	Settled(MessageSettled)
	// Silent: the server missed its heartbeats.
	Silent(StageID)
}

type unobserved struct{}

func (unobserved) Batch(BatchDone)        {}
func (unobserved) Settled(MessageSettled) {}
func (unobserved) Silent(StageID)         {}

var validStage = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)

func (s Stage) withDefaults() (Stage, error) {
	switch {
	case !validStage.MatchString(s.Name):
		return s, fmt.Errorf("streams: stage name %q is not lower-case letters and digits", s.Name)
	case !schemas.ValidRun(s.Run):
		return s, fmt.Errorf("streams: stage %s: run %q is not a run's name", s.Name, s.Run)
	case newMessage(s.In) == nil:
		return s, fmt.Errorf("streams: stage %s: there is no kind %q", s.Name, s.In)
	case s.Batch < 0 || s.Refill < 0 || s.Linger < 0 || s.Grace < 0:
		return s, fmt.Errorf("streams: stage %s: batch, refill, linger and grace must not be negative", s.Name)
	}
	if err := s.checkSource(); err != nil {
		return s, err
	}
	s.Batch = max(s.Batch, 1)
	if s.MaxInFlight != nil && s.Batch+s.Refill > 1 {
		return s, fmt.Errorf("streams: stage %s: with MaxInFlight a batch is one message, not %d", s.Name, s.Batch+s.Refill)
	}
	if s.Grace == 0 {
		s.Grace = 20 * time.Second
	}
	if s.Observer == nil {
		s.Observer = unobserved{}
	}
	return s, nil
}

// beyond tells that a message is of an iteration that the run does not have. Pairs belong to the iteration that is
// trained from them, checkpoints also to the one that follows the last.
func (s Stage) beyond(m events.Message) bool {
	i := m.GetIteration()
	return s.End > 0 && (i > s.End || i == s.End && s.In.CarriesPair())
}

// consumer is the durable that all processes of the stage share. The server never gives a message up (MaxDeliver -1):
// it would then stay in the log, neither processed nor accounted. Giving up is the runner's, which writes a dead
// letter.
func (s Stage) consumer(l Limits) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable:       s.Name,
		FilterSubject: schemas.RunSubjects(s.In, s.Run),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       l.AckWait,
		MaxDeliver:    -1,
		// What is in hand is bounded by what each worker asks for. A bound here would leave workers that have asked for more,
		// together, waiting for the rest of a batch that the server may not give them.
		MaxAckPending: -1,
	}
	if s.Source != nil { // it has dead letters that were redriven
		c.Durable = fmt.Sprintf("%s-%d", s.Name, s.Iterations[0]) // a stage's name has no hyphen
		c.FilterSubject, c.FilterSubjects = "", s.subjects(s.Run)
		c.Metadata = map[string]string{sourceKey: s.Source.Run}
	}
	return c
}

// sourceConsumer is the stage's durable in the log of its source.
func (s Stage) sourceConsumer(l Limits) jetstream.ConsumerConfig {
	c := s.consumer(l)
	c.Durable, c.Metadata = c.Durable+"_"+s.Run, nil
	c.FilterSubjects = s.subjects(s.Source.Run)
	c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.Source.First
	return c
}

// subjects are those of the stage's iterations in a run.
func (s Stage) subjects(run string) []string {
	var out []string
	for _, i := range s.Iterations {
		out = append(out, schemas.Subject(s.In, run, i))
	}
	return out
}

const (
	// pullHeartbeat is how often the server tells a waiting stage that it is there; two misses and the stage asks
	// again.
	pullHeartbeat = time.Second
)

// RunStage runs a stage until ctx ends: it pulls at most a batch at a time, keeps it from being redelivered while
// Process works on it, publishes the outputs, waits until they are stored, and only then acknowledges the inputs. When
// ctx ends it finishes the batch within Stage.Grace or gives it back, and returns nil.
//
// It waits out a lost server and recreates a deleted consumer. A batch that fails as a whole, by panic or by an error
// for every message, is processed again one by one to find the message at fault. Messages that cannot be decoded or
// were written by a newer program become dead letters without being processed.
//
// Errors: a stage that is not valid, ErrNotFound for a stream that does not exist, outputs that the server refuses to
// store (ErrFull, ErrStore), and a *schemas.Unavailable that lasts; inputs are then given back.
func (c *Conn) RunStage(ctx context.Context, s Stage, process Process) error {
	return c.RunRefilling(ctx, s, func(ctx context.Context, in []events.Message, _ func(int) []events.Message) []Outcome {
		return process(ctx, in)
	})
}

// RunRefilling is RunStage for a stage that takes more messages while it works.
func (c *Conn) RunRefilling(ctx context.Context, s Stage, process Refilling) error {
	s, err := s.withDefaults()
	if err != nil {
		return err
	}
	r := &runner{
		Conn: c, stage: s, process: process, failures: map[place]int{}, ending: ctx.Done(),
		log: c.log.With().Str("stage", s.Name).Str("run", s.Run).Logger(),
	}
	if r.heartbeat = s.Heartbeat; r.heartbeat == nil {
		r.heartbeat = c.Announce(ctx, s.Run, s.Name)
		defer r.heartbeat.Close()
	}
	if err := r.ensureConsumers(ctx); err != nil {
		return ended(ctx, err)
	}
	work, cancel := outlive(ctx, s.Grace)
	defer cancel()
	pulling, cancelPull := outlive(ctx, 0) // without ctx's deadline: nats.go refuses to pull shortly before one
	defer cancelPull()
	for r.heartbeat.Hold(ctx) == nil && !over(ctx) {
		b := newBatch(c.limits.AckWait / 3)
		err = r.fill(pulling, b)
		// What came although the stage was paused meanwhile goes back.
		if _, paused := r.heartbeat.Paused(); err == nil && !paused && !over(ctx) {
			r.heartbeat.Say(StateWorking, fmt.Sprintf("on %d %s", len(b.inputs), s.In))
			err = r.settle(work, b)
		}
		b.release()
		if err != nil {
			break
		}
	}
	err = ended(ctx, err)
	if c.nc.IsConnected() {
		err = errors.Join(err, c.flush())
	}
	return err
}

// over reports that ctx has ended.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// ended drops an error that is only the end of ctx.
func ended(ctx context.Context, err error) error {
	if over(ctx) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// outlive gives a context that ends grace after ctx has.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if pause(work, grace) {
			cancel()
		}
	})
	return work, func() {
		stop()
		cancel()
	}
}

// runner is the state of one RunStage. Only its goroutine touches it.
type runner struct {
	*Conn
	stage   Stage
	process Refilling
	// consumer is that in the run's own log, and source that in the log of a replay's source, nil for other stages.
	consumer, source jetstream.Consumer
	// failures counts, by position, how often a message failed here. An entry goes when the message is settled here;
	// when another process settles it, the few bytes stay until the stage ends.
	failures  map[place]int
	heartbeat *Heartbeat
	// ending is closed when the stage is told to end.
	ending <-chan struct{}
	log    zerolog.Logger
}

// place is a position in one of the logs that a stage reads.
type place struct {
	stream string
	seq    uint64
}

// ensureConsumers creates the stage's consumers, or takes those that exist.
func (r *runner) ensureConsumers(ctx context.Context) (err error) {
	if r.consumer, err = r.ensureConsumer(ctx, r.stage.Run, r.stage.consumer(r.limits)); err != nil || r.stage.Source == nil {
		return err
	}
	r.source, err = r.ensureConsumer(ctx, r.stage.Source.Run, r.stage.sourceConsumer(r.limits))
	return err
}

// ensureConsumer creates a consumer in the log of a run, or takes the one that exists, and asserts what comes back.
func (r *runner) ensureConsumer(ctx context.Context, run string, want jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	name := StreamName(r.stage.In, run)
	for try := 1; ; try++ {
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		have, err := r.js.Consumer(asking, name, want.Durable)
		if err == nil { // a restored one begins behind what was settled
			want.DeliverPolicy, want.OptStartSeq = have.CachedInfo().Config.DeliverPolicy, have.CachedInfo().Config.OptStartSeq
		}
		consumer, err := r.js.CreateOrUpdateConsumer(asking, name, want)
		var info *jetstream.ConsumerInfo
		if err == nil { // asked anew: a server that has just restarted answers an update with what was there before
			info, err = consumer.Info(asking)
		}
		cancel()
		switch {
		case err == nil:
			have := info.Config
			if have.AckWait != want.AckWait || have.MaxDeliver != want.MaxDeliver || len(have.BackOff) > 0 {
				return nil, fmt.Errorf("%w: consumer %s: ack wait %v, max deliver %d, backoff %v",
					ErrTopology, want.Durable, have.AckWait, have.MaxDeliver, have.BackOff)
			}
			return consumer, nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("streams: stage %s: %w", r.stage.Name, noRun(run))
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case r.nc.IsClosed():
			return nil, fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
		r.log.Warn().Err(err).Msg("cannot reach the stage's consumer, trying again")
		if !pause(ctx, r.limits.backoff(try)) {
			return nil, ctx.Err()
		}
	}
}

// fill takes a batch: what is there; else it waits for a first message; then it lingers for more. It asks the server
// for no more than it has room for and lets the server end each request, so that nothing is under way that is not in
// hand.
func (r *runner) fill(ctx context.Context, b *batch) error {
	if err := r.takeThere(b, r.stage.Batch); err != nil {
		return r.pullFailed(ctx, err)
	}
	for len(b.inputs) == 0 && !over(ctx) {
		r.rest()
		if err := r.take(b, func() (jetstream.MessageBatch, error) { return r.await(ctx) }); err != nil {
			if err := r.pullFailed(ctx, err); err != nil {
				return err
			}
		}
		if r.source != nil && len(b.inputs) == 0 { // what was given back comes there
			if err := r.takeThere(b, r.stage.Batch); err != nil {
				return r.pullFailed(ctx, err)
			}
		}
	}
	missing := r.stage.Batch - len(b.inputs)
	if missing == 0 || over(ctx) {
		return nil
	}
	err := r.linger(b, missing)
	if err != nil {
		r.log.Debug().Err(err).Msg("going on with a part-filled batch")
	}
	return nil
}

// linger takes what comes within the stage's Linger.
func (r *runner) linger(b *batch, n int) error {
	if r.stage.Linger == 0 || r.source != nil { // a source has all that it will have
		return r.takeThere(b, n)
	}
	return r.take(b, func() (jetstream.MessageBatch, error) {
		return r.consumer.Fetch(n, jetstream.FetchMaxWait(r.stage.Linger))
	})
}

// await waits for a message: of a stage with a source, which is to look there again, not for long.
func (r *runner) await(ctx context.Context) (jetstream.MessageBatch, error) {
	if r.source != nil {
		return r.consumer.Fetch(1, jetstream.FetchMaxWait(r.beat()))
	}
	return r.consumer.Fetch(1, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullHeartbeat))
}

// takeThere adds to the batch up to n messages that are there now: of a replay's source, then of the run's own log.
func (r *runner) takeThere(b *batch, n int) error {
	for _, consumer := range []jetstream.Consumer{r.source, r.consumer} {
		had := len(b.inputs)
		if consumer == nil || n <= 0 {
			continue
		}
		if err := r.take(b, func() (jetstream.MessageBatch, error) { return consumer.FetchNoWait(n) }); err != nil {
			return err
		}
		n -= len(b.inputs) - had
	}
	return nil
}

// rest says why the stage has nothing in hand.
func (r *runner) rest() {
	if n := len(r.failures); n > 0 {
		r.heartbeat.Say(StateRetrying, fmt.Sprintf("%d messages that failed", n))
		return
	}
	r.heartbeat.Say(StateIdle, "waiting for "+string(r.stage.In))
}

// take adds to the batch what one request brings.
func (r *runner) take(b *batch, fetch func() (jetstream.MessageBatch, error)) error {
	got, err := fetch()
	if err != nil {
		return err
	}
	for msg := range got.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
		b.add(&input{Msg: msg, meta: meta})
	}
	return got.Error()
}

// pullFailed does what an error of a request calls for; it returns the error when nothing can be done.
func (r *runner) pullFailed(ctx context.Context, err error) error {
	switch {
	case over(ctx):
		return nil
	case r.nc.IsClosed():
		return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
	case errors.Is(err, jetstream.ErrNoHeartbeat):
		r.stage.Observer.Silent(r.stage.id())
		r.heartbeat.Say(StateRetrying, "the server missed its heartbeats")
		r.log.Warn().Msg("the server missed its heartbeats, asking again")
	default:
		r.log.Warn().Err(err).Msg("pull failed, asking again")
		r.heartbeat.Say(StateRetrying, "pull failed: "+err.Error())
		if !pause(ctx, r.limits.backoff(1)) {
			return nil
		}
	}
	// A consumer that was deleted, or lost with its server, comes back from its declared form.
	return ended(ctx, r.ensureConsumers(ctx))
}

// settle decides the fate of every message of a batch. What it leaves undecided, because work has ended, the batch's
// release gives back.
func (r *runner) settle(work context.Context, b *batch) error {
	healthy, suspect, letters := r.sort(b.inputs)
	if err := r.bury(work, letters); err != nil {
		return err
	}
	if len(healthy) > 0 {
		feed := &feed{runner: r, batch: b, room: r.stage.Refill}
		if err := r.run(work, healthy, feed); err != nil {
			return err
		}
		if err := r.bury(work, feed.letters); err != nil {
			return err
		}
		suspect = append(suspect, feed.suspect...)
	}
	return r.try(work, suspect)
}

// sort opens messages, and tells those that can be worked on together from those that whoever had them may have died of,
// and those that nobody can work with.
func (r *runner) sort(inputs []*input) (healthy, suspect []*input, letters []letter) {
	for _, in := range inputs {
		var err error
		switch in.body, err = open(in.Subject(), in.Data()); {
		case err == nil && !r.stage.adopted(in):
			r.acknowledge(in, Done)
		case err != nil:
			letters = append(letters, letter{in: in, err: err})
		case r.stage.beyond(in.body):
			letters = append(letters, letter{in: in, err: &schemas.Reject{Reason: schemas.ReasonIteration, Err: fmt.Errorf(
				"iteration %d of a run that has %d", in.body.GetIteration(), r.stage.End)}})
		case in.meta.NumDelivered > uint64(r.limits.MaxDeliver) && r.stage.MaxInFlight == nil:
			suspect = append(suspect, in)
		default:
			healthy = append(healthy, in)
		}
	}
	return healthy, suspect, letters
}

// feed gives a stage more messages of its batch's kind while it works.
type feed struct {
	*runner
	batch *batch
	room  int
	// in are those that the stage got; suspect and letters are settled after them.
	in, suspect []*input
	letters     []letter
}

// more pulls what is there, n messages at most. A pull that fails gives nothing: the next batch waits the failure out.
func (f *feed) more(n int) []events.Message {
	n = min(n, f.room)
	select {
	case <-f.ending:
		return nil
	default:
	}
	if n <= 0 {
		return nil
	}
	had := len(f.batch.inputs)
	if err := f.takeThere(f.batch, n); err != nil {
		f.log.Debug().Err(err).Msg("no refill")
	}
	healthy, suspect, letters := f.sort(f.batch.inputs[had:])
	f.room -= len(f.batch.inputs) - had
	f.in, f.suspect, f.letters = append(f.in, healthy...), append(f.suspect, suspect...), append(f.letters, letters...)
	return bodies(healthy)
}

func bodies(in []*input) []events.Message {
	messages := make([]events.Message, len(in))
	for i := range in {
		messages[i] = in[i].body
	}
	return messages
}

// run processes messages together, with those that the feed gives (nil for none), and settles them by their outcomes.
func (r *runner) run(work context.Context, in []*input, more *feed) error {
	if over(work) {
		return nil
	}
	in, outcomes := r.call(work, in, more)
	for try := 1; !over(work); try++ {
		cause := unable(outcomes)
		if cause == nil {
			break
		}
		if giveUp, err := r.wait(work, cause, in, try); giveUp || err != nil {
			return err // the batch's release gives everything back
		}
		in, outcomes = r.call(work, in, nil)
	}
	if len(in) > 1 && allFailed(outcomes) && !over(work) {
		r.log.Warn().Err(outcomes[0].Err).Int("messages", len(in)).Msg("whole batch failed, processing it one by one")
		return r.runSingly(work, in)
	}
	var done, alone []*input
	var out []sealed
	var letters []letter
	for i, o := range outcomes {
		in := in[i]
		if o.Err == nil {
			var more []sealed
			if more, o.Err = sealAll(o.Out, r.stage.In, in); o.Err == nil {
				done, out = append(done, in), append(out, more...)
				continue
			}
		}
		if over(work) {
			continue // failed by being told to end: given back, and no try counted
		}
		if reject := new(schemas.Reject); errors.As(o.Err, &reject) {
			letters = append(letters, letter{in, o.Err, r.failures[in.place()] + 1})
			continue
		}
		seq := in.meta.Sequence.Stream
		r.failures[in.place()]++
		switch tries := r.failures[in.place()]; {
		case tries < r.limits.MaxDeliver:
			r.log.Warn().Err(o.Err).Uint64("seq", seq).Int("try", tries).Msg("message failed, trying again later")
			r.settled(in, Retried)
			r.answer(in, in.NakWithDelay(r.limits.backoff(tries)))
		case len(outcomes) > 1:
			alone = append(alone, in)
		default:
			letters = append(letters, letter{in, poison(o.Err), tries})
		}
	}
	if all, err := r.pace(work, done, out); err != nil || !all {
		return err // the batch's release gives back what is not all published
	}
	for _, in := range done {
		r.acknowledge(in, Done)
	}
	if err := r.bury(work, letters); err != nil {
		return err
	}
	return r.runSingly(work, alone)
}

// unable is the first outcome that says that the stage cannot work, whatever the message.
func unable(outcomes []Outcome) *schemas.Unavailable {
	for _, o := range outcomes {
		if u := new(schemas.Unavailable); errors.As(o.Err, &u) {
			return u
		}
	}
	return nil
}

// holdTries is how often a stage that is unable tries again with the messages in hand, before it gives them back for
// another process to try. Pauses double, so that is 15 s with the default Limits.Retry; and as each return counts as a
// delivery, an outage of minutes does not make suspects of messages.
const holdTries = 4

// wait pauses because the stage cannot work, and tells whether to give the batch back: messages that it has worked on
// too, for doing them again stores the same. The error is that of a stage that will not get well.
func (r *runner) wait(work context.Context, cause *schemas.Unavailable, in []*input, try int) (giveUp bool, err error) {
	if cause.Permanent {
		return true, fmt.Errorf("streams: stage %s of run %s gives its work back and ends: %w", r.stage.Name, r.stage.Run, cause.Err)
	}
	r.log.Warn().Err(cause.Err).Int("messages", len(in)).Int("try", try).
		Msg("cannot work now, through no fault of the messages: waiting")
	r.heartbeat.Say(StateWaiting, text(cause.Err, maxDetail))
	if try > holdTries {
		for _, one := range in {
			r.settled(one, Retried)
		}
	}
	timer := time.NewTimer(r.limits.backoff(try))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-work.Done():
	case <-r.ending:
		return true, nil
	}
	return try > holdTries, nil
}

func (r *runner) runSingly(work context.Context, in []*input) error {
	for _, one := range in {
		if err := r.run(work, []*input{one}, nil); err != nil {
			return err
		}
	}
	return nil
}

// call calls Process and makes a panic, or a wrong number of outcomes, a failure of every message.
func (r *runner) call(work context.Context, in []*input, more *feed) (all []*input, out []Outcome) {
	start := time.Now()
	defer func() {
		if more != nil {
			in = append(in, more.in...)
			more.in = nil
		}
		if cause := recover(); cause != nil {
			out = failed(len(in), fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
		} else {
			r.stage.Observer.Batch(BatchDone{r.stage.id(), len(in), time.Since(start)})
		}
		if len(out) != len(in) {
			out = failed(len(in), fmt.Errorf("stage %s gave %d outcomes for %d messages", r.stage.Name, len(out), len(in)))
		}
		all = in
	}()
	out = r.process(work, bodies(in), func(n int) []events.Message {
		if more == nil {
			return nil
		}
		return more.more(n)
	})
	return in, out
}

// failed is the same error for n messages.
func failed(n int, err error) []Outcome {
	out := make([]Outcome, n)
	for i := range out {
		out[i].Err = err
	}
	return out
}

func allFailed(outcomes []Outcome) bool {
	for _, o := range outcomes {
		reject := new(schemas.Reject)
		if o.Err == nil || errors.As(o.Err, &reject) {
			return false
		}
	}
	return true
}

// sealed is a message ready for the stream of a kind.
type sealed struct {
	kind schemas.Kind
	msg  *nats.Msg
}

// sealAll makes the messages of one input's outcome ready, all or none.
func sealAll(out []Emit, from schemas.Kind, in *input) ([]sealed, error) {
	all := make([]sealed, len(out))
	for i, e := range out {
		msg, err := seal(e.Kind, e.Msg)
		if errors.Is(err, ErrTooLarge) {
			return nil, &schemas.Reject{Reason: schemas.ReasonTooLarge, Err: err}
		}
		if err != nil {
			return nil, fmt.Errorf("streams: output: %w", err)
		}
		if e.Kind.CarriesPair() {
			msg.Header.Set(headerParent, parent(from, in.meta.Sequence.Stream))
		}
		all[i] = sealed{e.Kind, msg}
	}
	return all, nil
}

// publishUnstored publishes the outputs of a batch. Of many that one message has, those that the log holds are left out. Few
// are published again whatever the log holds: looking would cost more than what a reader then drops.
func (r *runner) publishUnstored(work context.Context, done []*input, out []sealed) error {
	if len(done) == 1 && len(out) > window {
		var err error
		if out, err = r.unstored(work, out); err != nil {
			return err
		}
	}
	return r.publish(work, out)
}

// unstored are the outputs that the log does not hold: it holds all that a stage had stored which died before it acknowledged
// the message, perhaps longer ago than ids are remembered.
func (r *runner) unstored(work context.Context, out []sealed) ([]sealed, error) {
	have := map[string]map[string]uint64{} // by subject
	var rest []sealed
	for _, s := range out {
		subject := s.msg.Subject
		if have[subject] == nil {
			_, run, iteration, err := schemas.ParseSubject(subject)
			if err == nil {
				have[subject], err = r.firsts(work, s.kind, run, iteration)
			}
			if err != nil {
				return nil, fmt.Errorf("streams: stage %s: what is stored on %s: %w", r.stage.Name, subject, err)
			}
		}
		if _, stored := have[subject][s.msg.Header.Get(headerID)]; !stored {
			rest = append(rest, s)
		}
	}
	return rest, nil
}

// publish stores outputs in order: a kind's messages go out together, and the next kind's when they are stored, so that
// a message that closes an iteration never stands before what it closes.
func (r *runner) publish(work context.Context, out []sealed) error {
	for len(out) > 0 {
		kind := out[0].kind
		var same []*nats.Msg
		for len(out) > 0 && out[0].kind == kind {
			same, out = append(same, out[0].msg), out[1:]
		}
		if err := r.send(work, kind, same); err != nil {
			return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
	}
	return nil
}

// letter is a message that is to be a dead letter, and why.
type letter struct {
	in  *input
	err error
	// tries is how often this process tried it; 0 means once.
	tries int
}

func poison(err error) error { return &schemas.Reject{Reason: schemas.ReasonPoison, Err: err} }

// bury publishes dead letters and acknowledges their originals.
func (r *runner) bury(work context.Context, letters []letter) error {
	out := make([]sealed, len(letters))
	for i, l := range letters {
		msg, err := seal(schemas.DeadLetters, r.deadLetter(l))
		if err != nil {
			return fmt.Errorf("streams: stage %s: dead letter: %w", r.stage.Name, err)
		}
		out[i] = sealed{schemas.DeadLetters, msg}
	}
	if err := r.publish(work, out); err != nil {
		return err
	}
	for _, l := range letters {
		reason := reasonOf(l.err)
		r.log.Error().Err(l.err).Str("reason", reason).Uint64("seq", l.in.meta.Sequence.Stream).
			Str("pair", idOf(l.in.Headers())).Msg("dead letter")
		r.acknowledge(l.in, reason)
	}
	return nil
}

func (r *runner) acknowledge(in *input, outcome string) {
	r.heartbeat.Did(1)
	delete(r.failures, in.place())
	r.settled(in, outcome)
	r.answer(in, in.Ack())
}

// answer logs an answer that could not be sent. The server will deliver the message again, which is harmless.
func (r *runner) answer(in *input, err error) {
	if err != nil {
		r.log.Warn().Err(err).Uint64("seq", in.meta.Sequence.Stream).Msg("answer not sent")
	}
}

// id names the stage to its observer.
func (s Stage) id() StageID { return StageID{s.Run, s.Name} }

// settled tells the observer what became of a message.
func (r *runner) settled(in *input, outcome string) {
	_, _, iteration, _ := schemas.ParseSubject(in.Subject()) // a subject of the stage's own consumer is well-formed
	r.stage.Observer.Settled(MessageSettled{r.stage.id(), iteration, outcome})
}
