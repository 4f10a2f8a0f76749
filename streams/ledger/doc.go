// Package ledger determines from a run's logs what became of every pair: it counts and audits pairs and collects complete
// iterations. It also implements the operations on a whole run: dead letters, retention, backup, restore and rename. It is built
// on package streams.
package ledger
