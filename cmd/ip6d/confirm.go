package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

var errNotConfirmed = errors.New("nothing was done: the answer was not yes")

// confirm asks whoever is at the terminal. Where nobody is, what cannot be taken back needs --yes, which is what yes says.
func (c *cli) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !isTerminal(c.stdin) {
		return usagef("this asks for confirmation, and standard input is no terminal: give --yes")
	}
	fmt.Fprintf(c.stderr, "%s Type yes: ", question)
	answer, err := bufio.NewReader(c.stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return errNotConfirmed
	}
	return nil
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
