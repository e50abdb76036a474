package certificate

import "errors"

var (
	// ErrInvalid: a file is not what it should be.
	ErrInvalid = errors.New("invalid certificate")
)
