package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
)

// format is how answers are written: the value of --output.
type format string

const (
	formatText format = "text" // for people: may change from version to version
	formatJSON format = "json" // for programs: fields are only ever added
)

func (f *format) String() string { return string(*f) }

// Type is what help calls the value.
func (f *format) Type() string { return "FORMAT" }

// Set refuses an unknown format.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatText, formatJSON:
		*f = format(s)
		return nil
	}
	return errors.New("must be text or json")
}

// print writes a command's answer: answer as JSON on a line, or what text puts into a table.
func (c *cli) print(answer any, text func(*table)) error {
	if c.output == formatJSON {
		return c.printJSON(answer)
	}
	var t table
	text(&t)
	return t.write(c.stdout)
}

// printJSON writes answer on one line. An empty list is [], also where it is a nil slice.
func (c *cli) printJSON(answer any) error {
	if v := reflect.ValueOf(answer); v.Kind() == reflect.Slice && v.IsNil() {
		answer = []struct{}{}
	}
	e := json.NewEncoder(c.stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(answer); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// table is text in aligned columns. The rows of a list have a heading first; those of one thing are a name and a value.
type table struct{ rows [][]string }

// row adds a row. An empty cell becomes a dash, so that columns can be counted; text that would disturb a terminal is
// quoted.
func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = printable(fmt.Sprint(cell))
	}
	t.rows = append(t.rows, row)
}

// write aligns the rows and writes them in one piece.
func (t *table) write(w io.Writer) error {
	var b bytes.Buffer
	columns := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(columns, strings.Join(row, "\t"))
	}
	if err := columns.Flush(); err != nil {
		return fmt.Errorf("align the answer: %w", err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func printable(cell string) string {
	if cell == "" {
		return "-"
	}
	for _, r := range cell {
		if !strconv.IsPrint(r) {
			return strconv.Quote(cell)
		}
	}
	return cell
}
