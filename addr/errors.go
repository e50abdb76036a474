package addr

import (
	"errors"
	"fmt"
	"strconv"
)

var (
	// ErrInvalid is wrapped by every error of this package that is about a value.
	ErrInvalid = errors.New("invalid")

	// ErrControl is returned by Decode for a control address, which has no stable form.
	ErrControl = errors.New("control address has no stable form")

	// ErrExhausted is returned by Allocator.Allocate when no leased block has a free id.
	ErrExhausted = errors.New("no free machine id")
)

// FieldError says which field of an address is at fault. It wraps ErrInvalid.
type FieldError struct {
	Address string // as given
	Form    Form   // the form whose prefix the address has, or FormInvalid

	// Field is host, network, cell, machine, neutral word, fifth hextet, last hextet, prefix, zone, or address where the
	// whole of it is at fault.
	Field string

	Why string // what is wrong with the field: the value, and what would be right
}

func (e *FieldError) Error() string {
	if e.Field == "address" {
		return fmt.Sprintf("address %s %s", quote(e.Address), e.Why)
	}
	if e.Form == FormInvalid {
		return fmt.Sprintf("address %s: %s %s", quote(e.Address), e.Field, e.Why)
	}
	return fmt.Sprintf("%s address %s: %s %s", e.Form, e.Address, e.Field, e.Why)
}

func (e *FieldError) Unwrap() error { return ErrInvalid }

// quote makes any text fit for a message: on one line and of bounded length.
func quote(s string) string {
	const limit = 64 // longer than every notation of an address
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q... (%d bytes)", s[:limit], len(s))
}
