package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestJSONIsOneValueOnOneLine(t *testing.T) {
	type thing struct {
		Name string `json:"name"`
	}
	for _, c := range []struct {
		answer any
		want   string
	}{
		{thing{"<a & b>"}, `{"name":"<a & b>"}`},
		{[]thing{{"a"}, {"b"}}, `[{"name":"a"},{"name":"b"}]`},
		{[]thing(nil), `[]`},
	} {
		var out bytes.Buffer
		p := &cli{stdout: &out, output: formatJSON}
		if err := p.print(c.answer, nil); err != nil || out.String() != c.want+"\n" {
			t.Errorf("print(%v) writes %q, %v; want %s", c.answer, out.String(), err, c.want)
		}
	}
}

func TestTableColumnsAreAligned(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stdout: &out, output: formatText}
	err := c.print(nil, func(t *table) {
		t.row("NAME", "HOST", "STATE")
		t.row("café", 7, "here")
		t.row("b", "", "away\x1b[31m")
	})
	want := strings.Join([]string{
		`NAME  HOST  STATE`,
		`café  7     here`,
		`b     -     "away\x1b[31m"`,
		``,
	}, "\n")
	if err != nil || out.String() != want {
		t.Errorf("the table is\n%s(%v), want\n%s", out.String(), err, want)
	}
}

var errFull = errors.New("no space left")

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, errFull }

func TestAnAnswerThatCannotBeWrittenIsAnError(t *testing.T) {
	for _, f := range []format{formatText, formatJSON} {
		c := &cli{stdout: fullWriter{}, output: f}
		if err := c.print([]int{1}, func(t *table) { t.row("a") }); !errors.Is(err, errFull) {
			t.Errorf("in %s, print fails with %v, want %v", f, err, errFull)
		}
	}
}
