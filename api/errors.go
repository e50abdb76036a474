package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/host"
	"ip6d/hwmap"
	"ip6d/nat"
)

// meanings are the errors that callers can tell apart, and the codes that carry them. An error that is several of them
// has the code of the first. On the way back a code becomes the first error that has it.
var meanings = []struct {
	err  error
	code connect.Code
}{
	{hwmap.ErrUsage, connect.CodeInvalidArgument},
	{addr.ErrInvalid, connect.CodeInvalidArgument},
	{host.ErrInvalid, connect.CodeInvalidArgument},
	{host.ErrOwnNamespace, connect.CodeInvalidArgument},
	{hwmap.ErrUnknownMachine, connect.CodeNotFound},
	{hwmap.ErrUnknownHost, connect.CodeNotFound},
	{hwmap.ErrUnknownDatabase, connect.CodeNotFound},
	{hwmap.ErrNameTaken, connect.CodeAlreadyExists},
	{hwmap.ErrRequest, connect.CodeAlreadyExists},
	{hwmap.ErrExpired, connect.CodeOutOfRange},
	{addr.ErrExhausted, connect.CodeResourceExhausted},
	{nat.ErrFull, connect.CodeResourceExhausted},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
	{hwmap.ErrLagging, connect.CodeDeadlineExceeded},
	// Before ErrUnavailable: a target that could not be asked is not ready, and nothing has changed.
	{hwmap.ErrState, connect.CodeFailedPrecondition},
	{hwmap.ErrNotReady, connect.CodeFailedPrecondition},
	{hwmap.ErrCommitted, connect.CodeFailedPrecondition},
	{hwmap.ErrAttached, connect.CodeFailedPrecondition},
	{hwmap.ErrStandalone, connect.CodeFailedPrecondition},
	{hwmap.ErrFenced, connect.CodeFailedPrecondition},
	{hwmap.ErrRemoved, connect.CodeFailedPrecondition},
	{hwmap.ErrClaimed, connect.CodeFailedPrecondition},
	{hwmap.ErrSuspect, connect.CodeFailedPrecondition},
	{audit.ErrForeign, connect.CodeFailedPrecondition},
	{hwmap.ErrDisagree, connect.CodeFailedPrecondition},
	{host.ErrNoNamespace, connect.CodeFailedPrecondition},
	{host.ErrNoDevice, connect.CodeFailedPrecondition},
	{host.ErrNotPort, connect.CodeFailedPrecondition},
	{host.ErrPortExists, connect.CodeFailedPrecondition},
	{hwmap.ErrConflict, connect.CodeAborted},
	{hwmap.ErrUnavailable, connect.CodeUnavailable},
	// Every call can be repeated, so an unknown outcome is one that a repetition finds out.
	{hwmap.ErrInDoubt, connect.CodeUnavailable},
	{hwmap.ErrCorrupt, connect.CodeDataLoss},
	{context.Canceled, connect.CodeCanceled},
}

// answer returns err as the API gives it: with its code, and its own text as the message.
func answer(err error) error {
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			return connect.NewError(m.code, err)
		}
	}
	return connect.NewError(connect.CodeInternal, err)
}

// remoteError is what another daemon answered: its text, and what it means here.
type remoteError struct {
	text    string
	meaning error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.meaning }

// fromAnswer is the way back from answer: an error whose text is the message, and which is what its code stands for.
func fromAnswer(err error) error {
	var answered *connect.Error
	if !errors.As(err, &answered) {
		return err
	}
	for _, m := range meanings {
		if answered.Code() == m.code {
			return &remoteError{answered.Message(), m.err}
		}
	}
	return &remoteError{answered.Message(), err}
}
