// Package ledger says what became of every pair of a run, from what the run's logs hold: counts, audits and complete
// iterations; and it works on a run as a whole: dead letters, retention, backup, restore and rename. It stands on package
// streams.
package ledger
