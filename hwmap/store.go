package hwmap

import (
	"context"
	"time"
)

// Revision orders the transactions of a Store: each committed transaction that writes has one of its own, and
// they grow. The first is 1.
type Revision int64

// Key names one record. Keys are exact: nothing is ever deleted by prefix.
type Key string

// Entry is a record as the store holds it.
type Entry struct {
	Key         Key
	Value       []byte   // nil: the key was deleted
	ModRevision Revision // of the transaction that wrote it last; 0: there is no such key
}

// unchanged holds while the record is as it was read.
func (e Entry) unchanged() Condition { return Condition{Key: e.Key, ModRevision: e.ModRevision} }

// Condition holds when the key was last written at ModRevision; with ModRevision 0, when there is no such key.
type Condition struct {
	Key         Key
	ModRevision Revision
}

// Write puts Value at Key, or deletes Key where Value is nil.
type Write struct {
	Key   Key
	Value []byte
}

// Txn is one atomic step: all writes happen, at one revision, if all conditions hold.
// A key is written at most once in a Txn.
type Txn struct {
	If   []Condition
	Then []Write
}

// Batch is what one transaction changed.
type Batch struct {
	Revision Revision
	Entries  []Entry
}

// Store holds records and changes them by conditional transactions. The host's own file (package bolt) and
// the fleet's store (package etcd) are both Stores and pass the same suite, package storetest.
type Store interface {
	// ID names the store: another one has other records and revisions. A copy of a store may have the same. Every other call
	// returns ErrRestored, with ErrUnavailable, once what answers contradicts what answered before; ID then goes on with what
	// answers now. Errors: ErrUnavailable.
	ID(ctx context.Context) (string, error)

	// Get reads the records of keys, in that order, at one revision not older than the call. A key that does not
	// exist has ModRevision 0. Errors: ErrUnavailable.
	Get(ctx context.Context, keys ...Key) ([]Entry, error)

	// List reads all records whose key starts with prefix, ordered by key, and the revision they are of.
	// Errors: ErrUnavailable.
	List(ctx context.Context, prefix Key) ([]Entry, Revision, error)

	// Commit applies t and returns its revision; the answer means that it is durable.
	// Errors: ErrConflict, ErrUnavailable (both: nothing was written), ErrInDoubt.
	Commit(ctx context.Context, t Txn) (Revision, error)

	// Watch calls f with every transaction after the revision that changed a key starting with prefix, in order and
	// none left out; a Batch holds those keys only. It returns when ctx ends, f fails or the stream breaks.
	// Errors: ErrCompacted, ErrUnavailable, that of f or of ctx.
	Watch(ctx context.Context, prefix Key, after Revision, f func(Batch) error) error

	// Hold keeps key present with value until ctx ends, and for at most ttl longer should this process die. It
	// returns when ctx ends (nil, the key is gone) or when the key could not be held. Errors: ErrUnavailable.
	Hold(ctx context.Context, key Key, value []byte, ttl time.Duration) error

	Close() error
}
