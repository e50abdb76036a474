package audit

import "errors"

var (
	// ErrChanged: what is to be repaired is not as it was reported.
	ErrChanged = errors.New("it has changed since it was reported")

	// ErrOperator: what is to be done needs an operator's decision.
	ErrOperator = errors.New("an operator has to decide")

	// ErrForeign: the report is of another host, fleet or version.
	ErrForeign = errors.New("the report is not of this host")
)
