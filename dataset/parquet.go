package dataset

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// parquetMagic begins and ends a Parquet file.
const parquetMagic = "PAR1"

// Limits on the memory that a file can make the reader allocate. Writers usually make pages of about 1 MiB.
const (
	maxFooter     = 64 << 20
	maxPage       = 256 << 20
	maxPageValues = 16 << 20
)

// table takes records from a Parquet file. It reads only the columns that a record is made of, row group by row group and
// page by page, so memory holds one page of each. It reports whether more records are wanted. A damaged file, or one without
// the columns of a record, is an error.
func (c *collector) table(r io.ReaderAt, size int64) (more bool, err error) {
	c.container = "Parquet"
	// On some damaged files the library panics or reads outside of a page. Both become errors here.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			more, err = false, fmt.Errorf("dataset: %s is damaged: %v", c.name, p)
		}
	}()
	file, err := openParquet(r, size)
	if err != nil {
		return false, fmt.Errorf("dataset: %s: %w", c.name, err)
	}
	readers, err := c.readers(file.Root())
	if err != nil {
		return false, fmt.Errorf("dataset: %s: %w", c.name, err)
	}
	number := 0
	for g, group := range file.RowGroups() {
		chunks := file.Metadata().RowGroups[g]
		for _, reader := range readers {
			if err := reader.open(group, chunks.Columns, r, size); err != nil {
				return false, fmt.Errorf("dataset: %s: row group %d, column %s: %w", c.name, g, reader.name, err)
			}
		}
		for range group.NumRows() {
			number++
			row := row{}
			for _, reader := range readers {
				v, err := reader.next()
				if err != nil {
					return false, fmt.Errorf("dataset: %s: row %d, column %s: %w", c.name, number, reader.name, err)
				}
				row[reader.name] = v
			}
			c.report.Read++
			if more := c.row(row, place{c.name, number}); !more {
				return false, errors.Join(closeAll(readers)...)
			}
		}
		if err := errors.Join(closeAll(readers)...); err != nil {
			return false, fmt.Errorf("dataset: %s: row group %d: %w", c.name, g, err)
		}
	}
	return true, nil
}

func closeAll(readers []*columnReader) (errs []error) {
	for _, r := range readers {
		errs = append(errs, r.close())
	}
	return errs
}

// openParquet reads the footer. It checks the footer's length first, because the library does not.
func openParquet(r io.ReaderAt, size int64) (*parquet.File, error) {
	var tail [8]byte
	if size < 12 {
		return nil, errors.New("is too short for a Parquet file")
	}
	if _, err := r.ReadAt(tail[:], size-8); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	footer := int64(tail[0]) | int64(tail[1])<<8 | int64(tail[2])<<16 | int64(tail[3])<<24
	switch {
	case string(tail[4:]) != parquetMagic:
		return nil, errors.New("does not end like a Parquet file: it was cut off, or is still being written")
	case footer > size-12 || footer > maxFooter:
		return nil, fmt.Errorf("its footer cannot have %d bytes: the file is damaged", footer)
	}
	data := make([]byte, footer)
	if _, err := r.ReadAt(data, size-8-footer); err != nil {
		return nil, err
	}
	if err := checkCompact(data); err != nil {
		return nil, fmt.Errorf("its footer is damaged: %w", err)
	}
	return parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true),
		parquet.ReadBufferSize(64<<10), parquet.OptimisticRead(false))
}

// readers finds the columns that records are made of. The error lists the columns of the file.
func (c *collector) readers(root *parquet.Column) ([]*columnReader, error) {
	var readers []*columnReader
	var have []string
	for _, col := range root.Columns() {
		have = append(have, col.Name())
		if !c.columns.known(col.Name()) {
			c.ignore(col.Name())
			continue
		}
		readers = append(readers, newColumnReader(col))
	}
	found := func(cols ...column) bool {
		for _, col := range cols {
			for _, r := range readers {
				for _, name := range col.names {
					if r.name == name {
						return true
					}
				}
			}
		}
		return false
	}
	missing := func(what string, col column) error {
		return fmt.Errorf("has no column for %s (%s); its columns are %s: name the right one in data.columns.%s",
			what, strings.Join(col.names, ", "), strings.Join(have, ", "), col.key)
	}
	of := c.columns
	for _, own := range of.all() {
		if len(own.names) == 1 && own.names[0] != own.key && !found(own) {
			return nil, missing("data.columns."+own.key, own)
		}
	}
	switch {
	case !found(of.response, of.messages):
		return nil, missing("the response", column{of.response.key, append(of.response.names, of.messages.names...)})
	case !found(of.prompt) && !conversations(readers):
		return nil, missing("the prompt", of.prompt)
	case c.o.Pairs && !found(of.rejected):
		return nil, missing("the rejected response", of.rejected)
	case c.o.Distances && !found(of.distance):
		return nil, missing("the distance", of.distance)
	}
	return readers, nil
}

// conversations reports whether a column is a conversation, which can contain the prompt too.
func conversations(readers []*columnReader) bool {
	for _, r := range readers {
		if r.kind == messagesValue {
			return true
		}
	}
	return false
}

// columnReader reads one column of a table, row by row.
type columnReader struct {
	name string
	kind valueKind
	// leaves are the columns of numbers and texts that it is made of: one, or role and content.
	leaves []*leaf
	// entry is the definition level from which on a list has an entry; 0 for a column that is no list.
	entry int
}

// leaf is a column of single values in Parquet's form; each value has a repetition and a definition level.
type leaf struct {
	index, defined int
	chunk          parquet.ColumnChunkValueReader
	buffer         []parquet.Value
	at, n          int
}

// newColumnReader finds out the type of a column: a text, a number, a list of texts, or a conversation. A row that needs a
// column of any other type is dropped.
func newColumnReader(col *parquet.Column) *columnReader {
	r := &columnReader{name: strings.Clone(col.Name()), kind: otherValue}
	switch list, item := listOf(col); {
	case col.Leaf() && !col.Repeated():
		r.kind = kindOf(col)
		r.leaves = []*leaf{newLeaf(col)}
	case item == nil:
	case item.Leaf() && item.Type().Kind() == parquet.ByteArray && item.MaxRepetitionLevel() == 1:
		r.kind, r.entry = textsValue, list.MaxDefinitionLevel()
		r.leaves = []*leaf{newLeaf(item)}
	default:
		for _, names := range [][2]string{{"role", "content"}, {"from", "value"}} {
			role, content := item.Column(names[0]), item.Column(names[1])
			if text(role) && text(content) {
				r.kind, r.entry = messagesValue, list.MaxDefinitionLevel()
				r.leaves = []*leaf{newLeaf(role), newLeaf(content)}
				break
			}
		}
	}
	return r
}

// listOf finds the repeated group of a list and its element; nil if the column is not a list. A list is written as a group
// that contains a repeated group with the element, or as a repeated column.
func listOf(col *parquet.Column) (list, item *parquet.Column) {
	if col.Repeated() {
		return col, col
	}
	if col.Leaf() || len(col.Columns()) != 1 || !col.Columns()[0].Repeated() {
		return nil, nil
	}
	list = col.Columns()[0]
	if !list.Leaf() && len(list.Columns()) == 1 {
		return list, list.Columns()[0]
	}
	return list, list
}

func text(c *parquet.Column) bool {
	return c != nil && c.Leaf() && c.Type().Kind() == parquet.ByteArray && c.MaxRepetitionLevel() == 1
}

func kindOf(col *parquet.Column) valueKind {
	switch col.Type().Kind() {
	case parquet.ByteArray:
		return textValue
	case parquet.Int32, parquet.Int64, parquet.Float, parquet.Double:
		return numberValue
	}
	return otherValue
}

func newLeaf(col *parquet.Column) *leaf {
	return &leaf{index: col.Index(), defined: col.MaxDefinitionLevel(), buffer: make([]parquet.Value, 64)}
}

// open begins a row group, after checking the headers of its pages.
func (r *columnReader) open(group parquet.RowGroup, chunks []format.ColumnChunk, file io.ReaderAt, size int64) error {
	columns := group.ColumnChunks()
	for _, l := range r.leaves {
		if l.index >= len(columns) || l.index >= len(chunks) {
			return errors.New("the row group has no such column: the file is damaged")
		}
		if err := checkPages(chunks[l.index].MetaData, file, size); err != nil {
			return err
		}
		l.chunk, l.at, l.n = parquet.NewColumnChunkValueReader(columns[l.index]), 0, 0
	}
	return nil
}

// checkPages checks the sizes in the headers of a chunk's pages, because the library does not.
func checkPages(chunk format.ColumnMetaData, file io.ReaderAt, size int64) error {
	at := chunk.DataPageOffset
	if d := chunk.DictionaryPageOffset; d > 0 {
		at = d // as in the library
	}
	end := at + chunk.TotalCompressedSize
	if at < int64(len(parquetMagic)) || end < at || end > size {
		return errors.New("lies outside of the file: the file is damaged")
	}
	var protocol thrift.CompactProtocol
	buffered := bufio.NewReaderSize(nil, 1<<10)
	for at < end {
		section := io.NewSectionReader(file, at, end-at)
		buffered.Reset(section)
		header := format.PageHeader{}
		if err := thrift.NewDecoder(protocol.NewReader(buffered)).Decode(&header); err != nil {
			return fmt.Errorf("page header at byte %d: %w", at, err)
		}
		read, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		at += read - int64(buffered.Buffered())
		values := max(header.DataPageHeader.V.NumValues, header.DataPageHeaderV2.V.NumValues,
			header.DictionaryPageHeader.V.NumValues)
		if header.CompressedPageSize < 0 || int64(header.CompressedPageSize) > end-at ||
			header.UncompressedPageSize < 0 || header.UncompressedPageSize > maxPage || values < 0 || values > maxPageValues {
			return fmt.Errorf("a page cannot have %d bytes (%d unpacked) and %d values: the file is damaged",
				header.CompressedPageSize, header.UncompressedPageSize, values)
		}
		at += int64(header.CompressedPageSize)
	}
	return nil
}

// next is the column's value in the next row.
func (r *columnReader) next() (value, error) {
	switch r.kind {
	case textValue, numberValue:
		v, ok, err := r.leaves[0].single()
		if err != nil || !ok {
			return value{}, err
		}
		return value{kind: r.kind, text: v}, nil
	case textsValue:
		texts, listed, err := r.leaves[0].list(r.entry)
		if err != nil || !listed {
			return value{}, err
		}
		return value{kind: textsValue, texts: texts}, nil
	case messagesValue:
		roles, listed, err := r.leaves[0].list(r.entry)
		if err != nil || !listed {
			return value{}, err
		}
		contents, _, err := r.leaves[1].list(r.entry)
		if err != nil {
			return value{}, err
		}
		if len(roles) != len(contents) {
			return value{}, fmt.Errorf("%d roles with %d contents: the file is damaged", len(roles), len(contents))
		}
		v := value{kind: messagesValue}
		for i := range roles {
			v.messages = append(v.messages, message{roles[i], contents[i]})
		}
		return v, nil
	default:
		if len(r.leaves) == 0 {
			return value{kind: r.kind}, nil
		}
		_, _, err := r.leaves[0].single()
		return value{kind: r.kind}, err
	}
}

func (r *columnReader) close() error {
	var err error
	for _, l := range r.leaves {
		if l.chunk != nil {
			err = errors.Join(err, l.chunk.Close())
			l.chunk = nil
		}
	}
	return err
}

// peek is the next value of the chunk; ok is false at its end. It stays valid until the next one is peeked at.
func (l *leaf) peek() (v parquet.Value, ok bool, err error) {
	if l.at == l.n {
		n, err := l.chunk.ReadValues(l.buffer)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				return v, false, nil
			}
			return v, false, err
		}
		l.at, l.n = 0, n
	}
	return l.buffer[l.at], true, nil
}

// single is the value of a row in a column without repetition; ok is false for null.
func (l *leaf) single() (text string, ok bool, err error) {
	v, more, err := l.peek()
	if err != nil {
		return "", false, err
	}
	if !more {
		return "", false, errors.New("ends before the table does: the file is damaged")
	}
	l.at++
	if v.DefinitionLevel() < l.defined {
		return "", false, nil
	}
	return textOf(v), true, nil
}

// list is the values of a row in a list. entry is the definition level from which on an entry exists. listed is false for
// null.
func (l *leaf) list(entry int) (texts []string, listed bool, err error) {
	for first := true; ; first = false {
		v, more, err := l.peek()
		switch {
		case err != nil:
			return nil, false, err
		case first && !more:
			return nil, false, errors.New("ends before the table does: the file is damaged")
		case !more || !first && v.RepetitionLevel() == 0:
			return texts, true, nil
		}
		l.at++
		switch level := v.DefinitionLevel(); {
		case level < entry: // an empty list, or null one level further down
			listed = level == entry-1
			return nil, listed, nil
		case level < l.defined:
			texts = append(texts, "")
		default:
			texts = append(texts, textOf(v))
		}
	}
}

// textOf is a value as text. A number is written so that it reads back as the same number.
func textOf(v parquet.Value) string {
	switch v.Kind() {
	case parquet.Int32:
		return strconv.FormatInt(int64(v.Int32()), 10)
	case parquet.Int64:
		return strconv.FormatInt(v.Int64(), 10)
	case parquet.Float:
		return strconv.FormatFloat(float64(v.Float()), 'g', -1, 32)
	case parquet.Double:
		return strconv.FormatFloat(v.Double(), 'g', -1, 64)
	case parquet.ByteArray:
		return string(v.ByteArray())
	}
	return ""
}
