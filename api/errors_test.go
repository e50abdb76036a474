package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/hwmap"
	"ip6d/nat"
)

func TestAnErrorHasThePromisedCodeAndItsOwnText(t *testing.T) {
	for _, c := range []struct {
		err  error
		want connect.Code
	}{
		{hwmap.ErrUsage, connect.CodeInvalidArgument},
		{addr.ErrInvalid, connect.CodeInvalidArgument},
		{hwmap.ErrUnknownMachine, connect.CodeNotFound},
		{hwmap.ErrUnknownHost, connect.CodeNotFound},
		{hwmap.ErrNameTaken, connect.CodeAlreadyExists},
		{hwmap.ErrRequest, connect.CodeAlreadyExists},
		{hwmap.ErrExpired, connect.CodeOutOfRange},
		{addr.ErrExhausted, connect.CodeResourceExhausted},
		{hwmap.ErrAttached, connect.CodeFailedPrecondition},
		{hwmap.ErrState, connect.CodeFailedPrecondition},
		{hwmap.ErrNotReady, connect.CodeFailedPrecondition},
		{fmt.Errorf("%w: %w", hwmap.ErrNotReady, hwmap.ErrUnavailable), connect.CodeFailedPrecondition},
		{hwmap.ErrCommitted, connect.CodeFailedPrecondition},
		{hwmap.ErrStandalone, connect.CodeFailedPrecondition},
		{host.ErrOwnNamespace, connect.CodeInvalidArgument},
		{host.ErrNoNamespace, connect.CodeFailedPrecondition},
		{host.ErrNoDevice, connect.CodeFailedPrecondition},
		{host.ErrNotPort, connect.CodeFailedPrecondition},
		{host.ErrPortExists, connect.CodeFailedPrecondition},
		{nat.ErrFull, connect.CodeResourceExhausted},
		{hwmap.ErrConflict, connect.CodeAborted},
		{hwmap.ErrUnavailable, connect.CodeUnavailable},
		{hwmap.ErrInDoubt, connect.CodeUnavailable},
		{hwmap.ErrLagging, connect.CodeDeadlineExceeded},
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
		{context.Canceled, connect.CodeCanceled},
		{hwmap.ErrCorrupt, connect.CodeDataLoss},
		{hwmap.ErrUnknownDatabase, connect.CodeNotFound},
		{errors.New("anything else"), connect.CodeInternal},
	} {
		wrapped := fmt.Errorf("attach %q: %w", "web1", c.err)
		var got *connect.Error
		if !errors.As(answer(wrapped), &got) || got.Code() != c.want || got.Message() != wrapped.Error() {
			t.Errorf("%v answers %v %q, want %v with the same text", wrapped, got.Code(), got.Message(), c.want)
		}
	}
}

func TestAnAnswerKeepsItsMeaningOnTheWayBack(t *testing.T) {
	for _, want := range []error{
		hwmap.ErrUsage, hwmap.ErrUnknownMachine, hwmap.ErrNameTaken, hwmap.ErrState, hwmap.ErrConflict, hwmap.ErrUnavailable,
		addr.ErrExhausted, context.Canceled, context.DeadlineExceeded,
	} {
		sent := fmt.Errorf("%w: machine 7", want)
		got := fromAnswer(answer(sent))
		if !errors.Is(got, want) || got.Error() != sent.Error() {
			t.Errorf("%q came back as %q, want the same meaning and text", sent, got)
		}
		// And what comes back can be answered on: an orchestrator sees what the target said.
		if again := fromAnswer(answer(got)); !errors.Is(again, want) || again.Error() != sent.Error() {
			t.Errorf("%q came back over two hosts as %q, want the same meaning and text", sent, again)
		}
	}
	if got := fromAnswer(answer(errors.New("disk on fire"))); got.Error() != "disk on fire" || connect.CodeOf(answer(got)) != connect.CodeInternal {
		t.Errorf("an error of no meaning came back as %q", got)
	}
}
