package hwmap

import "errors"

// What a Store returns. Adapters wrap these with what they were doing.
var (
	// ErrConflict: a condition of the transaction did not hold. Nothing was written.
	ErrConflict = errors.New("record changed meanwhile")

	// ErrUnavailable: the store did not answer, and nothing was written.
	ErrUnavailable = errors.New("store unreachable")

	// ErrInDoubt: the call failed after the transaction was sent. It may have been committed, or may still be.
	ErrInDoubt = errors.New("outcome unknown")

	// ErrCompacted: the watch asked for a revision that the store no longer has. List again.
	ErrCompacted = errors.New("revision compacted")

	// ErrCorrupt: the database file cannot be read as one.
	ErrCorrupt = errors.New("database is corrupt")

	// ErrNewerFormat: the database was written by a newer ip6d.
	ErrNewerFormat = errors.New("database has a newer format")

	// ErrLocked: another process holds the database file.
	ErrLocked = errors.New("database is in use")
)
