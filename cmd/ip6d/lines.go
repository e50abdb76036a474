package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// maxLine is how much of a line is kept, in bytes, so that input which is no text cannot use up the memory.
const maxLine = 1 << 20

// eachLine calls f with each line of r, without its newline; of a longer line, with the first maxLine bytes. Before it
// waits for more input it calls idle, so that what has been answered can be flushed. It returns when r ends, f or idle
// fails or ctx ends.
func eachLine(ctx context.Context, r io.Reader, idle func() error, f func(line []byte) error) error {
	in := bufio.NewReaderSize(&waiting{ctx, r, idle}, 64<<10)
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		ended := err == nil
		if ended {
			part = part[:len(part)-1]
		}
		line = append(line, part[:min(len(part), maxLine-len(line))]...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("read the input: %w", err)
		case !ended && len(line) == 0:
			return nil
		}
		if err := f(line); err != nil {
			return err
		}
		line = line[:0]
	}
}

// waiting is a reader that calls idle before each read, and whose reads end with ctx.
type waiting struct {
	ctx  context.Context
	r    io.Reader
	idle func() error
}

func (w *waiting) Read(p []byte) (int, error) {
	if err := w.idle(); err != nil {
		return 0, err
	}
	type result struct {
		n   int
		err error
	}
	// A read of a terminal or a pipe cannot be interrupted. The one that is left behind when ctx ends stays until the
	// process ends, which is soon: nothing reads p any more.
	done := make(chan result, 1)
	go func() {
		n, err := w.r.Read(p)
		done <- result{n, err}
	}()
	select {
	case got := <-done:
		return got.n, got.err
	case <-w.ctx.Done():
		return 0, context.Cause(w.ctx)
	}
}
