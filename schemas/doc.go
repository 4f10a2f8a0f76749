// Package schemas defines the run spec with its checks, defaults and digest; the ids of pairs and the seeds of their
// samples; and the subjects of the streams. Package events below it defines the messages.
package schemas
