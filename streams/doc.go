// Package streams holds the logs on which the messages of runs travel, and the runner of the stages that read and write them.
//
// Each run has streams of its own (Conn.Declare, Logs), kept as logs: nothing is deleted when it was read, so a run can be read
// again from any position. A message is stored once under its id (events.Message.ID) however often it is published, which is
// what makes at-least-once delivery exact:
//
//   - a stage publishes its outputs, waits until they are stored, and then acknowledges its inputs (RunStage);
//   - a stage that dies in between runs again on the same inputs, gives the same ids, and the log stores nothing twice;
//   - an acknowledgement is flow control and nothing depends on it.
//
// What cannot be processed goes to the dead letters with its reason and its original bytes. Readers (Read, Follow, Scan) take
// messages from a log in its order and acknowledge nothing. Package ledger, which is built on Scan and its neighbours, counts
// and audits what became of each pair, and saves, restores and repairs runs.
//
// The server is embedded (Options.URL empty) or elsewhere; the code is the same. No package outside this folder knows NATS.
package streams
