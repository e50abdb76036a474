package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// A listener takes what init and the tests write to the second serial port, and makes events of it, as `go test -json`
// prints them.
type listener struct {
	module string    // of the packages
	events io.Writer // where the events go

	test    *converter // of the package whose tests are running
	release string     // of the kernel
	done    bool       // init has run all tests
}

// listen reads until the machine is off.
func (l *listener) listen(ctx context.Context, r io.Reader) error {
	lines := bufio.NewReader(r) // not a Scanner: a line of a test's output has no greatest length
	for {
		line, err := lines.ReadString('\n')
		if err == nil {
			err = l.take(ctx, line)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, l.end("the machine ended"))
		}
	}
}

// take takes a line. What init says begins with a byte that no test prints.
func (l *listener) take(ctx context.Context, line string) (err error) {
	said, isInit := strings.CutPrefix(line, "\x02")
	if !isInit {
		if l.test != nil {
			_, err = io.WriteString(l.test, line)
		}
		return err
	}
	what, value, _ := strings.Cut(strings.TrimSpace(said), " ")
	switch what {
	case "kernel":
		l.release = value
	case "start":
		l.test, err = convert(ctx, l.module+"/"+value, l.events)
	case "end":
		err = l.end(value)
	case "done":
		l.done = true
	default:
		err = fmt.Errorf("init says %q", line)
	}
	return err
}

// end ends the package whose tests are running, if there is one. It has failed unless the tests exited with status 0,
// whatever they said before.
func (l *listener) end(status string) (err error) {
	if l.test == nil {
		return nil
	}
	if status != "0" {
		_, err = fmt.Fprintf(l.test, "%s\n\x16FAIL\n", status) // 0x16 as `go test` itself marks it
	}
	err = errors.Join(err, l.test.close())
	l.test = nil
	return err
}

// A converter makes events of the output of one package's tests.
type converter struct {
	io.WriteCloser
	command *exec.Cmd
}

func convert(ctx context.Context, pkg string, events io.Writer) (*converter, error) {
	c := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", pkg)
	c.Stdout, c.Stderr = events, os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &converter{in, c}, c.Start()
}

func (c *converter) close() error { return errors.Join(c.Close(), c.command.Wait()) }
