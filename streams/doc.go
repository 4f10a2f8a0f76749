// Package streams stores the messages of runs in JetStream logs and runs the stages that read and write them.
//
// Each run has its own streams (Conn.Declare, Logs). They are logs: reading a message does not delete it, so a run can be read
// again from any position. A message is stored once under its id (events.Message.ID), however often it is published. This makes
// at-least-once delivery exact:
//
//   - a stage publishes its outputs, waits until they are stored, and then acknowledges its inputs (RunStage);
//   - after a stage dies in between, another worker processes the same inputs and publishes the same ids, and the log stores
//     nothing twice;
//   - an acknowledgement only controls the flow; no result depends on it.
//
// A message that cannot be processed becomes a dead letter with its reason and its original bytes. Readers (Read, Follow, Scan)
// take messages from a log in order and acknowledge nothing. Package ledger builds on Scan and the other functions of log.go. It
// counts and audits what became of each pair, and saves, restores and repairs runs.
//
// The server is embedded when Options.URL is empty; otherwise it runs elsewhere. The code is the same for both. Only this
// package and its subpackages import NATS.
package streams
