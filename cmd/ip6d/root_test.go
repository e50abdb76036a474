package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// result is what one run of the command line gave.
type result struct {
	status         int
	stdout, stderr string
}

// runLine runs one command line, as main would.
func runLine(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	return result{status, stdout.String(), stderr.String()}
}

func TestWrongCommandLinesAreUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"no-such-command"}, `unknown command "no-such-command"`},
		{[]string{"ad"}, `did you mean "addr"?`},
		{[]string{"--no-such-flag"}, `unknown flag: --no-such-flag`},
		{[]string{"addr"}, `ip6d addr needs a command: decode, encode`},
		{[]string{"addr", "no-such-command"}, `unknown command "no-such-command"; see ` + "`ip6d addr --help`"},
		{[]string{"addr", "decode"}, `requires at least 1 arg(s)`},
		{[]string{"addr", "encode", "::1", "::2"}, "ip6d addr encode [STABLE | --network N --cell C --machine M] [--host H]"},
		{[]string{"-o", "xml", "addr", "decode", "::1"}, `must be text or json`},
		{[]string{"help", "no-such-command"}, `unknown command "no-such-command"`},
		{[]string{"completion", "no-such-shell"}, `unknown command "no-such-shell"`},
	} {
		got := runLine(t, "", c.args...)
		if got.status != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
			t.Errorf("ip6d %s: %+v, want status %d and %q", strings.Join(c.args, " "), got, exitUsage, c.says)
		}
		checkOneLine(t, got)
	}
}

// checkOneLine checks that a failure is said in one line.
func checkOneLine(t *testing.T, got result) {
	t.Helper()
	if !strings.HasPrefix(got.stderr, "ip6d: ") || strings.Index(got.stderr, "\n") != len(got.stderr)-1 {
		t.Errorf("stderr is %q, want one line that starts with ip6d:", got.stderr)
	}
}

func TestEveryCommandRefusesAnUnknownFlagAndHasHelp(t *testing.T) {
	var check func(command *cobra.Command, path []string)
	check = func(command *cobra.Command, path []string) {
		if command.Short == "" {
			t.Errorf("%s has no short description", command.CommandPath())
		}
		got := runLine(t, "", append(path, "--no-such-flag")...)
		if got.status != exitUsage {
			t.Errorf("%s --no-such-flag: %+v, want status %d", command.CommandPath(), got, exitUsage)
		}
		checkOneLine(t, got)
		if got := runLine(t, "", append(path, "--help")...); got.status != exitOK || got.stderr != "" || !strings.Contains(got.stdout, "Usage:") {
			t.Errorf("%s --help: %+v, want status 0 and the usage on stdout", command.CommandPath(), got)
		}
		for _, sub := range command.Commands() {
			check(sub, append(path[:len(path):len(path)], sub.Name()))
		}
	}
	check(newRootCommand(&cli{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}), nil)
}

func TestWithoutArgumentsThereIsHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"--help"}} {
		if got := runLine(t, "", args...); got.status != exitOK || got.stderr != "" || !strings.Contains(got.stdout, "addr ") {
			t.Errorf("ip6d %v: %+v, want status 0 and the list of commands", args, got)
		}
	}
}

func TestVersionIsSaid(t *testing.T) {
	if got := runLine(t, "", "--version"); got.status != exitOK || got.stdout != "ip6d version "+version()+"\n" {
		t.Errorf("%+v, want ip6d version %s", got, version())
	}
}

func TestErrorsOfACommandAreNoUsageErrors(t *testing.T) {
	failing := func(err error) int {
		c := &cli{stderr: io.Discard}
		root := &cobra.Command{Use: "ip6d", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(&cobra.Command{Use: "fail", RunE: func(*cobra.Command, []string) error { return err }})
		c.prepare(root)
		root.SetArgs([]string{"fail"})
		command, err := root.ExecuteContextC(context.Background())
		return c.report(command, err)
	}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("it broke"), exitError},
		{usagef("--x and --y exclude each other"), exitUsage},
		{fmt.Errorf("wrapped: %w", usagef("no")), exitUsage},
	} {
		if got := failing(c.err); got != c.want {
			t.Errorf("a command that returns %v exits with %d, want %d", c.err, got, c.want)
		}
	}
}

func TestAnErrorIsOneLine(t *testing.T) {
	err := errors.Join(errors.New("first"), errors.New("second\r\n"), errors.New("third"))
	if got := oneLine(err.Error()); got != "first; second; third" {
		t.Errorf("oneLine = %q, want the three joined by semicolons", got)
	}
}
