package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ip6d/api"
)

// Exit statuses.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2 // an unknown command or flag, a wrong number of arguments, a flag's value that cannot be

	exitDiffers   = 1 // of check and repair: there are differences
	exitUnchecked = 3 // of check and repair: it is not known whether there are

	exitWarnings = 3 // of doctor: it has looked, and there are warnings
	exitErrors   = 4 // of doctor: it has looked, and there are errors
)

// statusError is a failure with an exit status of its own.
type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// cli is what the commands share: where they read and write, and the global flags.
type cli struct {
	stdin  io.Reader
	stdout io.Writer // answers only
	stderr io.Writer // the one line that says why a command failed, and logs

	output format
	socket string // of the daemon
	remote remote // instead: the daemon of another host

	requestID string // that names a call; empty: none

	patience time.Duration // with the daemon's answer to one call

	running bool // a command's own code has begun, so the command line was right
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr, output: formatText, patience: 30 * time.Second}
	return c.run(ctx, args)
}

func (c *cli) run(ctx context.Context, args []string) int {
	root := newRootCommand(c)
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for os.Args
	command, err := root.ExecuteContextC(ctx)
	return c.report(command, err)
}

// report writes the one line about err, if there is one, and returns the exit status that it stands for.
func (c *cli) report(command *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	status := exitError
	if own, ok := errors.AsType[*statusError](err); ok {
		status = own.status
	}
	text := oneLine(err.Error())
	if _, isUsage := errors.AsType[*usageError](err); isUsage || !c.running {
		status = exitUsage
		text += fmt.Sprintf("; see `%s --help`", command.CommandPath())
	}
	fmt.Fprintf(c.stderr, "ip6d: %s\n", text)
	return status
}

func newRootCommand(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:           "ip6d",
		Short:         "Stable private IPv6 addresses for machines that move between hosts",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.PersistentFlags().VarP(&c.output, "output", "o", "text, or json for programs")
	root.PersistentFlags().StringVar(&c.socket, "socket", api.DefaultSocket, "unix socket of the daemon")

	c.remote.flags(root)

	root.AddCommand(
		newServeCommand(c),
		newMachineCommand(c),
		newMigrateCommand(c),
		newHostCommand(c),
		newBlockCommand(c),
		newStatusCommand(c),
		newDoctorCommand(c),
		newDBCommand(c),
		newCheckCommand(c),
		newRepairCommand(c),
		newTraceCommand(c),
		newStoreCommand(c),
		newDropsCommand(c),
		newMonitorCommand(c),
		newEventsCommand(c),
		newLabCommand(c),
		newAddrCommand(c),
		newWireGuardCommand(c),
	)

	// cobra adds these two when it runs; they are to follow the same rules as the others.
	root.SetHelpCommand(newHelpCommand(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	c.prepare(root)
	return root
}

// prepare makes every command tell a wrong command line from a failure, and a group of commands refuse what is
// not one of them: cobra would print the group's help and succeed.
func (c *cli) prepare(command *cobra.Command) {
	for _, sub := range command.Commands() {
		c.prepare(sub)
	}
	command.DisableFlagsInUseLine = true
	if !command.Runnable() {
		command.Args = cobra.ArbitraryArgs
		command.RunE = runGroup
		return
	}
	if check := command.Args; check != nil {
		command.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w: %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	if runE := command.RunE; runE != nil {
		command.RunE = func(cmd *cobra.Command, args []string) error {
			c.running = true
			return runE(cmd, args)
		}
	}
}

func runGroup(group *cobra.Command, args []string) error {
	if len(args) > 0 {
		text := fmt.Sprintf("unknown command %q", args[0])
		if similar := group.SuggestionsFor(args[0]); len(similar) > 0 {
			text += fmt.Sprintf("; did you mean %q?", similar[0])
		}
		return usagef("%s", text)
	}
	if group.HasParent() {
		var names []string
		for _, sub := range group.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		return usagef("%s needs a command: %s", group.CommandPath(), strings.Join(names, ", "))
	}
	return group.Help()
}

func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(_ *cobra.Command, args []string) error {
			topic, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("unknown command %q", strings.Join(args, " "))
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// usagef is for what a command finds wrong with its own command line, beyond what cobra checks. %w wraps.
func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// oneLine joins the lines of a text, as errors.Join and some libraries make.
func oneLine(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines, "; ")
}

// version is the module's version, which the Go tool takes from the repository.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
