package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of the server that nats.go does not name.
const (
	codeNoPeers     jetstream.ErrorCode = 10005 // no suitable peers for placement
	codeNotActive   jetstream.ErrorCode = 10006 // JetStream is not in clustered mode yet
	codeNotAssigned jetstream.ErrorCode = 10007 // this server does not have the stream yet
	codeNotLeader   jetstream.ErrorCode = 10009 // the leader has changed
	codeResources   jetstream.ErrorCode = 10023 // insufficient resources
	codeStorage     jetstream.ErrorCode = 10047 // insufficient storage resources
	codeStoreFailed jetstream.ErrorCode = 10077 // the store's own text follows
	codeOffline     jetstream.ErrorCode = 10118 // the servers with the stream are away
	codeConsumerOff jetstream.ErrorCode = 10119 // the servers with the consumer are away
	codeInProcess   jetstream.ErrorCode = 10158 // a message with this id is being stored
)

// meaning says what a caller does about an error of the server or the connection.
type meaning int

const (
	// permanent: the same request fails again.
	permanent meaning = iota
	// passing: the request may succeed when it is repeated. It may have been done already.
	passing
	// inProcess: another publisher is storing the same message. Repeating the request shortly afterwards succeeds.
	inProcess
	// conflict: the request was conditional, and the condition did not hold.
	conflict
)

// meaningOf is the only place that interprets the server's error codes. The caller must know that its own context has not ended.
func meaningOf(err error) meaning {
	for _, target := range []error{
		nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrTimeout, nats.ErrNoResponders,
		jetstream.ErrAsyncPublishTimeout, jetstream.ErrTooManyStalledMsgs, jetstream.ErrNoStreamResponse,
		jetstream.ErrJetStreamNotEnabled, context.DeadlineExceeded,
	} {
		if errors.Is(err, target) {
			return passing
		}
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return permanent
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant: // the second on replicas
		return conflict
	case codeInProcess:
		return inProcess
	case codeNotActive, codeNotAssigned, codeNotLeader, codeOffline, codeConsumerOff:
		return passing
	case codeNoPeers:
		if strings.Contains(api.Description, "offline") {
			return passing
		}
	case codeResources, codeStorage, codeStoreFailed:
		return permanent
	}
	if api.Code == 503 || api.Code == 429 {
		return passing
	}
	return permanent
}

// explain adds to a permanent error what it means and what to do.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case codeResources, codeStorage:
		return fmt.Errorf("%w: raise the server's storage limit: %w", ErrFull, err)
	case codeStoreFailed:
		if strings.Contains(api.Description, "maximum bytes") {
			return fmt.Errorf("%w: raise streams.max_bytes and start again: %w", ErrFull, err)
		}
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return err
}
