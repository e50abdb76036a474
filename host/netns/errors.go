package netns

import "errors"

var (
	// ErrNotFound: there is no file at that path, or no namespace of that name.
	ErrNotFound = errors.New("no such network namespace")

	// ErrNotNamespace: the file is no network namespace.
	ErrNotNamespace = errors.New("not a network namespace")

	// ErrExists: there is a namespace, or a file, of that name.
	ErrExists = errors.New("network namespace exists")

	// ErrName: the name cannot be that of a file.
	ErrName = errors.New("invalid name of a network namespace")
)
