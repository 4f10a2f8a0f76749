package dataset

import "io"

// Read takes records from JSONL as Load does. source is the file's name in reports and errors.
func Read(source string, r io.Reader, o Options) (Set, error) {
	c := newCollector(source, o)
	c.source(source)
	text, err := Text(r)
	if err != nil {
		return Set{}, err
	}
	if _, err := c.lines(text); err != nil {
		return Set{}, err
	}
	return c.finish()
}
