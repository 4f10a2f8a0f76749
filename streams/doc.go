// Package streams is the JetStream room: the eight logs on which messages travel, and everything that reads or writes
// them.
//
// There is one stream per kind of message (schemas.Kinds), kept as a log: nothing is deleted when it was read, so a run
// can be read again from any position. A message is stored once under its id (events.Message.ID) however often it is
// published, which is what makes at-least-once delivery exact:
//
//   - a stage publishes its outputs, waits until they are stored, and then acknowledges its inputs (RunStage);
//   - a stage that dies in between runs again on the same inputs, gives the same ids, and the log stores nothing twice;
//   - an acknowledgement is flow control and nothing depends on it.
//
// What cannot be processed goes to the dead letters with its reason and its original bytes; Audit balances, for each
// iteration of a run, what was asked for against what came out, and names what is missing. Readers (Read, Follow,
// Collect) take messages from the log in its order and acknowledge nothing.
//
// The server is embedded (Options.URL empty) or elsewhere; the code is the same. This is the only package that knows
// NATS.
package streams
