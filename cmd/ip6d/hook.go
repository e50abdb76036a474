package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Steps of a move, at which its hook is run.
const (
	stepAttach   = "attach"   // the target has accepted the machine: it is to get its port there, if it runs
	stepSwitched = "switched" // the target owns it: it is to run there alone
	stepFinished = "finished" // nothing of it is left on the source
	stepAborted  = "aborted"  // it does not move: what was prepared on the target can go
)

// hookHelp explains hooks in the help of the commands that have them.
const hookHelp = `--hook COMMAND is run by sh for the orchestrator's part, with IP6D_STEP as one of

  attach     move the machine's memory or files, and attach its port on the target; with IP6D_PORT empty it has none
             here, is stopped, and needs none there
  switched   the machine's packets go to the target: let it run there, and there alone
  finished   nothing of it is left on the source
  aborted    the machine stays: undo on the target what attach did

and IP6D_MACHINE, IP6D_NETWORK, IP6D_ADDRESS, IP6D_PORT (its device on the source), IP6D_SOURCE and IP6D_TARGET (the hosts' names),
IP6D_SOURCE_ID and IP6D_TARGET_ID. A step is run again when the move is taken up again. When attach fails, the machine stays.
Without a hook, the command waits until the orchestrator has attached the machine on the target by itself.`

// hook is a command of the orchestrator's, for its part of a move.
type hook struct {
	command string // empty: there is none
	say     func(string)
}

// run runs it for one step. What it writes is said. Errors: that of the command, and of ctx.
func (h hook) run(ctx context.Context, step string, environment []string) error {
	if h.command == "" {
		return nil
	}
	out := &lines{say: h.say}
	cmd := exec.CommandContext(ctx, "sh", "-c", h.command)
	cmd.Env = append(append(os.Environ(), environment...), "IP6D_STEP="+step)
	cmd.Stdout, cmd.Stderr = out, out
	// With what it has started, which would else go on moving a machine that nobody waits for.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = hookGrace
	err := cmd.Run()
	out.end()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("hook %s: %w", step, err)
	}
	return nil
}

// hookGrace is how long a hook that is called off may take to end.
const hookGrace = 10 * time.Second
