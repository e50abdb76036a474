package lab

import "errors"

var (
	// ErrNotRoot: network namespaces and BPF need root.
	ErrNotRoot = errors.New("needs root")

	// ErrMissing: a program that the lab runs is not there.
	ErrMissing = errors.New("program is missing")

	// ErrRunning: another process is at work on the same lab.
	ErrRunning = errors.New("lab is in use")

	// ErrForeign: the directory of the lab is there, and is not a lab's.
	ErrForeign = errors.New("not a lab's directory")

	// ErrEnded: a process of the lab ended by itself.
	ErrEnded = errors.New("process ended")

	// ErrInDoubt: the source does not know whether a switchover was committed.
	ErrInDoubt = errors.New("switchover in doubt")

	// ErrAborted: an abort came before the switchover.
	ErrAborted = errors.New("migration was aborted")

	// ErrNoAnswer: a machine could not be reached.
	ErrNoAnswer = errors.New("no answer")

	// ErrNotRefused: a packet that must not be carried was not seen to be refused.
	ErrNotRefused = errors.New("packet was not refused")

	// ErrFailed: a demo ran to its end, and something was not as it must be.
	ErrFailed = errors.New("demo failed")
)
