// Package schemas says what travels and what it is called: the run spec with its checks, defaults and digest; the ids
// of pairs and the seeds of their samples; the subjects of the streams. The messages are in the package events below
// it.
package schemas
